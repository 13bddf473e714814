"""Handwritten digits, a third of them mislabelled, with timm's network, optimizer, scheduler, scaler and average.

pip install sharpless timm scikit-learn && python examples/hosts/timm_digits.py
"""

from contextlib import nullcontext

import timm
import torch
from sklearn.datasets import load_digits
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, ModelEmaV3, NativeScaler, dispatch_clip_grad
from torch.nn.functional import cross_entropy, interpolate

from sharpless import GRST


def sharp_epoch(model, loader, opt, scaler, amp, ema, scheduler, meter, clip, mode="norm", accumulate=1):
    """Train for an epoch; `amp` is the context of mixed precision, and `meter` gets the loss at unperturbed weights."""
    model.train()
    for number, batch in enumerate(loader, start=1):
        last = number % accumulate == 0
        with nullcontext() if last or not hasattr(model, "no_sync") else model.no_sync():  # of DistributedDataParallel
            for x, y in opt.passes(batch):
                with amp:
                    loss = cross_entropy(model(x), y)
                scaler(loss / accumulate, opt, need_update=False)  # only the backward pass
                if not opt.perturbed:
                    meter.update(loss.item(), len(x))
        if last:
            scaler._scaler.unscale_(opt)  # the GradScaler in the NativeScaler
            dispatch_clip_grad(model.parameters(), clip, mode)
            scaler._scaler.step(opt)
            scaler._scaler.update()
            opt.zero_grad()
            ema.update(model, step=opt.cost.steps)
            scheduler.step_update(opt.cost.steps)


def main(epochs: int = 8, network: str = "test_resnet") -> float:
    """Train, and return the accuracy of the averaged network on digits that are labelled right."""
    torch.manual_seed(0)
    x, y = (torch.tensor(array) for array in load_digits(return_X_y=True))
    x, noisy = x.float() / 16, torch.where(torch.rand(len(y)) < 0.3, torch.randint(10, y.shape), y)
    x = interpolate(x.view(-1, 1, 8, 8), 32).expand(-1, 3, -1, -1)
    model = timm.create_model(network, num_classes=10)
    opt = GRST(create_optimizer_v2(model, "adamw", lr=3e-3, weight_decay=0.02), p=0.5, rho=0.05, model=model)
    scheduler, _ = create_scheduler_v2(opt, "cosine", epochs, step_on_epochs=False, updates_per_epoch=25)
    ema, scaler, amp, meter = ModelEmaV3(model, decay=0.9), NativeScaler("cpu"), torch.autocast("cpu"), AverageMeter()
    for _ in range(epochs):
        loader = ((x[rows], noisy[rows]) for rows in torch.randperm(1200).split(48))
        sharp_epoch(model, loader, opt, scaler, amp, ema, scheduler, meter, clip=5.0)
    print(opt.cost)
    return (ema.module.eval()(x[1200:]).argmax(1) == y[1200:]).float().mean().item()


if __name__ == "__main__":
    print(f"{main():.1%} of the test digits are right")
