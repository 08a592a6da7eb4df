"""What the commands share: exit codes, and the types of numbers and paths for argparse."""

import argparse
import contextlib
import math
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from lake import InputError, Stopped, storage


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return number


def any_path(text: str) -> Path:
    """path_of as a type of argparse."""
    try:
        return storage.path_of(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def local_path(text: str) -> Path:
    """A type of argparse, for what is written on this machine alone."""
    if storage.is_remote(text):
        raise argparse.ArgumentTypeError(f"{text}: expected a local path; copy it there afterwards")
    return Path(text)


def remote_folder(text: str) -> str:
    """A type of argparse, for what other machines read and write."""
    if not re.fullmatch(r"gs://[a-z0-9][a-z0-9._-]+/[^/].*", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected gs://BUCKET/FOLDER")
    return text


def exit_code(command: Callable[[], object]) -> int:
    """Of a command: 2 for a user's mistake, 1 where a pipeline stopped, with one message."""
    try:
        with _explained():
            command()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Stopped as error:
        print(f"failed: {error.args[0]}", file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """In it, what Cloud Storage's own client refuses to this process is an InputError."""
    try:
        yield
    except Exception as error:  # the client, whose they are, need not be installed
        answer = getattr(error, "response", None)
        code = getattr(error, "code", None) or getattr(answer, "status_code", None)
        if not type(error).__module__.startswith("google.") or code not in (401, 403, 404):
            raise
        said = " ".join(str(error).split())
        raise InputError(f"{said}; no bucket?" if code == 404 else storage.refusal(said)) from None


def at_least(lowest: float, kind: type):
    """An argparse type: a number from `lowest` on."""

    def number(text: str):
        if not lowest <= kind(text) < math.inf:  # nan is neither
            raise argparse.ArgumentTypeError(f"{text}: expected a number from {lowest} on")
        return kind(text)

    return number


def share(text: str) -> float:
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return float(text)
