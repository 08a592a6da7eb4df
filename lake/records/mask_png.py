"""Masks -> PNG, at the cost of the rows that hold a lesion.

A lesion touches about a sixth of a radiograph's rows. The empty ones come as blocks compressed
once, and zlib's run-length strategy suits the rest: 0.5 ms a 1024 px mask where Pillow's PNG takes
4 to 6 (100 SIIM-ACR masks, 2026-11, one core; Pillow's 2.2 KB, these 2.0).
"""

import functools
import struct
import zlib

import numpy as np

from lake.sources.png import PNG_START

GREY_8_BIT = (8, 0, 0, 0, 0)  # bit depth, colour type, compression, filter and interlace methods
ZLIB_HEADER = b"\x78\x01"
LAST_BLOCK = b"\x03\x00"  # of a deflate stream, empty
BLOCK_ROWS = 64
ADLER_MODULUS = 65521


def encode(mask: np.ndarray) -> bytes:
    """PNG of a mask uint8 [H, W], 0 or 255; the same mask, the same bytes."""
    rows = np.flatnonzero(mask.any(axis=1))
    top, bottom = (rows[0], rows[-1] + 1) if len(rows) else (0, 0)
    return encode_box(mask[top:bottom], int(top), 0, *mask.shape)


def encode_runs(joined: np.ndarray, height: int, width: int) -> bytes:
    """PNG of the mask [height, width] of runs [N, 2], without painting the whole of it."""
    if not len(joined):
        return _encode_empty(height, width)
    # Runs count down the columns; one that goes on into the next column touches all rows.
    first_row, last_row = joined[:, 0] % height, (joined[:, 1] - 1) % height
    is_whole = (joined[:, 1] - joined[:, 0] > last_row - first_row + 1).any()
    top = 0 if is_whole else int(first_row.min())
    bottom = height if is_whole else int(last_row.max()) + 1
    left, right = int(joined[0, 0]) // height, -(-int(joined[-1, 1]) // height)
    painted = np.zeros((right - left) * height, np.uint8)
    for start, end in (joined - left * height).tolist():
        painted[start:end] = 255
    box = painted.reshape(right - left, height)[:, top:bottom].T
    return encode_box(box, top, left, height, width)


def encode_box(box: np.ndarray, top: int, left: int, height: int, width: int) -> bytes:
    """PNG of a mask [height, width] that is empty but for a box [h, w] at (top, left)."""
    rows, columns = box.shape
    # Each row begins with the number of its filter; 0 is none.
    filled = np.zeros((rows, width + 1), np.uint8)
    filled[:, 1 + left : 1 + left + columns] = box
    filled = filled.tobytes()
    bottom = height - top - rows
    checksum = _adler32_of_zeros(1, top * (width + 1))
    checksum = _adler32_of_zeros(zlib.adler32(filled, checksum), bottom * (width + 1))
    data = [ZLIB_HEADER, _empty(top, width), _deflate(filled), _empty(bottom, width), LAST_BLOCK]
    data = b"".join([*data, struct.pack(">I", checksum)])
    header = struct.pack(">II5B", width, height, *GREY_8_BIT)
    chunks = [_chunk(b"IHDR", header), _chunk(b"IDAT", data), _chunk(b"IEND", b"")]
    return b"".join([PNG_START, *chunks])


@functools.lru_cache(maxsize=64)
def _encode_empty(height: int, width: int) -> bytes:
    return encode_box(np.zeros((0, 0), np.uint8), 0, 0, height, width)


def _empty(num_rows: int, width: int) -> bytes:
    blocks, rest = divmod(num_rows, BLOCK_ROWS)
    return _empty_block(BLOCK_ROWS, width) * blocks + _empty_block(rest, width)


@functools.lru_cache(maxsize=256)
def _empty_block(num_rows: int, width: int) -> bytes:
    return _deflate(bytes(num_rows * (width + 1)))


def _deflate(data: bytes) -> bytes:
    """Raw deflate blocks that can stand before and behind others."""
    # Runs of one byte need no memory of what came before them.
    squeeze = zlib.compressobj(level=1, wbits=-15, memLevel=1, strategy=zlib.Z_RLE)
    return squeeze.compress(data) + squeeze.flush(zlib.Z_FULL_FLUSH) if data else b""


def _adler32_of_zeros(checksum: int, count: int) -> int:
    """The Adler-32 checksum after `count` more zero bytes."""
    low, high = checksum & 0xFFFF, checksum >> 16
    return (high + count * low) % ADLER_MODULUS << 16 | low


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
