"""DICOM files: their bytes become one Header per frame, and the Scan of one frame.

The codestream of a grey 8-bit JPEG-Baseline image is stored as it is. Everything else is decoded
(decoders.py) and becomes grey levels, where larger is brighter. A file that cannot become an image
is a Reject:

not-dicom           no DICM prefix, and no image data set without one
unreadable-header   elements that contradict the format, or the file ends inside them
no-pixels           a report, a plan, a waveform ...: no pixel data, or pixels of no size
no-uid              the image id is taken from the SOP Instance UID, and there is none
multi-frame         more than one frame, and `frames` is reject
too-many-bits       more than 16 bits, or floating point: a record holds at most 16
too-large           a file, or what it would expand to, is beyond the bounds of lake/scan.py
unsupported-syntax  a transfer syntax (video, a private one) that decoders.py does not list
unknown-colour      a photometric interpretation that has no conversion to grey
undecodable         pixel data is cut off, damaged, or contradicts the header
"""

import io
import math
import re
from dataclasses import replace
from typing import BinaryIO

import numpy as np
from PIL import Image
from pydicom import uid

from lake import Reject, ids, scan
from lake.scan import FRAME_BITS, MAX_FILE_BYTES, Coding, Header, Scan, Storage, frame_id
from lake.sources import pixels
from lake.sources.codecs.codestream import bare_jpeg
from lake.sources.codecs.decoders import LOSSLESS_JPEG, LOSSY_JPEG
from lake.sources.damage import reject_damage
from lake.sources.dicom import (
    data_set,
    elements,
    examination,
    frames,
    grey,
    image_module,
    lookup,
    padding,
    vocabulary,
)
from lake.sources.dicom.elements import PIXEL_DATA, Attributes, text
from lake.sources.dicom.image_module import BITS_STORED, COLOURS, COLUMNS, FRAMES, PHOTOMETRIC, ROWS
from lake.sources.dicom.values import numbers, whole_number

SOP_UID, MODALITY, STUDY_UID, SERIES_UID = 0x00080018, 0x00080060, 0x0020000D, 0x0020000E
PATIENT_ID, SEX, AGE, VIEW = 0x00100020, 0x00100040, 0x00101010, 0x00185101
POSITION = 0x00200032
# Row and column distances, the most trusted first: at the patient, at the detector, on the film.
PIXEL_SPACING, IMAGER_SPACING, SCANNED_SPACING = 0x00280030, 0x00181164, 0x00182010
SPACINGS = (PIXEL_SPACING, IMAGER_SPACING, SCANNED_SPACING)
HEADER_TAGS = frozenset(
    (
        *(SOP_UID, MODALITY, STUDY_UID, SERIES_UID, PATIENT_ID, SEX, AGE, VIEW),
        *(*image_module.TAGS, image_module.PALETTE, grey.MODALITY_LUTS, grey.SOP_CLASS),
    )
)
LISTED_TAGS = HEADER_TAGS | examination.TAGS
SCAN_TAGS = grey.TAGS | lookup.PALETTE_TAGS | frames.TAGS | {*SPACINGS, POSITION}
# Nearly every header ends within the first size; a file of many frames may have megabytes of it.
HEADER_BYTES = (2**16, 2**20, 2**26)
# Families of transfer syntaxes with like costs of decoding; any other is `uncompressed`.
CODINGS = {
    **dict.fromkeys(LOSSY_JPEG, "jpeg"),
    **dict.fromkeys(LOSSLESS_JPEG, "jpeg-lossless"),
    **dict.fromkeys(uid.JPEGLSTransferSyntaxes, "jpeg-ls"),
    **dict.fromkeys((uid.JPEG2000Lossless, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL), "jpeg-2000"),
    **dict.fromkeys((uid.JPEG2000, uid.HTJ2K), "jpeg-2000-lossy"),
    uid.RLELossless: "rle",
}
LOSSY_SYNTAXES = LOSSY_JPEG | {uid.JPEG2000, uid.HTJ2K, uid.JPEGLSNearLossless}


def read_headers(
    file: BinaryIO, path: str, size: int, image_id_from: str, frames: str
) -> list[Header]:
    """Return the Headers of the DICOM file `path`: one, or with frames="each" one per frame. Raises
    Reject.

    `image_id_from` is "name", the file's, or "uid", its SOP Instance UID. A file of more than one
    frame is a Reject with frames="reject"; with "first" its first frame stands for it.
    """
    dataset = before_pixels(file, path, LISTED_TAGS)
    with reject_damage("unreadable-header", path):
        attributes = image_module.complete(dataset.elements, dataset.syntax)
        header = _header(attributes, path, size, image_id_from)
        count = whole_number(attributes, FRAMES) or 1
    if count <= 1 or frames == "first":
        return [header]
    if frames == "reject":
        raise Reject(
            "multi-frame",
            f"{path}: {count} frames, expected one; choose --frames first or --frames each",
        )
    if count > 2**FRAME_BITS:
        raise Reject("too-large", f"{path}: {count} frames, expected at most {2**FRAME_BITS}")
    return [replace(header, frame=k, image_id=frame_id(header.image_id, k)) for k in range(count)]


