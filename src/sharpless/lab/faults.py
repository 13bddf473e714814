"""Errors outside the library: errors of the user's network, and lack of memory."""

import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_tb

__all__ = ["Failure", "blamed", "culprit", "is_out_of_memory", "reason"]

LIBRARIES = (Path(__file__).parents[1], *map(Path, {*sysconfig.get_paths().values()}))
"""The folders of code that is not the user's."""

DYNAMIC = "<dynamic-code>"
"""What cloudpickle calls the file of a function of a notebook or a script."""


@dataclass(frozen=True)
class Failure:
    """A failed run, and the reason."""

    run: str
    why: str
    of_memory: bool = False

    @classmethod
    def of(cls, run: str, error: BaseException, task: str) -> "Failure":
        """Return the failure of a run for an error of its task."""
        where = culprit(error, task)
        why = f"{reason(error, 1000)}{'' if where is None else f' ({where})'}"
        return cls(run, why, is_out_of_memory(error))

    def __str__(self) -> str:
        remedy = "; give a smaller batch, or fewer --jobs" if self.of_memory else ""
        return f"{self.run} failed: {self.why}{remedy}"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of Python or torch means too little memory, on a CPU or a GPU.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes do not fit"))
    (True, False)
    """
    words = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(some in str(error) for some in words)
    )


def reason(error: BaseException, most: int = 300) -> str:
    """Return the type and message of an error, with at most `most` characters of the message.

    >>> reason(KeyError("head"))
    "KeyError: 'head'"
    """
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:most]}{'…' if len(text) > most else ''}" if text else type(error).__name__


def culprit(error: BaseException, spec: str) -> str | None:
    """Return the last line of the user's code in the traceback of an error; None if there is none.

    Args:
        error: the error.
        spec: the network, `package.module:factory,…` if it is the user's.
    """
    package = spec.partition(":")[0].partition(".")[0]
    if isinstance(error, SyntaxError) and error.filename and _is_own(error.filename):
        return f"{error.filename}, line {error.lineno}"
    own = [
        f"{spec if frame.f_code.co_filename == DYNAMIC else frame.f_code.co_filename}, line {line}"
        for frame, line in walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package or _is_own(frame.f_code.co_filename)
    ]
    return own[-1] if own else None


@contextmanager
def blamed(spec: str, *, surely: bool = False) -> Iterator[None]:
    """Report errors of the user's network within the block with file and line.

    Args:
        spec: the network. Errors of other networks are not changed.
        surely: whether only the network can raise here, even if the traceback has no line of the user's code.

    Raises:
        ValueError: the network raised an error.
    """
    try:
        yield
    except Exception as error:
        theirs = ":" in spec and not spec.startswith("timm:") and not is_out_of_memory(error)
        where = culprit(error, spec) if theirs else None
        if where is None and not (theirs and surely):
            raise
        place = "" if where is None else f" ({where})"
        raise ValueError(f"network = {spec} raised {reason(error)}{place}: fix it, or give another") from error


def _is_own(filename: str) -> bool:
    path = Path(filename)
    return path.is_file() and not any(path.is_relative_to(library) for library in LIBRARIES)
