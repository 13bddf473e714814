"""A trial: what a task sees of one run, and what is recorded without its doing."""

import pytest
import torch

from sharpless.lab.methods.method import Method
from sharpless.lab.trials.contract import TaskError, check_ended
from sharpless.lab.trials.trial import Trial


def trained(name="sgd", steps=10, hyperparameters=None, evaluate=None, **options):
    """A trial after a few epochs of one step, its model and its base."""
    trial = Trial(Method(name), 1, hyperparameters)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    opt = trial.optimizer(base, model=model, batch_size=16, total_steps=trial.epochs(steps), **options)
    for _ in range(trial.epochs(steps)):
        for x in opt.passes(torch.randn(16, 2)):
            model(x).square().mean().backward()
        opt.step()
        opt.zero_grad()
        with trial.evaluating(model):
            (evaluate or (lambda trial, model: trial.report(test=model(torch.ones(3, 2)).mean())))(trial, model)
    check_ended(trial)
    return trial, model, base


def test_what_is_recorded():
    """Sees a ledger, steps, curve or plain training that the record would have wrong."""
    trial, _, _ = trained("rst")
    sharp = len(trial.sharp_steps)
    assert 0 < sharp < 10
    assert trial.cost.passes == trial.curve["passes"][-1] == 10 + sharp
    assert trial.curve["step"] == list(range(1, 11))
    assert trial.plain_passes == 10
    assert trial.hyperparameters == {"rho": 0.05}
    assert 0 < trial.curve["seconds"][0] < trial.curve["seconds"][-1] == pytest.approx(trial.seconds)


def test_longer_training():
    """Sees sgd-long trained as long as the base, or its cost counted in trainings of its own length."""
    trial, _, _ = trained("sgd-long:cost=2")
    assert (trial.cost.steps, trial.plain_passes, trial.label) == (20, 10.0, "SGD, 20 epochs")


def test_a_longer_training_that_rounding_takes_away():
    """Sees the base trained as ever under the name of a longer training, or the task blamed for it."""
    assert Trial(Method("sgd-long:cost=1.2")).epochs(3) == 4
    assert Method("sgd-long:cost=1.0001").is_longer
    with pytest.raises(TaskError, match=r"sgd-long:cost=1\.2 is no longer than 2 epochs of the base"):
        Trial(Method("sgd-long:cost=1.2")).epochs(2)


def test_the_radius():
    """Sees the radius of the task take precedence over that of the comparison, or a base that is said to have one."""
    assert trained("sam", rho=0.3)[0].hyperparameters == {"rho": 0.3}
    trial, _, base = trained("sam", rho=0.3, hyperparameters={"rho": 0.7})
    assert trial.hyperparameters == {"rho": 0.7}
    assert base.param_groups[0]["rho"] == 0.7
    assert trained("sgd", rho=0.3)[0].hyperparameters == {}


def test_learning_rates_of_a_grid():
    """Sees a learning rate of the grid not used, or used for all groups alike."""
    trial = Trial(Method("sgd"), 0, {"lr": 0.4, "weight_decay": 0.3})
    a, b = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    base = torch.optim.SGD([{"params": a.parameters()}, {"params": b.parameters(), "lr": 0.02}], lr=0.1)
    trial.optimizer(base)
    assert [group["lr"] for group in base.param_groups] == pytest.approx([0.4, 0.08])
    assert [group["weight_decay"] for group in base.param_groups] == [0.3, 0.3]


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_grid_whose_base_has_no_own_default(kind):
    """Sees groups scaled from torch's default, so that none trains with the value, or decay where there is none."""
    weights = [torch.nn.Parameter(torch.ones(1)) for _ in range(3)]
    decays, rates = (0.0, 0.05, 0.1), (0.2, 0.02, 0.2)
    base = kind(
        {"params": weight, "lr": rate, "weight_decay": decay}
        for weight, rate, decay in zip(weights, rates, decays, strict=True)
    )
    Trial(Method("sgd"), 0, {"lr": 0.4, "weight_decay": 0.3}).optimizer(base)
    assert [group["lr"] for group in base.param_groups] == pytest.approx([0.4, 0.04, 0.4])
    assert [group["weight_decay"] for group in base.param_groups] == pytest.approx([0.0, 0.3, 0.6])


