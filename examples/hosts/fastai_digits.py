"""Handwritten digits, a third of them mislabelled, with fastai.

pip install sharpless fastai scikit-learn
python examples/hosts/fastai_digits.py
"""

import torch
from fastai.basics import Callback, DataLoader, DataLoaders, Learner, OptimWrapper
from fastai.callback.all import GradientClip, MixedPrecision
from sklearn.datasets import load_digits
from torch import nn

from sharpless import GRST


class Sharpness(Callback):
    """Sharpness-aware steps, after callbacks that mix examples, and before those that accumulate, unscale and clip."""

    order, run_valid = 5, False

    def before_batch(self):
        """Start the first pass, with the whole batch: callbacks that mix examples do not support parts."""
        self.passes = self.opt.opt.passes()
        next(self.passes)

    def before_step(self):
        """Run the second pass, after the first gradient is complete."""
        learn, clean = self.learn, (self.learn.pred, self.learn.loss, self.learn.loss_grad)
        for _ in self.passes:
            if isinstance(getattr(learn, "mixed_precision", None), MixedPrecision):  # and no attribute of the model
                learn.mixed_precision.before_batch()
            learn.pred = learn.model(*learn.xb)
            learn("after_pred")
            learn.loss_grad = learn.loss_func(learn.pred, *learn.yb)
            learn("after_loss")
            learn("before_backward")
            learn.loss_grad.backward()
        learn.pred, learn.loss, learn.loss_grad = clean


def main(epochs: int = 30) -> float:
    """Train, and return the accuracy on digits that are labelled right."""
    torch.manual_seed(0)
    x, y = (torch.tensor(array) for array in load_digits(return_X_y=True))
    x, noisy = x.float() / 16, torch.where(torch.rand(len(y)) < 0.3, torch.randint(10, y.shape), y)
    train = DataLoader(list(zip(x[:1200], noisy[:1200], strict=True)), bs=64, shuffle=True, drop_last=True)
    model = nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 10))
    opt = GRST(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), p=0.5, rho=0.3, model=model)
    callbacks, loaders = [Sharpness(), GradientClip(5.0)], DataLoaders(train, train)
    learn = Learner(loaders, model, nn.CrossEntropyLoss(), lambda *_, **__: OptimWrapper(opt=opt), cbs=callbacks)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(epochs, 0.1)
    print(opt.cost)
    with torch.no_grad():
        return float((model.eval()(x[1200:]).argmax(1) == y[1200:]).float().mean())


if __name__ == "__main__":
    print(f"{main():.1%} of the test digits are right")
