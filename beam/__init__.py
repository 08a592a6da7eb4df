"""Pipelines: from image files and label CSVs to a lake. Inside this package Apache Beam is `import
apache_beam`."""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator

from lake import InputError, storage


class Stopped(RuntimeError):
    """The conversion cannot go on; the launcher prints the message and exits with code 1."""

    OPEN, CLOSE = "[conversion stopped: ", " :end]"

    def __str__(self):
        return f"{self.OPEN}{self.args[0]}{self.CLOSE}"

    @classmethod
    def message_in(cls, text: str) -> str | None:
        """The message in a runner's text of an error (runners rebuild a worker's error from its
        text, so its class is gone); None when it is another error's."""
        if cls.OPEN not in text:
            return None
        message = text.split(cls.OPEN)[1].split(cls.CLOSE)[0]
        return re.sub(r" \[while running '.*?'\]$", "", message)  # Beam's addition


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
