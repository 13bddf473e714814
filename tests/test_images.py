"""The images as a task: its options, its runs, and their records."""

import json

import pytest

from sharpless.lab.methods.method import Method
from sharpless.lab.runs.run import Run
from sharpless.lab.tasks.images import parts, resolve, train
from sharpless.lab.tasks.images.papers import PAPERS
from sharpless.lab.tasks.images.recipe import Recipe
from sharpless.lab.tasks.images.setup import Setup
from sharpless.lab.trials.definition import Task, parameters

SHORT = {"epochs": 2, "width": 4}


def run(folder, method, seed=1, point=None, choosing=False, **options):
    """The record of a run, or why there is none."""
    one = Run(Task.of("images", SHORT | options), Method(method), seed, folder, 1, point or {}, None, choosing)
    return one.train(one.trial())


@pytest.mark.parametrize("method", ["sgd", "sgd-long", "sam", "thrifty", "peer-sam", "peer-looksam:budget=1.5"])
def test_a_record(method, tmp_path):
    """Sees a record that lacks something, does not add up, or cannot be written as JSON."""
    record = run(tmp_path, method)
    epochs = 3 if method == "sgd-long" else 2
    assert record["curve"]["step"] == [20 * (epoch + 1) for epoch in range(epochs)]
    assert record["steps"] == 20 * epochs
    assert record["batch_fraction"] == (7 / 64 if method == "thrifty" else 1.0)  # a tenth of 64 is 6.4 examples
    assert record["passes"] == pytest.approx(record["steps"] + record["batch_fraction"] * len(record["sharp_steps"]))
    assert record["plain_passes"] == 40
    expected = {"sgd": 0, "sgd-long": 0, "sam": 40, "peer-sam": 40, "peer-looksam:budget=1.5": 20}.get(method)
    assert expected in {None, len(record["sharp_steps"])}
    assert json.dumps(record, allow_nan=False)
    assert 0 < record["data_seconds"] < record["curve"]["seconds"][-1] <= record["seconds"]
    assert record["curve"]["passes"][-1] == record["passes"]
    assert record["curve"].keys() == {"step", "passes", "seconds", "test", "loss"}
    assert record["metric"] == {"name": "accuracy", "unit": "%", "goal": "max"}
    assert record["setup"]["processes"] == record["setup"]["threads"] == 1
    assert len(record["data"]["fingerprint"]) == 16
    assert record["options"]["epochs"] == 2
    assert not {"devices", "data_dir", "recipe"} & record["options"].keys()
    assert record["hyperparameters"] == ({} if method.startswith("sgd") else {"rho": 0.3})


def test_pairs_by_seed(tmp_path):
    """Sees methods compared on other data, weights or batches than one another: up to the first coin they agree."""
    plain, rst = run(tmp_path, "sgd", 3), run(tmp_path, "rst:p=piecewise:0,1@0.5", 3)
    assert rst["sharp_steps"] == list(range(21, 40))
    assert rst["curve"]["loss"][0] == plain["curve"]["loss"][0]
    assert rst["curve"]["loss"][1] != plain["curve"]["loss"][1]
    assert run(tmp_path, "sgd", 4)["curve"]["loss"][0] != plain["curve"]["loss"][0]


def test_g_rst_and_rst_toss_the_same_coin(tmp_path):
    """Sees γ left out: G-RST takes RST's sharpness-aware steps, with another gradient."""
    rst, g_rst = run(tmp_path, "rst"), run(tmp_path, "g-rst")
    assert rst["sharp_steps"] == g_rst["sharp_steps"]
    assert (rst["gamma"], g_rst["gamma"]) == (1.0, 2.0)
    assert rst["curve"]["loss"] != g_rst["curve"]["loss"]
    assert run(tmp_path, "g-rst:gamma=1")["curve"]["loss"] == rst["curve"]["loss"]


