"""Pixel padding (PS3.3 C.7.5.1.1.2): pixels of a DICOM image at which nothing was measured, such as
those outside a collimator or the circle of a CT. They are no part of windows and statistics."""

import numpy as np

from lake.sources.dicom.elements import Attributes
from lake.sources.dicom.image_module import BITS_STORED, SIGNED
from lake.sources.dicom.values import first_number, whole_number

VALUE, RANGE_LIMIT = 0x00280120, 0x00280121
TAGS = frozenset((VALUE, RANGE_LIMIT))
# A lossy code moves the value of padding, little where it is not beside the image itself: in JPEGs
# of quality 75 to 95 by up to 2 levels of 255. As a share of the range of an image's values.
LOSSY_SHARE = 0.01
DARK_LEVELS = 4  # of 8 bits; padding up to here is dark without being made so


def value_range(attributes: Attributes) -> tuple[int, int] | None:
    """Return (lowest, highest) stored value that is padding; None where the file states none."""
    value = first_number(attributes, VALUE)
    if not abs(value) < 2**16:
        return None
    limit = first_number(attributes, RANGE_LIMIT, default=value)
    bits, is_signed = whole_number(attributes, BITS_STORED), whole_number(attributes, SIGNED) == 1
    ends = [_stored_value(end, bits, is_signed) for end in (value, limit) if abs(end) < 2**16]
    return min(ends), max(ends)


def mask(values: np.ndarray, attributes: Attributes, is_lossy: bool) -> np.ndarray | None:
    """Return whether each stored value [H, W] is padding; None where none is.

    `is_lossy`: the values went through a lossy code, so that padding is only near its value.
    """
    ends = value_range(attributes)
    if ends is None:
        return None
    margin = int(LOSSY_SHARE * (int(values.max()) - int(values.min()))) if is_lossy else 0
    is_padding = (values >= ends[0] - margin) & (values <= ends[1] + margin)
    return is_padding if is_padding.any() else None


def is_dark(attributes: Attributes) -> bool:
    """Return whether the padding of unsigned MONOCHROME2 pixels of 8 bits, if there is any, is at
    their dark end already."""
    ends = value_range(attributes)
    return ends is None or ends[1] <= DARK_LEVELS or ends[0] > 255


def _stored_value(value: float, bits: int, is_signed: bool) -> int:
    """Return a stored value from its word: with the sign of the pixels, whatever the representation
    of the element (US or SS)."""
    word = int(value) % 2**16
    if is_signed and word >= 2**15:
        return word - 2**16
    # The word of a negative value may have no bits above those that are stored.
    return word - 2**bits if is_signed and 2 ** (bits - 1) <= word < 2**bits else word
