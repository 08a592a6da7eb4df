"""The rows of a .npy file that need not fit into memory. In: numbers of rows. Out: their values, or
InputError where the file is not as it was written.

The file is read, not mapped: where the end of a mapped file is cut off, the process that looks at
it dies of SIGBUS, without a word. A file that is deleted stays for whoever has it open.
"""

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lake import InputError

CHUNK_BYTES = 2**20


class RowFile:
    """Behaves as an array whose rows are chosen by their numbers."""

    def __init__(self, file: BinaryIO, sha256: str, path: Path):
        """Take an open file of `write_header` and rows; `sha256`: of all its bytes; `path`: as
        messages name it."""
        self._file, self.sha256, self.path = file, sha256, path
        np.lib.format.read_magic(self._file)
        self.shape, _, self.dtype = np.lib.format.read_array_header_1_0(self._file)
        self._start = self._file.tell()
        self._state = self._size_and_time()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows of these numbers [N]; raise InputError where the file has changed."""
        values = np.empty((len(rows), *self.shape[1:]), self.dtype)
        descriptor, num_bytes = self._file.fileno(), values.nbytes // max(1, len(rows))
        starts = (self._start + num_bytes * rows.astype(np.int64)).tolist()
        try:
            num_read = sum(
                os.preadv(descriptor, [row], start)
                for row, start in zip(values, starts, strict=True)
            )
        except OSError as error:  # a disk that fails, or a network disk where the file is gone
            raise InputError(f"{self.path}: {error.strerror}; repeat the command") from None
        if num_read != values.nbytes or self._is_changed():
            raise InputError(
                f"{self.path} was changed while it was in use; repeat the command, which makes it "
                f"again"
            )
        return values

    def _is_changed(self) -> bool:
        """Return whether the file has other bytes than it should have."""
        state = self._size_and_time()
        if state != self._state and self._digest() == self.sha256:
            self._state = state  # nothing but its time is another
        return state != self._state

    def _size_and_time(self) -> tuple[int, int]:
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns

    def _digest(self) -> str:
        """Return the checksum of the open file; calls of several threads share its position."""
        digest, position = hashlib.sha256(), 0
        while chunk := os.pread(self._file.fileno(), CHUNK_BYTES, position):
            digest.update(chunk)
            position += len(chunk)
        return digest.hexdigest()


def write_header(file: BinaryIO, shape: tuple[int, ...], dtype: str) -> None:
    """Write what stands before the rows in a file of an array of this shape."""
    description = np.lib.format.dtype_to_descr(np.dtype(dtype))
    header = {"descr": description, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
