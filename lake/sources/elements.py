"""Elements of a DICOM data set, found by walking its lengths: bytes -> {tag: Element}.

Only what is asked for is looked at, so that a header costs microseconds and that nothing a file
says of itself (depth, length, number of elements, deflated size) can cost more than its bound.
"""

import struct
import zlib
from collections.abc import Collection, Iterator
from typing import NamedTuple

from pydicom.datadict import dictionary_VR
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from lake import Reject
from lake.scan import MAX_FILE_BYTES

MAX_ELEMENTS = 1_000_000  # walked over in one data set; ten thousand frames' groups have 400,000
MAX_DEPTH = 64  # of sequences and items in one another
MAX_TEXT_BYTES = 1024  # of an element that we read; the standard allows 64 characters
PIXEL_DATA = 0x7FE00010
PIXEL_TAGS = frozenset((PIXEL_DATA, 0x7FE00008, 0x7FE00009))  # integer, float, double

# PS3.5: 7.1.2 for the representations with a 4-byte length, 7.5 for the delimiters.
LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
BINARY = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "FL": "f", "FD": "d"}
TRANSFER_SYNTAX = 0x00020010


class Element(NamedTuple):
    """Where in `data` the value of an element lies."""

    vr: bytes | None  # None: implicit
    data: bytes
    start: int
    end: int
    order: str  # < | >, as struct has it

    @property
    def value(self) -> bytes:
        return self.data[self.start : self.end]


class Malformed(ValueError):
    """Elements that contradict the format; the message quotes no value."""


class Cut(Malformed):
    """The data end inside an element."""


class DataSet(NamedTuple):
    elements: dict[int, Element]
    pixel_tag: int | None  # of the pixel data; None: the data ended before it
    end: int  # where the walk ended: at the pixel data, or behind them where they were asked for
    syntax: str  # transfer syntax
    has_prefix: bool  # DICM


def read(data: bytes, tags: Collection[int], inflated_bytes: int | None = None) -> DataSet:
    """The elements `tags` before the pixel data and, where they are whole, the pixel data.

    A deflated data set is inflated up to `inflated_bytes`; beyond MAX_FILE_BYTES, where that is
    None, it is a Reject. Raises Cut where the data end too early, Reject where they are no DICOM.
    """
    has_prefix = data[128:132] == b"DICM"
    at = 132 if has_prefix else 0
    if not has_prefix and data[:2] not in (b"\x02\x00", b"\x08\x00", b"\x00\x08"):
        raise Reject("not-dicom", "no DICM prefix and no first group 0002 or 0008")
    syntax, is_whole = "", True
    if data[at : at + 2] == b"\x02\x00":
        meta, at, _ = _walk(data, at, "<", (TRANSFER_SYNTAX,), last_group=2)
        syntax = text(meta, TRANSFER_SYNTAX)
    if syntax == DeflatedExplicitVRLittleEndian:
        data, is_whole = _inflated(data[at:], inflated_bytes)
        at, syntax = 0, ExplicitVRLittleEndian
    syntax = syntax or _guessed_syntax(data[at : at + 6])
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    elements, end, pixel_tag = _walk(data, at, order, tags)
    if pixel_tag is None and not is_whole:
        raise Cut("the deflated data end before the pixel data")
    return DataSet(elements, pixel_tag, end, str(syntax), has_prefix)


def item(elements: dict[int, Element], tag: int, index: int, tags: Collection[int]) -> dict:
    """Elements `tags` of item `index` of the sequence `tag`; empty where there is no such item."""
    sequence = elements.get(tag)
    if sequence is None:
        return {}
    data, at, budget = sequence.data, sequence.start, iter(range(MAX_ELEMENTS))
    for position in range(index + 1):
        if at + 8 > sequence.end:
            break
        group, element, length = struct.unpack_from(sequence.order + "HHL", data, at)
        if group << 16 | element != ITEM:
            break
        if position == index:
            end = sequence.end if length == UNDEFINED else min(at + 8 + length, sequence.end)
            return _walk(data, at + 8, sequence.order, tags, end=end)[0]
        at += 8
        at = _closed(data, at, sequence.order, budget) if length == UNDEFINED else at + length
    return {}


def text(elements: dict[int, Element], tag: int) -> str:
    """The value as text without its padding, "" where there is none."""
    element = elements.get(tag)
    if element is None:
        return ""
    if element.end - element.start > MAX_TEXT_BYTES:
        raise Malformed(f"{name(tag)} has more than {MAX_TEXT_BYTES} bytes")
    # Other character sets need no decoding: what is not ASCII is compared, never shown.
    return element.value.decode("utf-8", "backslashreplace").strip(" \0")


