"""Where sharpless must become something older, bit for bit."""

import pytest
import torch

from problems import batches, identical, noisy_network, snapshot, train, train_plainly
from sharpless import GRST, RST, SAM, schedules

pytestmark = pytest.mark.quick

STEPS = batches(12, micro=2, dtype=torch.float32)


def trained(wrap, loop=train):
    """Parameters, buffers and next random number after training with dropout and BatchNorm."""
    model = noisy_network()
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    torch.manual_seed(1)
    loop(model, wrap(base, model), STEPS)
    return {**snapshot(model), "next draw": torch.rand(1)}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda base, model: RST(base, p=0.0, model=model),
        lambda base, model: RST(base, p=1.0, rho=0.0, model=model),
        lambda base, model: RST(base, p=1.0, gamma=0.0, model=model),
        lambda base, model: GRST(base, p=0.5, degree=0.0, model=model),
        lambda base, model: RST(base, p=schedules.Warmup(1.0, 1), total_steps=12, model=model),
    ],
    ids=["p = 0", "rho = 0", "gamma = 0", "degree = 0", "warm-up throughout"],
)
def test_the_base_optimizer(wrap):
    """Sees a rounding, a lost random number or a statistic that plain training would not have."""
    plain = trained(lambda base, model: base, train_plainly)
    assert identical(trained(wrap), plain)


def test_plain_steps_of_a_mixed_run_draw_no_noise():
    """Sees dropout noise consumed by perturbed passes: the noise of later steps would depend on the coin."""
    after = trained(lambda base, model: RST(base, p=0.5, model=model))["next draw"]
    assert torch.equal(after, trained(lambda base, model: base, train_plainly)["next draw"])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda base, model: RST(base, p=1.0, rho=0.1, model=model),
        lambda base, model: RST(base, p=schedules.Linear(1, 1), rho=0.1, total_steps=12, model=model),
        lambda base, model: GRST(base, p=1.0, rho=0.1, model=model),
        lambda base, model: GRST(base, p=1.0, gamma=1.0, rho=0.1, model=model, seed=5),
        lambda base, model: RST(base, p=schedules.Periodic(1), rho=0.1, model=model),
    ],
    ids=["RST", "a schedule", "G-RST", "another seed", "every step"],
)
def test_sam(wrap):
    """Sees p = 1, γ = 1 being anything but SAM."""
    sam = trained(lambda base, model: SAM(base, rho=0.1, model=model))
    assert identical(trained(wrap), sam)
    assert not identical(sam, trained(lambda base, model: base, train_plainly))


def test_late_sam_begins_as_the_base():
    """Sees a schedule read at the wrong step: up to its boundary the run is the base's, then it leaves it."""
    late = schedules.Piecewise((0, 1), (7 / 12,))  # as in the paper's code: p = 0 while t <= 7
    for count in range(1, 13):
        base, ours = noisy_network(), noisy_network()
        torch.manual_seed(1)
        train_plainly(base, torch.optim.SGD(base.parameters(), lr=0.1), STEPS[:count])
        torch.manual_seed(1)
        opt = RST(torch.optim.SGD(ours.parameters(), lr=0.1), p=late, rho=0.1, total_steps=12, model=ours)
        train(ours, opt, STEPS[:count])
        assert identical(snapshot(base), snapshot(ours)) == (count <= 8)


def test_expected_gradient_is_sams():
    """Sees a wrong γ: over the coin, the mean gradient of G-RST with γ = 1/p is SAM's."""
    from sharpless.coin import uniform

    x, y = STEPS[0][0]
    grads = {}
    for p in (0.25, 1.0):
        for heads in (True, False):
            model = noisy_network().eval()
            seed = next(s for s in range(100) if (uniform(s, 0) < p) == heads) if p < 1 else 0
            opt = GRST(torch.optim.SGD(model.parameters(), lr=0.1), p=p, rho=0.1, seed=seed)
            for a, b in opt.passes((x, y)):
                torch.nn.functional.mse_loss(model(a), b).backward()
            grads[p, heads] = [q.grad for q in model.parameters()]
    for heads, tails, sam in zip(grads[0.25, True], grads[0.25, False], grads[1.0, True], strict=True):
        torch.testing.assert_close(0.25 * heads + 0.75 * tails, sam, rtol=1e-4, atol=1e-6)
