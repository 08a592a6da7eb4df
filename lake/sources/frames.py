"""One frame of a DICOM file: its attributes, its encoded bytes, its decoded pixels.

A frame is only decoded once its codestream is known to expand to the size that the header states.
"""

import struct

import numpy as np
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import apply_color_lut
from pydicom.tag import BaseTag
from pydicom.uid import UID, RLELossless

from lake.scan import Header
from lake.sources import codestream, decoders, elements
from lake.sources.elements import PIXEL_DATA, Attributes, Element, text, whole_number

SAMPLES, PHOTOMETRIC, FRAMES, ROWS = 0x00280002, 0x00280004, 0x00280008, 0x00280010
COLUMNS, BITS_ALLOCATED, BITS_STORED, SIGNED = 0x00280011, 0x00280100, 0x00280101, 0x00280103
PALETTE = 0x00281101  # descriptor of red; green, blue, then the data, plain and segmented
EXTENDED_OFFSETS, EXTENDED_LENGTHS = 0x7FE00001, 0x7FE00002
SHARED_GROUPS, FRAME_GROUPS = 0x52009229, 0x52009230
# Functional groups (PS3.3 C.7.6.16.2): plane position, pixel measures, frame VOI LUT, pixel value
# transformation.
GROUPS = frozenset((0x00209113, 0x00289110, 0x00289132, 0x00289145))
# The attributes that decoding needs: the Image Pixel module with its palettes.
DECODED_TAGS = frozenset(
    (
        *(SAMPLES, PHOTOMETRIC, 0x00280006, FRAMES, ROWS, COLUMNS, BITS_ALLOCATED, BITS_STORED),
        *(0x00280102, SIGNED, *range(PALETTE, PALETTE + 3), *range(0x00281201, 0x00281204)),
        *(*range(0x00281221, 0x00281224), PIXEL_DATA),
    )
)
TAGS = DECODED_TAGS | {SHARED_GROUPS, FRAME_GROUPS, EXTENDED_OFFSETS, EXTENDED_LENGTHS}
# Little endian, as all encapsulated data is.
ITEM_TAG, SEQUENCE_END_TAG = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"


def frame_attributes(attributes: Attributes, frame: int, tags: frozenset[int]) -> Attributes:
    """Return the attributes of one frame: its functional groups override those of the data set.

    `tags`: the attributes to look for in the groups; those that decoding needs are never there.
    """
    result = dict(attributes)
    for sequence, index in ((SHARED_GROUPS, 0), (FRAME_GROUPS, frame)):
        groups = elements.item(attributes, sequence, index, GROUPS)
        for group in groups:
            result |= elements.item(groups, group, 0, tags - DECODED_TAGS)
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


def decode_frame(attributes: Attributes, syntax: str, header: Header) -> np.ndarray:
    """Return a decoded frame: stored values [H, W], or RGB [H, W, 3] of colours and palettes.

    Raises Reject where there is no decoder or the frame would decode to another size.
    """
    uid = UID(syntax)
    decoder, plugin = decoders.find(uid)
    dataset = _image_pixel_module(attributes, uid)
    index = 0 if decoder.is_encapsulated else header.frame
    if decoder.is_encapsulated:
        frame = read_codestream(attributes, header.frame)
        _check_expansion(frame, uid, header, attributes)
        dataset.NumberOfFrames = 1
        dataset.add_new(PIXEL_DATA, "OB", encapsulate([frame], has_bot=False))
    pixels, _ = decoder.as_array(dataset, index=index, decoding_plugin=plugin)
    if text(attributes, PHOTOMETRIC) != "PALETTE COLOR":
        return pixels
    return _in_bits(apply_color_lut(pixels, dataset)[..., :3], header.bits)


def _check_expansion(frame: bytes, uid: UID, header: Header, attributes: Attributes) -> None:
    """Raise Reject unless the frame will decode to the size that the header states."""
    samples = whole_number(attributes, SAMPLES) or 1
    if uid == RLELossless:
        sample_bytes = (whole_number(attributes, BITS_ALLOCATED) + 7) // 8
        codestream.check_runs(frame, header.height * header.width, samples * sample_bytes)
        return
    codestream.check_claims(frame, header.height, header.width, samples)
    if uid in decoders.BY_IMAGECODECS:
        codestream.check_end(frame)


def _image_pixel_module(attributes: Attributes, uid: UID) -> Dataset:
    """Return the attributes as the data set that pydicom's decoders take."""
    is_little = attributes[ROWS].order == "<"
    tags = sorted(map(BaseTag, DECODED_TAGS & attributes.keys()))
    dataset = Dataset({tag: _raw(tag, attributes[tag]) for tag in tags})
    dataset.set_original_encoding(attributes[ROWS].vr is None, is_little)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid
    return dataset


def _raw(tag: BaseTag, element: Element) -> RawDataElement:
    """Return an element as pydicom holds one that it has read but not yet parsed."""
    vr = element.vr.decode() if element.vr else None
    return RawDataElement(
        *(tag, vr, element.end - element.start, element.value),
        value_tell=0,
        is_implicit_VR=vr is None,
        is_little_endian=element.order == "<",
    )


def _in_bits(colours: np.ndarray, bits: int) -> np.ndarray:
    """Return colours [H, W, 3] scaled to the bits that the palette's descriptor states; its entries
    may have others."""
    if colours.dtype == np.uint8:
        return colours if bits <= 8 else colours.astype(np.uint16) * 257
    return colours >> 8 if bits <= 8 and colours.max() > 255 else colours
