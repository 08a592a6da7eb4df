"""What a disk refuses: it is full, or read-only, or not this user's. In: a folder to try before the
work, or the error of Python, TensorFlow or h5py during it. Out: what a user reads.
"""

import errno
import os
import re
import shutil
import tempfile
from pathlib import Path

from lake import InputError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
# TensorFlow and h5py put the reason into a text: `PATH; No space left on device`,
# `filename = 'PATH', …, error message = 'No space left on device'`.
TEXT = re.compile(
    r"(?:filename = '(?P<quoted>[^']+)'.*?|(?:^|\}\} )(?P<plain>/[^;\n]+); .*?)?"
    r"(?P<reason>No space left on device|Disk quota exceeded|File too large|Read-only file system)",
    re.DOTALL,
)
PROBE_BYTES = 4096  # a full disk may still make an empty file


def check_writable(folder: Path) -> None:
    """Raise InputError where nothing can be written into a local folder, or into the one in which
    it would be made; leave no trace."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())  # some disks notice that they are full only then
    except OSError as error:
        message = f"{folder}: cannot be written: {error.strerror or error}"
        raise InputError(f"{message}; {_remedy(error.errno)}") from None


def check_room(folder: Path, num_bytes: int) -> None:
    """Raise OSError where a local folder has no room for so many bytes."""
    if shutil.disk_usage(folder).free < num_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def advice(error: BaseException) -> str | None:
    """Return the message that a user reads instead of an error, or of one that it comes from; None
    where no disk refused anything."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (*FULL, *FORBIDDEN) and error.filename:
            reason = os.strerror(error.errno)
            return f"{error.filename}: {reason}; {_remedy(error.errno)}"
        if match := TEXT.search(str(error)):
            path = match["quoted"] or match["plain"] or "a file could not be written"
            number = errno.EROFS if match["reason"].startswith("Read-only") else errno.ENOSPC
            return f"{path.strip()}: {match['reason']}; {_remedy(number)}"
        error = error.__cause__ or error.__context__
    return None


def _remedy(number: int | None) -> str:
    if number in FULL:
        return "make room there, then repeat the command"
    return "choose another place, or let this user read and write there, then repeat the command"
