"""The folder that export writes: a new one, whole or not at all, by one process at a time. On gs://
too. No TensorFlow: a folder is looked at before it is imported.
"""

import contextlib
from pathlib import Path

from lake import storage
from trainer import workdir

LOCK = "export.lock"  # while a process exports


def check(folder: Path) -> None:
    """Raise InputError where something else is in the folder, or it cannot be written."""
    storage.check_new(folder, (LOCK,))


def alone_in(folder: Path) -> contextlib.AbstractContextManager:
    """Return a context that holds the folder for this process; it raises InputError where another
    one exports there."""
    return workdir.alone_in_new(folder, LOCK, "exports")


def whole(folder: Path) -> contextlib.AbstractContextManager[Path]:
    """Return a context with a new folder to fill, which becomes `folder` unless the block raises.
    What a killed export left beside it goes."""
    return storage.whole_folder(folder, (LOCK,))
