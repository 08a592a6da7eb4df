"""Projection radiographs in DICOM files: bytes -> Header, bytes -> Scan.

A grey 8-bit JPEG-Baseline image leaves its DICOM capsule as it is; everything else is decoded with
pydicom and stored as PNG, upright in meaning: larger stored values are brighter.
"""

import contextlib
import io
import re
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import generate_frames
from pydicom.errors import InvalidDicomError
from pydicom.uid import JPEGBaseline8Bit

from lake import Reject
from lake.sources import Header, Scan

# Closed vocabularies: free text in these elements could name a person.
VIEWS = frozenset(("PA", "AP", "LL", "RL", "LLD", "RLD", "LLO", "RLO"))
SEXES = frozenset(("M", "F", "O"))
MODALITIES = frozenset(("CR", "DX", "CT", "MR", "MG", "PT", "US", "XA", "RF", "SC", "OT"))
HEADER_TAGS = [
    *(
        "SOPInstanceUID",
        "PatientID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "Rows",
        "Columns",
        "BitsStored",
    ),
    *("ViewPosition", "PatientSex", "PatientAge", "Modality"),
]
YEARS_PER_UNIT = {
    "Y": 1,
    "M": 1 / 12,
    "W": 7 / 365.25,
    "D": 1 / 365.25,
    "": 1,
}  # SIIM's ages have no unit
AGE_CAP = 90  # HIPAA's safe harbour: 90 and over are one group
# Of a baseline JPEG: frame header, Huffman and quantisation tables, restart interval, start of
# scan. Any other segment could hold a name.
KEPT_SEGMENTS = frozenset((0xC0, 0xC4, 0xDB, 0xDD, 0xDA))
# zlib 4 on 1024 px radiographs: 76 ms and 366 KB; 6: 192 ms, 368 KB; 1: 49 ms, 432 KB (2026-11, one
# core).
PNG_LEVEL = 4


def read_header(file: BinaryIO, path: str, size: int, image_id_from: str) -> Header:
    """Header of the DICOM file `path`; the image's id is its file name or its SOPInstanceUID."""
    with pydicom.config.disable_value_validation(), _broken_is("unreadable-header", path):
        dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=HEADER_TAGS)
        height, width, bits = (int(dataset.get(n) or 0) for n in ("Rows", "Columns", "BitsStored"))
        if not (height and width and bits):
            raise Reject("no-pixels", f"{path}: no Rows, Columns and Bits Stored: not an image")
        uid = str(dataset.get("SOPInstanceUID", ""))
        if image_id_from == "uid" and not uid:
            raise Reject(
                "no-uid", f"{path}: no (0008,0018) SOP Instance UID to take the image id from"
            )
        return Header(
            path=path,
            size=size,
            image_id=uid if image_id_from == "uid" else file_stem(path),
            patient=str(dataset.get("PatientID") or ""),
            study=str(dataset.get("StudyInstanceUID") or ""),
            series=str(dataset.get("SeriesInstanceUID") or ""),
            height=height,
            width=width,
            bits=bits,
            view=_one_of(VIEWS, dataset.get("ViewPosition")),
            sex=_one_of(SEXES, dataset.get("PatientSex")),
            age=age_years(str(dataset.get("PatientAge") or "")),
            modality=_one_of(MODALITIES, dataset.get("Modality")),
        )


def read_scan(data: bytes, path: str, max_side: int | None, lake_bits: int) -> Scan:
    """The image as a lake of `lake_bits` (8 or 16) stores it, no side longer than `max_side`."""
    with pydicom.config.disable_value_validation(), _broken_is("undecodable", path):
        dataset = pydicom.dcmread(io.BytesIO(data))
        _check_is_one_grey_image(dataset, path)
        kept = _kept_jpeg(dataset, max_side) if lake_bits == 8 else None
        if kept is None:
            return _decoded(dataset, path, max_side, lake_bits)
        slope, intercept = _rescale(dataset)
        return Scan(
            image=kept,
            encoding="jpeg-kept",
            height=dataset.Rows,
            width=dataset.Columns,
            pixel_spacing_mm=_pixel_spacing_mm(dataset),
            rescale=(slope, intercept),
            window=_window(dataset, slope, intercept, highest=255),
        )


