"""The tables that predict and vote write: files that get their names when they are whole.

On gs:// too, where the table that is written last tells that all of them are there.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lake import InputError, storage


@contextlib.contextmanager
def create(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file, which gets its name when the block ends without an error."""
    with storage.whole_file(path) as temporary_path:
        try:
            file = temporary_path.open("wb")
        except OSError as error:
            raise InputError(f"--output={path}: {error.strerror}") from None
        with file:
            yield file
