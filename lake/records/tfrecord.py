"""TFRecord files without TensorFlow: an open file -> its records, all of them or those at some
positions; a record -> its bytes in such a file.
"""

import os
import struct
from collections.abc import Collection, Iterator
from typing import BinaryIO

import google_crc32c

from lake import InputError

# A record stands between a head, which is its length and the length's checksum, and its own
# checksum.
LENGTH_BYTES, CRC_BYTES = 8, 4
HEAD_BYTES = LENGTH_BYTES + CRC_BYTES


class FrameError(InputError):
    """The file is damaged where a record should begin or end; the message says at which byte."""


def frame(*parts: bytes) -> list[bytes]:
    """Return the pieces that a file holds of a record, which may come in parts: its head, the
    parts, its checksum."""
    length = struct.pack("<Q", sum(map(len, parts)))
    return [length + masked_crc(length), *parts, masked_crc(*parts)]


def masked_crc(*parts: bytes) -> bytes:
    """Return the checksum of a length or a record, 4 bytes."""
    # CRC-32C, rotated right by 15 bits and a constant added (tensorflow/core/lib/hash/crc32c.h).
    crc = 0
    for part in parts:
        crc = google_crc32c.extend(crc, part)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def records(file: BinaryIO) -> Iterator[tuple[bytes, bool]]:
    """Yield (record, whether its checksum is right) for every record; raises FrameError where a
    record does not begin or end as it should."""
    for _, length in _heads(file):
        record, crc = file.read(length), file.read(CRC_BYTES)
        yield record, crc == masked_crc(record)


def records_at(file: BinaryIO, positions: Collection[int]) -> Iterator[tuple[int, bytes]]:
    """Yield (position, record) for the records at `positions`, in the file's order; of the others
    only the heads are read. Raises FrameError."""
    to_read = set(positions)
    for position, (offset, length) in enumerate(_heads(file)):
        if position in to_read:
            record, crc = file.read(length), file.read(CRC_BYTES)
            if crc != masked_crc(record):
                raise FrameError(f"the checksum of record {position} at byte {offset} is wrong")
            yield position, record
            to_read.remove(position)
        else:
            file.seek(length + CRC_BYTES, os.SEEK_CUR)
        if not to_read:
            return
    raise FrameError(f"the file ends before record {min(to_read)}")


def _heads(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Yield (offset of the head in bytes, length of the record) of each record; the caller moves
    the file behind the record's checksum."""
    size = os.fstat(file.fileno()).st_size
    position = 0
    while (offset := file.tell()) < size:
        head = file.read(HEAD_BYTES)
        if len(head) < HEAD_BYTES:
            raise FrameError(f"the file ends at byte {size}, inside the head of record {position}")
        if head[LENGTH_BYTES:] != masked_crc(head[:LENGTH_BYTES]):
            raise FrameError(
                f"the length of record {position} at byte {offset} has a wrong checksum"
            )
        [length] = struct.unpack("<Q", head[:LENGTH_BYTES])
        if (end := offset + HEAD_BYTES + length + CRC_BYTES) > size:
            raise FrameError(f"the file ends at byte {size}, record {position} at byte {end}")
        yield offset, length
        position += 1
