"""Run-length coded frames (PS3.5 G): one segment for each byte of a sample -> samples."""

import struct

import numpy as np

from lake import Reject
from lake.sources.codecs.claims import RLE_PADDING

HEADER_BYTES = 64  # the number of segments, and where each of at most 15 starts


def is_header(frame: bytes) -> bool:
    """Return whether a frame starts as run-length coded ones do, and no other code."""
    count, first = struct.unpack_from("<2L", frame) if len(frame) > HEADER_BYTES else (0, 0)
    return 1 <= count <= 15 and first == HEADER_BYTES


def decode(frame: bytes, shape: tuple[int, int, int], allocated: int) -> np.ndarray:
    """Return the words [H, W] or [H, W, 3] of a frame of `shape` (height, width, samples), with
    `allocated` bits each; raises Reject where its segments are others."""
    height, width, samples = shape
    sample_bytes, pixels = (allocated + 7) // 8, height * width
    starts = _starts(frame, samples * sample_bytes)
    if allocated == 1:  # eight pixels a byte, the first in the lowest bit
        packed = _expanded(frame[starts[0] :], (pixels + 7) // 8)
        return np.unpackbits(packed, count=pixels, bitorder="little").reshape(height, width)
    words = np.empty((pixels, samples, sample_bytes), np.uint8)
    ends = [*starts[1:], len(frame)]
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        sample, byte = divmod(number, sample_bytes)  # the highest byte of a sample comes first
        words[:, sample, -1 - byte] = _expanded(frame[start:end], pixels)
    result = words.view(f"<u{sample_bytes}").reshape(shape)
    return result[..., 0] if samples == 1 else result


def _starts(frame: bytes, segments: int) -> list[int]:
    """Return where each segment starts; raises Reject where there are not `segments`."""
    if len(frame) < HEADER_BYTES:
        raise Reject("undecodable", f"a run-length frame of {len(frame)} bytes has no header")
    count, *starts = struct.unpack_from("<16L", frame)
    if count != segments:
        raise Reject("undecodable", f"{count} run-length segments, expected {segments}")
    return starts[:count]


def _expanded(segment: bytes, pixels: int) -> np.ndarray:
    """Return the bytes of a segment, [pixels] uint8; raises Reject where it has too few or many."""
    import imagecodecs  # decoders.py says why here

    for content in (segment, segment[:-1]):  # the last byte may be padding, whatever its value
        try:
            expanded = imagecodecs.packbits_decode(content, out=pixels + RLE_PADDING)
            break
        except RuntimeError as error:
            if "TOO_SMALL" in str(error):
                message = f"a run-length segment has more than {pixels} pixels"
                raise Reject("too-large", message) from None
    else:
        raise Reject("undecodable", "a run-length segment ends inside a run")
    if len(expanded) < pixels:
        message = f"a run-length segment has {len(expanded)} pixels, expected {pixels}"
        raise Reject("undecodable", message)
    return np.frombuffer(expanded, np.uint8, pixels)
