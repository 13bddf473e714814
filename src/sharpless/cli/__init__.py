"""The command line: parse, call, print."""

import signal
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: the arguments after `sharpless`; by default those of the process.

    Returns:
        The exit status: 0, 2 for bad input, 128 plus the number of the signal that stopped it.

    >>> main(["plan", "--schedule", "linear:0,2", "--steps", "100"])
    2
    """
    try:
        # Imported here, since Ctrl-C may come while modules are loaded. Each command imports its slow modules itself.
        from sharpless.cli.commands import run  # noqa: PLC0415

        return run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        print("sharpless: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
