"""The required packages of a command, besides torch."""

from importlib.util import find_spec

__all__ = ["need"]

REPORT = ("jinja2", "matplotlib", "numpy", "pydantic", "rich", "scipy")
LAB = (*REPORT, "cloudpickle", "sklearn")


def need(command: str) -> None:
    """Check that the packages of a command are installed, without importing them.

    Raises:
        ModuleNotFoundError: one is not installed.
    """
    for package in REPORT if command == "report" else LAB:
        if find_spec(package) is None:
            raise ModuleNotFoundError(f"{command} needs {package}: pip install 'sharpless[lab]'")
