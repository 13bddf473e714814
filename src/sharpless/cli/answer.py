"""The answer of a command: text for people, one JSON object for programs, or nothing."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

__all__ = ["add", "alone", "give"]


def add(command: argparse.ArgumentParser) -> None:
    """Add the options to those of a command."""
    command.set_defaults(answer=None)
    option = command.add_argument
    option(
        "--json", action="store_true", help="write the result as one JSON object, and everything else to standard error"
    )
    option("--quiet", action="store_true", help="write only errors, and the JSON object with --json")


def give(options: argparse.Namespace, result: Mapping[str, Any], show: Callable[[], None]) -> None:
    """Give the result of a command.

    Args:
        options: of the command.
        result: for programs, ready for JSON.
        show: prints it for people.
    """
    if options.json:
        options.answer = result
    elif not options.quiet:
        show()


@contextmanager
def alone(options: argparse.Namespace) -> Iterator[None]:
    """Reserve standard output for the answer, and redirect other output of the block.

    This includes the output of tasks, in this process and in those that it starts.
    """
    if not (options.json or options.quiet):
        yield
        return
    sys.stdout.flush()
    own = os.dup(1)
    with open(os.devnull, "w", encoding="utf-8", errors="replace") as nowhere:
        try:
            os.dup2(nowhere.fileno() if options.quiet else 2, 1)
            with redirect_stdout(nowhere if options.quiet else sys.stderr):
                yield
        finally:
            os.dup2(own, 1)
            os.close(own)
    if options.answer is not None:
        print(json.dumps(options.answer, allow_nan=False))
