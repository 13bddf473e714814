"""What is trained in Lightning's tests, and by which Trainer."""

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch.nn.functional import cross_entropy
from torchmetrics import MeanMetric

from hosts import reference
from hosts.methods import wrapped
from hosts.reference import sgd
from sharpless.hosts.lightning import Sharpness

# Lightning's own warnings, of loaders with few workers and the like, and not those of the library.
WARNINGS = ["ignore", "error:.*passes", "error:.*closure"]


class Loader:
    """Batches in a list, with a place that a checkpoint can hold."""

    def __init__(self, steps):
        self.batches, self.place = [micro for step in steps for micro in step], 0

    def __iter__(self):
        self.place %= len(self.batches)
        while self.place < len(self.batches):
            self.place += 1
            yield self.batches[self.place - 1]

    def __len__(self):
        return len(self.batches)

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


class Automatic(pl.LightningModule):
    """A network whose `training_step` logs."""

    def __init__(self, net, make, *, scheduler=None, overflow=(), seed=0):
        super().__init__()
        self.net, self.make, self.scheduler, self.overflow, self.seed = net, make, scheduler, overflow, seed
        self.mean, self.logged, self.returned, self.seen = MeanMetric(), [], [], []

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = cross_entropy(self.net(x), y)
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.mean.update(loss.detach(), len(x))
        self.log("mean", self.mean, on_epoch=True)
        return loss * float("inf") if self.trainer.global_step in self.overflow else loss

    def on_after_backward(self):
        self.log("backwards", 1.0, on_step=False, on_epoch=True, reduce_fx="sum")

    def configure_optimizers(self):
        opt = self.make(self.net)
        if self.scheduler is None:
            return opt
        return {"optimizer": opt, "lr_scheduler": {"scheduler": self.scheduler(opt), "interval": "step"}}

    def on_train_start(self):
        if self.seed is not None:
            torch.manual_seed(self.seed)

    def on_before_optimizer_step(self, optimizer):
        self.seen.append([p.grad.clone() for p in self.net.parameters()])

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.returned.append(float(outputs["loss"]))
        self.logged.append(float(self.trainer.callback_metrics["loss_step"]))


class Manual(Automatic):
    """The same in manual optimization."""

    def __init__(self, net, make, **options):
        super().__init__(net, make, **options)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        opt = self.optimizers()
        opt.zero_grad()
        for x, y in opt.passes(batch):
            loss = cross_entropy(self.net(x), y)
            if not opt.perturbed:
                self.log("loss", loss, on_step=True, on_epoch=True)
                clean = loss.detach()
            self.manual_backward(loss * float("inf") if self.trainer.global_step in self.overflow else loss)
        opt.step()
        return clean


class Killed(Exception):
    pass


class Kill(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step >= self.step:
            raise Killed


def trainer(**options):
    """A Trainer on CPU that writes nothing it is not asked for."""
    defaults = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "callbacks": [Sharpness()], "logger": False}
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(**defaults | quiet | options)


def scaled(**options):
    """Options of a Trainer with float16 and a GradScaler on CPU, beside others."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)], **options}


def fitted(method, net, sizes=(8,), *, kind=Automatic, model=False, module=None, ckpt_path=None, **options):
    """Train `net` in Lightning and return the module."""

    def make(net):
        return wrapped(method, sgd(net), **({"model": net} if model else {}))

    done = kind(net, make, **module or {})
    accumulate = {"accumulate_grad_batches": len(sizes)} if len(sizes) > 1 else {}
    trainer(**accumulate | options).fit(done, Loader(reference.batches(sizes)), ckpt_path=ckpt_path)
    return done
