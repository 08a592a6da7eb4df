"""JPEG Lossless (ITU-T T.81 annex H): a frame -> its samples, by libjpeg-turbo and two things that
libjpeg-turbo leaves out.

Some scanners count differences modulo 2^P, P being the precision, where the standard counts modulo
2^16. And libjpeg-turbo reports no damage: it decodes whatever bits there are. Both are seen in the
sums of the differences, which it is made to return as they are. Predictors 5 to 7 halve a sum:
where it has more than P bits, the differences are added up anew.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from lake import Reject
from lake.sources.codecs.claims import LOSSLESS_FRAMES, SCAN, Claims
from lake.sources.codecs.codestream import scan_end, segments

HUFFMAN, RESTART = 0xC4, 0xDD
WORD, START = 2**16, 2**15  # of libjpeg-turbo's sums: their modulus, and the first prediction
HALVING = 5  # the first predictor that halves
BLOCK = 2**20  # samples of which the differences are in memory at a time


class JpegScan(NamedTuple):
    """One scan of a JPEG: the values of its header, and its data."""

    components: list[int]  # in the order of the frame header
    lengths: list[np.ndarray]  # of each component: bits of the code of a difference's size, [17]
    predictor: int
    transform: int  # point transform: the bits that the code leaves out below
    start: int  # of the scan header
    data: bytes  # entropy-coded
    interval: int  # of restarts in pixels; 0: none


def decode(frame: bytes, claims: Claims) -> np.ndarray:
    """Return the samples [H, W] or [H, W, 3]; raises Reject for damage that shows in the number of
    bits."""
    import imagecodecs  # decoders.py says why here

    position, scans = _read(frame)
    plain = bytearray(frame)
    plain[position + 4] = 16  # the precision: the sums keep all bits
    for scan in scans:
        plain[scan.start + 7 + 2 * len(scan.components)] = 0  # the point transform
    space = "YCbCr" if claims.samples == 3 else "GRAYSCALE"  # the same in and out: no conversion
    sums = imagecodecs.jpeg8_decode(bytes(plain), colorspace=space, outcolorspace=space)
    samples = np.empty(sums.shape, np.uint8 if claims.bits <= 8 else np.uint16)
    planes = sums.reshape(claims.height, claims.width, claims.samples)
    for scan in scans:
        _check_length(planes, scan)
        bits = claims.bits - scan.transform
        for component in scan.components:
            values = planes[..., component] - np.uint16(START - 2 ** (bits - 1))
            if scan.predictor >= HALVING and values.max() >> bits:
                values = _add_up(planes[..., component], bits, scan)
            plane = samples.reshape(planes.shape)[..., component]
            plane[...] = (values & (2**bits - 1)) << scan.transform
    return samples


def _read(frame: bytes) -> tuple[int, list[JpegScan]]:
    """Return (where the frame header starts, the scans) of a JPEG; raises Reject where they do not
    hold each component once."""
    header, tables, interval, names, scans = 0, {}, 0, b"", []
    for marker, start, end in segments(frame):
        content = frame[start + 4 : end]
        if marker in LOSSLESS_FRAMES:
            header, names = start, content[6::3]
            if len(names) > 1 and set(content[7::3]) != {0x11}:
                raise Reject("undecodable", "the components of the JPEG Lossless differ in size")
        elif marker == HUFFMAN:
            tables |= _tables(content)
        elif marker == RESTART:
            (interval,) = struct.unpack(">H", content)
        elif marker == SCAN:
            count = content[0]
            scan_names, selectors = content[1 : 1 + 2 * count : 2], content[2 : 2 + 2 * count : 2]
            predictor, _, transform = content[1 + 2 * count : 4 + 2 * count]
            components = [names.index(name) for name in scan_names]
            lengths = [tables[selector >> 4] for selector in selectors]
            data = frame[end : scan_end(frame, end)]
            scan = JpegScan(components, lengths, predictor, transform & 15, start, data, interval)
            scans.append(scan)
    if sorted(component for scan in scans for component in scan.components) != [*range(len(names))]:
        raise Reject("undecodable", "the scans of the JPEG do not hold each component once")
    return header, scans


def _tables(content: bytes) -> dict[int, np.ndarray]:
    """Return the tables for differences of a DHT segment by their number: the bits of the code of
    each size, [17], 0 for one without a code."""
    tables, position = {}, 0
    while position + 17 <= len(content):
        name, counts = content[position], content[position + 1 : position + 17]
        symbols = content[position + 17 : position + 17 + sum(counts)]
        lengths = np.zeros(256, np.int64)
        lengths[list(symbols)] = np.repeat(np.arange(1, 17), list(counts))[: len(symbols)]
        tables[name] = lengths[:17]
        position += 17 + sum(counts)
    return tables


def _check_length(planes: np.ndarray, scan: JpegScan) -> None:
    """Raise Reject unless the scan has as many bits as the differences of the sums [H, W, samples]
    take: damage makes the decoder stop before the end, or go on behind it."""
    bits = 0
    for component, lengths in zip(scan.components, scan.lengths, strict=True):
        costs = _bits_of_differences(lengths)
        for _, block in _blocks_of_differences(planes[..., component], scan):
            # Of at most 2^20 samples, 31 bits each.
            bits += int(costs.take(block).sum(dtype=np.uint32))
    height, width, _ = planes.shape
    intervals = -(-height // _rows_between_restarts(height, width, scan))
    data = np.frombuffer(scan.data.rstrip(b"\xff"), np.uint8)  # without fill bytes
    escaped = data[np.flatnonzero(data[:-1] == 0xFF) + 1]  # stuffed zeros, or restart markers
    restarts = np.count_nonzero(escaped)
    room = 8 * (len(data) - len(escaped) - restarts)
    # The last byte of each interval is filled up.
    if restarts != intervals - 1 or not 0 <= room - bits < 8 * intervals:
        raise Reject(
            "undecodable", f"the JPEG scan has {room} bits, its pixels take {bits}; it is damaged"
        )


def _rows_between_restarts(height: int, width: int, scan: JpegScan) -> int:
    return scan.interval // width or height


def _blocks_of_differences(sums: np.ndarray, scan: JpegScan) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first row, differences of some rows modulo 2^16) of the sums [H, W]."""
    height, width = sums.shape
    rows, step = _rows_between_restarts(height, width, scan), max(1, BLOCK // width)
    for start in range(0, height, step):
        stop = min(start + step, height)
        yield start, _differences(sums, start, stop, scan.predictor, rows)


def _add_up(sums: np.ndarray, bits: int, scan: JpegScan) -> np.ndarray:
    """Return the values [H, W], modulo 2^bits, of which the differences of the sums [H, W] are.

    A value needs those on its left, above it and between, so that all values on a line from the
    lower left to the upper right are found at once. Such a line is evenly spaced in memory.
    """
    height, width = sums.shape
    differences = np.empty((height, width), np.uint16)
    for start, block in _blocks_of_differences(sums, scan):
        differences[start : start + len(block)] = block
    values = np.zeros((height + 1, width + 1), np.int32)  # with a row above and a column before
    flat, flat_differences, mask = values.ravel(), differences.ravel(), 2**bits - 1
    is_restart = np.arange(height) % _rows_between_restarts(height, width, scan) == 0
    for place in range(height + width - 1):  # the sum of row and column
        first, last = max(0, place - width + 1), min(height - 1, place)  # rows
        count = last - first + 1
        start = (first + 1) * (width + 1) + place - first + 1
        line = slice(start, start + (count - 1) * width + 1, width)
        left, above, corner = (
            flat[line.start - step : line.stop - step : width] for step in (1, width + 1, width + 2)
        )
        predictions = _predict(scan.predictor, left, above, corner)
        predictions = np.where(is_restart[first : last + 1], left, predictions)
        if last == place:  # the line begins in the first column
            predictions[-1] = 2 ** (bits - 1) if is_restart[last] else above[-1]
        position = first * width + place - first
        step = max(width - 1, 1)
        line_differences = flat_differences[position : position + (count - 1) * step + 1 : step]
        flat[line] = (predictions + line_differences) & mask
    return values[1:, 1:].astype(np.uint16)


def _bits_of_differences(lengths: np.ndarray) -> np.ndarray:
    """Return the bits that each difference takes in a scan, modulo 2^16, [65536]: the code of its
    size, and its low bits but for 32768 (table H.2)."""
    differences = np.arange(WORD)
    sizes = np.frexp(np.minimum(differences, WORD - differences))[1]  # bits of the number
    return (lengths + [*range(16), 0])[sizes].astype(np.uint8)


def _differences(sums: np.ndarray, start: int, stop: int, predictor: int, rows: int) -> np.ndarray:
    """Return the differences, modulo 2^16, of the rows start ... stop of the sums [H, W].

    Every `rows` rows there is a restart: a row that is predicted from itself (H.1.2.1).
    """
    here, before = sums[start:stop], sums[max(start - 1, 0) : stop - 1]
    if start == 0:
        before = np.concatenate([here[:1], before])  # whatever it is, it is not used
    left, above, corner = here[:, :-1], before[:, 1:], before[:, :-1]
    if predictor >= HALVING:
        left, above, corner = (part.astype(np.int32) for part in (left, above, corner))
    result = np.empty(here.shape, np.uint16)
    predictions = _predict(predictor, left, above, corner)
    np.subtract(here[:, 1:], predictions, out=result[:, 1:], casting="unsafe")
    result[:, 0] = here[:, 0] - before[:, 0]
    restarts = np.arange(start, stop) % rows == 0
    result[restarts, 1:] = here[restarts, 1:] - here[restarts, :-1]
    result[restarts, 0] = here[restarts, 0] - np.uint16(START)
    return result


def _predict(predictor: int, left: np.ndarray, above: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """Return the prediction of each value from its neighbours (table H.1)."""
    rules = {
        1: lambda: left,
        2: lambda: above,
        3: lambda: corner,
        4: lambda: left + above - corner,
        5: lambda: left + ((above - corner) >> 1),
        6: lambda: above + ((left - corner) >> 1),
        7: lambda: (left + above) >> 1,
    }
    return rules[predictor]()
