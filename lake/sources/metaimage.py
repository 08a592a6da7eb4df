"""CT volumes: MetaImage files and single DICOM slices become Headers, and a slice becomes a Scan.

SimpleITK reads MetaImage (.mhd with its data file, .mha); DICOM is read as in
lake/sources/dicom.py. Stored pixels are HU + 32768."""

import re
import tempfile
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import SimpleITK

from lake import Reject, scan
from lake.labels.nodules import axes
from lake.scan import Coding, Geometry, Header, Scan, Storage
from lake.sources import dicom, elements, frames, grey, lungs, pixels, series
from lake.sources.damage import reject_damage
from lake.sources.elements import numbers, text

SUFFIXES = (".mhd", ".mha")
HEADER_BYTES = 2**16  # a MetaImage header has hundreds of bytes, thousands with DICOM's fields
KEY = re.compile(rb"\s*(\w+)\s*[=:]")
BYTES_PER_TYPE = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_FLOAT"), 4),
    "MET_DOUBLE": 8,
}
ORIENTATION, IMAGE_TYPE, THICKNESS = 0x00200037, 0x00080008, 0x00180050
SLICE_TAGS = frozenset(
    (ORIENTATION, IMAGE_TYPE, THICKNESS, dicom.POSITION, dicom.PIXEL_SPACING, frames.PHOTOMETRIC)
)
ZERO_HU = 32768  # the stored value of 0 HU
AIR_HU = -1000
WINDOW_HU = (-1000.0, 400.0)  # as in LUNA16 and most later work on lungs

SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)


def read_headers(file: BinaryIO, path: str, size: int) -> list[Header]:
    """Return the one Header of a whole MetaImage volume, or of one DICOM slice; raises Reject."""
    if not path.lower().endswith(SUFFIXES):
        return [_dicom_slice(file, path, size)]
    with reject_damage("unreadable-header", path):
        return [_volume(file.read(HEADER_BYTES), path, size)]


def read_coding(file: BinaryIO, header: Header, storage: Storage) -> Coding:
    """Return how a slice's pixels are coded; they become HU, so they are never stored unchanged."""
    if header.path.lower().endswith(SUFFIXES):
        return Coding("metaimage", header.height * header.width * 2, False)  # as int16
    return dicom.read_coding(file, header, storage)._replace(is_kept=False)


def data_files(header_text: bytes) -> list[str]:
    """Return the names of the files beside a MetaImage header that hold its pixels, [] when the
    header file itself holds them; raises Reject."""
    name = _fields(header_text)[0]["ElementDataFile"]
    if name.upper() == "LOCAL":
        return []
    if name.upper().startswith("LIST") or "%" in name:
        raise Reject(
            "unsupported-mhd", "ElementDataFile is a list or a pattern; write one file per volume"
        )
    if not name or name in (".", "..") or re.search(r"[/\\\0]", name):
        raise Reject(
            "unsupported-mhd", "ElementDataFile is in another folder; put it beside the header"
        )
    return [name]


def read_scan(local_path: str, header: Header, storage: Storage) -> Scan:
    """Return one slice as a lake stores it; the data file of a .mhd lies beside `local_path`."""
    with reject_damage("undecodable", header.path):
        is_volume = local_path.lower().endswith(SUFFIXES)
        values = (_slice_of_volume if is_volume else _slice_of_dicom)(local_path, header)
        if values.shape != (header.height, header.width):
            raise Reject("undecodable", f"{values.shape} pixels, another size than its header said")
        hu = to_hu(values)  # [H, W]
        geometry = header.geometry
        column_mm, row_mm, _ = geometry.spacing_mm
        spacing_mm = (row_mm, column_mm)
        if storage.lung_roi:
            hu = np.where(lungs.region(hu, spacing_mm), hu, AIR_HU)
        middle = [(header.width - 1) / 2 * column_mm, (header.height - 1) / 2 * row_mm, 0]
        slice_mm = float(geometry.origin_mm[2] + axes(geometry)[2] @ middle)
        low, high = (end + ZERO_HU for end in WINDOW_HU)
        rescale, window = (1.0, float(-ZERO_HU)), (low, high)
        return pixels.store(hu + ZERO_HU, 65535, rescale, window, spacing_mm, storage, slice_mm)


def to_hu(values: np.ndarray) -> np.ndarray:
    """Return values as int32 within the range of int16; raises Reject for what cannot be HU."""
    low, high = float(values.min()), float(values.max())  # NaN where a value is NaN
    # Fractions between 0 and 1 are the result of a window that was applied before.
    is_scaled = values.dtype.kind == "f" and 0 <= low < high <= 1
    if is_scaled or not (low >= -ZERO_HU and high < ZERO_HU):
        raise Reject("not-hu", f"values {low:g} to {high:g}, expected HU; leave out what is not CT")
    return np.rint(values).astype(np.int32)


