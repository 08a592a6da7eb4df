"""Images in DICOM files: bytes -> Headers of its frames, bytes -> Scan of one.

A grey 8-bit JPEG-Baseline image leaves its DICOM capsule as it is; everything else is decoded with
pydicom and becomes grey levels, upright in meaning: larger is brighter. What cannot is a Reject:

not-dicom           no DICM prefix, and no image data set without one
unreadable-header   elements that contradict the format, or the file ends inside them
no-pixels           a report, a plan, a waveform ...: no pixel data, or pixels of no size
no-uid              the image id was to be the SOP Instance UID, and there is none
multi-frame         more than one frame, and `frames` says reject
too-many-bits       more than 16 bits, or floating point: no record holds them
too-large           a file, an image or what they would expand to beyond the bounds of lake.sources
unsupported-syntax  a transfer syntax (video, a private one) that no installed decoder reads
unknown-colour      a photometric interpretation without a way to grey
undecodable         pixel data cut off, damaged, or other than the header says
"""

import io
import math
import re
from typing import BinaryIO

import numpy as np
from PIL import Image
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from lake import Reject
from lake.scan import (
    FRAME_BITS,
    MAX_FILE_BYTES,
    MAX_PIXELS,
    Coding,
    Header,
    Scan,
    Storage,
    frame_id,
)
from lake.sources import elements, frames, grey, pixels
from lake.sources.codestream import bare_jpeg
from lake.sources.damage import broken_is
from lake.sources.elements import PIXEL_DATA, Element, numbers, text, whole_number
from lake.sources.frames import (
    BITS_ALLOCATED,
    BITS_STORED,
    COLUMNS,
    FRAMES,
    PALETTE,
    PHOTOMETRIC,
    ROWS,
    SAMPLES,
    SIGNED,
)

# Closed vocabularies: free text in these elements could name a person.
VIEWS = frozenset(("PA", "AP", "LL", "RL", "LLD", "RLD", "LLO", "RLO"))
SEXES = frozenset(("M", "F", "O"))
MODALITIES = frozenset(("CR", "DX", "CT", "MR", "MG", "PT", "US", "XA", "RF", "SC", "OT"))
YEARS_PER_UNIT = {
    "Y": 1,
    "M": 1 / 12,
    "W": 7 / 365.25,
    "D": 1 / 365.25,
    "": 1,
}  # SIIM's ages have no unit
AGE_CAP = 90  # HIPAA's safe harbour: 90 and over are one group

SOP_UID, MODALITY, STUDY_UID, SERIES_UID = 0x00080018, 0x00080060, 0x0020000D, 0x0020000E
PATIENT_ID, SEX, AGE, VIEW = 0x00100020, 0x00100040, 0x00101010, 0x00185101
PIXEL_SPACING, IMAGER_SPACING, POSITION = 0x00280030, 0x00181164, 0x00200032
HEADER_TAGS = frozenset(
    (
        *(SOP_UID, MODALITY, STUDY_UID, SERIES_UID, PATIENT_ID, SEX, AGE, VIEW),
        *(FRAMES, ROWS, COLUMNS, BITS_ALLOCATED, BITS_STORED, PHOTOMETRIC, PALETTE),
        grey.MODALITY_LUTS,
    )
)
SCAN_TAGS = grey.TAGS | frames.TAGS | {PIXEL_SPACING, IMAGER_SPACING, POSITION}
# Nearly every header ends in the first part; a file of many frames may have megabytes of them.
HEADER_BYTES = (2**16, 2**20, 2**26)
# Families of transfer syntaxes that cost alike; any other is `uncompressed`.
CODINGS = {
    **dict.fromkeys((JPEGBaseline8Bit, JPEGExtended12Bit), "jpeg"),
    **dict.fromkeys((JPEGLossless, JPEGLosslessSV1), "jpeg-lossless"),
    **dict.fromkeys((JPEGLSLossless, JPEGLSNearLossless), "jpeg-ls"),
    **dict.fromkeys((JPEG2000Lossless, HTJ2KLossless, HTJ2KLosslessRPCL), "jpeg-2000"),
    **dict.fromkeys((JPEG2000, HTJ2K), "jpeg-2000-lossy"),
    RLELossless: "rle",
}
COLOURS = frozenset(("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"))


def read_headers(
    file: BinaryIO, path: str, size: int, image_id_from: str, frames: str
) -> list[Header]:
    """Headers of the DICOM file `path`: one, or with frames="each" one a frame.

    The image's id is the file's "name" or its SOP Instance "uid"; with frames="reject" a file of
    more than one frame is a Reject, with "first" its first frame stands for it.
    """
    if size > MAX_FILE_BYTES:
        raise Reject(
            "too-large", f"{path}: {size} bytes, expected at most {MAX_FILE_BYTES}; leave it out"
        )
    found = _before_pixels(file, path, HEADER_TAGS).elements
    with broken_is("unreadable-header", path):
        header = _header(found, path, size, image_id_from)
        count = whole_number(found, FRAMES) or 1
    if count <= 1 or frames == "first":
        return [header]
    if frames == "reject":
        raise Reject(
            "multi-frame",
            f"{path}: {count} frames, expected one; choose --frames first or --frames each",
        )
    if count > 2**FRAME_BITS:
        raise Reject("too-large", f"{path}: {count} frames, expected at most {2**FRAME_BITS}")
    values = vars(header)
    return [
        Header(**values | {"frame": k, "image_id": frame_id(header.image_id, k)})
        for k in range(count)
    ]


