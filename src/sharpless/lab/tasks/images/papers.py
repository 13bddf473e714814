"""Recipes of the paper's code and of its authors' sibling project (github.com/zhaoyang-0204/gnp), one function each.

The docstrings name the values that are ours, because the sources give none.
"""

from collections.abc import Callable
from dataclasses import replace

from sharpless.lab.tasks.images.recipe import Recipe

__all__ = [
    "PAPERS",
    "digits",
    "imagenet_resnet50",
    "pyramidnet272",
    "resnet18",
    "resnet50",
    "rst_wrn_28_10",
    "usual",
    "vit_s",
    "wrn_28_10",
]


def digits() -> Recipe:
    """Return the default: our task of minutes in which SAM beats SGD.

    >>> digits().epochs
    30
    """
    return Recipe()


def wrn_28_10() -> Recipe:
    """Return WRN-28-10 on CIFAR-10 with the values of the sibling project. L2 and clipping are those of RST's code.

    >>> wrn_28_10().network
    'wrn-28-10'
    """
    return Recipe(
        data="cifar10",
        noise=0.0,
        augment="flip+crop",
        network="wrn-28-10",
        epochs=200,
        batch_size=256,
        lr=0.1,
        nesterov=True,
        weight_decay=0.0,
        l2=1e-3,
        clip=5.0,
        rho=0.1,
    )


def rst_wrn_28_10() -> Recipe:
    """Return the defaults of the paper's code: `wrn_28_10` with our choice of ρ = 0.05, the usual one for SAM."""
    return replace(wrn_28_10(), rho=0.05)


def resnet18() -> Recipe:
    """Return ResNet-18 with the settings of `wrn_28_10`: our start for other small images."""
    return replace(wrn_28_10(), network="resnet18")


def resnet50() -> Recipe:
    """Return ResNet-50 on CIFAR-10 with the values of the sibling project."""
    return replace(wrn_28_10(), network="resnet50")


def pyramidnet272() -> Recipe:
    """Return PyramidNet-272 with ShakeDrop on CIFAR-10 with the values of the sibling project, but our ρ."""
    return replace(wrn_28_10(), network="pyramidnet-272,shakedrop=0.5", epochs=1800, batch_size=128, lr=0.05, l2=5e-4)


def imagenet_resnet50() -> Recipe:
    """Return ResNet-50 on ImageNet with the values of the sibling project. The usual augmentation is our choice."""
    return replace(
        wrn_28_10(), data="imagenet", network="timm:resnet50", epochs=100, batch_size=512, lr=0.2, l2=1e-4, rho=0.05
    )


def vit_s() -> Recipe:
    """Return ViT-S with patches of 4 pixels on CIFAR-10 with the values of the sibling project, but AdamW for Adam.

    The share of the warm-up is ours. Sharpness-aware steps hurt within it: try `g-rst:p=warmup:0.05/0.5`.
    """
    return replace(
        wrn_28_10(),
        network="timm:vit_small_patch16_224,img_size=32,patch_size=4",
        optimizer="adamw",
        nesterov=False,
        epochs=300,
        lr=1e-3,
        lr_warmup=0.05,
        weight_decay=0.3,
        l2=0.0,
        clip=1.0,
    )


PAPERS: dict[str, Callable[[], Recipe]] = {
    made_by.__name__.replace("_", "-"): made_by
    for made_by in (digits, resnet18, rst_wrn_28_10, wrn_28_10, resnet50, pyramidnet272, imagenet_resnet50, vit_s)
}
"""The recipes, by their names on the command line."""


def usual(data: str) -> str:
    """Return the name of the default recipe for some data.

    >>> usual("digits"), usual("folder:flowers"), usual("imagenet")
    ('digits', 'resnet18', 'imagenet-resnet50')
    """
    return {"digits": "digits", "imagenet": "imagenet-resnet50"}.get(data, "resnet18")