def _fields(data: bytes) -> tuple[dict[str, str], int]:
    """Return ({key: value}, length in bytes) of the MetaImage header at the start of `data`; its
    last key is ElementDataFile. Raises Reject where that is missing."""
    fields, position = {}, 0
    while position < len(data):
        end = data.find(b"\n", position) + 1 or len(data)
        line, position = data[position:end], end
        match = KEY.match(line)
        if match:
            key = match[1].decode()
            fields[key] = line[match.end() :].strip().decode("utf-8", "surrogateescape")
            if key == "ElementDataFile":
                return fields, position
    raise Reject("unreadable-header", "no ElementDataFile: not a whole MetaImage header")


def _volume(data: bytes, path: str, size: int) -> Header:
    """Return the Header of a MetaImage volume from the start of its file."""
    fields, header_bytes = _fields(data)
    width, height, num_slices, _ = _parse_size(fields)
    data_files(data[:header_bytes])  # raises its Rejects here, in the listing
    with tempfile.TemporaryDirectory() as folder:
        header_path = Path(folder, f"header{path[-4:].lower()}")
        header_path.write_bytes(data[:header_bytes])
        reader = _reader(str(header_path))
    if reader.GetSize() != (width, height, num_slices) or reader.GetNumberOfComponents() != 1:
        raise Reject("unreadable-header", "SimpleITK reads another size than the header states")
    geometry = Geometry(num_slices, reader.GetOrigin(), reader.GetSpacing(), reader.GetDirection())
    name, geometry = re.split(r"[/\\]", path)[-1][:-4], _check_geometry(geometry)
    return Header(
        path, size, "", height, width, bits=16, series=name, modality="CT", geometry=geometry
    )


def _parse_size(fields: dict[str, str]) -> tuple[int, int, int, int]:
    """Return (columns, rows, slices, bytes) of a grey volume of a supported type; raises Reject.

    MetaIO trusts the text that it parses, so the text is checked before MetaIO gets it.
    """
    if fields.get("NDims") != "3":
        raise Reject("not-a-volume", "expected NDims = 3; leave it out")
    if fields.get("ElementNumberOfChannels", "1") != "1":
        raise Reject("not-grey", "more than one channel, expected a CT; leave it out")
    kind = fields.get("ElementType", "")
    if kind not in BYTES_PER_TYPE or not _is_true(fields, "BinaryData"):
        raise Reject("unsupported-mhd", f"expected binary data, one of {sorted(BYTES_PER_TYPE)}")
    if not re.fullmatch(r"[1-9]\d{0,9}(\s+[1-9]\d{0,9}){2}", fields.get("DimSize", "")):
        raise Reject("unreadable-header", "DimSize is not three whole numbers above 0")
    width, height, num_slices = map(int, fields["DimSize"].split())
    num_bytes = width * height * num_slices * BYTES_PER_TYPE[kind]
    max_pixels, max_slices, max_bytes = scan.MAX_PIXELS, 2**scan.FRAME_BITS, scan.MAX_FILE_BYTES
    if width * height > max_pixels or num_slices > max_slices or num_bytes > max_bytes:
        raise Reject(
            "too-large",
            f"{width} x {height} x {num_slices} voxels, expected at most {max_pixels} per slice, "
            f"{max_slices} slices and {max_bytes} bytes; leave it out",
        )
    return width, height, num_slices, num_bytes


def _is_true(fields: dict[str, str], key: str) -> bool:
    return fields.get(key, "").upper()[:1] in ("T", "1")  # as MetaIO reads it


def _reader(local_path: str) -> SimpleITK.ImageFileReader:
    """Return a reader that has read the header."""
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("MetaImageIO")
    reader.SetFileName(local_path)
    reader.ReadImageInformation()
    return reader


def _check_geometry(geometry: Geometry) -> Geometry:
    """Return the geometry if it is bounded, has extent and has right angles; else raise Reject."""
    components = (*geometry.origin_mm, *geometry.spacing_mm, *geometry.direction)
    matrix = axes(geometry)
    is_orthonormal = np.allclose(matrix.T @ matrix, np.eye(3), rtol=0, atol=series.COSINE_TOLERANCE)
    is_bounded = (np.abs(components) <= grey.LARGEST).all()
    if not (is_bounded and min(geometry.spacing_mm) > 0 and is_orthonormal):
        raise Reject(
            "bad-geometry",
            f"spacing {geometry.spacing_mm} and direction {geometry.direction}: expected numbers "
            f"above 0 and three axes at right angles; resample tilted volumes",
        )
    return geometry


