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
) -> bytes:
    """Return the JPEG of grey pixels [H, W], 0 ... 2^precision - 1.

    The lowest `point_transform` bits are lost. With `is_modulo`, and a `predictor` of 1 to 4, every
    odd value has the other difference that is the same modulo 2^P, whose sum with the prediction is
    no pixel value: some scanners write either.
    """
    values = pixels.astype(int) >> point_transform
    span = 1 << (precision - point_transform)
    differences = values - _predictions(values, predictor, span // 2)
    if is_modulo:
        differences += np.where(differences > 0, -span, span) * (values % 2)
    bits = "".join(map(_code, differences.ravel().tolist()))
    bits += "1" * (-len(bits) % 8)
    scan = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    frame = struct.pack(">HBHHB3B", 11, precision, *pixels.shape, 1, 1, 0x11, 0)
    table = struct.pack(">HB", 36, 0) + bytes([0, 0, 0, 0, 17, *[0] * 11, *range(17)])
    start = struct.pack(">HB2B3B", 8, 1, 1, 0, predictor, 0, point_transform)
    segments = (b"\xff\xc3" + frame, b"\xff\xc4" + table, b"\xff\xda" + start)
    return b"\xff\xd8" + b"".join(segments) + scan.replace(b"\xff", b"\xff\0") + b"\xff\xd9"


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
