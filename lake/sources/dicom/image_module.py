"""The Image Pixel Module of a DICOM file (PS3.3 C.7.6.3.1), completed: its numbers as the standard
represents them, and the elements that are absent where they can have one value alone.

Old devices (ACR-NEMA) and simple writers leave out what all their images have in common.
"""

import struct

from pydicom.uid import UID

from lake.sources.codecs.decoders import JPEG_2000
from lake.sources.dicom.elements import PIXEL_DATA, Attributes, Element, text
from lake.sources.dicom.values import whole_number

SAMPLES, PHOTOMETRIC, PLANAR, FRAMES = 0x00280002, 0x00280004, 0x00280006, 0x00280008
ROWS, COLUMNS, BITS_ALLOCATED, BITS_STORED = 0x00280010, 0x00280011, 0x00280100, 0x00280101
HIGH_BIT, SIGNED = 0x00280102, 0x00280103
PALETTE = 0x00281101  # descriptor of red; green and blue follow
NUMBERS = (SAMPLES, ROWS, COLUMNS, BITS_ALLOCATED, BITS_STORED, HIGH_BIT, SIGNED)
TAGS = frozenset((*NUMBERS, PHOTOMETRIC, PLANAR, FRAMES))
COLOURS = frozenset(("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"))


def complete(attributes: Attributes, syntax: str) -> Attributes:
    """Return the attributes with a whole Image Pixel Module.

    Rows and Columns stay absent, and so does the Photometric Interpretation of colours that neither
    the header nor the codestream tells.
    """
    if _is_usual(attributes):
        return attributes
    numbers = {
        tag: whole_number(attributes, tag)
        for tag in (*NUMBERS, PLANAR, FRAMES)
        if _is_filled(attributes.get(tag))
    }
    photometric = text(attributes, PHOTOMETRIC)
    pixel_bytes = _native_pixel_bytes(attributes, numbers, syntax)
    if SAMPLES not in numbers:
        is_colour = photometric in COLOURS
        if not photometric:
            is_colour = pixel_bytes > 0 and pixel_bytes * 8 == 3 * numbers.get(BITS_ALLOCATED, 0)
        numbers[SAMPLES] = 3 if is_colour else 1
    photometric = photometric or _photometric(attributes, numbers[SAMPLES], syntax)
    _complete_bits(numbers, pixel_bytes)
    numbers.setdefault(SIGNED, 0)
    if numbers[SAMPLES] > 1:
        numbers.setdefault(PLANAR, 0)
    order = attributes[ROWS].order if ROWS in attributes else "<"
    contents = {tag: (b"US", struct.pack(order + "H", n)) for tag, n in numbers.items()}
    contents[PHOTOMETRIC] = (b"CS", photometric.encode())
    if FRAMES in numbers:
        contents[FRAMES] = (b"IS", str(numbers[FRAMES]).encode())
    return attributes | {
        tag: Element(vr, content, 0, len(content), order) for tag, (vr, content) in contents.items()
    }


def _is_usual(attributes: Attributes) -> bool:
    """Return whether a module of a grey image is whole, and pydicom reads it as it is meant."""
    for tag in NUMBERS:
        element = attributes.get(tag)
        if element is None or element.end - element.start != 2 or element.vr not in (b"US", None):
            return False
    frames, photometric = attributes.get(FRAMES), attributes.get(PHOTOMETRIC)
    return (
        photometric is not None
        and photometric.vr in (b"CS", None)
        and photometric.value.startswith(b"MONOCHROME")
        and (frames is None or (frames.vr in (b"IS", None) and frames.value.strip().isdigit()))
    )


def _is_filled(element: Element | None) -> bool:
    return element is not None and element.end > element.start


def _native_pixel_bytes(attributes: Attributes, numbers: dict[int, int], syntax: str) -> int:
    """Return the bytes that a pixel takes in uncompressed pixel data; 0 where that is unknown."""
    element = attributes.get(PIXEL_DATA)
    num_pixels = numbers.get(ROWS, 0) * numbers.get(COLUMNS, 0) * (numbers.get(FRAMES) or 1)
    if element is None or num_pixels <= 0 or UID(syntax).is_encapsulated:
        return 0
    pixel_bytes, rest = divmod(element.end - element.start, num_pixels)
    return pixel_bytes if rest <= 1 else 0  # a byte of padding may follow


def _photometric(attributes: Attributes, samples: int, syntax: str) -> str:
    """Return the Photometric Interpretation that a file without one can only have; "" where it can
    have several."""
    if samples == 1:
        return "PALETTE COLOR" if _is_filled(attributes.get(PALETTE)) else "MONOCHROME2"
    # The codestream of JPEG 2000 says by itself how its components become red, green and blue.
    is_plain = syntax in JPEG_2000 or not UID(syntax).is_encapsulated
    return "RGB" if samples == 3 and is_plain else ""


def _complete_bits(numbers: dict[int, int], pixel_bytes: int) -> None:
    """Add those of Bits Allocated, Bits Stored and High Bit that are absent, unless all are."""
    if BITS_STORED not in numbers and HIGH_BIT in numbers:
        numbers[BITS_STORED] = numbers[HIGH_BIT] + 1
    if BITS_STORED not in numbers and BITS_ALLOCATED in numbers:
        numbers[BITS_STORED] = numbers[BITS_ALLOCATED]
    if BITS_STORED in numbers:
        sample_bytes = pixel_bytes // numbers[SAMPLES] or -(-numbers[BITS_STORED] // 8)
        numbers.setdefault(BITS_ALLOCATED, 8 * sample_bytes)
        numbers.setdefault(HIGH_BIT, numbers[BITS_STORED] - 1)
