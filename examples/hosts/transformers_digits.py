"""Handwritten digits, a third of them mislabelled, with the Trainer of transformers and a small vision transformer.

pip install 'sharpless[lab,transformers]'
python examples/hosts/transformers_digits.py
"""

from tempfile import TemporaryDirectory

import torch
from sklearn.datasets import load_digits
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from sharpless import GRST
from sharpless.hosts.transformers import Sharpness


class SharpTrainer(Sharpness, Trainer):
    """The Trainer, with G-RST around its AdamW."""

    def wrap_optimizer(self, base):
        """Return G-RST around the optimizer of the TrainingArguments."""
        return GRST(base, p=0.5, rho=0.05)


def main(epochs: int = 20) -> float:
    """Train, and return the accuracy on digits that are labelled right."""
    torch.manual_seed(0)
    x, y = (torch.tensor(array) for array in load_digits(return_X_y=True))
    x, noisy = x.float() / 16, torch.where(torch.rand(len(y)) < 0.3, torch.randint(10, y.shape), y)
    x = x.view(-1, 1, 8, 8)
    config = ViTConfig(
        image_size=8, patch_size=2, num_channels=1, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, num_labels=10,
    )  # fmt: skip
    model = ViTForImageClassification(config)
    with TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder, num_train_epochs=epochs, per_device_train_batch_size=32, gradient_accumulation_steps=2,
            learning_rate=3e-3, warmup_steps=20, save_strategy="no", use_cpu=True, disable_tqdm=True, report_to="none",
        )  # fmt: skip
        rows = [{"pixel_values": image, "labels": label} for image, label in zip(x[:1200], noisy[:1200], strict=True)]
        trainer = SharpTrainer(model, args, train_dataset=rows)
        trainer.train()
    print(trainer.opt.cost)
    with torch.no_grad():
        return float((model.eval()(x[1200:]).logits.argmax(1) == y[1200:]).float().mean())


if __name__ == "__main__":
    print(f"{main():.1%} of the test digits are right")
