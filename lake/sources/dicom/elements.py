"""The elements of a DICOM data set, located by walking over their lengths: bytes -> {tag: Element}.

The walk parses only the requested tags, so a header costs microseconds, 17 times less than with
pydicom. Every quantity that a file states about itself (depth, length, number of elements) has a
bound here, so a hostile file costs no more than that bound.
"""

import struct
from collections.abc import Collection, Iterator
from typing import NamedTuple

from pydicom.datadict import dictionary_has_tag

from lake import Reject
from lake.sources.damage import Malformed

MAX_ELEMENTS = 1_000_000  # in one data set; the functional groups of 10,000 frames have 400,000
MAX_DEPTH = 64  # of nested sequences and items
MAX_TEXT_BYTES = 1024  # of a text element; the standard allows 64 characters
PIXEL_DATA = 0x7FE00010
PIXEL_TAGS = frozenset((PIXEL_DATA, 0x7FE00008, 0x7FE00009))  # integer, float, double

# PS3.5: 7.1.2 for the representations with a 4-byte length, 7.5 for the delimiters.
LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
SHORT = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
REPRESENTATIONS = LONG | SHORT
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
# What may follow the pixel data: signatures and padding.
AFTER_PIXELS = (0xFFFAFFFA, 0xFFFCFFFC)
TRANSFER_SYNTAX = 0x00020010


class Element(NamedTuple):
    """The value of an element as a slice of `data`, not copied."""

    vr: bytes | None  # value representation; None: implicit
    data: bytes
    start: int
    end: int
    order: str  # "<" or ">", as in the struct module

    @property
    def value(self) -> bytes:
        return self.data[self.start : self.end]


Attributes = dict[int, Element]  # by tag


class Cut(Malformed):
    """The data ends inside an element."""


class Level(NamedTuple):
    """A sequence or an item of undefined length that is open."""

    is_item: bool
    is_implicit: bool  # what is expected of its elements
    tag: int  # of the sequence


def text(elements: Attributes, tag: int) -> str:
    """Return the value as text without its padding; "" where the element is absent."""
    element = elements.get(tag)
    if element is None:
        return ""
    if element.end - element.start > MAX_TEXT_BYTES:
        raise Malformed(f"{name(tag)} has more than {MAX_TEXT_BYTES} bytes")
    # Other character sets need no decoding: text beyond ASCII is only compared, never displayed.
    return element.value.decode("utf-8", "backslashreplace").strip(" \0")