def test_a_scheduler_that_is_too_early():
    """Sees a schedule that goes on with the learning rate of the task, in place of that of the grid."""
    base = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=0.1)
    torch.optim.lr_scheduler.CosineAnnealingLR(base, 10)
    with pytest.raises(TaskError, match=r"make learning-rate schedulers after trial\.optimizer"):
        Trial(Method("sgd"), 0, {"lr": 0.4}).optimizer(base)


def test_averaged_weights():
    """Sees the last weights tested in place of the averaged ones, or the averaged ones trained on."""
    seen = []

    def evaluate(trial, model):
        seen.append([tensor.clone() for tensor in model.state_dict().values()])
        trial.report(test=1.0)

    trial, model, _ = trained("ema:average=0.5", steps=4, evaluate=evaluate)
    plain, plain_seen = [], []
    _, other, _ = trained("sgd", steps=4, evaluate=lambda trial, model: (
        plain.append([tensor.clone() for tensor in model.state_dict().values()]), trial.report(test=1.0)))  # fmt: skip
    average = plain[0]
    for weights in plain:
        average = [a if not a.is_floating_point() else 0.5 * a + 0.5 * w for a, w in zip(average, weights, strict=True)]
        plain_seen.append(average)
    for mine, theirs in zip(seen[-1], plain_seen[-1], strict=True):
        if mine.is_floating_point():
            torch.testing.assert_close(mine, theirs)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert model.training
    assert trial.average is not None


def test_the_average_of_a_compiled_network():
    """Sees a compiled network copied with its compiler, or its weights not exchanged."""
    model = torch.nn.Linear(1, 1)
    compiled = torch.compile(model, backend="eager")
    trial = Trial(Method("ema:average=0.5"))
    opt = trial.optimizer(torch.optim.SGD(model.parameters(), lr=0.1), model=compiled)
    weights = []
    for _ in range(2):
        for x in opt.passes(torch.ones(4, 1)):
            compiled(x).sum().backward()
        opt.step()
        opt.zero_grad()
        weights.append(model.weight.item())
    with trial.evaluating(compiled):
        assert compiled(torch.zeros(1, 1)).item() == pytest.approx(model.bias.item())
        assert model.weight.item() == pytest.approx(sum(weights) / 2)
    assert model.weight.item() == weights[-1]


def test_evaluation_leaves_no_trace():
    """Sees dropout or BatchNorm in training mode while a model is evaluated, a graph kept, or layers left frozen."""

    def evaluate(trial, model):
        assert not any(module.training for module in model.modules())
        assert not model(torch.ones(3, 2)).requires_grad
        trial.report(test=1.0)

    _, model, _ = trained(evaluate=evaluate)
    assert all(module.training for module in model.modules())
    model[1].eval()
    with Trial(Method("sgd")).evaluating(model):
        pass
    assert model.training
    assert not model[1].training


def test_the_clock_stands_still_in_an_evaluation(monkeypatch):
    """Sees the time of evaluations counted as training."""
    now = [0.0]
    monkeypatch.setattr("sharpless.lab.trials.clock.perf_counter", lambda: now[0])

    def evaluate(trial, model):
        now[0] += 100.0
        trial.report(test=1.0)

    trial, _, _ = trained(evaluate=evaluate)
    assert trial.seconds == 0.0


