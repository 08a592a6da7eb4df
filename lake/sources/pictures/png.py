"""PNG files without Pillow: their chunks, what Pillow gets of them, and the bare PNG that a record
stores."""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from lake.sources.damage import Malformed

PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
LAST_FILTER = 4  # the row filter of the highest number: Paeth
# Bits of each colour type (PNG 11.2.1): grey, colours, palette, grey and colours with alpha.
BITS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
# The most bytes of the chunks before the pixels that say how these are shown. Texts and colour
# profiles are skipped: compressed ones expand to any size.
SHOWN = {b"PLTE": 768, b"tRNS": 256, b"eXIf": 2**20, b"acTL": 8, b"fcTL": 26}
CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
MAX_CHUNKS = 100_000  # before the pixels


def header_chunks(file: BinaryIO) -> bytes:
    """Return the PNG up to the name of its first IDAT, without chunks that do not say how its
    pixels are shown; raise Malformed where it is damaged."""
    file.seek(0)
    parts = [file.read(len(PNG_START))]
    for number in range(MAX_CHUNKS):
        start = file.read(8)
        if len(start) < 8:
            raise Malformed("the PNG ends before its pixels; copy it again")
        length, kind = struct.unpack(">L4s", start)
        if (number == 0) != (kind == b"IHDR") or not kind.isalpha():
            raise Malformed(f"the PNG has a chunk {kind!r} where IHDR or another should be")
        if kind == b"IDAT":
            return b"".join([*parts, start])
        if kind != b"IHDR" and kind not in SHOWN:
            _check_kind(kind)
            file.seek(length + 4, io.SEEK_CUR)
            continue
        if length > SHOWN.get(kind, 13):
            raise Malformed(f"the PNG has a chunk {kind!r} of {length:,} bytes")
        content = file.read(length + 4)
        _check_whole(start + content, length)
        if kind == b"IHDR":
            _check_header(content[:-4])
        parts.append(start + content)
    raise Malformed(f"the PNG has more than {MAX_CHUNKS} chunks before its pixels")


def pixel_chunks(data: bytes) -> bytes:
    """Return the PNG without chunks that do not say what its pixels are; raise ValueError where it
    is damaged."""
    kinds = (*CRITICAL, b"tRNS")
    return PNG_START + b"".join(chunk for chunk in chunks(data) if chunk[4:8] in kinds)


def bare_png(data: bytes, height: int, width: int, bits: int) -> bytes | None:
    """Return the PNG without ancillary chunks; its pixel data is inflated once to check it, and
    copied bit for bit.

    Returns None when it is not plain grey [height, width] of `bits`, or has data beside its pixels;
    raises ValueError or zlib.error when it is damaged.
    """
    parts = list(chunks(data))
    # Colour type grey, deflate, adaptive filters, not interlaced.
    plain = struct.pack(">4sLL5B", b"IHDR", width, height, bits, 0, 0, 0, 0)
    if parts[0][4:-4] != plain or any(chunk[4:8] == b"tRNS" for chunk in parts):
        return None
    idats = [chunk for chunk in parts if chunk[4:8] == b"IDAT"]
    row_bytes = 1 + width * bits // 8  # a filter byte, then the pixels
    inflate = zlib.decompressobj()
    rows = inflate.decompress(b"".join(chunk[8:-4] for chunk in idats), height * row_bytes + 1)
    if len(rows) < height * row_bytes:
        raise ValueError(f"its pixel data ends after {len(rows) // row_bytes} of {height} rows")
    if len(rows) > height * row_bytes or not inflate.eof or inflate.unused_data:
        return None
    if max(rows[::row_bytes]) > LAST_FILTER:
        raise ValueError("its pixel data has an unknown row filter")
    return b"".join([PNG_START, parts[0], *idats, PNG_END])


def chunks(data: bytes) -> Iterator[bytes]:
    """Yield each chunk from IHDR to IEND, whole: length, type, content and checksum.

    Raises ValueError where a chunk is cut off or a critical one is damaged.
    """
    position, kind = len(PNG_START), b""
    while kind != b"IEND":
        if position + 12 > len(data):
            raise Malformed("the PNG ends before its IEND; copy it again")
        length, kind = struct.unpack_from(">L4s", data, position)
        end = position + 12 + length
        _check_kind(kind)
        if end > len(data):
            raise Malformed(f"the PNG ends inside its chunk {kind!r}; copy it again")
        if not kind[0] & 0x20:  # critical: a capital letter
            _check_whole(data[position:end], length)
        yield data[position:end]
        position = end


def _check_kind(kind: bytes) -> None:
    """Raise Malformed for a critical chunk that the standard does not have."""
    if not kind[0] & 0x20 and kind not in CRITICAL:
        raise Malformed(f"the PNG has a chunk {kind!r}, which no reader may skip")


def _check_whole(chunk: bytes, length: int) -> None:
    """Raise Malformed where a chunk is cut off or its checksum is wrong."""
    kind = chunk[4:8].decode("ascii", "backslashreplace")
    if len(chunk) < length + 12:
        raise Malformed(f"the PNG ends inside its {kind}; copy it again")
    if zlib.crc32(memoryview(chunk)[4:-4]) != int.from_bytes(chunk[-4:]):
        raise Malformed(f"the checksum of the PNG's {kind} is wrong: it is damaged; copy it again")


def _check_header(content: bytes) -> None:
    """Raise Malformed for an IHDR that describes no image."""
    if len(content) != 13:
        raise Malformed(f"the PNG's IHDR has {len(content)} bytes, expected 13")
    width, height, bits, colour_type, *methods = struct.unpack(">LL5B", content)
    if not (width and height):
        raise Malformed(f"the PNG's IHDR says {height} x {width} pixels")
    if bits not in BITS.get(colour_type, ()) or methods not in ([0, 0, 0], [0, 0, 1]):
        kinds = f"{bits} bits of colour type {colour_type}, methods {methods}"
        raise Malformed(f"the PNG's IHDR says {kinds}, which the standard does not have")
