"""Image files that are no DICOM, made of arrays, and what the reader makes of them."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lake import Reject
from lake.scan import Header, Scan, Storage
from lake.sources.pictures import images

AS_IS = Storage(bits=8, max_side=None)


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    checksum = zlib.crc32(kind + content)
    return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", checksum)


def png(rows: bytes, height: int, width: int, *more: bytes, bits: int = 8, interlace=0) -> bytes:
    """A grey PNG of rows, each led by its filter byte, written by hand."""
    start = struct.pack(">LL5B", width, height, bits, 0, 0, 0, interlace)
    parts = [chunk(b"IHDR", start), *more, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def header_of(data: bytes, path: str = "some.where/1.2.840.png") -> Header:
    (header,) = images.read_headers(io.BytesIO(data), path, len(data))
    return header


def scan_of(data: bytes, storage: Storage = AS_IS) -> Scan:
    return images.read_scan(data, header_of(data), storage)


def stored_pixels(scan: Scan) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(scan.image)))


def reason_of(function, *arguments) -> str:
    with pytest.raises(Reject) as caught:
        function(*arguments)
    assert caught.value.message.startswith(("some.where/1.2.840.png: ", "mask.png: "))
    return caught.value.reason
