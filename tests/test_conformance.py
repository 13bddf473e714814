"""Every case of benchmarks/conformance.py on sharpless, and on optimizers that are broken on purpose."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from conformance import CASES, record_of  # noqa: E402
from conformance.adapters import RHO, Sharpless, nothing  # noqa: E402


class IgnoresRho(Sharpless):
    """Steps with the gradient at the unperturbed weights."""

    def wrap(self, kind, groups, rho, options):
        return super().wrap(kind, groups, 0.0, options)


class SubtractsToRestore(Sharpless):
    """Restores by (w + ε) − ε, not at all after an exception, and knows nothing of BatchNorm, dropout and NaN."""

    def step(self, opt, evaluate, final=nothing):
        loss = evaluate()
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        climb = self.perturbation(parameters, [p.grad.to_dense() for p in parameters], RHO)
        opt.zero_grad()
        for p, step in zip(parameters, climb, strict=True):
            p.data += step.to(p.dtype)
        evaluate()
        for p, step in zip(parameters, climb, strict=True):
            p.data -= step.to(p.dtype)
        final()
        opt.base.step()
        opt.zero_grad()
        return loss


class KeepsACopy(Sharpless):
    """Gives the weights new storage, keeps the old one in the state, and reports nothing."""

    def step(self, opt, evaluate, final=nothing):
        super().step(opt, evaluate, final)
        for p in self.model.parameters():
            opt.state[p]["old"], p.data = p.data, p.data.clone()
        return 0.0


class ForgetsItsState(Sharpless):
    """Saves nothing but the hyperparameters, steps where the scaler would not, and drops gradients of NaN late."""

    def save(self, opt):
        return {**opt.state_dict(), "state": {}}

    def step_with_scaler(self, opt, scaler, evaluate):
        self.step(opt, evaluate, lambda: scaler.unscale_(opt))
        scaler.update()


SEEN = {
    IgnoresRho: """perturbation, momentum, adamw, double precision, group learning rates, skipped in the perturbed pass,
        skipped in the clean pass, unfrozen later, sparse gradients, compiled, accumulation, accumulation of climbs,
        clipping, scheduler on base, closure contract, autocast, mixed dtypes, gradient scaling""",
    SubtractsToRestore: """rho of zero, group without rho, restore in float32, restore in bfloat16, exceptions,
        batchnorm statistics, batchnorm counter, dropout, scheduler on wrapper, torch optimizer""",
    KeepsACopy: "storage, checkpoint size, memory, clean loss",
    ForgetsItsState: "resume momentum, resume adamw, gradient scaling overflow",
}
SEEN_BY = [(broken, name) for broken, names in SEEN.items() for name in " ".join(names.split()).split(", ")]


@pytest.mark.parametrize("name", CASES)
def test_sharpless_passes(name):
    """Sees whatever the case checks."""
    assert record_of(CASES[name], Sharpless()) == {"outcome": "passes", "detail": "", "by": None}


@pytest.mark.parametrize(("broken", "name"), SEEN_BY, ids=lambda value: getattr(value, "__name__", value))
def test_the_case_can_fail(broken, name):
    """Sees a case that would pass whatever the library computes."""
    assert record_of(CASES[name], broken())["outcome"] == "wrong"


def test_the_script(tmp_path):
    """Sees a runner that loses a library, a record or the exit status."""
    command = [
        sys.executable,
        BENCHMARKS / "conformance.py",
        "--libraries",
        "sharpless",
        "--cases",
        "momentum",
        "memory",
    ]
    finished = subprocess.run([*command, "--out", tmp_path], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    report = json.loads((tmp_path / "conformance.json").read_text())
    assert report["score"] == {"sharpless": 2}
    assert "| memory | ✓ |" in (tmp_path / "conformance.md").read_text()