def test_a_grid(tmp_path):
    """Sees a learning rate, a weight decay or a radius of the comparison that is not trained with."""
    told = {"lr": 0.1, "weight_decay": 0.0, "rho": 0.2}
    varied = run(tmp_path, "sam", point=told)
    meant = run(tmp_path, "sam", **told)
    assert varied["hyperparameters"] == told
    assert varied["curve"]["loss"] == pytest.approx(meant["curve"]["loss"], rel=1e-5)
    assert varied["curve"]["loss"] != run(tmp_path, "sam")["curve"]["loss"]


def test_a_validation_split(tmp_path):
    """Sees results of a validation split passed off as those of the test set."""
    assert "validation" in run(tmp_path, "sgd", validation=0.5, epochs=1)["curve"]
    chosen = run(tmp_path, "sgd", choosing=True, epochs=1)["curve"]
    assert {"test", "validation"} & chosen.keys() == {"validation"}


# Options


def test_options_and_their_defaults():
    """Sees a field that is no option, or a named recipe whose defaults are lost or not to be overridden."""
    fields = {*Recipe.__dataclass_fields__, *Setup.__dataclass_fields__}
    assert dict(parameters(train)).keys() == fields | {"recipe"}
    recipe, setup = parts({"recipe": "vit-s", "epochs": 7, "devices": 1})
    assert (recipe.network, recipe.optimizer, recipe.epochs) == (PAPERS["vit-s"]().network, "adamw", 7)
    assert (recipe.weight_decay, recipe.rho, recipe.lr) == (0.3, 0.1, 1e-3)
    assert setup == Setup()
    recipe, _ = parts({"data": "folder:flowers", "epochs": 3})
    assert (recipe.network, recipe.noise, recipe.epochs, recipe.data) == ("resnet18", 0.0, 3, "folder:flowers")
    assert parts({}) == (Recipe(), Setup())
    assert parts({"recipe": "wrn-28-10", "nesterov": False})[0].nesterov is False
    assert resolve(resolve({"recipe": "vit-s"})) == resolve({"recipe": "vit-s"})
    with pytest.raises(ValueError, match=r"^recipe = wrn is unknown: give digits, resnet18"):
        parts({"recipe": "wrn"})


def test_what_a_study_is_told(tmp_path):
    """Sees a machine that makes another experiment, or another experiment that is taken for the same."""
    one, other = (Task.of("images", options).identity for options in ({"workers": 2}, {"recipe": "digits"}))
    assert one == other
    assert one != Task.of("images", {"noise": 0.1}).identity
    assert Task.of("images", {"devices": 2}).in_process
    assert not Task.of("images").in_process


@pytest.mark.parametrize("name", PAPERS)
def test_recipes_of_papers_can_be_built(name):
    """Sees a recipe that names a network, an augmentation or a schedule that is not there."""
    from sharpless.lab.tasks.images import networks

    networks.check(PAPERS[name]().network)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": 1.5}, "noise = 1.5 is out of range"),
        ({"rho": -0.1}, "rho = -0.1 is out of range"),
        ({"rho": float("nan")}, "rho = nan is out of range"),
        ({"epochs": 0}, "epochs = 0 is out of range"),
        ({"batch_size": 1}, "batch_size = 1 is out of range"),
        ({"lr": 0.0}, "lr = 0.0 is out of range"),
        ({"lr": float("inf")}, "lr = inf is out of range"),
        ({"momentum": float("inf")}, "momentum = inf is out of range"),
        ({"augment": "flip+blur"}, "augment = blur is unknown: choose from flip, crop"),
        ({"augment": "flip+autoaugment"}, "autoaugment needs images of 256 levels"),
        ({"batch_size": 64, "accumulate": 3}, "batch_size = 64 is not a multiple of accumulate = 3"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov is a kind of momentum of SGD"),
        ({"precision": "64"}, "precision = 64 is unknown: give 32 or bf16 or 16"),
        ({"width": 0}, "width = 0 is out of range"),
    ],
)
def test_bad_recipes(options, message):
    """Sees a recipe accepted that cannot be trained."""
    with pytest.raises(ValueError, match="^" + message):
        Recipe(**options)