def numbers(elements: dict[int, Element], tag: int) -> list[float]:
    """The values of a number element, binary or decimal; empty where there is none."""
    element = elements.get(tag)
    if element is None:
        return []
    vr = element.vr.decode() if element.vr else dictionary_VR(tag)[:2]  # "US or SS": US
    if vr not in BINARY:
        try:
            return [float(part) for part in text(elements, tag).split("\\") if part.strip()]
        except ValueError:
            raise Malformed(f"{name(tag)} is no number") from None
    kind = BINARY[vr]
    count = (element.end - element.start) // struct.calcsize("=" + kind)
    return list(struct.unpack_from(f"{element.order}{count}{kind}", element.data, element.start))


def whole_number(elements: dict[int, Element], tag: int) -> int:
    """The one value of a number element, 0 where there is none."""
    values = numbers(elements, tag)
    if len(values) > 1:
        raise Malformed(f"{name(tag)} has {len(values)} values, expected one")
    return int(values[0]) if values else 0


def name(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _walk(
    data: bytes,
    at: int,
    order: str,
    tags: Collection[int],
    end: int | None = None,
    last_group: int = 0x7FE0,
) -> tuple[dict[int, Element], int, int | None]:
    """(elements, where the walk ended, the tag of the pixel data if that is there)."""
    end, found, budget = len(data) if end is None else end, {}, iter(range(MAX_ELEMENTS))
    head = struct.Struct(order + "HH2sH").unpack_from
    for _ in budget:
        if at > end:
            raise Cut("the data end inside an element")
        if at + 8 > end:
            return found, at, None
        group, element, vr, length = head(data, at)
        tag = group << 16 | element
        # The end of the file meta or of an item, or padding. Stray items are walked over.
        if group > last_group and (group != 0xFFFE or tag == ITEM_END):
            return found, at, None
        vr, start, length = _value(data, at, order, vr, length)
        is_pixels = group == 0x7FE0 and tag in PIXEL_TAGS
        if is_pixels and tag not in tags:
            return found, at, tag
        at = _closed(data, start, order, budget) if length == UNDEFINED else start + length
        if tag in tags:
            if at > end:
                raise Cut(f"the data end inside {name(tag)}")
            found[tag] = Element(vr, data, start, at, order)
            if is_pixels:
                return found, at, tag
    raise Reject("too-large", f"more than {MAX_ELEMENTS} elements")


def _value(
    data: bytes, at: int, order: str, vr: bytes, length: int
) -> tuple[bytes | None, int, int]:
    """(representation, start, length) of the value of the element at `at`.

    Each element is asked whether it is explicit: some writers change over within a file.
    """
    if vr in LONG:
        if at + 12 > len(data):
            raise Cut("the data end inside the length of an element")
        return vr, at + 12, struct.unpack_from(order + "L", data, at + 8)[0]
    if vr.isalpha() and vr.isupper():
        return vr, at + 8, length
    return None, at + 8, struct.unpack_from(order + "L", data, at + 4)[0]


def _closed(data: bytes, at: int, order: str, budget: Iterator[int]) -> int:
    """Where the delimiter ends that closes the sequence or item whose content starts at `at`."""
    head, depth = struct.Struct(order + "HH2sH").unpack_from, 1
    for _ in budget:
        if at + 8 > len(data):
            raise Cut("the data end inside a sequence or encapsulated pixels")
        group, element, vr, length = head(data, at)
        tag = group << 16 | element
        if tag == ITEM:
            length, at = struct.unpack_from(order + "L", data, at + 4)[0], at + 8
        elif tag in (ITEM_END, SEQUENCE_END):
            depth, length, at = depth - 1, 0, at + 8
        else:
            _, at, length = _value(data, at, order, vr, length)
        if length == UNDEFINED:
            depth, length = depth + 1, 0
        if depth > MAX_DEPTH:
            raise Reject("unreadable-header", f"sequences nested deeper than {MAX_DEPTH}")
        at += length
        if depth == 0:
            return at
    raise Reject("too-large", f"more than {MAX_ELEMENTS} elements")


def _inflated(data: bytes, limit: int | None) -> tuple[bytes, bool]:
    """(at most `limit` inflated bytes, whether that is all)."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)  # raw, PS3.5 A.5
    inflated = inflater.decompress(data, limit or MAX_FILE_BYTES)
    if limit is None and inflater.unconsumed_tail:
        raise Reject("too-large", f"inflates to more than {MAX_FILE_BYTES} bytes")
    return inflated, inflater.eof


def _guessed_syntax(start: bytes) -> str:
    """The uncompressed transfer syntax of a data set, from its first group and representation."""
    if not (start[4:6].isalpha() and start[4:6].isupper()):
        return ImplicitVRLittleEndian
    return ExplicitVRBigEndian if start[:1] == b"\0" else ExplicitVRLittleEndian
