"""The optimizers that a recipe asks for."""

import torch
from torch import nn
from torch.optim import Optimizer

from sharpless.ascent import Ascent, Friendly, asam, normalization_parameters, sam
from sharpless.lab.peers import Peer
from sharpless.lab.recipes import PEERS, Recipe
from sharpless.optimizer import RST

__all__ = ["base_optimizer", "wrap"]


def base_optimizer(recipe: Recipe, model: nn.Module) -> Optimizer:
    """Return the base optimizer of `recipe`."""
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        model.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
    )


def wrap(recipe: Recipe, method: str, base: Optimizer, model: nn.Module, total_steps: int, seed: int) -> RST | Peer:
    """Return the optimizer of `method` around `base`."""
    own = recipe.settings(method)
    if method in PEERS:
        return Peer(method, base, model, recipe.rho, own.schedule)
    free = method in {"rst", "g-rst", "thrifty"}
    ascents: dict[str, Ascent] = {"asam": asam, "friendly": Friendly()}
    return RST(
        base,
        own.schedule,
        recipe.rho,
        own.gamma,
        total_steps,
        model,
        seed,
        climb_locally=not recipe.climb_together,
        batch_fraction=own.batch_fraction,
        systematic=recipe.systematic and method in {"rst", "g-rst"},
        ascent=ascents.get(recipe.ascent, sam) if free else sam,
        only=normalization_parameters(model) if free and recipe.ascent == "norms" else None,
    )
