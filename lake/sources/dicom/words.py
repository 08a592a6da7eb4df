"""Which bits of decoded samples are the pixel: samples as they were coded -> stored values.

Uncompressed and run-length coded pixel data has words of Bits Allocated, and the header says where
in a word the pixel lies (PS3.5 8.1.1). A codestream has a precision of its own, and says what the
pixels are where it disagrees with the header (PS3.5 8.2.1). Some encoders code whole words all the
same; bits of a word that are no pixel may hold overlays, which name people. Where the two leave
more than one answer, the image is a Reject.
"""

from typing import NamedTuple

import numpy as np

from lake import Reject
from lake.sources.codecs.claims import Claims
from lake.sources.dicom.elements import Attributes
from lake.sources.dicom.image_module import BITS_ALLOCATED, BITS_STORED, HIGH_BIT, SAMPLES, SIGNED
from lake.sources.dicom.values import whole_number

# Overlays in the pixels' words: (60xx,0102) Overlay Bit Position, unless there is (60xx,3000)
# Overlay Data (PS3.3 C.9.2).
OVERLAY_GROUPS = range(0x6000, 0x6020, 2)
OVERLAY_POSITION, OVERLAY_DATA = 0x0102, 0x3000
OVERLAY_TAGS = frozenset(
    group << 16 | element
    for group in OVERLAY_GROUPS
    for element in (OVERLAY_POSITION, OVERLAY_DATA)
)
TAGS = OVERLAY_TAGS | {BITS_ALLOCATED, BITS_STORED, HIGH_BIT, SIGNED}


class Layout(NamedTuple):
    """Where in a word the header says that the pixel lies."""

    allocated: int  # bits of a word
    stored: int  # bits of a pixel
    high: int  # its highest bit, counted from 0
    is_signed: bool
    overlays: int  # the bits of a word that are overlays, as a mask

    @property
    def low(self) -> int:
        """The pixel's lowest bit; it lies nowhere where this is below 0."""
        return self.high + 1 - self.stored


def read_layout(attributes: Attributes) -> Layout:
    """Return the layout that the header states; raises Reject where there can be none."""
    allocated = whole_number(attributes, BITS_ALLOCATED)
    stored = whole_number(attributes, BITS_STORED) or allocated
    if stored > allocated:
        raise Reject("undecodable", f"Bits Stored is {stored}, Bits Allocated {allocated}")
    is_placed = HIGH_BIT in attributes and stored < allocated  # else there is but one place
    high = whole_number(attributes, HIGH_BIT) if is_placed else stored - 1
    # The sign of a colour has no meaning, and one bit has no room for it.
    is_grey = (whole_number(attributes, SAMPLES) or 1) == 1
    is_signed = whole_number(attributes, SIGNED) == 1 and is_grey and allocated > 1
    overlays = 0
    for group in OVERLAY_GROUPS:
        position, data = (group << 16 | tag for tag in (OVERLAY_POSITION, OVERLAY_DATA))
        if position in attributes and data not in attributes:
            overlays |= 1 << (whole_number(attributes, position) & 0xFF)
    return Layout(allocated, stored, high, is_signed, overlays)


def values_of_words(words: np.ndarray, layout: Layout) -> np.ndarray:
    """Return the stored values of uncompressed or run-length coded words, unsigned; raise Reject
    where the pixel's place is unclear."""
    if layout.allocated == 1:
        return words
    if layout.low < 0 or layout.high >= layout.allocated:
        raise Reject("undecodable", f"{_bits_of_header(layout)}: there is no such place")
    if layout.low > 0 and not _is_clear(words, layout, layout.allocated).all():
        raise Reject(
            "undecodable", f"{_bits_of_header(layout)}, but other bits are set; convert the file"
        )
    return _pixels(words, layout.low, layout.stored, layout.is_signed)


