"""Handwritten digits, a third of them mislabelled, with Keras 3 on torch.

pip install sharpless keras scikit-learn
KERAS_BACKEND=torch python examples/hosts/keras_digits.py
"""

import keras
import torch
from sklearn.datasets import load_digits

from sharpless import GRST


class SharpModel(keras.Model):
    """A Model with sharpness-aware steps of `self.opt`, whose base is of torch. `compile` sets loss and metrics."""

    def train_step(self, data):
        """Take a step, and return the metrics at the unperturbed weights."""  # noqa: DOC501
        if any(layer.compute_dtype == "float16" for layer in self._flatten_layers()):
            raise ValueError("float16 needs a loss scale, which this train_step lacks: set the policy mixed_bfloat16")
        # Moving averages, seeds and metrics, which are not buffers: compute_loss updates the metric of each output.
        opt, others = self.opt, self.non_trainable_variables + self.metrics_variables
        found = [variable.value.clone() for variable in others]
        for part in opt.passes(data):
            x, y, weight = keras.utils.unpack_x_y_sample_weight(part)
            if opt.perturbed:  # start with the state before the first pass, and keep the state after it
                left = [variable.value.clone() for variable in others]
                for variable, value in zip(others, found, strict=True):
                    variable.assign(value)
            y_pred = opt.model(x, training=True)  # self, or DistributedDataParallel around it
            loss = self.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=weight)
            loss.backward()
            if opt.perturbed:
                for variable, value in zip(others, left, strict=True):
                    variable.assign(value)
            else:
                self._loss_tracker.update_state(loss, sample_weight=len(keras.tree.flatten(x)[0]))
                logs = self.compute_metrics(x, y, y_pred, weight)
        opt.step()
        opt.zero_grad()
        return logs


def main(epochs: int = 30) -> float:
    """Train, and return the accuracy on digits that are labelled right."""
    keras.utils.set_random_seed(0)
    x, y = (torch.tensor(array) for array in load_digits(return_X_y=True))
    x, noisy = x.float() / 16, torch.where(torch.rand(len(y)) < 0.3, torch.randint(10, y.shape), y)
    inputs = keras.Input((64,))
    hidden = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(keras.layers.Dense(256)(inputs)))
    model = SharpModel(inputs, keras.layers.Dense(10)(hidden))
    base = torch.optim.SGD([variable.value for variable in model.trainable_variables], lr=0.1, momentum=0.9)
    model.opt = GRST(base, p=0.5, rho=0.3, model=model)
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    model.fit(x[:1200], noisy[:1200], batch_size=64, epochs=epochs, verbose=0)
    print(model.opt.cost)
    return model.evaluate(x[1200:], y[1200:], verbose=0, return_dict=True)["accuracy"]


if __name__ == "__main__":
    print(f"{main():.1%} of the test digits are right")
