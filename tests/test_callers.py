"""Which framework a warning names: the one that owns the loop."""

import pytest
import torch

from sharpless import SAM, callers


def called_from(*modules, function):
    """Call `function` from a chain of functions that live in `modules`, the outermost first."""
    for module in reversed(modules):
        names = {"__name__": module, "inner": function}
        exec("def call():\n    return inner()", names)
        function = names["call"]
    return function()


@pytest.mark.parametrize(
    ("modules", "title"),
    [
        (["mine", "transformers.trainer", "accelerate.optimizer"], "Transformers"),
        (["ray.train", "lightning.pytorch.trainer.call", "lightning.fabric.strategies"], "Lightning"),
        (["lightning.pytorch.loops.optimization.manual", "mine"], "Lightning"),
        (["accelerate.launchers", "lightning.fabric.wrappers"], "Fabric"),
        (["accelerate.utils.deepspeed", "deepspeed.runtime.engine"], "Accelerate"),
        (["keras.src.trainers"], "Keras"),
        (["transformers_of_mine.trainer", "timmy"], None),
    ],
)
def test_the_host_that_owns_the_loop(modules, title):
    """Sees a warning that names the library below the host, or a package that only begins as a host's does."""
    host = called_from(*modules, function=callers.host)
    assert (host and host.title) == title


def test_hosts_of_closures():
    """Sees a closure of the user's own, in manual optimization, taken for one of Lightning's loop."""
    lightning = "lightning.pytorch.loops.optimization"
    assert called_from(f"{lightning}.automatic", "lightning.pytorch.core", function=callers.host_of_closure)
    assert called_from(f"{lightning}.manual", "lightning.pytorch.core", function=callers.host_of_closure) is None


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("composer.trainer.trainer", r"Composer hands step\(\) a closure that clips and logs, and"),
        ("skorch.net", r"skorch hands step\(\) a closure that clips and logs, and"),
        ("lightning.pytorch.loops.optimization.automatic", "runs the last of accumulated micro-batches alone, and"),
    ],
)
def test_what_the_closure_of_a_host_does(module, said):
    """Sees a host blamed for micro-batches that do climb: composer runs all of them in its closure."""
    opt = SAM(torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=0.1))
    with pytest.warns(UserWarning, match=said):
        called_from(module, function=lambda: opt.step(lambda: opt.param_groups[0]["params"][0].sum().backward()))


def test_gradients_that_deepspeed_keeps():
    """Sees a remedy for ZeRO that has been followed already: forward and backward are inside the loop."""
    parameter = torch.nn.Parameter(torch.ones(2))
    opt = SAM(torch.optim.SGD([parameter], lr=0.1))
    list(opt.passes())
    parameter.grad = torch.ones(2)
    with pytest.raises(RuntimeError, match=r"^DeepSpeed keeps the gradients to itself .* stage of zero_optimization"):
        called_from("deepspeed.runtime.engine", "deepspeed.runtime.zero.stage_1_and_2", function=opt.step)


def test_a_plain_step_of_a_host():
    """Sees plain training in a host without a word of it and of the cure; or a warning at each step."""
    opt = SAM(torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=0.1))
    opt.step()
    with pytest.warns(UserWarning, match=r"^Ignite called step\(\) without passes.*docs/hosts/ignite.md\)?$") as warned:
        called_from("ignite.engine.engine", function=lambda: [opt.step() for _ in range(3)])
    assert len(warned) == 1