def name(tag: int) -> str:
    """Return the tag as DICOM documents print it, (GGGG,EEEE)."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def walk(
    data: bytes,
    position: int,
    order: str,
    tags: Collection[int],
    is_implicit: bool,
    end: int | None = None,
    last_group: int = 0x7FE0,
) -> tuple[Attributes, int, int | None]:
    """Return (the elements `tags`, where the walk ended, the tag of the pixel data or None).

    The walk goes from element to element by their lengths and ends at the pixel data, at `end`, or
    behind `last_group`. Sequences of undefined length are skipped by looking for their delimiter.
    `is_implicit` says what is expected of the representations; the first element decides. Raises
    Cut where the data ends inside an element, and Reject for more than MAX_ELEMENTS.
    """
    end, elements, budget = len(data) if end is None else end, {}, iter(range(MAX_ELEMENTS))
    head, last_tag = struct.Struct(order + "HH2sH").unpack_from, -1
    for _ in budget:
        if position > end:
            raise Cut("the data ends inside an element")
        if position + 8 > end:
            return elements, position, None
        group, element, vr, length = head(data, position)
        tag = group << 16 | element
        # The file meta information or an item ends, or padding starts; stray items are skipped.
        if group > last_group and (group != 0xFFFE or tag == ITEM_END):
            return elements, position, None
        if last_group == 2 and tag <= last_tag:  # a second file meta group
            return elements, position, None
        is_pixels = group == 0x7FE0 and tag in PIXEL_TAGS
        if is_pixels and tag not in tags:
            return elements, position, tag
        # The usual element at once: _value takes as long as all the rest.
        start = position + 8
        is_usual = not is_implicit and vr in SHORT and not group & 1 and group < 0x6000
        if is_usual and not length:  # the next one must be usual, too
            is_usual = data[start + 4 : start + 6] in REPRESENTATIONS
            is_usual = is_usual and start + 8 <= end and head(data, start)[:2] > (group, element)
        if not is_usual:
            vr, start, length = _value(data, position, order, end, is_implicit)
        if last_tag < 0:
            is_implicit = vr is None
        last_tag = tag
        if length != UNDEFINED:
            position = start + length
        elif is_pixels:
            position = _end_of_fragments(data, start, budget)
        else:
            level = Level(is_item=False, is_implicit=has_implicit_items(vr), tag=tag)
            position = end_of(data, start, order, budget, level)
        if tag in tags:
            if position > end:
                raise Cut(f"the data ends inside {name(tag)}")
            elements[tag] = Element(vr, data, start, position, order)
            if is_pixels:
                return elements, position, tag
    raise Reject("too-large", f"more than {MAX_ELEMENTS} elements")


def has_implicit_items(vr: bytes | None) -> bool:
    """Return whether the items of a sequence are expected to have no representations: those of
    Implicit VR, and those that are UN (PS3.5 6.2.2)."""
    return vr is None or vr == b"UN"


def _value(
    data: bytes, position: int, order: str, end: int, is_implicit: bool
) -> tuple[bytes | None, int, int]:
    """Return (representation, start, length) of the value of the element at `position`.

    The element is read as its data set has it, implicit or not. Some writers mix both in a file, or
    write a representation that does not fit the length. So of the possible readings the first is
    taken behind which another element follows. A length may look like a representation.
    """
    group, element, vr, length = struct.unpack_from(order + "HH2sH", data, position)
    if is_implicit and vr not in REPRESENTATIONS:
        return None, position + 8, struct.unpack_from(order + "L", data, position + 4)[0]
    short = (vr, position + 8, length)
    if not is_implicit and vr in SHORT:
        # The only sure form: a short one whose length is not 0, as the upper half of a long one is.
        is_sure = length and not group & 1 and group < 0x6000
        if is_sure or _is_followed(data, short, group << 16 | element, order, end):
            return short
    if vr in LONG and position + 12 > len(data):
        raise Cut("the data ends inside the length of an element")
    implicit = (None, position + 8, struct.unpack_from(order + "L", data, position + 4)[0])
    readings = [short, implicit]
    if position + 12 <= len(data):
        readings.append((vr, position + 12, struct.unpack_from(order + "L", data, position + 8)[0]))
    expected = readings[2 if vr in LONG else 0 if vr.isalpha() and vr.isupper() else 1]
    expected = implicit if is_implicit else expected
    for reading in (expected, *readings):
        if _is_followed(data, reading, group << 16 | element, order, end):
            return reading
    return expected


def _is_followed(
    data: bytes, reading: tuple[bytes | None, int, int], tag: int, order: str, end: int
) -> bool:
    """Return whether an element of a higher tag, the end, or an item follows the value of `tag`
    that is read as (representation, start, length)."""
    _, start, length = reading
    if length == UNDEFINED:
        return data[start : start + 2] in (struct.pack(order + "H", ITEM >> 16), b"")
    position = start + length
    if position + 8 > end:
        return position == end
    group, element, vr, _ = struct.unpack_from(order + "HH2sH", data, position)
    next_tag = group << 16 | element
    if next_tag <= tag or next_tag in (ITEM_END, SEQUENCE_END):
        return next_tag > tag
    implicit_length = struct.unpack_from(order + "L", data, position + 4)[0]
    is_within = position + 8 + implicit_length <= end or implicit_length == UNDEFINED
    return vr in REPRESENTATIONS or (is_within and dictionary_has_tag(next_tag))


def end_of(data: bytes, position: int, order: str, budget: Iterator[int], level: Level) -> int:
    """Return the position behind the sequence or item whose content starts at `position`: behind
    its delimiter or, without a delimiter, behind its content. Raises Cut, Malformed, or Reject for
    too many elements or levels."""
    head, levels = struct.Struct(order + "HH2sH").unpack_from, [level]
    for _ in budget:
        if position + 8 > len(data):
            raise Cut("the data ends inside a sequence or encapsulated pixels")
        group, element, _, _ = head(data, position)
        tag, level = group << 16 | element, levels[-1]
        start, length = position + 8, 0
        if tag == ITEM:
            length = struct.unpack_from(order + "L", data, position + 4)[0]
            levels = levels[:-1] if level.is_item else levels  # the last item has no delimiter
            if not levels:
                return position
            if length == UNDEFINED:
                levels.append(level._replace(is_item=True))
        elif tag == SEQUENCE_END:
            levels = levels[: -2 if level.is_item else -1]
        elif tag == ITEM_END:
            levels = levels[:-1] if level.is_item else levels
        elif level.is_item:
            vr, start, length = _value(data, position, order, len(data), level.is_implicit)
            if length == UNDEFINED:
                levels.append(Level(is_item=False, is_implicit=has_implicit_items(vr), tag=tag))
        elif _is_followed(data, (None, position, 0), level.tag, order, len(data)):
            levels, start = levels[:-1], position  # the sequence has no delimiter
        else:
            raise Malformed(f"neither an item nor the end of the sequence {name(level.tag)}")
        if len(levels) > MAX_DEPTH:
            raise Reject("unreadable-header", f"sequences nested deeper than {MAX_DEPTH}")
        position = start + (0 if length == UNDEFINED else length)
        if not levels:
            return position
    raise Reject("too-large", f"more than {MAX_ELEMENTS} elements")


def _end_of_fragments(data: bytes, position: int, budget: Iterator[int]) -> int:
    """Return the end of encapsulated pixel data: behind its delimiter or, as some writers leave it
    out, behind the last whole fragment with which the data ends. Raises Cut or Malformed."""
    for _ in budget:
        head = data[position : position + 8].ljust(8, b"\0")
        group, element, length = struct.unpack("<HHL", head)
        tag = group << 16 | element
        if tag == SEQUENCE_END:
            return min(position + 8, len(data))
        if tag != ITEM:
            break
        position += 8 + length
        if position > len(data):
            raise Cut("the data ends inside a fragment of the pixel data")
    rest = data[position:]
    if rest.strip(b"\0") and tag not in AFTER_PIXELS:
        raise Malformed("the pixel data do not end in a delimiter")
    return position
