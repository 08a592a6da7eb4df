"""What all commands share: how they read their command line, the types of numbers and paths for
argparse, exit codes."""

import argparse
import atexit
import itertools
import math
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from lake import InputError, Refused, Stopped, signals, storage
from lake.terminal import command_line, console, noise, suggestions
from lake.terminal.command_line import Parser

# {what follows `python -m`: how users of this process type it}. The command `radlake` fills it when
# it starts; otherwise it is empty.
SPELLINGS: dict[str, str] = {}


def typed_command(command: str) -> str:
    """Return a command such as "lake verify" as the user types it: `python -m lake verify`, or
    `radlake verify`."""
    if command in SPELLINGS:
        return SPELLINGS[command]
    module, _, rest = command.partition(" ")
    return f"{SPELLINGS.get(module, f'python -m {module}')} {rest}".rstrip()


def parser(command: str, description: str, **more) -> Parser:
    """Return the parser of a command, whose help keeps the lines of the description; `more` goes to
    Parser, such as an example."""
    typed = typed_command(command)
    description = description.replace(f"python -m {command}", typed)
    return Parser(prog=typed, description=description, **more)


def subcommands(parser: Parser) -> Callable[..., Parser]:
    """Return a function that adds a subcommand by its name; `command` is its name in the flags."""
    return parser.add_subparsers(dest="command", required=True, metavar="COMMAND").add_parser


def parse(
    parser: Parser,
    argv: list[str],
    is_passed: Callable[[str], bool] | None = None,
    passed_names: Iterable[str] = (),
) -> tuple[argparse.Namespace, list[str]]:
    """Return the flags of a command line, and its words that the parser does not know; --quiet and
    --verbose take effect here.

    An unknown option is refused before whatever else is wrong, unless `is_passed` says that its
    name is for another program, whose names `passed_names` may list for suggestions. It is refused
    all the same where it resembles a required option that is absent.
    """
    if not {"-h", "--help", "--version"} & {*argv}:
        command, unknown = command_line.unknown_options(parser, argv)
        absent_names = [name for name in command.required_names() if not _is_in(name, argv)]
        is_ours = [
            not (is_passed and is_passed(name)) or bool(suggestions.nearest(name, absent_names))
            for name in unknown
        ]
        command_line.refuse(command, [*itertools.compress(unknown, is_ours)], passed_names)
    flags, rest = parser.parse_known_args(argv)
    if rest and not is_passed:
        parser.error(f"{' '.join(rest)}: expected no more values")
    is_quiet, is_verbose = (vars(flags).pop(name, False) for name in ("quiet", "verbose"))
    console.set_volume(is_verbose - is_quiet)
    if not is_verbose:
        noise.quieten_loggers()
    return flags, rest


def _is_in(name: str, argv: list[str]) -> bool:
    """Return whether an option stands in a command line, with its value or before it."""
    return any(word == name or word.startswith(f"{name}=") for word in argv)


def at_least(lowest: float, number_type: type = int, highest: float = math.inf) -> Callable:
    """Return an argparse type: a finite number of this type, not below `lowest`, nor above
    `highest`."""
    limits = f"{lowest} on" if highest == math.inf else f"{lowest} to {highest}"

    def number(text: str):
        value = number_type(text)
        # nan fails every comparison, so it is refused.
        if not lowest <= value <= highest or value == math.inf:
            raise argparse.ArgumentTypeError(f"{text}: expected a number from {limits}")
        return value

    return number


share = at_least(0, float, 1)


def between(low: float, high: float) -> Callable:
    """Return an argparse type: a number above `low` and below `high`."""

    def number(text: str) -> float:
        value = float(text)
        if not low < value < high:
            raise argparse.ArgumentTypeError(f"{text}: expected a number between {low} and {high}")
        return value

    return number


def any_path(text: str) -> Path:
    """Return a local path or one on gs://; an argparse type."""
    try:
        return storage.path_of(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def local_path(text: str) -> Path:
    """Return the path of what can be written on this machine only; an argparse type."""
    if storage.is_remote(text):
        raise argparse.ArgumentTypeError(f"{text}: expected a local path; copy it there afterwards")
    return Path(text)


def matching(pattern: str, expected: str) -> Callable[[str], str]:
    """Return an argparse type: a text that the whole pattern matches, or else "expected …"."""

    def text_type(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"{text!r}: expected {expected}")
        return text

    return text_type


# What other machines read and write.
remote_folder = matching(r"gs://[a-z0-9][a-z0-9._-]+/[^/].*", "gs://BUCKET/FOLDER")


def exit_code(command: Callable[[], object]) -> int:
    """Run a command and return its exit code: the int that it returns; else 0, and a text that it
    returns is printed. A user's mistake is 2 and a job that stopped is 1, each with one message."""
    try:
        with storage.explain_errors():
            result = command()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Refused as error:
        print(f"error: {error.args[0]}", file=sys.stderr)
        return 2
    except Stopped as error:
        print(f"failed: {error.args[0]}", file=sys.stderr)
        return 1
    except signals.Stop as stop:
        return signals.report(stop)
    signals.finish()
    if isinstance(result, str):
        print(result)
    return result if isinstance(result, int) else 0


def begin() -> None:
    """Begin a command that TensorFlow works in: keep the lines of C++ that tell a user nothing from
    the terminal, unless --verbose is given."""
    if "--verbose" in sys.argv:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"
    else:
        noise.filter_descriptor()
    sys.excepthook = _end_after_traceback


def _end_after_traceback(*error) -> None:
    """Print the traceback of a bug of ours, and end the process as `end` does."""
    sys.__excepthook__(*error)
    end(1)


def _end_at_once(code: int) -> NoReturn:
    """End the process without the interpreter's own end, after the functions that atexit holds."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def end(code: int) -> None:
    """End the process. After a failure TensorFlow's usual end is left out: it would wait for
    workers that are gone, or for threads that wait for Python, which has ended."""
    if code and "tensorflow" in sys.modules:
        _end_at_once(code)
    if not code:
        noise.end_well()
    sys.exit(code)
