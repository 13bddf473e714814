"""DeepSpeed against two gradients by hand."""

import warnings

import pytest
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy

from hosts import deepspeed_on_ranks, examples, on_ranks, reference
from hosts.deepspeed_on_ranks import deepspeed_engine, deepspeed_loop
from hosts.methods import wrapped
from sharpless import GRST

METHODS = list(reference.METHODS)
pytestmark = pytest.mark.filterwarnings("ignore", "error:.*(passes|each pass)")
CASES = {method: (deepspeed_on_ranks.train, {"method": method, "sizes": (8, 6, 4, 8)}) for method in METHODS}


@pytest.fixture(scope="module", autouse=True)
def one_rank(tmp_path_factory):
    """DeepSpeed wants a group of processes, if one of a single process, and takes it from torchrun."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS_ACCELERATOR", "cpu")
        pytest.importorskip("deepspeed")
        for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_PORT": 29500}.items():
            patch.setenv(name, str(value))
        patch.setenv("MASTER_ADDR", "127.0.0.1")
        store = f"file://{tmp_path_factory.mktemp('group') / 'rendezvous'}"
        dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
        yield
        dist.destroy_process_group()


def made(method, net, **options):
    opt = wrapped(method, reference.sgd(net), model=net)
    return deepspeed_engine(net, opt, **options), opt


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [reference.network, reference.noisy_network])
@pytest.mark.parametrize("sizes", [(8,), (8, 6, 4)])
def test_right(method, make, sizes):
    """Sees another method, a climb with the last micro-batch alone, statistics of both passes, passes clipped."""
    theirs, ours = make(), make()
    reference.expected(method, theirs, sizes, clip=reference.by_norm(0.2))
    engine, opt = made(method, ours, gradient_accumulation_steps=len(sizes), gradient_clipping=0.2)
    torch.manual_seed(0)
    deepspeed_loop(engine, opt, reference.batches(sizes))
    assert reference.distance(ours, theirs) < 1e-6
    assert opt.cost.sharp_steps == sum(reference.METHODS[method]["coins"])


@pytest.mark.parametrize("method", METHODS)
def test_bf16(method):
    """Sees a pass outside autocast."""
    theirs, ours = reference.network(), reference.network()
    reference.expected(method, theirs, autocast=torch.bfloat16)
    engine, opt = made(method, ours, torch_autocast={"enabled": True, "dtype": "bfloat16"})
    deepspeed_loop(engine, opt, reference.batches())
    assert reference.distance(ours, theirs) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_fp16_overflow(method):
    """Sees an overflow that moves weights or stops the coins, or a gradient that is clipped before it is unscaled."""
    theirs, ours, overflow = reference.network(), reference.network(), reference.batches()
    overflow[2] = [(overflow[2][0][0] * 1e6, overflow[2][0][1])]  # beyond float16
    options = {"autocast": torch.float16, "scale": 2.0**10, "spoiled": {2}}
    reference.expected(method, theirs, clip=reference.by_norm(0.2), **options)
    engine, opt = made(method, ours, torch_autocast={"enabled": True, "dtype": "float16"}, gradient_clipping=0.2)
    engine.torch_autocast_z0_gradscaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    deepspeed_loop(engine, opt, overflow)
    assert reference.distance(ours, theirs) < 2e-5
    assert opt.cost.steps == reference.STEPS


def test_scheduler():
    """Sees a scheduler that the engine steps, and that does not reach the base."""
    theirs, ours = reference.network(), reference.network()
    base = reference.sgd(theirs)
    by_hand = torch.optim.lr_scheduler.StepLR(base, 2, 0.5)
    reference.train(theirs, base, reference.batches((8, 6)), "G-RST", scheduler=by_hand)
    opt = wrapped("G-RST", reference.sgd(ours), model=ours)
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 2, 0.5)
    engine = deepspeed_engine(ours, opt, scheduler, gradient_accumulation_steps=2)
    deepspeed_loop(engine, opt, reference.batches((8, 6)))
    assert reference.distance(ours, theirs) < 1e-6


def test_resume(tmp_path):
    """Sees coin, ledger or momentum lost in DeepSpeed's checkpoints."""
    whole, stopped = reference.network(), reference.network(seed=1)
    first, opt = made("G-RST", whole)
    deepspeed_loop(first, opt, reference.batches()[:3])
    first.save_checkpoint(tmp_path, "half")
    deepspeed_loop(first, opt, reference.batches()[3:])
    again, other = made("G-RST", stopped)
    again.load_checkpoint(tmp_path, "half")
    deepspeed_loop(again, other, reference.batches()[3:])
    assert reference.distance(whole, stopped) == 0
    assert other.cost == opt.cost


@pytest.mark.parametrize(
    "options",
    [
        *({"zero_optimization": {"stage": stage}} for stage in (1, 2, 3)),
        {"bf16": {"enabled": True}},
        {"bf16": {"enabled": True}, "zero_optimization": {"stage": 1}},
    ],
    ids=["ZeRO-1", "ZeRO-2", "ZeRO-3", "bf16", "bf16 and ZeRO-1"],
)
def test_what_is_refused(options):
    """Sees plain training where DeepSpeed keeps the gradients of the passes to itself."""
    net = reference.network()
    engine, opt = made("SAM", net, **options)
    ((x, y),) = reference.batches()[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the base does not hold the weights, but copies
        for part in opt.passes(x.to(next(net.parameters()).dtype)):
            engine.backward(cross_entropy(engine(part), y))
    with pytest.raises(RuntimeError, match=r"^DeepSpeed keeps the gradients to itself .*docs/hosts/deepspeed.md"):
        engine.step()


@pytest.mark.parametrize("stage", [0, 1])
def test_plain_steps_are_warned_of(stage):
    """Sees DeepSpeed's own loop take plain steps without a word."""
    engine, _ = made("SAM", reference.network(), zero_optimization={"stage": stage})

    def epoch():
        for ((x, y),) in reference.batches():
            engine.backward(cross_entropy(engine(x), y))
            engine.step()

    with pytest.warns(UserWarning, match=r"DeepSpeed called step\(\) without passes.* see docs/hosts/deepspeed.md"):
        epoch()


def test_the_page():
    """Sees code of the how-to that a user cannot run."""
    import deepspeed

    given = {"model": reference.network(), "torch": torch, "loss_fn": cross_entropy, "GRST": GRST}
    given["loader"] = [micro for (micro,) in reference.batches()]
    names = examples.run_page("deepspeed", deepspeed=deepspeed, **given)
    assert names["opt"].cost.steps == reference.STEPS


def test_the_example():
    """Sees an example that a user cannot run."""
    assert examples.load("deepspeed").main(epochs=2) > 0.3


ADAPTIVE = {"adaptive": (deepspeed_on_ranks.adaptive, {})}
WARNED = {"without no_sync": (deepspeed_on_ranks.without_no_sync, {})}
outcomes = on_ranks.outcomes(CASES | ADAPTIVE | WARNED)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks(name, outcomes):
    """Sees ranks climb along the union, or drift apart."""
    assert not outcomes[name], outcomes[name]


@pytest.mark.parametrize("name", ADAPTIVE)
def test_ranks_decide_alike(name, outcomes):
    """Sees each rank decide by its own gradient whether a step is sharpness-aware."""
    assert not outcomes[name], outcomes[name]


@pytest.mark.parametrize("name", WARNED)
def test_joint_climbs_are_warned_of(name, outcomes):
    """Sees ranks climb along their mean gradient without a word, or a warning where each climbs alone."""
    assert not outcomes[name], outcomes[name]