def read_coding(file: BinaryIO, header: Header, storage: Storage) -> Coding:
    """How the pixels of the image are coded; no more of the file is read than its header."""
    parsed = _before_pixels(file, header.path, SCAN_TAGS - {PIXEL_DATA})
    with broken_is("unreadable-header", header.path):
        found = frames.of_frame(parsed.elements, header.frame, SCAN_TAGS)
        num_bytes = max(header.size - parsed.end, 0) // (whole_number(found, FRAMES) or 1)
        is_kept = _is_right_as_it_is(found, parsed.syntax, header, storage)
        channels = whole_number(found, SAMPLES) or 1
    return Coding(CODINGS.get(parsed.syntax, "uncompressed"), num_bytes, is_kept, channels)


def read_scan(data: bytes, header: Header, storage: Storage) -> Scan:
    """The image as a lake stores it."""
    if len(data) > MAX_FILE_BYTES:
        raise Reject(
            "too-large", f"{header.path}: {len(data)} bytes, expected at most {MAX_FILE_BYTES}"
        )
    with broken_is("undecodable", header.path):
        parsed = elements.read(data, SCAN_TAGS)
        found = frames.of_frame(parsed.elements, header.frame, SCAN_TAGS)
        if PIXEL_DATA not in found:
            raise Reject("no-pixels", "no (7FE0,0010) Pixel Data")
        kept = _kept_jpeg(found, parsed.syntax, header, storage)
        if kept is not None:
            return _kept_scan(kept, found, header, storage)
        levels, highest, rescale, window = _grey(found, parsed.syntax, header, storage)
        spacing_mm, slice_mm = _spacing_mm(found), _slice_mm(found)
        return pixels.store(levels, highest, rescale, window, spacing_mm, storage, slice_mm)


def spacing_mm(data: bytes) -> tuple[float, float]:
    """(row, column) between the pixels of a file of one frame; 0, 0 when unknown."""
    return _spacing_mm(elements.read(data, frozenset((PIXEL_SPACING, IMAGER_SPACING))).elements)


def file_stem(path: str) -> str:
    name = re.split(r"[/\\]", path)[-1]
    return name[:-4] if name.lower().endswith(".dcm") else name


def age_years(value: str) -> int:
    """Whole years of a DICOM age string, 90 for 90 and over, -1 when unknown or impossible."""
    match = re.fullmatch(r"(\d{1,3})([DWMY]?)", value.strip().upper())
    if not match:
        return -1
    years = int(int(match[1]) * YEARS_PER_UNIT[match[2]])
    return min(years, AGE_CAP) if years <= 120 else -1


def _before_pixels(file: BinaryIO, path: str, tags: frozenset[int]) -> elements.DataSet:
    """The elements `tags` before the pixel data; reads no more of the file than it needs."""
    data = b""
    for size in HEADER_BYTES:
        data += file.read(size - len(data))
        with broken_is("unreadable-header", path):
            try:
                parsed = elements.read(data, tags, inflated_bytes=size)
            except elements.Cut:
                parsed = None
        if parsed and parsed.pixel_tag:
            return _of_integers(parsed, path)
    if parsed is None:
        raise Reject(
            "unreadable-header",
            f"{path}: the file ends, or its header goes on, inside an element; copy it again",
        )
    if not parsed.has_prefix:
        raise Reject("not-dicom", f"{path}: no DICM prefix and no pixel data; leave it out")
    raise Reject("no-pixels", f"{path}: no (7FE0,0010) Pixel Data: not an image; leave it out")


def _of_integers(parsed: elements.DataSet, path: str) -> elements.DataSet:
    if parsed.pixel_tag != PIXEL_DATA:
        raise Reject(
            "too-many-bits",
            f"{path}: floating-point pixels, expected integers of at most 16 bits; leave it out",
        )
    return parsed


