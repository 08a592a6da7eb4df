"""The numbers in a DICOM element, binary or decimal text, as far as its representation allows.

A value representation that is not the one of the standard is believed only where the bytes do not
contradict it: an element whose bytes can be read in two ways is Malformed.
"""

import functools
import math
import struct

from pydicom.datadict import dictionary_VM, dictionary_VR

from lake.sources.damage import Malformed
from lake.sources.dicom.elements import MAX_TEXT_BYTES, Attributes, Element, name, text

BINARY = {b"US": "H", b"SS": "h", b"UL": "L", b"SL": "l", b"FL": "f", b"FD": "d"}
TEXT_NUMBERS = frozenset((b"DS", b"IS"))


def numbers(attributes: Attributes, tag: int) -> list[float]:
    """Return the values of a numeric element, binary or decimal text; [] where it is absent.

    A comma can only be a decimal point, as it is no character of a Decimal String (PS3.5 6.2). A
    word is NaN.
    """
    element = attributes.get(tag)
    if element is None or element.start == element.end:
        return []
    representations, _ = _standard(tag)
    is_standard = element.vr is None or element.vr in representations
    # An implicit element of VR "US or SS" is read as US.
    vr = element.vr if element.vr in representations else representations[0]
    values = _read(attributes, tag, vr)
    if not is_standard:
        values = _read_of_wrong_representation(attributes, tag, values)
    if values is None:
        size = element.end - element.start
        raise Malformed(f"{name(tag)} has {size} bytes, which are no number as {vr.decode()}")
    return values


def first_number(attributes: Attributes, tag: int, default: float = math.nan) -> float:
    """Return the first value of a numeric element, or `default` where it is absent or no number."""
    values = numbers(attributes, tag)
    return values[0] if values and not math.isnan(values[0]) else default


def whole_number(attributes: Attributes, tag: int) -> int:
    """Return the single value of a numeric element as an int; 0 where it is absent."""
    values = numbers(attributes, tag)
    if len(values) > 1:
        raise Malformed(f"{name(tag)} has {len(values)} values, expected one")
    if values and not values[0].is_integer():
        raise Malformed(f"{name(tag)} is not a whole number")
    return int(values[0]) if values else 0


@functools.cache
def _standard(tag: int) -> tuple[list[bytes], tuple[int, int]]:
    """Return (the standard's representations, least and greatest number of values) of a tag."""
    least, _, greatest = dictionary_VM(tag).partition("-")
    greatest = greatest or least
    limits = int(least), int(greatest) if greatest.isdigit() else MAX_TEXT_BYTES
    return [vr.encode() for vr in dictionary_VR(tag).split(" or ")], limits


def _read(attributes: Attributes, tag: int, vr: bytes) -> list[float] | None:
    """Return the values of an element as those of a representation; None where it cannot be one."""
    element = attributes[tag]
    if vr in BINARY:
        return _unpack(element, BINARY[vr])
    return [_number(part) for part in text(attributes, tag).split("\\") if part.strip()]


def _read_of_wrong_representation(
    attributes: Attributes, tag: int, values: list[float] | None
) -> list[float] | None:
    """Return the only way to read an element whose representation is not the standard's, of which
    `values` is one way; None where there is none. Raises Malformed where there are two."""
    vr, (least, greatest) = attributes[tag].vr, _standard(tag)[1]
    if vr not in BINARY and vr not in TEXT_NUMBERS:  # unknown, or a text of another kind
        return values
    readings = [values, _read(attributes, tag, vr)]
    readings = [
        reading
        for reading in readings
        if reading and least <= len(reading) <= greatest and not any(map(math.isnan, reading))
    ]
    if len(readings) == 2 and readings[0] != readings[1]:
        raise Malformed(f"{name(tag)} is {vr.decode()}, and its bytes can be read in two ways")
    return readings[0] if readings else None


def _unpack(element: Element, code: str) -> list[float] | None:
    """Return the binary numbers in an element, by their code in `struct`; None where its length
    does not fit them."""
    count, rest = divmod(element.end - element.start, struct.calcsize("=" + code))
    if rest:
        return None
    numbers = struct.unpack_from(f"{element.order}{count}{code}", element.data, element.start)
    return list(map(float, numbers))


def _number(part: str) -> float:
    """Return a decimal number; NaN for a text that is none."""
    try:
        return float(part if part.count(",") != 1 or "." in part else part.replace(",", "."))
    except ValueError:
        return math.nan
