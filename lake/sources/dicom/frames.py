"""One frame of a DICOM file: its attributes, its encoded bytes, its decoded pixels.

A frame is only decoded once its codestream is known to expand to the size that the header states.
"""

import struct
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from pydicom.encaps import generate_frames, get_frame
from pydicom.pixels import convert_color_space, get_decoder
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, RLELossless

from lake import Reject
from lake.scan import Header
from lake.sources.codecs import decoders, run_lengths
from lake.sources.codecs.claims import check_claims, read_claims
from lake.sources.dicom import data_set, image_module, words
from lake.sources.dicom.elements import PIXEL_DATA, Attributes, Element, text
from lake.sources.dicom.image_module import FRAMES, PHOTOMETRIC, PLANAR, SAMPLES
from lake.sources.dicom.values import whole_number

EXTENDED_OFFSETS, EXTENDED_LENGTHS = 0x7FE00001, 0x7FE00002
SHARED_GROUPS, FRAME_GROUPS = 0x52009229, 0x52009230
# Functional groups (PS3.3 C.7.6.16.2): plane position and orientation, pixel measures, frame VOI
# LUT, pixel value transformation.
GROUPS = frozenset((0x00209113, 0x00209116, 0x00289110, 0x00289132, 0x00289145))
DECODED_TAGS = image_module.TAGS | {PIXEL_DATA}
TAGS = DECODED_TAGS | words.TAGS | {SHARED_GROUPS, FRAME_GROUPS, EXTENDED_OFFSETS, EXTENDED_LENGTHS}
# Little endian, as all encapsulated data is.
ITEM_TAG, SEQUENCE_END_TAG = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
UNDEFINED_LENGTH = b"\xff\xff\xff\xff"
YBR = ("YBR_FULL", "YBR_FULL_422")  # JPEG 2000 transforms its own YBR back to RGB
COLOUR_BLOCK = 2**18  # pixels that are converted at a time


class Frame(NamedTuple):
    """A decoded frame."""

    values: np.ndarray  # [H, W], or [H, W, 3] RGB
    bits: int  # of a value; a codestream may have others than the header states
    is_signed: bool


def frame_attributes(attributes: Attributes, frame: int, tags: frozenset[int]) -> Attributes:
    """Return the attributes of one frame: its functional groups override those of the data set.

    `tags`: the attributes to look for in the groups; those that decoding needs are never there.
    """
    shared = data_set.item(attributes, SHARED_GROUPS, 0, GROUPS)
    of_frame = data_set.item(attributes, FRAME_GROUPS, frame, GROUPS)
    return attributes | _in_groups(shared, tags) | _in_groups(of_frame, tags)


def each_frame_attributes(
    attributes: Attributes, count: int, tags: frozenset[int]
) -> list[Attributes]:
    """Return frame_attributes of each of `count` frames, in one pass over their groups."""
    groups = data_set.items(attributes, FRAME_GROUPS, GROUPS)
    shared = data_set.item(attributes, SHARED_GROUPS, 0, GROUPS)
    common = attributes | _in_groups(shared, tags)
    return [common | _in_groups(next(groups, {}), tags) for _ in range(count)]


def _in_groups(groups: Attributes, tags: frozenset[int]) -> Attributes:
    """Return the attributes `tags` in functional groups."""
    result = {}
    for group in groups:
        result |= data_set.item(groups, group, 0, tags - DECODED_TAGS)
    return result


def only_fragment(attributes: Attributes) -> memoryview | None:
    """Return the only fragment of encapsulated pixel data as a view, not a copy; None where there
    is not exactly one."""
    element = attributes[PIXEL_DATA]
    view = memoryview(element.data)[element.start : element.end]
    ends = [0]
    for _ in ("basic offset table", "fragment"):  # items: tag, length, value (PS3.5 A.4)
        if len(view) < ends[-1] + 8:
            return None
        tag, length = struct.unpack_from("<4sL", view, ends[-1])
        if tag != ITEM_TAG or ends[-1] + 8 + length > len(view):
            return None
        ends.append(ends[-1] + 8 + length)
    _, table_end, end = ends
    is_last = len(view) == end or bytes(view[end : end + 4]) == SEQUENCE_END_TAG
    return view[table_end + 8 : end] if is_last else None


def is_encapsulated(element: Element) -> bool:
    """Return whether the pixel data are encapsulated frames: of undefined length, or items."""
    length = element.data[element.start - 4 : element.start]
    return length == UNDEFINED_LENGTH or element.data[element.start : element.start + 4] == ITEM_TAG


def read_codestream(attributes: Attributes, frame: int) -> bytes:
    """Return the codestream of one frame of encapsulated pixel data."""
    tags = (EXTENDED_OFFSETS, EXTENDED_LENGTHS)
    offsets = tuple(attributes[tag].value for tag in tags if tag in attributes)
    return get_frame(
        attributes[PIXEL_DATA].value,
        frame,
        number_of_frames=whole_number(attributes, FRAMES) or 1,
        extended_offsets=offsets if len(offsets) == 2 and all(offsets) else None,
    )


def decode_frame(attributes: Attributes, syntax: str, header: Header) -> Frame:
    """Return a decoded frame: stored values [H, W], or RGB [H, W, 3] of colours.

    Raises Reject where there is no decoder, the frame would decode to another size, or it is
    unclear which bits are the pixels.
    """
    decoders.check_syntax(syntax)
    layout = words.read_layout(attributes)
    if is_encapsulated(attributes[PIXEL_DATA]):
        return _encapsulated_frame(attributes, syntax, header, layout)
    return _native_frame(attributes, syntax, header, layout)


