"""A Trainer of transformers that trains what the reference trains."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from hosts.methods import wrapped
from sharpless.hosts.transformers import Sharpness


class Classifier(nn.Module):
    """A network as transformers wants it: it returns its loss, `factor` times."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, labels, factor):
        logits = self.network(x)
        return {"loss": factor * cross_entropy(logits, labels), "logits": logits}


class SharpTrainer(Sharpness, Trainer):
    """A Trainer that takes the examples one after the other."""

    method = "SAM"

    def _get_train_sampler(self, *_):
        return SequentialSampler(self.train_dataset)

    def wrap_optimizer(self, base):
        return wrapped(self.method, base)


class Begin(TrainerCallback):
    """Training begins with the noise of the reference."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            torch.manual_seed(0)


def arguments(folder, **options):
    return TrainingArguments(
        **{
            "output_dir": str(folder), "use_cpu": True, "max_grad_norm": 0.0, "lr_scheduler_type": "constant",
            "per_device_train_batch_size": 1, "num_train_epochs": 1, "logging_steps": 1, "save_strategy": "no",
            "disable_tqdm": True, "report_to": "none", "remove_unused_columns": False,
        }
        | options
    )  # fmt: skip


def trainer(method, model, steps, folder, *, kind=SharpTrainer, factors=(), **options):
    """A Trainer whose data set is the micro-batches of `steps`, one after the other."""
    micros = [micro for step in steps for micro in step]
    factors = [*factors, *[1.0] * (len(micros) - len(factors))]
    data = [
        {"x": x, "labels": y, "factor": torch.tensor(factor)} for (x, y), factor in zip(micros, factors, strict=True)
    ]
    made = kind(
        model,
        arguments(folder, **{"gradient_accumulation_steps": len(steps[0])} | options),
        data_collator=lambda rows: rows[0],
        train_dataset=data,
        optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.3, "momentum": 0.9}),
        callbacks=[Begin()],
    )
    made.method = method
    return made
