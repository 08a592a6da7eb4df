"""PNG files without Pillow: their chunks, and the bare PNG that a record stores."""

import struct
import zlib
from collections.abc import Iterator

PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
LAST_FILTER = 4  # the row filter of the highest number: Paeth


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
            raise ValueError("the PNG ends before its IEND")
        length, kind = struct.unpack_from(">L4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise ValueError(f"the PNG ends inside its chunk {kind!r}")
        is_critical, checksum = not kind[0] & 0x20, data[end - 4 : end]  # a capital letter
        if is_critical and zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(checksum):
            raise ValueError(f"the checksum of its chunk {kind!r} is wrong")
        yield data[position:end]
        position = end
