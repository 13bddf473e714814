"""The cases of benchmarks/conformance.py, the libraries they are run on, and the reference."""

from . import gradients, weights, training, precision, distributed  # noqa: F401, I001  (the order of the table)
from .adapters import LIBRARIES
from .verdicts import CASES, record_of

__all__ = ["CASES", "LIBRARIES", "record_of"]
