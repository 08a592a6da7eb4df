"""Masks at the stored size <-> PNGs of one bit per pixel.

In: a mask uint8 [H, W], 0 or 255. Out: bytes, the same for the same mask. Lakes of earlier writers
have PNGs of eight bits; `decode` reads both.
"""

import functools
import io
import struct
import zlib

import numpy as np
from PIL import Image

from lake.labels import rle
from lake.sources import pixels
from lake.sources.pictures.png import PNG_START

GREY_1_BIT = (1, 0, 0, 0, 0)  # bit depth, colour type, compression, filter and interlace methods
BITS = np.array([0x80 >> column for column in range(8)], np.uint8)  # of eight columns in a byte
# Eight pixels of a lesion or of its surroundings are a byte, and those come in runs: zlib's
# run-length strategy takes 0.26 ms and 0.87 KB per 1024 px mask, its usual one 0.31 ms and 1.44 KB
# at level 1, 1.1 ms and 0.78 KB at level 6 (60 SIIM-ACR masks, 2026-11, one core). Little memory
# (8 is usual) is quicker to set up, and as good.
DEFLATE = {"level": 1, "memLevel": 4, "strategy": zlib.Z_RLE}


def shrink(mask: np.ndarray, height: int, width: int) -> tuple[np.ndarray, bool]:
    """Return (mask uint8 [height, width], 0 or 255; whether its lesion would have vanished) of a
    mask [H, W], 0 or 255.

    A pixel is lesion where at least half of its area is. Of a lesion too small for that, the pixel
    that has most of it stays: a positive must not look like a negative.
    """
    shrunk_mask = (pixels.shrink(mask, height, width) >= 128).astype(np.uint8) * 255
    if shrunk_mask.any() or not mask.any():
        return shrunk_mask, False
    rows, columns = np.nonzero(mask)
    places = rows * height // mask.shape[0] * width + columns * width // mask.shape[1]
    shrunk_mask.flat[np.bincount(places).argmax()] = 255
    return shrunk_mask, True


def encode(mask: np.ndarray) -> bytes:
    """Return the PNG of a mask [H, W]; any value but 0 is lesion."""
    rows = _empty_rows(*mask.shape)
    rows[:, 1:] = np.packbits(mask, axis=1)
    return _encode_rows(rows, mask.shape[1])


def encode_runs(lesion_runs: np.ndarray, height: int, width: int) -> bytes:
    """Return the PNG that `encode` returns of the mask of runs [N, 2] down its columns, in a third
    of the time: no pixel is set by itself."""
    starts, ends = lesion_runs.T
    columns, last_columns = starts // height, (ends - 1) // height
    if not len(lesion_runs) or (columns != last_columns).any():
        return encode(rle.to_mask(lesion_runs, height, width))
    tops, bottoms = starts - columns * height, ends - columns * height
    top, bottom, left = int(tops.min()), int(bottoms.max()), int(columns[0]) // 8
    num_words = (int(columns[-1]) // 8 - left) // 8 + 1  # of 64 columns
    # A bit is set where a run begins in its column and where it has ended; between those, down the
    # rows, an odd number of set bits is above.
    edges = np.zeros((bottom + 1 - top, num_words), np.uint64)
    columns -= 8 * left
    places, bits = (columns >> 3) - 8 * num_words * top, BITS[columns & 7]
    for edge_rows in (tops, bottoms):
        np.bitwise_xor.at(edges.view(np.uint8).ravel(), places + 8 * num_words * edge_rows, bits)
    packed = np.bitwise_xor.accumulate(edges, axis=0).view(np.uint8)[:-1]
    rows = _empty_rows(height, width)
    rows[top:bottom, 1 + left : 1 + left + packed.shape[1]] = packed[:, : rows.shape[1] - 1 - left]
    return _encode_rows(rows, width)


def _empty_rows(height: int, width: int) -> np.ndarray:
    """Return the bytes [height, 1 + width / 8] of an empty mask: in each row 0, for no filter, then
    its pixels, filled up with zeros."""
    return np.zeros((height, 1 + -(-width // 8)), np.uint8)


def _encode_rows(rows: np.ndarray, width: int) -> bytes:
    """Return the PNG of rows [H, 1 + width / 8]."""
    deflate = zlib.compressobj(**DEFLATE)
    chunks = [
        (b"IHDR", struct.pack(">II5B", width, len(rows), *GREY_1_BIT)),
        (b"IDAT", deflate.compress(rows) + deflate.flush()),
        (b"IEND", b""),
    ]
    return PNG_START + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


@functools.lru_cache(maxsize=64)
def encode_empty(height: int, width: int) -> bytes:
    """Return the PNG of a mask without a lesion, as most images have one."""
    return encode(np.zeros((height, width), np.uint8))


def decode(png: bytes) -> np.ndarray:
    """Return the mask [H, W] of a PNG; one of another type than `encode` writes keeps its own.
    Raises what Pillow does where the PNG is damaged."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        return np.asarray(image.convert("L") if image.mode == "1" else image)