def _header(found: dict[int, Element], path: str, size: int, image_id_from: str) -> Header:
    height, width, bits = whole_number(found, ROWS), whole_number(found, COLUMNS), _bits(found)
    if not (height > 0 and width > 0 and bits > 0):
        raise Reject("no-pixels", "no Rows, Columns and Bits Stored: not an image; leave it out")
    if height * width > MAX_PIXELS:
        raise Reject(
            "too-large", f"{height} x {width} pixels, expected at most {MAX_PIXELS}; leave it out"
        )
    if bits > 16:
        raise Reject("too-many-bits", f"{bits} bits a pixel, expected at most 16; leave it out")
    uid = text(found, SOP_UID)
    if image_id_from == "uid" and not uid:
        raise Reject(
            "no-uid", "no (0008,0018) SOP Instance UID to take the image id from; use file names"
        )
    return Header(
        path=path,
        size=size,
        image_id=uid if image_id_from == "uid" else file_stem(path),
        patient=text(found, PATIENT_ID),
        study=text(found, STUDY_UID),
        series=text(found, SERIES_UID),
        height=height,
        width=width,
        bits=bits,
        view=_one_of(VIEWS, text(found, VIEW)),
        sex=_one_of(SEXES, text(found, SEX)),
        age=age_years(text(found, AGE)),
        modality=_one_of(MODALITIES, text(found, MODALITY)),
    )


def _bits(found: dict[int, Element]) -> int:
    """Bits of a grey level that the pixels become: those of the table that they go through."""
    if text(found, PHOTOMETRIC) == "PALETTE COLOR":
        return int((numbers(found, PALETTE) or [0, 0, 0])[-1])
    table = grey.modality_table(found) if grey.MODALITY_LUTS in found else None
    if table:
        return table.bits
    return whole_number(found, BITS_STORED) or whole_number(found, BITS_ALLOCATED)


def _one_of(vocabulary: frozenset[str], value: str) -> str:
    return value.upper() if value.upper() in vocabulary else ""


def _kept_jpeg(
    found: dict[int, Element], syntax: str, header: Header, storage: Storage
) -> bytes | None:
    """The file's own JPEG where it is right as it stands, else None."""
    if not _is_right_as_it_is(found, syntax, header, storage):
        return None
    frame = frames.only_fragment(found) if header.frame == 0 else None
    frame = frame or frames.encoded(found, header.frame)
    return bare_jpeg(frame, header.height, header.width)


def _is_right_as_it_is(
    found: dict[int, Element], syntax: str, header: Header, storage: Storage
) -> bool:
    """Whether the header says so of a JPEG; what its frame says is not looked at."""
    height, width = header.height, header.width
    return (
        syntax == JPEGBaseline8Bit
        and storage.bits == 8
        and not storage.clahe
        and text(found, PHOTOMETRIC) == "MONOCHROME2"
        and whole_number(found, BITS_STORED) == 8
        and not whole_number(found, SIGNED)
        and pixels.shrunk_size(height, width, storage.max_side) == (height, width)
        and grey.MODALITY_LUTS not in found
        and grey.rescale(found)[0] > 0
        and not (storage.window == "default" and grey.has_curve(found))
    )


def _kept_scan(kept: bytes, found: dict[int, Element], header: Header, storage: Storage) -> Scan:
    rescale = grey.rescale(found)
    window = grey.window(found, *rescale, whole=(0.0, 255.0))
    if storage.window != "default":
        decoded = np.asarray(Image.open(io.BytesIO(kept)))
        window = pixels.view(storage.window, window, rescale, decoded)
    return Scan(
        image=kept,
        encoding="jpeg-kept",
        height=header.height,
        width=header.width,
        pixel_spacing_mm=_spacing_mm(found),
        rescale=rescale,
        window=window,
        slice_mm=_slice_mm(found),
    )


def _grey(found: dict[int, Element], syntax: str, header: Header, storage: Storage) -> grey.Grey:
    """The frame decoded, as grey levels."""
    photometric, samples = text(found, PHOTOMETRIC), whole_number(found, SAMPLES) or 1
    is_grey = photometric in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR") and samples == 1
    if not is_grey and not (photometric in COLOURS and samples == 3):
        raise Reject(
            "unknown-colour",
            f"a Photometric Interpretation with {samples} samples a pixel other than MONOCHROME1, "
            f"MONOCHROME2 and PALETTE COLOR with 1, {sorted(COLOURS)} with 3; convert the file",
        )
    values = frames.decoded(found, syntax, header)  # [H, W] or [H, W, 3]
    if values.ndim == 3:
        return grey.from_colour(values, header.bits)
    return grey.from_values(
        values,
        found,
        bits=whole_number(found, BITS_STORED),
        is_signed=whole_number(found, SIGNED) == 1,
        is_monochrome1=photometric == "MONOCHROME1",
        is_presented=storage.window == "default",
    )


def _spacing_mm(found: dict[int, Element]) -> tuple[float, float]:
    spacing = numbers(found, PIXEL_SPACING) or numbers(found, IMAGER_SPACING)
    is_sound = len(spacing) == 2 and all(0 < mm <= grey.LARGEST for mm in spacing)
    return (spacing[0], spacing[1]) if is_sound else (0.0, 0.0)


def _slice_mm(found: dict[int, Element]) -> float:
    position = numbers(found, POSITION)
    is_sound = len(position) == 3 and abs(position[2]) <= grey.LARGEST
    return position[2] if is_sound else math.nan