def decode_frames(
    attributes: Attributes, syntax: str, header: Header, count: int, numbers: Collection[int]
) -> Iterator[tuple[int, Frame]]:
    """Yield (number, frame) of the frames with these `numbers`, of `count`, in their order: decoded
    as `decode_frame` does, in one pass over the file."""
    decoders.check_syntax(syntax)
    layout = words.read_layout(attributes)
    if not is_encapsulated(attributes[PIXEL_DATA]):
        for number in sorted(numbers):
            yield number, _native_frame(attributes, syntax, replace(header, frame=number), layout)
        return
    codestreams = generate_frames(attributes[PIXEL_DATA].value, number_of_frames=count)
    for number, codestream in zip(range(count), codestreams, strict=False):
        if number in numbers:
            yield number, _decode_codestream(codestream, attributes, syntax, header, layout)


def with_layout(attributes: Attributes, frame: Frame) -> Attributes:
    """Return the attributes with the bits and the sign that the values have, whatever the header
    says."""
    bits, sign = (struct.pack("<H", number) for number in (frame.bits, frame.is_signed))
    layout = {image_module.BITS_STORED: bits, image_module.SIGNED: sign}
    return attributes | {tag: Element(b"US", data, 0, 2, "<") for tag, data in layout.items()}


def _native_frame(
    attributes: Attributes, syntax: str, header: Header, layout: words.Layout
) -> Frame:
    """Return a frame of uncompressed pixel data; raise Reject where the transfer syntax is of
    encapsulated ones."""
    element, photometric = attributes[PIXEL_DATA], text(attributes, PHOTOMETRIC)
    samples, count = (whole_number(attributes, tag) or 1 for tag in (SAMPLES, FRAMES))
    num_bytes = header.height * header.width * samples * count * layout.allocated // 8
    if UID(syntax).is_encapsulated and element.end - element.start - num_bytes not in (0, 1):
        raise Reject(
            "undecodable", f"the transfer syntax says {UID(syntax).name}, the pixel data are native"
        )
    decoder = get_decoder(ExplicitVRBigEndian if element.order == ">" else ExplicitVRLittleEndian)
    samples, _ = decoder.as_array(
        memoryview(element.data)[element.start : element.end],
        index=header.frame,
        raw=True,
        rows=header.height,
        columns=header.width,
        number_of_frames=count,
        samples_per_pixel=samples,
        photometric_interpretation=photometric,
        planar_configuration=whole_number(attributes, PLANAR),
        bits_allocated=layout.allocated,
        bits_stored=layout.stored,
        pixel_representation=0,
        pixel_keyword="PixelData",
        pixel_vr="OB" if element.vr == b"OB" else "OW",
        correct_unused_bits=False,
        view_only=layout.allocated > 8,  # others are copied, or unpacked
    )
    values = words.values_of_words(samples, layout)
    if values.ndim == 3 and photometric in YBR:
        values = _rgb(values)
    return Frame(values, layout.stored, layout.is_signed)


def _encapsulated_frame(
    attributes: Attributes, syntax: str, header: Header, layout: words.Layout
) -> Frame:
    """Return an encapsulated frame, read by its own code, whatever the transfer syntax says."""
    codestream = read_codestream(attributes, header.frame)
    return _decode_codestream(codestream, attributes, syntax, header, layout)


def _decode_codestream(
    codestream: bytes, attributes: Attributes, syntax: str, header: Header, layout: words.Layout
) -> Frame:
    """Return the frame of a codestream; raise Reject where no decoder reads it, or it is of another
    size than the header says."""
    photometric = text(attributes, PHOTOMETRIC)
    is_run_lengths = run_lengths.is_header(codestream)
    claims = None if is_run_lengths else read_claims(codestream)
    shape = (header.height, header.width, whole_number(attributes, SAMPLES) or 1)
    if claims is not None:
        check_claims(codestream, claims, *shape)
        samples = decoders.decode(codestream, claims)
        values, bits = words.values_of_code(samples, claims, layout)
        is_ybr = claims.colours == "YBR" or (photometric in YBR and claims.colours != "RGB")
    elif is_run_lengths or syntax == RLELossless:
        samples = run_lengths.decode(codestream, shape, layout.allocated)
        values, bits, is_ybr = (
            words.values_of_words(samples, layout),
            layout.stored,
            photometric in YBR,
        )
    elif not UID(syntax).is_encapsulated:
        raise Reject(
            "undecodable",
            f"the transfer syntax says {UID(syntax).name}, the pixel data are encapsulated",
        )
    else:
        raise Reject("undecodable", "the codestream has no frame header; it may be cut off")
    if values.ndim == 3 and is_ybr:
        values = _rgb(values)
    return Frame(values, bits, layout.is_signed)


def _rgb(values: np.ndarray) -> np.ndarray:
    """Return YCbCr colours [H, W, 3] as RGB; of more than 8 bits, as greys of their luma."""
    if values.dtype != np.uint8:
        return np.broadcast_to(values[..., :1], values.shape)
    result, step = np.empty_like(values), max(1, COLOUR_BLOCK // values.shape[1])
    for start in range(0, len(values), step):  # as floats they take eight times the memory
        block = values[start : start + step]
        result[start : start + step] = convert_color_space(block, "YBR_FULL", "RGB")
    return result
