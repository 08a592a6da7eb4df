"""TFRecord files without TensorFlow: an open file -> its records, all of them or chosen ones.

A record stands between its length and a checksum of each: `lake.example.frame`.
"""

import os
import struct
from collections.abc import Collection, Iterator
from typing import BinaryIO

from lake import InputError
from lake.records.example import masked_crc

LENGTH_BYTES, CRC_BYTES = 8, 4
HEAD_BYTES = LENGTH_BYTES + CRC_BYTES


class FrameError(InputError):
    """The file is damaged where a record should begin or end; says at which byte."""


def records(file: BinaryIO) -> Iterator[tuple[bytes, bool]]:
    """(record, whether its checksum is right) of every record; raises FrameError where the next
    one cannot be found."""
    for _, length in _heads(file):
        record, crc = file.read(length), file.read(CRC_BYTES)
        yield record, crc == masked_crc(record)


def chosen(file: BinaryIO, positions: Collection[int]) -> Iterator[tuple[int, bytes]]:
    """(position, record) of the records at `positions`, in the file's order; the others are not
    read, only their lengths. Raises FrameError."""
    left = set(positions)
    for position, (at, length) in enumerate(_heads(file)):
        if position in left:
            record, crc = file.read(length), file.read(CRC_BYTES)
            if crc != masked_crc(record):
                raise FrameError(f"the checksum of record {position} at byte {at} is wrong")
            yield position, record
            left.remove(position)
        else:
            file.seek(length + CRC_BYTES, os.SEEK_CUR)
        if not left:
            return
    raise FrameError(f"the file ends before record {min(left)}")


def _heads(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """(byte, length) of each record; the caller moves the file behind the record's checksum."""
    size = os.fstat(file.fileno()).st_size
    position = 0
    while (at := file.tell()) < size:
        head = file.read(HEAD_BYTES)
        if len(head) < HEAD_BYTES:
            raise FrameError(f"the file ends at byte {size}, inside the head of record {position}")
        if head[LENGTH_BYTES:] != masked_crc(head[:LENGTH_BYTES]):
            raise FrameError(f"the length of record {position} at byte {at} has a wrong checksum")
        [length] = struct.unpack("<Q", head[:LENGTH_BYTES])
        if (end := at + HEAD_BYTES + length + CRC_BYTES) > size:
            raise FrameError(f"the file ends at byte {size}, record {position} at byte {end}")
        yield at, length
        position += 1
