"""What the writer (beam) and the reader (trainer) of a lake share: labels, pixels, the record, the
manifest."""

import re


class InputError(ValueError):
    """A user's mistake; entry points print its one message and exit with code 2, without a
    traceback."""


class Packed:
    """A dataclass that pickles as its values alone; names of fields would be half of the bytes that
    a runner holds an image."""

    def __reduce__(self):
        return type(self), tuple(vars(self).values())


class Reject(ValueError):
    """One input that cannot become a record; `reason` is a stable code, the message says where and
    why."""

    def __init__(self, reason: str, message: str):
        super().__init__(reason, message)  # both in args, so that it pickles
        self.reason, self.message = reason, message

    def __str__(self):
        return f"{self.message} [{self.reason}]"


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
