"""What the writer (beam) and the reader (trainer) of a lake share: labels, pixels, the record, the
manifest."""


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
