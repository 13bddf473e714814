"""The commands, their parser, and their error messages."""

import argparse
import errno
import os
import re
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from sharpless.cli import answer, compare, flatness, plan, report, train
from sharpless.cli.arguments import spellings as spelled_options
from sharpless.cli.completion import Completion
from sharpless.cli.task import named
from sharpless.cli.terminal import prepare, shown
from sharpless.lab.faults import is_out_of_memory, reason
from sharpless.lab.tasks.images.setup import is_follower, launched

__all__ = ["run"]

REMEDIES = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        "free some space there, and repeat the command: it keeps the written files and continues",
    ),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "get read and write permission, or give another path"),
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ENOENT: "give an existing path",
}


class _Parser(argparse.ArgumentParser):
    """A parser with errors of one line. Only `--help` lists the options."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"sharpless: {shown(message)}; see {self.prog} --help\n")


def run(arguments: Sequence[str]) -> int:
    """Return the exit status of a command.

    Args:
        arguments: the arguments after `sharpless`.
    """
    prepare()
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        _be_silent()
        return 128 + signal.SIGPIPE
    except OSError as error:  # from the flush: the output goes to a full disk
        _be_silent()
        print(f"sharpless: the output cannot be written: {error.strerror}", file=sys.stderr)
        return 2


def _run(arguments: Sequence[str]) -> int:
    parser = _Parser(prog="sharpless", description="Sharpness-aware training for less.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"sharpless {version('sharpless')}")
    shells = ("bash", "zsh", "fish")
    text = 'print the completions for a shell; in bash: eval "$(sharpless --print-completion bash)"'
    parser.add_argument("--print-completion", action=Completion, choices=shells, help=text)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (compare, train, plan, report, flatness):
        command.add(commands)
    for each in commands.choices.values():
        answer.add(each)
    task, arguments = named(arguments)
    options, rest = parser.parse_known_args(arguments)
    if rest and "parser" not in options:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    vars(options).update(task=task, rest=rest, names={})
    try:
        with answer.alone(options):
            return _execute(options)
    except (ValueError, ModuleNotFoundError) as error:
        message = _as_typed(str(error), options, arguments)
    except BrokenPipeError:
        raise
    except OSError as error:
        message = _of_system(error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        message = (
            f"there is too little memory ({reason(error)}): give a smaller --batch-size, --image-size or --network"
        )
    print(f"sharpless: {shown(message)}", file=sys.stderr)
    return 2


def _execute(options: argparse.Namespace) -> int:
    """Return the exit status of a command after its execution. Under torchrun the first process leads the others."""
    if not launched():
        return int(options.command(options))
    from sharpless.lab.tasks.images.ranks import dismiss, follow  # noqa: PLC0415

    if is_follower():
        follow()
    try:
        return int(options.command(options))
    finally:
        dismiss()


def _as_typed(sentence: str, options: argparse.Namespace, arguments: Sequence[str]) -> str:
    """Return a message with the names of options as typed on the command line: `--lr-warmup = 2.0 is …`."""
    names = {*vars(options), *options.names} - {"task", "parser", "rest", "names", "command", "answer"}
    spellings = {name: ["--" + name.replace("_", "-")] for name in names} | spelled_options()
    words = {argument.partition("=")[0] for argument in arguments}

    def spelled(found: re.Match[str]) -> str:
        choices: list[str] = spellings[found[0]]
        return next((choice for choice in choices if choice in words), choices[0])

    pattern = rf"(?:^|(?<=[ (]))(?:{'|'.join(spellings)})(?= = | is \S+ there and )"
    return str(re.sub(pattern, spelled, sentence))


def _of_system(error: OSError) -> str:
    """Return the message for an error of the system."""
    if error.filename is None and error.errno in {errno.ENOSPC, errno.EIO}:  # our files are named
        return f"the output cannot be written: {error.strerror}"
    place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    remedy = REMEDIES.get(error.errno or 0)
    return f"{place}{error.strerror or error}" + ("" if remedy is None else f": {remedy}")


def _be_silent() -> None:
    """Discard the remaining output, or Python would report an error at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
