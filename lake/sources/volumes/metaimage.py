"""CT volumes: MetaImage, NIfTI and NRRD files and the slices of DICOM files become Headers, and
a slice becomes a Scan.

The modules mhd, nifti and nrrd read the headers of volumes, volume.py their voxels, ct_slices.py
the slices of DICOM files. Stored pixels are HU + 32768."""

import re
from typing import BinaryIO

import numpy as np

from lake import Reject
from lake.labels.nodules import axes
from lake.scan import Coding, Header, Scan, Storage
from lake.sources import pixels
from lake.sources.damage import reject_damage
from lake.sources.dicom import dicom
from lake.sources.volumes import ct_slices, lungs, mhd, nifti, nrrd, volume
from lake.sources.volumes.ct_slices import AIR_HU

# {ending: the module of its headers}
HEADERS = {suffix: module for module in (mhd, nifti, nrrd) for suffix in module.SUFFIXES}
HEADER_BYTES = 2**16  # a header has hundreds of bytes, thousands with DICOM's fields
ZERO_HU = 32768  # the stored value of 0 HU
WINDOW_HU = (-1000.0, 400.0)  # as in LUNA16 and most later work on lungs


def suffix_of(path: str) -> str | None:
    """Return the ending that says that a file is a volume, None for any other."""
    return next((suffix for suffix in HEADERS if path.lower().endswith(suffix)), None)


def read_headers(file: BinaryIO, path: str, size: int) -> list[Header]:
    """Return the one Header of a whole volume, or those of the slices of a DICOM file; raises
    Reject."""
    suffix = suffix_of(path)
    if suffix is None:
        return ct_slices.read_headers(file, path, size)
    with reject_damage("unreadable-header", path):
        module = HEADERS[suffix]
        layout, header = module.read(file.read(HEADER_BYTES))
        # The header that SimpleITK gets is not compressed, and has no data file.
        plain = {".nii.gz": ".nii", ".nhdr": ".nrrd"}.get(suffix, suffix)
        geometry = volume.read_geometry(header, plain, module.ITK_READER, layout)
        name = re.split(r"[/\\]", path)[-1][: -len(suffix)]
        _, height, width = layout.shape
        return [
            Header(
                *(path, size, "", height, width),
                bits=16,
                series=name,
                modality="CT",
                geometry=geometry,
            )
        ]


def read_coding(file: BinaryIO, header: Header, storage: Storage) -> Coding:
    """Return the coding of a slice's pixels. A lake never stores them unchanged, because it stores
    HU. Raises Reject for a DICOM slice whose header cannot be read."""
    if suffix_of(header.path):  # a volume's own file, not a DICOM slice
        int16_bytes = header.height * header.width * 2
        return Coding("metaimage", int16_bytes, is_kept=False)
    return dicom.read_coding(file, header, storage)._replace(is_kept=False)


def data_files(path: str, file_start: bytes) -> list[str]:
    """Return the names of the files beside a volume's header that hold its voxels, [] where the
    header file itself holds them; raises Reject."""
    module = HEADERS.get(suffix_of(path))
    if module not in (mhd, nrrd):  # whose headers may name one
        return []
    with reject_damage("unreadable-header", path):
        layout, _ = module.read(file_start)
        return [layout.data_file] if layout.data_file else []


def read_scan(local_path: str, header: Header, storage: Storage) -> Scan:
    """Return one slice as a lake stores it; a data file lies beside `local_path`. Raises Reject."""
    with reject_damage("undecodable", header.path):
        is_volume = suffix_of(local_path) is not None
        values = (_slice_of_volume if is_volume else ct_slices.read_hu)(local_path, header)
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


def _slice_of_volume(local_path: str, header: Header) -> np.ndarray:
    """Return slice `header.frame` [H, W] of a volume."""
    with open(local_path, "rb") as file:
        layout, _ = HEADERS[suffix_of(local_path)].read(file.read(HEADER_BYTES))
    return volume.read_slice(local_path, layout, header.frame)
