"""Shell completion of commands and options."""

import argparse
from collections.abc import Iterator
from typing import Any

from sharpless.cli.arguments import place

__all__ = ["Completion"]


class Completion(argparse.Action):
    """Prints the completion script of a shell."""

    def __call__(self, parser: argparse.ArgumentParser, *values: Any) -> None:
        """Print and exit, as `--version` does."""
        try:
            import shtab  # noqa: PLC0415
        except ModuleNotFoundError:
            parser.error("--print-completion needs shtab: pip install 'sharpless[lab]'")
        for action in _actions(parser):
            if action.type is place:
                vars(action)["complete"] = shtab.DIRECTORY if action.metavar == "FOLDER" else shtab.FILE
        print(shtab.complete(parser, values[1]))
        parser.exit()


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
