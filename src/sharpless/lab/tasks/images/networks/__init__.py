"""The networks by name: small ones, those of the papers for CIFAR, timm's, and yours.

| spec                                               | network                                                       |
| -------------------------------------------------- | ------------------------------------------------------------- |
| convnet, convnet-groupnorm, convnet-strided, vit   | small ones, with the width `width`                            |
| resnet18, resnet50, …                              | `ResNet` (arXiv 1512.03385)                                   |
| wrn-16-4, wrn-28-10, …                             | `WideResNet` (arXiv 1605.07146)                               |
| vgg16-bn, …                                        | `VGG` (arXiv 1409.1556)                                       |
| pyramidnet-110, pyramidnet-272,shakedrop=0.5, …    | `PyramidNet` (arXiv 1610.02915), ShakeDrop (arXiv 1802.02375) |
| timm:vit_small_patch16_224,img_size=32, …          | timm.create_model(name, num_classes, in_chans, …)             |
| package.module:factory,argument=value, …           | factory(classes, argument=value, …), a torch.nn.Module        |

Commas separate arguments. A value is a Python literal, or else a text.
"""

import re
import sys
from ast import literal_eval
from collections.abc import Callable
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from torch import nn

from sharpless.lab.faults import blamed, culprit, reason
from sharpless.lab.tasks.images.networks.pyramidnet import PyramidNet
from sharpless.lab.tasks.images.networks.resnet import ResNet
from sharpless.lab.tasks.images.networks.small import SMALL
from sharpless.lab.tasks.images.networks.vgg import VGG
from sharpless.lab.tasks.images.networks.wideresnet import WideResNet

__all__ = ["build", "check"]

_FAMILIES: dict[str, Any] = {
    r"resnet(?P<depth>\d+)": ResNet,
    r"wrn-(?P<depth>\d+)-(?P<widening>\d+)": WideResNet,
    r"vgg(?P<depth>\d+)-bn": VGG,
    r"pyramidnet-(?P<depth>\d+)": PyramidNet,
}


def check(spec: str) -> None:
    """Check that `spec` names a network, without building it. The user's module is imported.

    >>> check("wrn-17-4")
    Traceback (most recent call last):
        ...
    ValueError: network = wrn-17-4: depth = 17 is no wide ResNet's: give 6n + 4, as in wrn-16-4 or wrn-28-10

    Raises:
        ValueError: the network is unknown, it does not take these arguments, or its module cannot be imported.
        ModuleNotFoundError: the network needs timm, which is not installed.
    """
    _factory(spec)


def build(spec: str, *, classes: int, channels: int, width: int) -> nn.Module:
    """Return the network that `spec` names, with new random weights, (N, channels, H, W) → (N, classes).

    >>> build("pyramidnet-110,alpha=48", classes=10, channels=3, width=16).head[-1]
    Linear(in_features=64, out_features=10, bias=True)

    Args:
        spec: the network, see the table of this module.
        classes: the number of classes.
        channels: the channels of an image.
        width: the width of a small network; the others have their own.

    Returns:
        The network.

    Raises:
        ValueError: the network is unknown, it does not take these arguments, its module cannot be imported, or its
            factory returns something else than a network.
        ModuleNotFoundError: the network needs timm, which is not installed.
    """
    factory = _factory(spec)
    with blamed(spec, surely=True):
        network = factory(classes=classes, channels=channels, width=width)
    if isinstance(network, nn.Module):
        return network
    raise ValueError(f"network = {spec} made {type(network).__name__}: let the factory return a torch.nn.Module")


def _factory(spec: str) -> Callable[..., Any]:
    """Return a function of classes, channels and width.

    Raises:
        ValueError: the network is unknown, or it takes no arguments.
    """
    name, arguments = _read(spec)
    if name.startswith("timm:"):
        return _from_timm(spec, name.removeprefix("timm:"), arguments)
    if ":" in name:
        return _from_module(spec, name, arguments)
    if name in SMALL:
        if arguments:
            raise ValueError(f"network = {spec}: {name} takes no arguments, leave {', '.join(arguments)} out")
        return SMALL[name]
    for pattern, family in _FAMILIES.items():
        if found := re.fullmatch(pattern, name):
            shape = {key: int(value) for key, value in found.groupdict().items()}
            return _from_family(spec, family, shape, arguments)
    raise ValueError(
        f"network = {spec} is unknown: give {', '.join(SMALL)}, resnet18, wrn-28-10, vgg16-bn, pyramidnet-110, "
        "timm:NAME, or your module:factory"
    )


def _read(spec: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the arguments. A comma without `argument=` after it belongs to a value.

    Raises:
        ValueError: the arguments cannot be parsed.
    """
    name, comma, rest = spec.partition(",")
    arguments: dict[str, Any] = {}
    for part in re.split(r",(?=\s*\w+\s*=)", rest) if comma else ():
        key, equals, text = (piece.strip() for piece in part.partition("="))
        if not (equals and key.isidentifier() and text) or key in arguments:
            raise ValueError(f"network = {spec} cannot be read at {part!r}: write {name},argument=value, each once")
        try:
            arguments[key] = literal_eval(text)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # brackets raise the last three
            arguments[key] = text
    return name.strip(), arguments


def _from_family(spec: str, family: Any, shape: dict[str, int], arguments: dict[str, Any]) -> Callable[..., Any]:
    taken = [name for name in signature(family.check).parameters if name not in shape]
    for name in arguments:
        if name not in taken:
            known = f"it takes {' and '.join(taken)}" if taken else "it takes none"
            raise ValueError(f"network = {spec} has an unknown argument {name}: {known}")
    try:
        family.check(**shape, **arguments)
    except ValueError as error:
        raise ValueError(f"network = {spec}: {error}") from None
    return lambda classes, channels, width: family(**shape, **arguments, classes=classes, channels=channels)


def _from_timm(spec: str, name: str, arguments: dict[str, Any]) -> Callable[..., Any]:
    try:
        timm = import_module("timm")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"network {spec} needs {error.name}: pip install 'sharpless[timm]'") from error
    if not timm.is_model(name):
        raise ValueError(f"network = {spec} is unknown to timm {timm.__version__}: see timm.list_models()")
    for filled in {"num_classes", "in_chans"} & set(arguments):
        raise ValueError(f"network = {spec} gives {filled}, which the data set: leave it out")

    def create(classes: int, channels: int, width: int) -> Any:
        try:
            return timm.create_model(name, num_classes=classes, in_chans=channels, **arguments)
        except TypeError as error:  # only the constructor knows the arguments of a model
            raise ValueError(f"network = {spec} does not take these arguments: {error}") from error

    return create


def _from_module(spec: str, name: str, arguments: dict[str, Any]) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # as with `python -m`; a console script leaves it out
    try:
        imported = import_module(module)
    except (Exception, SystemExit) as error:
        where = culprit(error, spec)
        remedy = "run in its folder or install it" if where is None else f"fix it ({where})"
        raise ValueError(
            f"network = {spec}: module {module!r} cannot be imported ({reason(error)}), {remedy}"
        ) from error
    if not hasattr(imported, attribute):
        raise ValueError(f"network = {spec}: module {module!r} has no function {attribute!r}, name one that it has")
    factory = getattr(imported, attribute)
    try:
        signature(factory).bind(0, **arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"network = {spec}: {attribute}(classes, argument=value, ...) cannot be called: {error}"
        ) from None
    return lambda classes, channels, width: factory(classes, **arguments)
