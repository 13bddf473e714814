"""The Python examples of docs/hosts run, as far as their frameworks are installed."""

import os
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from hosts import examples
from sharpless import GRST

os.environ.setdefault("KERAS_BACKEND", "torch")
PAGES = Path(__file__).parents[2] / "docs/hosts"
pytestmark = pytest.mark.filterwarnings("ignore", "error:.*passes")


class Labelled(nn.Linear):
    """What the Trainer of transformers takes for a model."""

    def forward(self, features, labels):
        return {"loss": cross_entropy(super().forward(features), labels)}


def accelerate(names):
    from accelerate import Accelerator

    names |= {"accelerator": Accelerator(cpu=True), "scheduler": torch.optim.lr_scheduler.ConstantLR(names["base"])}


def fabric(names):
    from lightning.fabric import Fabric

    names["fabric"] = Fabric(accelerator="cpu")


def ignite(names):
    from ignite.engine import Engine

    names |= {"Engine": Engine, "opt": GRST(names["base"], p=0.5, model=names["model"])}


def keras(names):
    from keras import Input, layers

    inputs = Input((8,))
    names |= {"inputs": inputs, "outputs": layers.Dense(3)(inputs), "SharpModel": examples.load("keras").SharpModel}
    names |= {"x": torch.randn(16, 8), "y": torch.randn(16, 3)}


def skorch(names):
    from skorch.callbacks import Callback, GradientNormClipping

    x, y = names["loader"].dataset.tensors
    made = {"SharpClassifier": examples.load("skorch").SharpClassifier, "GradientNormClipping": GradientNormClipping}
    names |= {**made, "Callback": Callback, "network": nn.Sequential(nn.Linear(8, 3), nn.Softmax(-1)), "x": x, "y": y}


def timm(names):
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from timm.utils import ModelEmaV3, NativeScaler, dispatch_clip_grad

    names |= {"create_optimizer_v2": create_optimizer_v2, "create_scheduler_v2": create_scheduler_v2}
    names |= {"ModelEmaV3": ModelEmaV3, "NativeScaler": NativeScaler, "dispatch_clip_grad": dispatch_clip_grad}


def transformers(names):
    from transformers import TrainingArguments

    names["args"] = TrainingArguments("out", max_steps=3, report_to=[], use_cpu=True, disable_tqdm=True)
    names["rows"] = [{"features": torch.randn(8), "labels": torch.tensor(row % 3)} for row in range(32)]
    names["model"] = Labelled(8, 3)


def lightning(_):
    pass


PREPARED = [accelerate, fabric, ignite, keras, lightning, skorch, timm, transformers]


@pytest.mark.parametrize("prepare", PREPARED, ids=lambda function: function.__name__)
def test_examples_of_a_page(prepare, tmp_path, monkeypatch):
    """Sees an example in the how-to of a framework that a user cannot run."""
    name = prepare.__name__
    pytest.importorskip("lightning" if name == "fabric" else name)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = nn.Linear(8, 3)
    names = {"torch": torch, "model": model, "base": torch.optim.SGD(model.parameters(), lr=0.1), "GRST": GRST}
    names["loader"] = DataLoader(TensorDataset(torch.randn(64, 8), torch.randint(3, (64,))), batch_size=16)
    names |= {"loss_fn": cross_entropy, "epochs": 1}
    prepare(names)
    text = (PAGES / f"{name}.md").read_text("utf-8").replace('torch.autocast("cuda")', 'torch.autocast("cpu")')
    found = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert found
    exec(compile("\n".join(found), f"{name}.md", "exec"), names)


def test_every_page_is_run():
    """Sees a page whose code no test runs.

    composer, DeepSpeed and fastai are not in the environment `dev`: benchmarks/host_versions.py runs their tests, which
    have `test_the_page` and `test_the_example`, in environments of their own.
    """
    pages = {page.stem for page in PAGES.glob("*.md")} - {"index", "composer", "deepspeed", "fastai"}
    assert pages == {function.__name__ for function in PREPARED}