def file_stem(path: str) -> str:
    name = re.split(r"[/\\]", path)[-1]
    return name[:-4] if name.lower().endswith(".dcm") else name


def age_years(text: str) -> int:
    """Whole years of a DICOM age string, 90 for 90 and over, -1 when unknown or impossible."""
    match = re.fullmatch(r"(\d{1,3})([DWMY]?)", text.strip().upper())
    if not match:
        return -1
    years = int(int(match[1]) * YEARS_PER_UNIT[match[2]])
    return min(years, AGE_CAP) if years <= 120 else -1


def shrunk_size(height: int, width: int, max_side: int | None) -> tuple[int, int]:
    """Height and width after fitting into `max_side`, aspect kept."""
    longest = max(height, width)
    if max_side is None or longest <= max_side:
        return height, width
    return max(1, round(height * max_side / longest)), max(1, round(width * max_side / longest))


def shrink(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Area-filtered copy [height, width] of pixels [H, W], same dtype."""
    if pixels.shape == (height, width):
        return pixels
    # Pillow filters 16-bit grey only as float.
    small = Image.fromarray(pixels.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
    return np.rint(np.asarray(small)).astype(pixels.dtype)


def to_png(pixels: np.ndarray, level: int = PNG_LEVEL) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=level)
    return buffer.getvalue()


def bare_jpeg(frame: bytes, height: int, width: int) -> bytes | None:
    """The frame without application and comment segments, scan data bit for bit.

    None when it is not one grey 8-bit baseline scan of [height, width]; raises ValueError when it
    is cut off.
    """
    if frame[:2] != b"\xff\xd8":
        return None
    kept, at = [b"\xff\xd8"], 2
    while at + 4 <= len(frame):
        if frame[at] != 0xFF:
            return None
        marker = frame[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        end = at + 2 + struct.unpack_from(">H", frame, at + 2)[0]
        if marker == 0xC0:
            if struct.unpack_from(">BHHB", frame, at + 4) != (8, height, width, 1):
                return None
        elif 0xC1 <= marker <= 0xCF and marker != 0xC4:  # any other process
            return None
        if marker in KEPT_SEGMENTS:
            kept.append(frame[at:end])
        at = end
        if marker == 0xDA:
            # Entropy-coded data ends at the first marker that is neither a stuffed zero nor a
            # restart.
            close = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]").search(frame, at)
            if close is None:
                raise ValueError("the JPEG scan has no end")
            if frame[close.start() : close.end()] != b"\xff\xd9":
                return None
            return b"".join([*kept, frame[at : close.end()]])
    raise ValueError("the JPEG ends before its scan")


@contextlib.contextmanager
def _broken_is(reason: str, path: str) -> Iterator[None]:
    """Turns what pydicom and its decoders raise on files that are cut off or contradict themselves
    into Rejects."""
    try:
        yield
    except Reject:
        raise
    except InvalidDicomError:
        raise Reject(
            "not-dicom", f"{path}: no DICM prefix and no DICOM file meta information"
        ) from None
    except (
        *(
            AttributeError,
            EOFError,
            KeyError,
            IndexError,
            NotImplementedError,
            OSError,
            OverflowError,
        ),
        *(RuntimeError, StopIteration, TypeError, ValueError, struct.error, zlib.error),
        Image.DecompressionBombError,
    ) as error:
        raise Reject(reason, f"{path}: {type(error).__name__}: {error}") from None


def _one_of(vocabulary: frozenset[str], value) -> str:
    text = str(value or "").strip().upper()
    return text if text in vocabulary else ""


def _check_is_one_grey_image(dataset: pydicom.Dataset, path: str) -> None:
    if "PixelData" not in dataset:
        raise Reject("no-pixels", f"{path}: no (7FE0,0010) Pixel Data")
    photometric = dataset.get("PhotometricInterpretation", "")
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or dataset.get("SamplesPerPixel", 1) != 1:
        raise Reject(
            "not-grey",
            f"{path}: {photometric or 'no photometric interpretation'}, expected MONOCHROME1 or 2",
        )
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise Reject("multi-frame", f"{path}: {dataset.NumberOfFrames} frames, expected one")


def _kept_jpeg(dataset: pydicom.Dataset, max_side: int | None) -> bytes | None:
    """The file's own JPEG where it is right as it stands, else None."""
    is_right = (
        dataset.file_meta.get("TransferSyntaxUID") == JPEGBaseline8Bit
        and dataset.PhotometricInterpretation == "MONOCHROME2"
        and dataset.BitsStored == 8
        and dataset.PixelRepresentation == 0
        and shrunk_size(dataset.Rows, dataset.Columns, max_side) == (dataset.Rows, dataset.Columns)
    )
    if not is_right:
        return None
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    return bare_jpeg(frame, dataset.Rows, dataset.Columns)


def _decoded(dataset: pydicom.Dataset, path: str, max_side: int | None, lake_bits: int) -> Scan:
    bits, (slope, intercept) = dataset.BitsStored, _rescale(dataset)
    if bits > 16:
        raise Reject("too-many-bits", f"{path}: {bits} bits stored, expected at most 16")
    highest = 2**bits - 1
    pixels = dataset.pixel_array.astype(np.int32)  # [H, W], stored values
    if dataset.PixelRepresentation == 1:
        pixels, intercept = pixels + 2 ** (bits - 1), intercept - slope * 2 ** (bits - 1)
    pixels = np.clip(pixels, 0, highest)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        pixels, slope, intercept = highest - pixels, -slope, intercept + slope * highest
    low, high = _window(dataset, slope, intercept, highest)
    if lake_bits == 8 and bits > 8:
        pixels = np.rint(np.clip((pixels - low) / (high - low), 0, 1) * 255)
        slope, intercept = slope * (high - low) / 255, intercept + slope * low
        low, high = 0.0, 255.0
    height, width = shrunk_size(*pixels.shape, max_side)
    row_mm, column_mm = _pixel_spacing_mm(dataset)
    return Scan(
        image=to_png(
            shrink(pixels.astype(np.uint8 if lake_bits == 8 else np.uint16), height, width)
        ),
        encoding="png",
        height=height,
        width=width,
        pixel_spacing_mm=(row_mm * dataset.Rows / height, column_mm * dataset.Columns / width),
        rescale=(slope, intercept),
        window=(low, high),
    )


def _rescale(dataset: pydicom.Dataset) -> tuple[float, float]:
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    return float(slope or 1), float(intercept or 0)


def _window(
    dataset: pydicom.Dataset, slope: float, intercept: float, highest: int
) -> tuple[float, float]:
    """The file's first window, in stored values; the whole range where it names none."""
    center, width = (_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if center is None or not width or width < 0:
        return 0.0, float(highest)
    ends = sorted((center + side * width / 2 - intercept) / slope for side in (-1, 1))
    return float(ends[0]), float(ends[1])


def _pixel_spacing_mm(dataset: pydicom.Dataset) -> tuple[float, float]:
    spacing = dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing")
    return (float(spacing[0]), float(spacing[1])) if spacing and len(spacing) == 2 else (0.0, 0.0)


def _first(value) -> float | None:
    """The first of a possibly multi-valued decimal string."""
    if value is None or value == "":
        return None
    return float(value[0] if isinstance(value, (list, pydicom.multival.MultiValue)) else value)
