"""JPEG Lossless written from ITU-T T.81 annex H, for what no library writes: differences counted
modulo 2^P, every point transform."""

import struct

import numpy as np


def encode(
    pixels: np.ndarray,
    precision: int,
    predictor: int = 1,
    point_transform: int = 0,
    is_modulo: bool = False,
    restart_rows: int = 0,
) -> bytes:
    """Return the JPEG of pixels [H, W] or colours [H, W, 3], 0 ... 2^precision - 1, in one scan.

    The lowest `point_transform` bits are lost. With `is_modulo` every odd value has the other
    difference that is the same modulo 2^P, whose sum with the prediction is no pixel value: some
    scanners write either. With `restart_rows` there is a restart marker behind so many rows.
    """
    planes = pixels.reshape(*pixels.shape[:2], -1).astype(int) >> point_transform
    height, width, samples = planes.shape
    span, rows = 1 << (precision - point_transform), restart_rows or height
    intervals = []
    for start in range(0, height, rows):
        codes = []
        for values in np.moveaxis(planes[start : start + rows], -1, 0):
            differences = values - _predictions(values, predictor, span // 2)
            if is_modulo:
                differences += np.where(differences > 0, -span, span) * (values % 2)
            codes.append(map(_code, differences.ravel().tolist()))
        bits = "".join("".join(pixel) for pixel in zip(*codes, strict=True))
        bits += "1" * (-len(bits) % 8)
        data = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
        intervals.append(data.replace(b"\xff", b"\xff\0"))
    scan = intervals[0]
    for number, interval in enumerate(intervals[1:]):
        scan += bytes((0xFF, 0xD0 + number % 8)) + interval
    frame = struct.pack(">HBHHB", 8 + 3 * samples, precision, height, width, samples)
    frame += bytes(value for sample in range(samples) for value in (1 + sample, 0x11, 0))
    table = struct.pack(">HB", 36, 0) + bytes([0, 0, 0, 0, 17, *[0] * 11, *range(17)])
    start = struct.pack(">HB", 6 + 2 * samples, samples)
    start += bytes(value for sample in range(samples) for value in (1 + sample, 0))
    start += bytes((predictor, 0, point_transform))
    segments = [b"\xff\xc3" + frame, b"\xff\xc4" + table, b"\xff\xda" + start]
    if restart_rows:
        segments.insert(0, b"\xff\xdd" + struct.pack(">HH", 4, rows * width))
    return b"\xff\xd8" + b"".join(segments) + scan + b"\xff\xd9"


def _predictions(values: np.ndarray, predictor: int, first: int) -> np.ndarray:
    """Return the prediction of each value: table H.1, and at the edges H.1.2.1."""
    left, above, corner = (np.roll(values, shift, (0, 1)) for shift in ((0, 1), (1, 0), (1, 1)))
    rules = {
        1: left,
        2: above,
        3: corner,
        4: left + above - corner,
        5: left + ((above - corner) >> 1),
        6: above + ((left - corner) >> 1),
        7: (left + above) >> 1,
    }
    result = rules[predictor].copy()
    result[0], result[:, 0] = left[0], above[:, 0]
    result[0, 0] = first
    return result


def _code(difference: int) -> str:
    """Return the bits of a difference: one of seventeen codes of five bits, in order, for its size,
    then its low bits (table H.2); 32768 has none."""
    difference = (difference + 32767) % 65536 - 32767  # they are counted modulo 2^16
    size = abs(difference).bit_length()
    low = difference if difference > 0 else difference + (1 << size) - 1
    return f"{size:05b}" + (f"{low:0{size}b}" if 0 < size < 16 else "")
