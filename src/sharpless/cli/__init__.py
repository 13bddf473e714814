"""The command line: parse, call, print."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from sharpless.cli import compare, plan, report, train
from sharpless.lab.setup import leads

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
    parser = argparse.ArgumentParser(prog="sharpless", description="Sharpness-aware training for less.")
    parser.add_argument("--version", action="version", version=f"sharpless {version('sharpless')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (compare, train, plan, report):
        command.add(commands)
    options = parser.parse_args(arguments)
    try:
        return int(options.command(options))
    except (ValueError, ModuleNotFoundError, OSError) as error:
        if leads():
            print(f"sharpless: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sharpless: interrupted", file=sys.stderr)
        return 130