def read_coding(file: BinaryIO, header: Header, storage: Storage) -> Coding:
    """Return the coding of the image's pixels, from the header of the file alone; raises Reject."""
    dataset = before_pixels(file, header.path, SCAN_TAGS - {PIXEL_DATA})
    with reject_damage("unreadable-header", header.path):
        attributes = frame_attributes(dataset, header.frame)
        num_bytes = max(header.size - dataset.end, 0) // (whole_number(attributes, FRAMES) or 1)
        is_kept = _is_storable_unchanged(attributes, dataset.syntax, header, storage)
        channels = whole_number(attributes, image_module.SAMPLES)
    return Coding(CODINGS.get(dataset.syntax, "uncompressed"), num_bytes, is_kept, channels)


def read_scan(data: bytes, header: Header, storage: Storage) -> Scan:
    """Return the frame `header` of a file as a lake stores it; raises Reject."""
    with reject_damage("undecodable", header.path):
        if len(data) > MAX_FILE_BYTES:
            raise Reject("too-large", f"{len(data):,} bytes, expected at most {MAX_FILE_BYTES:,}")
        dataset = data_set.read(data, SCAN_TAGS)
        attributes = frame_attributes(dataset, header.frame)
        grey.check_rescale(attributes, header.modality)
        jpeg = _kept_jpeg(attributes, dataset.syntax, header, storage)
        if jpeg is not None:
            return _kept_scan(jpeg, attributes, header, storage)
        levels, *rest, is_padding = _grey(attributes, dataset.syntax, header, storage)
        spacing_mm, slice_mm = spacing(attributes), _slice_mm(attributes)
        return pixels.store(levels, *rest, spacing_mm, storage, slice_mm, is_padding)


def frame_attributes(dataset: data_set.DataSet, frame: int) -> Attributes:
    """Return the attributes of one frame of a file, as `complete` has them."""
    return complete(frames.frame_attributes(dataset.elements, frame, SCAN_TAGS), dataset.syntax)


def complete(attributes: Attributes, syntax: str) -> Attributes:
    """Return the attributes of a frame with a whole Image Pixel Module; raise Reject where its
    pixel data is there, but empty."""
    data = attributes.get(PIXEL_DATA)
    if data is not None and data.start == data.end:
        raise Reject("no-pixels", "(7FE0,0010) Pixel Data is empty: not an image; leave it out")
    return image_module.complete(attributes, syntax)


def file_stem(path: str) -> str:
    """Return the file's name without an ending of DICOM; other endings, parts of a UID, stay."""
    name = re.split(r"[/\\]", path)[-1]
    stem, ending = ids.split_ending(name)
    return stem if ending in ids.DICOM_ENDINGS else name


def before_pixels(file: BinaryIO, path: str, tags: frozenset[int]) -> data_set.DataSet:
    """Return the elements `tags` before the pixel data, reading no more of the file than needed;
    raise Reject where there are none, or pixels of floating point."""
    file_start = b""
    for size in HEADER_BYTES:
        file_start += file.read(size - len(file_start))
        with reject_damage("unreadable-header", path):
            try:
                dataset = data_set.read(file_start, tags, inflated_bytes=size)
            except elements.Cut:
                dataset = None
        if dataset and dataset.pixel_tag:
            if dataset.pixel_tag != PIXEL_DATA:
                raise Reject(
                    "too-many-bits",
                    f"{path}: floating-point pixels, expected integers of at most 16 bits; leave "
                    f"it out",
                )
            return dataset
    if dataset is None:
        raise Reject(
            "unreadable-header",
            f"{path}: the file ends, or its header goes on, inside an element; copy it again",
        )
    if not dataset.has_prefix:
        raise Reject("not-dicom", f"{path}: no DICM prefix and no pixel data; leave it out")
    raise Reject("no-pixels", f"{path}: no (7FE0,0010) Pixel Data: not an image; leave it out")


def _header(attributes: Attributes, path: str, size: int, image_id_from: str) -> Header:
    """Return the Header of a file's first frame; raise Reject where the elements describe no image
    that a record can hold."""
    height, width = whole_number(attributes, ROWS), whole_number(attributes, COLUMNS)
    bits = _bits(attributes)
    if not (height > 0 and width > 0 and bits > 0):
        raise Reject("no-pixels", "no Rows, Columns and Bits Stored: not an image; leave it out")
    scan.check_pixels(height, width)
    if bits > 16:
        raise Reject("too-many-bits", f"{bits} bits per pixel, expected at most 16; leave it out")
    sop_uid = text(attributes, SOP_UID)
    if image_id_from == "uid" and not sop_uid:
        raise Reject("no-uid", "no (0008,0018) SOP Instance UID for the image id; use file names")
    image_id = sop_uid if image_id_from == "uid" else file_stem(path)
    return Header(
        *(path, size, image_id, height, width, bits),
        patient=text(attributes, PATIENT_ID),
        study=text(attributes, STUDY_UID),
        series=text(attributes, SERIES_UID),
        view=vocabulary.word_of(vocabulary.VIEWS, text(attributes, VIEW)),
        sex=vocabulary.word_of(vocabulary.SEXES, text(attributes, SEX)),
        age=vocabulary.age_years(text(attributes, AGE)),
        modality=vocabulary.word_of(vocabulary.MODALITIES, text(attributes, MODALITY)),
        exam=examination.read(attributes),
    )


