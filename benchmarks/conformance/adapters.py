"""How each library is used: by its documentation, and by hand where a loop around the documented call suffices."""

from contextlib import contextmanager, nullcontext
from functools import cached_property
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

import torch
from torch.nn.parallel import DistributedDataParallel

from . import reference
from .verdicts import unsupported

RHO = 0.1


def nothing():
    pass


class Adapter:
    """One library, for one case: `make` an optimizer, take a `step`.

    `evaluate` runs forward and backward, adds to the gradients, and returns the loss. `final` may look at
    and change the gradient that the base optimizer is about to see.
    """

    package = ""
    module = ""
    about = ""
    perturbation = staticmethod(reference.sam)

    @classmethod
    def version(cls):
        """The installed version, None where the package is missing."""
        try:
            return version(cls.package)
        except PackageNotFoundError:
            return None

    @cached_property
    def library(self):
        return import_module(self.module)

    def base(self, kind, groups, **options):
        """The base optimizer alone, for the reference."""
        return getattr(torch.optim, kind)(groups, **options)

    def make(self, model, kind="SGD", groups=None, rho=RHO, climb_locally=False, **options):
        """The library's SAM around an optimizer of torch.optim; `groups` may bring a "rho" of their own."""
        self.model = model
        self.climb_locally = climb_locally and isinstance(model, DistributedDataParallel)
        groups = list(model.parameters()) if groups is None else groups
        return self.wrap(kind, groups, rho, options)

    def step(self, opt, evaluate, final=nothing):
        """One optimizer step as documented; return the loss that the user gets to see."""
        raise NotImplementedError

    def step_on_micro_batches(self, opt, evaluations):
        raise unsupported("climbs once for all micro-batches of a step")

    def step_with_scaler(self, opt, scaler, evaluate):
        raise unsupported("no documented way to use a GradScaler, which takes no closures")

    def repeat_dropout(self):
        raise unsupported("no way to repeat the noise but by setting the generators by hand")

    def base_of(self, opt):
        return opt.base_optimizer

    def save(self, opt):
        return opt.state_dict()

    def load(self, opt, state):
        opt.load_state_dict(state)


class Sharpless(Adapter):
    package = module = "sharpless"
    about = "`for … in opt.passes()`, then `opt.step()`"

    def wrap(self, kind, groups, rho, options):
        base = self.base(kind, groups, **options)
        return self.library.SAM(base, rho=rho, model=self.model, climb_locally=self.climb_locally)

    def step(self, opt, evaluate, final=nothing):
        losses = [evaluate() for _ in opt.passes()]
        final()
        opt.step()
        opt.zero_grad()
        return losses[0]

    def step_on_micro_batches(self, opt, evaluations):
        for evaluate in evaluations:
            for _ in opt.passes():
                evaluate()
        opt.step()
        opt.zero_grad()

    def step_with_scaler(self, opt, scaler, evaluate):
        for _ in opt.passes():
            evaluate()
        scaler.step(opt)
        scaler.update()
        opt.zero_grad()

    def repeat_dropout(self):
        pass

    def base_of(self, opt):
        return opt.base


class GradientsBeforehand(Adapter):
    """Libraries after davda54/sam: the clean gradient is there when `step(closure)` is called."""

    about = "forward and backward, then `opt.step(closure)`"

    def wrap(self, kind, groups, rho, options):
        return self.library.SAM(groups, getattr(torch.optim, kind), rho=rho, **options)

    def frozen_statistics(self):
        return nullcontext()

    def step(self, opt, evaluate, final=nothing):
        def closure():
            opt.zero_grad()
            with self.frozen_statistics():
                evaluate()
            final()

        with self.model.no_sync() if self.climb_locally else nullcontext():
            loss = evaluate()
        opt.step(closure)
        opt.zero_grad()
        return loss


class PytorchOptimizer(GradientsBeforehand):
    package = "pytorch-optimizer"
    module = "pytorch_optimizer"
    about = "forward and backward, then `opt.step(closure)`; its helpers that switch BatchNorm statistics off and on"

    @contextmanager
    def frozen_statistics(self):
        self.library.disable_running_stats(self.model)
        try:
            yield
        finally:
            self.library.enable_running_stats(self.model)


class Zij(GradientsBeforehand):
    package = module = "zij"
    about = "a port of davda54/sam: forward and backward, then `opt.step(closure)`"


class ClosureTwice(Adapter):
    """Libraries that call the closure twice."""

    about = "`opt.step(closure)`"

    def step(self, opt, evaluate, final=nothing):
        calls = 0

        def closure():
            nonlocal calls
            opt.zero_grad()
            loss = evaluate()
            calls += 1
            if calls == 2:
                final()
            return loss

        if self.climb_locally:
            raise unsupported("no documented way to keep the clean pass from synchronizing")
        loss = opt.step(closure)
        opt.zero_grad()
        return loss


class SamPytorch(ClosureTwice):
    package, module = "sam-pytorch", "sam"

    def wrap(self, kind, groups, rho, options):
        if any("rho" in group for group in groups if isinstance(group, dict)):
            raise unsupported("takes one parameter group")
        parameters = [p for group in groups for p in (group["params"] if isinstance(group, dict) else [group])]
        return self.library.SAM(parameters, self.base(kind, groups, **options), rho=rho)

    def base_of(self, opt):
        return opt.optim

    # The user holds two optimizers here, and saves both.

    def save(self, opt):
        return {"sam": opt.state_dict(), "base": opt.optim.state_dict()}

    def load(self, opt, state):
        opt.load_state_dict(state["sam"])
        opt.optim.load_state_dict(state["base"])


class Temperon(ClosureTwice):
    package = module = "temperon"
    about = "`Temperon(base, tail_frac=1)`, which is SAM from the first step, and `opt.step(closure)`"

    def wrap(self, kind, groups, rho, options):
        if any("rho" in group for group in groups if isinstance(group, dict)):
            raise unsupported("has one rho")
        base = self.base(kind, groups, **options)
        return self.library.Temperon(base, total_steps=10_000, tail_frac=1.0, rho=rho)

    def base_of(self, opt):
        return opt.optimizer


class HeavyBall(ClosureTwice):
    package = module = "heavyball"
    about = "`SAMWrapper` around its own SGD and AdamW, and `opt.step(closure)`; compared with its own ρ·w²·∇L"
    perturbation = staticmethod(reference.squared_weights)

    def base(self, kind, groups, momentum=0.0, **options):
        if kind == "SGD":
            options["beta"] = momentum
        return getattr(self.library, kind)(groups, **options)

    def wrap(self, kind, groups, rho, options):
        for group in groups:
            if isinstance(group, dict) and "rho" in group:
                group["ball"] = group.pop("rho")
        return self.library.SAMWrapper(groups, self.base(kind, groups, **options), ball=rho)

    def base_of(self, opt):
        return opt.wrapped_optimizer


LIBRARIES = {
    adapter.package: adapter for adapter in (Sharpless, PytorchOptimizer, Zij, SamPytorch, Temperon, HeavyBall)
}
