"""Run-length coded frames (PS3.5 G): one segment for each byte of a sample -> samples."""

import struct

import numpy as np

from lake import Reject
from lake.sources.codecs.claims import RLE_PADDING

HEADER_BYTES = 64  # the number of segments, and where each of at most 15 starts


def is_header(frame: bytes) -> bool:
    """Return whether a frame starts with the header of run-length coded ones, as those of no other
    code do."""
    count, first = struct.unpack_from("<2L", frame) if len(frame) > HEADER_BYTES else (0, 0)
    return 1 <= count <= 15 and first == HEADER_BYTES


def decode(frame: bytes, shape: tuple[int, int, int], allocated: int) -> np.ndarray:
    """Return the words [H, W] or [H, W, 3] of a frame of `shape` (height, width, samples), with
    `allocated` bits each; raises Reject where its segments are others."""
    height, width, samples = shape
    sample_bytes, num_pixels = (allocated + 7) // 8, height * width
    starts = _starts(frame, samples * sample_bytes)
    if allocated == 1:  # eight pixels a byte, the first in the lowest bit
        packed = _expand(frame[starts[0] :], (num_pixels + 7) // 8)
        return np.unpackbits(packed, count=num_pixels, bitorder="little").reshape(height, width)
    words = np.empty((num_pixels, samples, sample_bytes), np.uint8)
    ends = [*starts[1:], len(frame)]
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        sample, byte = divmod(number, sample_bytes)  # the highest byte of a sample comes first
        words[:, sample, -1 - byte] = _expand(frame[start:end], num_pixels)
    result = words.view(f"<u{sample_bytes}").reshape(shape)
    return result[..., 0] if samples == 1 else result


def _starts(frame: bytes, num_segments: int) -> list[int]:
    """Return the position of each segment; raises Reject where there are not `num_segments`."""
    if len(frame) < HEADER_BYTES:
        raise Reject("undecodable", f"a run-length frame of {len(frame)} bytes has no header")
    count, *starts = struct.unpack_from("<16L", frame)
    if count != num_segments:
        raise Reject("undecodable", f"{count} run-length segments, expected {num_segments}")
    return starts[:count]


def _expand(segment: bytes, num_bytes: int) -> np.ndarray:
    """Return the bytes that a segment expands to, [num_bytes] uint8; raises Reject where they are
    fewer, or many more."""
    import imagecodecs  # decoders.py says why here

    for content in (segment, segment[:-1]):  # the last byte may be padding, whatever its value
        try:
            expanded = imagecodecs.packbits_decode(content, out=num_bytes + RLE_PADDING)
            break
        except RuntimeError as error:
            if "TOO_SMALL" in str(error):
                message = f"a run-length segment has more than {num_bytes} bytes"
                raise Reject("too-large", message) from None
    else:
        raise Reject("undecodable", "a run-length segment ends inside a run")
    if len(expanded) < num_bytes:
        message = f"a run-length segment has {len(expanded)} bytes, expected {num_bytes}"
        raise Reject("undecodable", message)
    return np.frombuffer(expanded, np.uint8, num_bytes)