def values_of_code(samples: np.ndarray, claims: Claims, layout: Layout) -> tuple[np.ndarray, int]:
    """Return (stored values, their bits) of the samples of a codestream, signed where it is; raise
    Reject where header and codestream leave more than one answer."""
    if claims.bits > layout.allocated:
        raise Reject("undecodable", f"{_bits_of_code(claims)} Bits Allocated is {layout.allocated}")
    if claims.bits <= layout.stored:
        return _numbers(samples, claims, layout), claims.bits
    if layout.low < 0 or layout.high >= claims.bits:
        raise Reject("undecodable", f"{_bits_of_code(claims)} {_bits_of_header(layout)}")
    words = samples.view(f"u{samples.itemsize}")
    is_clear = _is_clear(words, layout, claims.bits)
    if is_clear.all() or _is_no_number(words, is_clear, claims, layout):
        return _pixels(words, layout.low, layout.stored, layout.is_signed), layout.stored
    # Words of Bits Allocated may hold anything above the pixel; other depths are a number's.
    is_number = not claims.is_lossless or claims.bits < layout.allocated
    if is_number and layout.low == 0 and not layout.overlays:
        return _numbers(samples, claims, layout), claims.bits
    raise Reject(
        "undecodable",
        f"{_bits_of_code(claims)} {_bits_of_header(layout)}, but other bits are set; convert it",
    )


def _numbers(samples: np.ndarray, claims: Claims, layout: Layout) -> np.ndarray:
    """Return the samples of a codestream as numbers with the header's sign; raise Reject where it
    is unclear which bit has the sign, or values are negative that should not be."""
    if claims.is_signed == layout.is_signed:
        return samples
    if claims.is_signed:
        if samples.min() < 0:
            raise Reject("undecodable", "the codestream has negative values, the header says none")
        return samples.view(f"u{samples.itemsize}")
    # JPEG and JPEG-LS have no sign: they code the words of negative values.
    if claims.bits == layout.stored:
        return _pixels(samples, 0, claims.bits, is_signed=True)
    if samples.max() >> (min(claims.bits, layout.stored) - 1):
        raise Reject(
            "undecodable",
            f"{_bits_of_code(claims)} Bits Stored is {layout.stored} with a sign: which bit has "
            f"the sign is unclear; convert the file",
        )
    return samples.astype(f"i{samples.itemsize}") if samples.itemsize > 1 else samples


def _pixels(words: np.ndarray, low: int, num_bits: int, is_signed: bool) -> np.ndarray:
    """Return the bits `low` to `low + num_bits - 1` of unsigned words as numbers, with or without a
    sign."""
    size = 8 * words.itemsize
    if is_signed:
        return (words << (size - low - num_bits)).view(f"i{words.itemsize}") >> (size - num_bits)
    if num_bits == size:
        return words
    return (words >> low) & (2**num_bits - 1)


def _is_clear(words: np.ndarray, layout: Layout, num_bits: int) -> np.ndarray:
    """Return whether words of `num_bits` bits have nothing beside the pixel but overlays and, above
    it, copies of its sign; of the same shape as the words."""
    pixel = (2**layout.stored - 1) << layout.low
    outside = (2**num_bits - 1) & ~pixel & ~layout.overlays
    rest = words & outside
    is_clear = rest == 0
    if layout.is_signed:
        copies = outside >> (layout.high + 1) << (layout.high + 1)
        is_clear |= (rest == copies) & (words >> layout.high & 1 == 1)
    return is_clear


def _is_no_number(words: np.ndarray, is_clear: np.ndarray, claims: Claims, layout: Layout) -> bool:
    """Return whether what is above the pixels cannot belong to them: a number that reaches a high
    bit has, somewhere in an image, the bit just above the pixel's."""
    if layout.low > 0 or layout.is_signed or not claims.is_lossless:
        return False
    above = int(np.bitwise_or.reduce(words[~is_clear], axis=None)) & ~layout.overlays
    return not above >> layout.stored & 1


def _bits_of_header(layout: Layout) -> str:
    """Return the header's bits of a word, for a message."""
    return (
        f"High Bit is {layout.high}, Bits Stored {layout.stored}, Bits Allocated {layout.allocated}"
    )


def _bits_of_code(claims: Claims) -> str:
    """Return the beginning of a message about bits that the header states otherwise."""
    return f"the codestream has {claims.bits} bits,"
