"""What the writer (beam) and the reader (trainer) of a lake share, and python -m lake.
In: image files, labels and shards. Out: scans, records, manifests, predictions' files; all ask."""

import re

__version__ = "0.1.0"  # setup.py reads it here


class InputError(ValueError):
    """A user's mistake. A command prints the message without a traceback and exits with code 2."""


class Packed:
    """Makes a dataclass pickle as its values only. With the names of the fields, a runner would
    hold twice the bytes per image."""

    def __reduce__(self):
        return type(self), tuple(vars(self).values())


class Reject(ValueError):
    """An input that cannot become a record: `reason` is a stable code, `message` says where and
    why."""

    def __init__(self, reason: str, message: str):
        super().__init__(reason, message)  # both in args, so that it pickles
        self.reason, self.message = reason, message

    def __str__(self):
        return f"{self.message} [{self.reason}]"


class Stopped(RuntimeError):
    """A job cannot go on. Its command prints the message and exits with code 1."""

    OPEN, CLOSE = "[conversion stopped: ", " :end]"

    def __str__(self):
        return f"{self.OPEN}{self.args[0]}{self.CLOSE}"

    @classmethod
    def message_in(cls, text: str) -> str | None:
        """Return the message of a Stopped in the text of a runner's error, None without one. (A
        runner rebuilds a worker's error from its text, so the class is lost.)"""
        if cls.OPEN not in text:
            return None
        message = text.split(cls.OPEN)[1].split(cls.CLOSE)[0]
        return re.sub(r"(\s*\[while running '.*?'\])+\s*$", "", message)  # Beam's addition


class Refused(Stopped):
    """A job would do what its user has not allowed, or a disk does not allow. Its command prints
    the message and exits with code 2."""

    OPEN, CLOSE = "[conversion refused: ", " :end]"