def _bits(attributes: Attributes) -> int:
    """Return the bits of a grey level: those of the palette or Modality LUT, if the file has
    one."""
    if text(attributes, PHOTOMETRIC) == "PALETTE COLOR":
        return lookup.palette_bits(attributes)
    is_grey = whole_number(attributes, image_module.SAMPLES) == 1
    table = grey.modality_table(attributes) if is_grey else None
    return table.bits if table else whole_number(attributes, BITS_STORED)


def _kept_jpeg(
    attributes: Attributes, syntax: str, header: Header, storage: Storage
) -> bytes | None:
    """Return the file's own JPEG where a lake may store it unchanged, else None."""
    if not _is_storable_unchanged(attributes, syntax, header, storage):
        return None
    if not frames.is_encapsulated(attributes[PIXEL_DATA]):  # whatever the transfer syntax says
        return None
    frame = frames.only_fragment(attributes) if header.frame == 0 else None
    frame = frame or frames.read_codestream(attributes, header.frame)
    return bare_jpeg(frame, header.height, header.width)


def _is_storable_unchanged(
    attributes: Attributes, syntax: str, header: Header, storage: Storage
) -> bool:
    """Return whether a lake may store the JPEG unchanged, as far as the DICOM header tells."""
    return (
        syntax == uid.JPEGBaseline8Bit
        and pixels.is_stored_unchanged(8, header.height, header.width, storage)
        and text(attributes, PHOTOMETRIC) == "MONOCHROME2"
        and whole_number(attributes, BITS_STORED) == 8
        and not whole_number(attributes, image_module.SIGNED)
        and not (grey.MODALITY_LUTS in attributes and grey.modality_table(attributes))
        and grey.rescale(attributes)[0] > 0
        and padding.is_dark(attributes)
        and not (storage.window == "default" and grey.has_curve(attributes))
    )


def _kept_scan(jpeg: bytes, attributes: Attributes, header: Header, storage: Storage) -> Scan:
    """Return the Scan of a JPEG that is stored unchanged."""
    rescale = grey.rescale(attributes)
    window = grey.window(attributes, *rescale, whole=(0.0, 255.0))
    if storage.window != "default":
        levels = np.asarray(Image.open(io.BytesIO(jpeg)))
        is_padding = padding.mask(levels, attributes, is_lossy=True)
        window = pixels.view(storage.window, window, rescale, levels, is_padding)
    size, spacing_mm = (header.height, header.width), spacing(attributes)
    is_flat = pixels.is_flat_code(jpeg, *size, window)
    slice_mm = _slice_mm(attributes)
    return Scan(jpeg, "jpeg-kept", *size, spacing_mm, rescale, window, slice_mm, is_flat)


def _grey(attributes: Attributes, syntax: str, header: Header, storage: Storage) -> grey.Grey:
    """Return the decoded frame as grey levels; raise Reject for colours without a conversion."""
    photometric = text(attributes, PHOTOMETRIC)
    samples = whole_number(attributes, image_module.SAMPLES)
    if not photometric:
        raise Reject(
            "unknown-colour",
            f"(0028,0004) Photometric Interpretation is missing, and {samples} samples per pixel "
            f"can be of several; add it",
        )
    is_grey = photometric in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR") and samples == 1
    if not is_grey and not (photometric in COLOURS and samples == 3):
        raise Reject(
            "unknown-colour",
            f"the Photometric Interpretation, with {samples} samples per pixel, is none of "
            f"MONOCHROME1, MONOCHROME2 and PALETTE COLOR with 1, or {sorted(COLOURS)} with 3; "
            f"convert the file",
        )
    frame = frames.decode_frame(attributes, syntax, header)
    if photometric == "PALETTE COLOR":
        return grey.from_colour(lookup.colours(frame.values, attributes), header.bits)
    if frame.values.ndim == 3:
        return grey.from_colour(frame.values, frame.bits)
    return grey.from_values(
        frame.values,
        frames.with_layout(attributes, frame),
        is_monochrome1=photometric == "MONOCHROME1",
        is_presented=storage.window == "default",
        is_lossy=syntax in LOSSY_SYNTAXES,
    )


def spacing(attributes: Attributes) -> tuple[float, float]:
    """Return (row, column) spacing of the pixels in mm, the first of SPACINGS that is sound; (0, 0)
    where none is."""
    for tag in SPACINGS:
        values = numbers(attributes, tag)
        if len(values) == 2 and all(0 < mm <= grey.LARGEST for mm in values):
            return values[0], values[1]
    return 0.0, 0.0


def _slice_mm(attributes: Attributes) -> float:
    """Return the world z of a slice; NaN where the file has no sound position."""
    position = numbers(attributes, POSITION)
    is_sound = len(position) == 3 and abs(position[2]) <= grey.LARGEST
    return position[2] if is_sound else math.nan
