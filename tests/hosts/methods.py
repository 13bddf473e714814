"""The library's optimizers that `reference.METHODS` describes."""

from hosts.reference import METHODS, SEED
from sharpless import GRST, RST, SAM


def wrapped(method, base, **options):
    """Return `base` in the optimizer of a name in METHODS, for batches of 8."""
    rho = METHODS[method]["rho"]
    if method == "SAM":
        return SAM(base, rho=rho, **options)
    if method == "RST":
        return RST(base, p=0.5, rho=rho, seed=SEED, **options)
    if method == "G-RST":
        return GRST(base, p=0.5, rho=rho, seed=SEED, **options)
    model = options.pop("model", None)
    opt = GRST.for_budget(base, 1.25, batch_size=8, rho=rho, seed=SEED, **options)
    opt.model = model  # a network with BatchNorm would be given larger parts
    return opt
