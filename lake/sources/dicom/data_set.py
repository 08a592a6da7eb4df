"""The data set of a DICOM file: bytes -> its requested elements and its transfer syntax.

Every quantity that a file states about itself has a bound here or in elements.py, so a hostile file
costs no more than that bound.
"""

import itertools
import struct
import zlib
from collections.abc import Collection, Iterator
from typing import NamedTuple

from pydicom import uid

from lake import Reject
from lake.scan import MAX_FILE_BYTES
from lake.sources.dicom.elements import (
    ITEM,
    MAX_ELEMENTS,
    REPRESENTATIONS,
    TRANSFER_SYNTAX,
    UNDEFINED,
    Attributes,
    Cut,
    Level,
    end_of,
    has_implicit_items,
    text,
    walk,
)

MAX_META_GROUPS = 4  # of file meta elements; a file has one, and some that were written twice two


class DataSet(NamedTuple):
    """The requested elements, and where and how the walk over the data set ended."""

    elements: Attributes
    pixel_tag: int | None  # the tag of the pixel data; None: the data ended before it
    end: int  # byte position: before the pixel data, or behind it where its tag was requested
    syntax: str  # transfer syntax
    has_prefix: bool  # the file has the DICM prefix


def read(data: bytes, tags: Collection[int], inflated_bytes: int | None = None) -> DataSet:
    """Return the elements `tags` that precede the pixel data, and the pixel data if requested.

    A deflated data set is inflated up to `inflated_bytes`. With None it is inflated whole, and more
    than MAX_FILE_BYTES is a Reject. Raises Cut where the data ends too early, Malformed where it
    contradicts the format, and Reject where it is not DICOM.
    """
    has_prefix = data[128:132] == b"DICM"
    position = 132 if has_prefix else 0
    if not has_prefix and data[:2] not in (b"\x02\x00", b"\x08\x00", b"\x00\x08"):
        raise Reject("not-dicom", "no DICM prefix and no first group 0002 or 0008")
    syntax, is_whole = "", True
    for _ in range(MAX_META_GROUPS):
        if data[position : position + 2] != b"\x02\x00":
            break
        # The first group counts, and goes on to its last element, whatever it says of its length.
        meta, position, _ = walk(
            data, position, "<", (TRANSFER_SYNTAX,), is_implicit=False, last_group=2
        )
        syntax = syntax or text(meta, TRANSFER_SYNTAX)
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        data, is_whole = _inflate(data[position:], inflated_bytes)
        position, syntax = 0, uid.ExplicitVRLittleEndian
    syntax = syntax or _guess_syntax(data[position : position + 6])
    order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
    is_implicit = syntax == uid.ImplicitVRLittleEndian
    elements, end, pixel_tag = walk(data, position, order, tags, is_implicit)
    if pixel_tag is None and not is_whole:
        raise Cut("the deflated data ends before the pixel data")
    return DataSet(elements, pixel_tag, end, str(syntax), has_prefix)


def item(elements: Attributes, tag: int, index: int, tags: Collection[int]) -> dict:
    """Return the elements `tags` of item `index` of the sequence `tag`; {} without such an item."""
    return next(items(elements, tag, tags, index), {})


def items(elements: Attributes, tag: int, tags: Collection[int], first: int = 0) -> Iterator[dict]:
    """Yield the elements `tags` of each item of the sequence `tag`, from item `first` on."""
    sequence = elements.get(tag)
    if sequence is None:
        return
    data, position, order = sequence.data, sequence.start, sequence.order
    budget, is_implicit = iter(range(MAX_ELEMENTS)), has_implicit_items(sequence.vr)
    for number in itertools.count():
        if position + 8 > sequence.end:
            return
        group, element, length = struct.unpack_from(order + "HHL", data, position)
        if group << 16 | element != ITEM:
            return
        if number >= first:
            end = sequence.end if length == UNDEFINED else min(position + 8 + length, sequence.end)
            yield walk(data, position + 8, order, tags, is_implicit, end=end)[0]
        position += 8
        if length == UNDEFINED:
            level = Level(is_item=True, is_implicit=is_implicit, tag=tag)
            position = end_of(data, position, order, budget, level)
        else:
            position += length


def _inflate(data: bytes, limit: int | None) -> tuple[bytes, bool]:
    """Return (at most `limit` inflated bytes, whether that is all of them); with None, raise Reject
    for more than MAX_FILE_BYTES."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)  # raw, PS3.5 A.5
    content = inflater.decompress(data, limit or MAX_FILE_BYTES)
    if limit is None and inflater.unconsumed_tail:
        raise Reject("too-large", f"inflates to more than {MAX_FILE_BYTES} bytes")
    return content, inflater.eof


def _guess_syntax(start: bytes) -> str:
    """Guess the uncompressed transfer syntax of a data set from its first six bytes."""
    if start[4:6] not in REPRESENTATIONS:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRBigEndian if start[:1] == b"\0" else uid.ExplicitVRLittleEndian
