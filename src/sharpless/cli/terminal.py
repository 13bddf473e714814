"""Text for terminals: characters of their encoding, and no control characters."""

import codecs
import os
import sys
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console", "prepare", "shown"]

PLAIN = {
    **{"±": "+-", "−": "-", "—": "-", "–": "-", "×": "x", "•": "*", "…": "...", "≤": "<=", "≥": ">=", "‖": "|"},
    **{"γ": "gamma", "ρ": "rho", "θ": "theta", "η": "eta", "\u0302": "^", "²": "^2", "\u00a0": " "},
    **{"“": '"', "”": '"', "’": "'"},
    **{"│": "|", "└": "+", "─": "-", "█": "#"},
    **dict.fromkeys("▁▂▃", "."),
    **dict.fromkeys("▄▅▆▇", ":"),
}
"""Replacements for characters that the encoding of the output lacks."""


def prepare() -> None:
    """Write replacements for characters that the encoding of the output lacks, instead of raising an error."""
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - a caller may have closed it
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a replaced stream may lack it
            stream.reconfigure(errors="sharpless.plain")


def shown(text: str) -> str:
    r"""Return any text as one line for the output: without control characters, and in its encoding.

    >>> shown("runs/\x1b[31m\n")
    'runs/\\x1b[31m\\n'
    """
    calm = "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in CONTROL else character
        for character in text
    )
    encoding = sys.stdout.encoding or "utf-8"
    return calm.encode(encoding, "sharpless.plain").decode(encoding)


CONTROL = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's categories of characters that control the terminal or cannot be written."""


def console() -> "Console":
    """Return Rich's console for the standard output; brackets and colons in a text have no meaning."""
    from rich.console import Console  # noqa: PLC0415

    return Console(highlight=False, markup=False, emoji=False)


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(PLAIN.get(one) or one.encode("ascii", "backslashreplace").decode() for one in lacking), error.end


codecs.register_error("sharpless.plain", _plain)
