"""What an encoded frame says of itself (JPEG, JPEG-LS, JPEG 2000): its size, bits, sign and code.

The code is told by the frame itself, whatever the file's transfer syntax says.
"""

import struct
from typing import NamedTuple

from lake import Reject
from lake.scan import MAX_PIXELS
from lake.sources.codecs import jpeg_2000
from lake.sources.codecs.codestream import FRAME_HEADERS, LS_FRAME, check_scans, segments

# Frame headers of JPEG Lossless (T.81 table B.1); start of scan; the first application segment.
LOSSLESS_FRAMES, SCAN, APPLICATION = (0xC3, 0xC7, 0xCB, 0xCF), 0xDA, 0xE0
RLE_PADDING = 2**16  # bytes that a run-length segment may expand to beyond its pixels
# OpenJPEG takes about 0.2 microseconds per byte, several times as long as other decoders. A
# lossless image of the largest mammography detectors has 20 million.
MAX_JPEG_2000_BYTES = 2**25
J2K_START = b"\xff\x4f\xff\x51"  # start of codestream with image size (T.800 A.4, A.5)


class Claims(NamedTuple):
    """What the headers of a codestream say."""

    code: str  # jpeg | jpeg-lossless | jpeg-ls | jpeg-2000
    height: int
    width: int
    samples: int  # per pixel
    bits: int  # of a sample: its precision
    is_signed: bool
    is_lossless: bool
    colours: str = ""  # what a JPEG or JPEG-LS says of them by itself: RGB | YBR


def read_claims(frame: bytes) -> Claims | None:
    """Return the claims of a codestream; None where it is of another code or its header is cut."""
    if frame[:2] == b"\xff\xd8":
        return _jpeg(frame)
    start = frame.find(J2K_START, 0, 4096)  # may follow a JP2 file's boxes, against the standard
    return _jpeg_2000(frame, start) if start >= 0 else None


def check_claims(frame: bytes, claims: Claims, height: int, width: int, samples: int) -> None:
    """Raise Reject for a frame that would decode to another shape than [height, width, samples], or
    would take too long."""
    shape = (claims.height, claims.width, claims.samples)
    if shape != (height, width, samples):
        raise Reject(
            "undecodable",
            f"the codestream says (height, width, samples) = {shape}, Rows, Columns and Samples "
            f"per Pixel say {(height, width, samples)}",
        )
    if claims.bits > 16:
        raise Reject("too-many-bits", f"the codestream has {claims.bits} bits, expected at most 16")
    if claims.code != "jpeg-2000":
        check_scans(frame)
        _check_end(frame)
    elif len(frame) > MAX_JPEG_2000_BYTES:
        raise Reject(
            "too-large",
            f"the JPEG 2000 has {len(frame):,} bytes, expected at most {MAX_JPEG_2000_BYTES:,}, "
            f"which take up to ten seconds to decode; save it in another code or with fewer pixels",
        )


def _check_pixels(height: int, width: int) -> None:
    """Raise Reject for a codestream of more than MAX_PIXELS."""
    if height * width > MAX_PIXELS:
        raise Reject(
            "too-large",
            f"the codestream says {height} x {width} pixels, expected at most {MAX_PIXELS} in all",
        )


def _check_end(frame: bytes) -> None:
    """Raise Reject for a JPEG or JPEG-LS without an end marker behind its last scan.

    libjpeg-turbo would fill the image up with grey, CharLS 2.4 look for the end half a minute.
    """
    if frame.rfind(b"\xff\xd9") < frame.rfind(b"\xff\xda"):
        raise Reject("undecodable", "the JPEG scan has no end; it may be cut off")


def _jpeg(frame: bytes) -> Claims | None:
    """Return the claims of the frame header of a JPEG or JPEG-LS, and of the latter's scan header;
    None where the headers are cut."""
    marker, header, is_jfif, names = None, None, False, b""
    for segment, start, end in segments(frame):
        if header is None and segment in FRAME_HEADERS and end - start >= 10:
            marker, header = segment, struct.unpack_from(">BHHB", frame, start + 4)
            names = frame[start + 10 : end : 3]
            _check_pixels(*header[1:3])
        is_jfif |= (
            APPLICATION <= segment < APPLICATION + 16 and frame[start + 4 : start + 8] == b"JFIF"
        )
        if segment == SCAN:
            break
    if header is None or segment != SCAN or end > len(frame):
        return None
    bits, height, width, samples = header
    colours = "RGB" if names in (b"RGB", b"rgb") else "YBR" if is_jfif else ""
    if marker == LS_FRAME:
        # The scan's components, two bytes each, then the largest error of a near-lossless code.
        code, is_lossless = "jpeg-ls", frame[start + 5 + 2 * frame[start + 4]] == 0
    else:
        is_lossless = marker in LOSSLESS_FRAMES
        code = "jpeg-lossless" if is_lossless else "jpeg"
    is_signed = False  # neither code has a sign
    return Claims(code, height, width, samples, bits, is_signed, is_lossless, colours)


def _jpeg_2000(frame: bytes, start: int) -> Claims | None:
    """Return the claims of the headers of a JPEG 2000 codestream at `start`; None where they are
    cut."""
    header = jpeg_2000.read_header(frame, start)
    if header is None:
        return None
    _check_pixels(header.height, header.width)
    if not header.precincts:
        return None
    jpeg_2000.check_parts(header)
    shape = (header.height, header.width, header.samples)
    return Claims("jpeg-2000", *shape, header.bits, header.is_signed, header.is_reversible)
