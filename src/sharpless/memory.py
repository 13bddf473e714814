"""What an optimizer remembers: the decision on the step under way, and what hosts' proxies have to share."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from sharpless.displaced import Buffers
from sharpless.gradients import Mark
from sharpless.rng import RepeatedRng

__all__ = ["Draw", "Memory"]


@dataclass
class Draw:
    """The decision on the step under way, and what it has spent so far."""

    gamma: float
    sharp: bool | None
    """None until the first gradient of the step decides."""
    kept: dict[str, Any]
    """What a checkpoint will hold after the step."""
    climbed: bool = False
    """Whether a gradient at displaced weights is in the gradient of the step."""
    left_gradients: bool = False
    """Whether the loops so far have left any in `.grad`."""
    left: list[Mark] | None = None
    """What stood in `.grad` after a loop, a sharpness-aware one, of which no pass had brought a gradient."""
    empty: bool = False
    """Whether no pass of the last loop has brought a gradient."""
    has_graph: bool = False
    """Whether a gradient came with a graph of its own, which the sum has not."""

    def spend(self, passes: float) -> None:
        """Enter passes into the ledger."""
        self.kept["passes"] += passes


@dataclass
class Memory:
    """What an optimizer remembers within a step and between steps, in one object: proxies of hosts share it.

    All that has to outlive the process stands in the parameter groups instead.
    """

    draw: Draw | None = None
    running: bool = False
    perturbed: bool = False
    reduced: bool = False
    """Whether a backward of this process was reduced by DistributedDataParallel."""
    spent: dict[Tensor, Mark] = field(default_factory=dict)
    """The gradients that the last step has used, where steps are decided by gradients."""
    bare_steps: int = 0
    """Steps without passes, since the last one with passes."""
    closure_has_passes: bool = False
    """Whether the closures that a host hands to `step` loop over the passes themselves."""
    looked_at_closure: bool = False
    """Whether the host of a closure without passes was looked for."""
    around: tuple[nn.Module, nn.Module] | None = None
    """The model, and the DistributedDataParallel that a host has put around it, or the model again."""
    looked_outside: bool = False
    """Whether parameters that no base holds were looked for."""
    warned_of_part: bool = False
    """Whether a part that is small for BatchNorm was warned of."""
    buffers: Buffers = field(default_factory=Buffers)
    rng: RepeatedRng = field(default_factory=RepeatedRng)

    def __getstate__(self) -> dict[str, Any]:
        # Gradients are recognized by where they are, and a copy of the model is in no DistributedDataParallel yet.
        return {**self.__dict__, "spent": {}, "around": None}

    def is_bare(self, groups: list[dict[str, Any]], steps: int) -> bool:
        """Return whether steps without passes begin here.

        The first one of a run is often a host's, and distributed checkpoints take one that moves nothing. A host whose
        closures have the passes in them takes others where it trains nothing.

        Args:
            groups: the parameter groups.
            steps: the steps that had passes, of this run.
        """
        if self.draw is not None or self.closure_has_passes:
            self.bare_steps = 0
        elif any(float(group.get("lr", 1.0)) != 0 for group in groups):
            self.bare_steps += 1
        return self.bare_steps == (1 if steps else 2) and self.draw is None