def _dicom_slice(file: BinaryIO, path: str, size: int) -> Header:
    """Return the Header of one DICOM slice with its geometry; raises Reject."""
    header = dicom.read_headers(file, path, size, image_id_from="name", frames="reject")[0]
    if header.modality != "CT":
        raise Reject("not-ct", f"{path}: modality {header.modality!r}, expected CT; leave it out")
    if not header.series:
        raise Reject("no-series", f"{path}: no (0020,000E) Series Instance UID to find its volume")
    with reject_damage("unreadable-header", path):
        file.seek(0)
        attributes = dicom.before_pixels(file, path, SLICE_TAGS).elements
        if text(attributes, frames.PHOTOMETRIC) != "MONOCHROME2":
            raise Reject("not-grey", "expected MONOCHROME2, as CT has it; leave it out")
        if "LOCALIZER" in text(attributes, IMAGE_TYPE).upper().split("\\"):
            raise Reject("localizer", "a scout view, not a slice; leave it out")
        position, cosines = numbers(attributes, dicom.POSITION), numbers(attributes, ORIENTATION)
        spacing_mm = numbers(attributes, dicom.PIXEL_SPACING)
        if (len(position), len(cosines), len(spacing_mm)) != (3, 6, 2):
            raise Reject(
                "bad-geometry",
                "no Image Position, Image Orientation or Pixel Spacing; leave it out",
            )
        right, down = np.array(cosines[:3]), np.array(cosines[3:])
        matrix = np.stack([right, down, np.cross(right, down)], axis=1)
        thickness_mm = (numbers(attributes, THICKNESS) or [0.0])[0]
        geometry = Geometry(
            slices=1,
            origin_mm=tuple(position),
            # DICOM names the distance between rows first. The distance between slices comes from
            # their positions; a lone slice has its own thickness, or counts as 1 mm.
            spacing_mm=(spacing_mm[1], spacing_mm[0], thickness_mm if thickness_mm > 0 else 1.0),
            direction=tuple(matrix.ravel().tolist()),
        )
        return replace(header, geometry=_check_geometry(geometry))


def _slice_of_volume(local_path: str, header: Header) -> np.ndarray:
    """Return slice `header.frame` [H, W] of a MetaImage volume; raise Reject where its data file is
    absent or too short."""
    with open(local_path, "rb") as file:
        file_start = file.read(HEADER_BYTES)
    fields, header_bytes = _fields(file_start)
    num_bytes = _parse_size(fields)[-1]
    names = data_files(file_start)
    pixel_path = Path(local_path).with_name(names[0]) if names else Path(local_path)
    if not pixel_path.is_file():
        raise Reject("no-pixels", f"no data file {names[0]} beside it")
    is_compressed = _is_true(fields, "CompressedData")
    offset = header_bytes if not names else max(0, int(fields.get("HeaderSize", 0)))
    status = pixel_path.stat()
    expected = int(fields.get("CompressedDataSize", 0)) if is_compressed else num_bytes
    if status.st_size < offset + expected:
        raise Reject(
            "undecodable",
            f"{status.st_size} bytes in {pixel_path.name}, its header says {offset + expected}; "
            f"copy it again",
        )
    if is_compressed:
        volume = _decompress(local_path, status.st_mtime_ns, status.st_size)
        # A copy: a view does not keep the volume alive, which another thread's volume may replace.
        return SimpleITK.GetArrayViewFromImage(volume)[header.frame].copy()
    reader = _reader(local_path)
    reader.SetExtractIndex((0, 0, header.frame))
    # In 3-D, so that any direction stays valid.
    reader.SetExtractSize((header.width, header.height, 1))
    return SimpleITK.GetArrayFromImage(reader.Execute())[0]


@lru_cache(maxsize=1)  # slices of a volume are read one after the other
def _decompress(local_path: str, changed_ns: int, size: int) -> SimpleITK.Image:
    return _reader(local_path).Execute()


def _slice_of_dicom(local_path: str, header: Header) -> np.ndarray:
    """Return a DICOM slice [H, W] in HU."""
    dataset = elements.read(Path(local_path).read_bytes(), dicom.SCAN_TAGS)
    attributes = dataset.elements
    if frames.PIXEL_DATA not in attributes:
        raise Reject("no-pixels", "no (7FE0,0010) Pixel Data")
    values = frames.decode_frame(attributes, dataset.syntax, header)
    levels, _, (slope, intercept), _ = grey.from_values(values, attributes, False, False)
    return levels * slope + intercept
