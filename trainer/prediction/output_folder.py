"""The folder that predict writes: whose predictions it has, and one process at a time in it. And
the tables that predict and vote write: files that get their names when they are whole.

On gs:// too: there all tables are whole when the last one exists. No TensorFlow: a folder is looked
at before TensorFlow is imported.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lake import InputError, lock, storage
from lake.predictions.folder import LOCK, LOCK_WORDS, SUMMARY

WORK, OWNER = ".work", "made_by.json"  # what is finished: trainer/prediction/finished.py


def check(folder: Path) -> None:
    """Raise InputError where predictions can neither be begun nor go on in the folder."""
    if (folder / SUMMARY).exists() or (folder / WORK / OWNER).exists():
        storage.check_writable(folder)
        return
    # A kill can leave the folder of the parts alone, and the lock.
    storage.check_new(folder, (LOCK, WORK))


def alone_in(folder: Path) -> contextlib.AbstractContextManager:
    """Return a context that holds the folder for this process; it raises InputError where another
    one predicts there."""
    return lock.hold(folder, LOCK, *LOCK_WORDS)


@contextlib.contextmanager
def create(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file, which gets its name when the block ends without an error; raise InputError
    where it cannot be made."""
    with storage.whole_file(path) as temporary_path:
        try:
            file = temporary_path.open("wb")
        except OSError as error:
            raise InputError(f"--output={path}: {error.strerror}") from None
        with file:
            yield file
