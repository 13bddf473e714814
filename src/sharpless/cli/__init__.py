"""The command line: parse, call, print."""

import signal
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows `sharpless`; those of the process by default.

    Returns:
        The exit status: 0, 2 for bad input, 128 and the number of the signal when told to stop.

    >>> main(["plan", "--schedule", "linear:0,2", "--steps", "100"])
    2
    """
    try:
        # Imported here, and what is slow only by the commands that need it: a Ctrl-C may come while modules are loaded.
        from sharpless.cli.commands import run  # noqa: PLC0415

        return run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        print("sharpless: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
