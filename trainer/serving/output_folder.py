"""The folder that export writes: a new one, whole or not at all, by one process at a time. On gs://
too. No TensorFlow: a folder is looked at before it is imported.
"""

import contextlib
from pathlib import Path

from lake import lock, storage

LOCK = "export.lock"  # while a process exports


def check(folder: Path) -> None:
    """Raise InputError where something else is in the folder, or it cannot be written."""
    storage.check_new(folder, (LOCK,))


def alone_in(folder: Path) -> contextlib.AbstractContextManager:
    """Return a context that holds the folder for this process; it raises InputError where another
    one exports there.

    A local folder appears at the end, as a whole; until then its lock lies beside it.
    """
    if storage.is_remote(folder):
        return lock.hold(folder, LOCK, "exports", "give another --output")
    folder = folder.resolve()
    words = f"exports {folder.name}", "give another --output"
    return lock.hold(folder.parent, f"{folder.name}.{LOCK}", *words)


def whole(folder: Path) -> contextlib.AbstractContextManager[Path]:
    """Return a context with a new folder to fill, which becomes `folder` unless the block raises.
    What a killed export left beside it goes."""
    return storage.whole_folder(folder, (LOCK,))