def test_going_on(tmp_path):
    """Sees a run that goes on from a checkpoint with a curve, sharp steps or an average of its own."""
    trial, _, _ = trained("rst:average=0.9")
    state = trial.state_dict()
    torch.save(state, tmp_path / "state.pt")
    other, _, _ = trained("rst:average=0.9", steps=1)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    again = other.state_dict()
    for name in ("curve", "sharp_steps"):
        assert again[name] == state[name]
    assert again["seconds"] >= state["seconds"]
    for name, value in state["average"].items():
        assert torch.equal(again["average"][name], value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "trial.report got neither validation nor test"),
        ({"loss": 1.0}, "trial.report got neither validation nor test"),
        ({"test": "good"}, "trial.report: test = good is not one number"),
        ({"test": torch.ones(2)}, r"trial.report: test = tensor\(\[1., 1.\]\) is not one number"),
    ],
)
def test_reports_that_say_nothing(given, message):
    """Sees a point of a curve that no statistics can use."""
    with pytest.raises(TaskError, match=message):
        trained(evaluate=lambda trial, model: trial.report(**given))


@pytest.mark.parametrize("value", [0.3, {"test": 0.3}])
def test_reports_without_a_name(value):
    """Sees Python's own words for a value that is reported without its name."""
    with pytest.raises(TaskError, match=r"^trial.report got .*0.3.* without a name: give trial.report\(test=…\)"):
        trained(evaluate=lambda trial, model: trial.report(value))


def test_reports_that_change():
    """Sees curves of unequal length."""
    reports = iter([{"test": 1.0}, {"validation": 1.0, "test": 1.0}])
    with pytest.raises(TaskError, match=r"trial.report got test and validation, and test before: report the same"):
        trained(evaluate=lambda trial, model: trial.report(**next(reports)))


def test_choosing_wants_validation_data():
    """Sees hyperparameters chosen on the test data."""
    with pytest.raises(TaskError, match="hyperparameters are chosen on validation data, and the task reported none"):
        Trial(Method("sgd"), choosing=True).report(test=1.0)


def test_averages_are_tested():
    """Sees the weights of the last step reported as those of the average."""
    trial = Trial(Method("ema"))
    model = torch.nn.Linear(1, 1)
    trial.optimizer(torch.optim.SGD(model.parameters(), lr=0.1), model=model)
    with pytest.raises(TaskError, match=r"tested with averaged weights: report within `with trial\.evaluating"):
        trial.report(test=1.0)


def test_tasks_that_forget():
    """Sees a run accepted that did not train as its method does."""
    with pytest.raises(TaskError, match=r"the task did not use trial\.optimizer"):
        check_ended(Trial(Method("sam")))
    trial, model = Trial(Method("sgd-long")), torch.nn.Linear(1, 1)
    opt = trial.optimizer(torch.optim.SGD(model.parameters(), lr=0.1), model=model)
    for x in opt.passes(torch.ones(4, 1)):
        model(x).sum().backward()
    opt.step()
    with pytest.raises(TaskError, match="method sgd-long trains longer: take the number of epochs from"):
        check_ended(trial)
    trial, model = Trial(Method("sam")), torch.nn.Linear(1, 1)
    opt = trial.optimizer(torch.optim.SGD(model.parameters(), lr=0.1), model=model, total_steps=2)
    with pytest.raises(TaskError, match="the task took no gradients"):
        check_ended(trial)
    with pytest.raises(TaskError, match="was called twice"):
        trial.optimizer(torch.optim.SGD(model.parameters(), lr=0.1))
    for x in opt.passes(torch.ones(4, 1)):
        model(x).sum().backward()
    opt.step()
    with pytest.raises(TaskError, match=r"took 1 steps, and gave total_steps = 2"):
        check_ended(trial)


def test_several_bases():
    """Sees a list of bases refused, called by the name of one, or given one learning rate for all."""
    model = torch.nn.Linear(2, 1)
    trial = Trial(Method("sam"), 0, {"lr": 0.5})
    bases = [torch.optim.SGD([model.weight], lr=0.1), torch.optim.Adam([model.bias], lr=0.01)]
    trial.optimizer(bases, model=model)
    assert trial.base_name == "SGD + Adam"
    assert [base.param_groups[0]["lr"] for base in bases] == pytest.approx([0.5, 0.05])
