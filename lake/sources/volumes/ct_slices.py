"""DICOM files of CT: the Header of each slice with its place in the patient, and its values in HU.

A file holds one slice, or as an Enhanced CT (PS3.3 A.38) all those of a volume, whose functional
groups say where each lies. Pixels are read as in lake/sources/dicom/dicom.py.
"""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lake import Reject
from lake.scan import Geometry, Header
from lake.sources.damage import reject_damage
from lake.sources.dicom import data_set, dicom, frames, grey, image_module
from lake.sources.dicom.elements import Attributes, text
from lake.sources.dicom.values import numbers, whole_number
from lake.sources.volumes import volume

AIR_HU = -1000
ORIENTATION, IMAGE_TYPE, THICKNESS = 0x00200037, 0x00080008, 0x00180050
PLACE_TAGS = frozenset((ORIENTATION, THICKNESS, dicom.POSITION, *dicom.SPACINGS))
GROUP_TAGS = frozenset((frames.SHARED_GROUPS, frames.FRAME_GROUPS))
SLICE_TAGS = PLACE_TAGS | GROUP_TAGS | image_module.TAGS | {IMAGE_TYPE}
MAX_FRAMES = 2**12  # of a file; a CT of the whole body has about 2,000 slices


def read_headers(file: BinaryIO, path: str, size: int) -> list[Header]:
    """Return the Header of each slice of a DICOM file with its geometry; raises Reject."""
    (header,) = dicom.read_headers(file, path, size, image_id_from="name", frames="first")
    if header.modality != "CT":
        raise Reject("not-ct", f"{path}: modality {header.modality!r}, expected CT; leave it out")
    if not header.series:
        raise Reject("no-series", f"{path}: no (0020,000E) Series Instance UID to find its volume")
    with reject_damage("unreadable-header", path):
        file.seek(0)
        dataset = dicom.before_pixels(file, path, SLICE_TAGS)
        attributes = image_module.complete(dataset.elements, dataset.syntax)
        if text(attributes, image_module.PHOTOMETRIC) != "MONOCHROME2":
            raise Reject("not-grey", "expected MONOCHROME2, as CT has it; leave it out")
        if "LOCALIZER" in text(attributes, IMAGE_TYPE).upper().split("\\"):
            raise Reject("localizer", "a scout view, not a slice; leave it out")
        count = whole_number(attributes, image_module.FRAMES) or 1
        if count > MAX_FRAMES:
            raise Reject("too-large", f"{count} frames, expected at most {MAX_FRAMES}")
        places = frames.each_frame_attributes(attributes, count, PLACE_TAGS)
        if count > 1 and len({tuple(numbers(place, dicom.POSITION)) for place in places}) == 1:
            raise Reject(
                "multi-frame",
                f"{count} frames, and no functional groups that say where each lies; write one "
                f"file per slice, or the volume as MetaImage, NIfTI or NRRD",
            )
        geometries = [_geometry(place) for place in places]
        return [replace(header, frame=k, geometry=place) for k, place in enumerate(geometries)]


def read_hu(local_path: str, header: Header) -> np.ndarray:
    """Return the slice `header.frame` [H, W] of a DICOM file in HU; padding is air."""
    if header.frame:
        status = Path(local_path).stat()
        syntax, frames_attributes = _read_again(local_path, status.st_mtime_ns, status.st_size)
        attributes = dicom.complete(frames_attributes[header.frame], syntax)
    else:
        dataset = data_set.read(Path(local_path).read_bytes(), dicom.SCAN_TAGS)
        syntax, attributes = dataset.syntax, dicom.frame_attributes(dataset, 0)
    grey.check_rescale(attributes, header.modality)
    frame = frames.decode_frame(attributes, syntax, header)
    is_lossy = syntax in dicom.LOSSY_SYNTAXES
    levels, _, (slope, intercept), _, is_padding = grey.from_values(
        frame.values,
        frames.with_layout(attributes, frame),
        is_monochrome1=False,
        is_presented=False,
        is_lossy=is_lossy,
    )
    hu = levels * slope + intercept
    return hu if is_padding is None else np.where(is_padding, AIR_HU, hu)


@lru_cache(maxsize=1)  # slices of a volume are read one after the other
def _read_again(local_path: str, changed_ns: int, size: int) -> tuple[str, list[Attributes]]:
    """Return the transfer syntax and the attributes of each frame of a file with several slices, as
    it is at this time. To find the groups of one frame takes as long as those of all."""
    dataset = data_set.read(Path(local_path).read_bytes(), dicom.SCAN_TAGS)
    count = whole_number(dataset.elements, image_module.FRAMES) or 1
    return dataset.syntax, frames.each_frame_attributes(dataset.elements, count, dicom.SCAN_TAGS)


def _geometry(attributes: Attributes) -> Geometry:
    """Return where a slice lies, from its attributes; raise Reject where they do not say it."""
    position, cosines = numbers(attributes, dicom.POSITION), numbers(attributes, ORIENTATION)
    spacing_mm = dicom.spacing(attributes)
    if (len(position), len(cosines)) != (3, 6) or spacing_mm == (0, 0):
        raise Reject(
            "bad-geometry", "no Image Position, Image Orientation or Pixel Spacing; leave it out"
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
    return volume.check_geometry(geometry)
