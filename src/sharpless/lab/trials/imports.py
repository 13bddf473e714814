"""The function of a name, in a file or in a package."""

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from sharpless.lab.faults import culprit, reason

__all__ = ["imported"]


def imported(name: str, folder: Path, prefix: str, known: Sequence[str] = ()) -> Callable[..., Any]:
    """Return the function of a name.

    Args:
        name: `FILE.py:function` or `package.module:function`.
        folder: the folder of the file.
        prefix: the start of an error message, `task = my_task.py:train`.
        known: other valid names.

    Raises:
        ValueError: there is none, or its module raises an error on import.
        ModuleNotFoundError: its module needs a package that is not installed.
    """
    place, colon, attribute = name.rpartition(":")
    if not colon:
        forms = ["FILE.py:function", "module:function"] + ([f"one of {', '.join(known)}"] if known else [])
        raise ValueError(f"{prefix} is unknown: give {', '.join(forms[:-1])} or {forms[-1]}")
    path = folder / place
    if place.endswith(".py") and not path.is_file():
        raise ValueError(f"{prefix}: there is no file {place}, give the path of one")
    try:
        module = _module_of(path) if place.endswith(".py") else importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name == place.partition(".")[0] or error.name == place:
            raise ValueError(f"{prefix}: there is no module {place}, give FILE.py:function or install it") from None
        raise
    except Exception as error:
        where = culprit(error, place)
        remedy = "name it package.module:function" if "relative import" in str(error) else "fix it there"
        raise ValueError(
            f"{prefix} raised {reason(error)} on import{'' if where is None else f' ({where})'}: {remedy}"
        ) from error
    if not hasattr(module, attribute):
        raise ValueError(f"{prefix}: {place} has no {attribute!r}, give the name of a function in it")
    return getattr(module, attribute)  # type: ignore[no-any-return]


def _module_of(path: Path) -> Any:
    """Return the module in a file, which can import other files of its folder."""
    path = path.resolve()
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    spec = spec_from_file_location(path.stem if known is None else f"{path.stem}_{abs(hash(path))}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module
