"""One process at a time in the folder that a pipeline writes.

On gs:// none is held: a job on rented machines goes on without the process that started it, and
what writes objects there need not be installed here.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from lake import disk, lock, storage


@contextlib.contextmanager
def alone_in(folder: str, name: str, verb: str, advice: str) -> Iterator[None]:
    """Hold the lock `name` of a local folder, with the words of lake.lock.hold. Raises InputError
    where another process holds it, or where the folder cannot be written."""
    if storage.is_remote(folder):
        yield
        return
    disk.check_writable(Path(folder))
    with lock.hold(Path(folder), name, verb, advice):
        yield
