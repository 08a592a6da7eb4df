"""Mask files -> run-length texts: PNG, JPEG, TIFF, BMP, GIF, NIfTI, DICOM images and DICOM SEG
objects. In: bytes of a file and its path; out: the masks in it, and the id of their image.

`lesions` says which pixels are lesion. A file that is no mask is a Reject, with the reasons of the
source that reads it or

mask-not-binary     values between background and lesion, or several classes
mask-axes           a NIfTI or a SEG whose axes may not be those of the image
"""

import fnmatch
import io
import re
from typing import NamedTuple

import numpy as np

from lake.labels import rle
from lake.sources import dicom, dicom_masks, formats, images, lesions, nifti_masks
from lake.sources.damage import reject_damage

NIFTI_ENDING = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
LEVELS = ("1", "L", "I", "F")  # how the names of Pillow's modes of grey levels begin
LOSSY = ("JPEG",)


class Mask(NamedTuple):
    """A mask at its own size."""

    text: str  # relative run lengths
    size: tuple[int, int]  # height, width
    sop_uid: str = ""  # of its image, where the file says it


def read(data: bytes, path: str, values: tuple[str, ...] = ()) -> list[Mask]:
    """Return the masks in a file: one, or of a DICOM SEG one per image that it refers to. Only
    `values` are lesion, where there are any; else whatever is not 0."""
    with reject_damage("undecodable", path):
        if dicom_masks.is_dicom(data):
            return [
                Mask(rle.to_text(runs), size, uid)
                for uid, runs, size in dicom_masks.read(data, path, values)
            ]
        if nifti_masks.is_nifti(data[: nifti_masks.HEADER_BYTES]):
            lesion = lesions.from_levels(nifti_masks.read(data), False, values)
        else:
            lesion = _lesion_of_picture(data, values)
        return [Mask(rle.to_text(rle.from_mask(lesion)), lesion.shape)]


def image_id(path: str, suffix: str = "", is_dicom: bool = False) -> str | None:
    """Return the id of the image that a mask file's name stands for: the name without its ending
    and `suffix`, a pattern of which the shortest match counts; None where it does not end so."""
    name = re.split(r"[/\\]", path)[-1]
    stem = NIFTI_ENDING.sub("", name)
    if stem == name:
        stem = dicom.file_stem(path) if is_dicom else images.file_stem(path)
    if not suffix:
        return stem
    pattern = re.compile(fnmatch.translate(suffix))
    ends = (n for n in range(len(stem) - 1, 0, -1) if pattern.match(stem, n))
    end = next(ends, None)
    return None if end is None else stem[:end]


def _lesion_of_picture(data: bytes, values: tuple[str, ...]) -> np.ndarray:
    """Return the lesion [H, W] of an image file that is no DICOM."""
    file = formats.open_image(io.BytesIO(data))
    is_lossy = file.name in LOSSY
    has_levels = file.image.mode.startswith(LEVELS) and not file.image.mode.startswith("LA")
    if has_levels and not file.image.has_transparency_data:
        levels = formats.grey(file, data)
        if values:
            levels = levels // _step(file, data)
        return lesions.from_levels(levels, is_lossy, values)
    picture = formats.decode(file, data)
    is_palette = picture.mode == "P"
    if is_palette and values and not any(value.startswith("#") for value in values):
        lesion = lesions.from_levels(np.asarray(picture), is_lossy, values)
        return formats.upright(lesion, file)
    picture = picture.convert("RGB") if picture.mode == "CMYK" else picture
    colours, alpha = np.split(np.asarray(picture.convert("RGBA")), [3], axis=2)
    if alpha.min() < 255:
        colours = lesions.painted(colours, alpha[..., 0])
    elif is_palette and not values:
        lesions.check_palette(np.asarray(picture), colours)
    return formats.upright(lesions.from_colours(colours, is_lossy, values), file)


def _step(file: formats.ImageFile, data: bytes) -> int:
    """Return by how much Pillow's levels rise where the file's rise by 1: it spreads levels of
    fewer than 8 bits over 0 … 255."""
    bits = data[24] if file.name == "PNG" else file.directory.bits if file.directory else 8
    if file.image.mode == "1":
        bits = 1
    return 255 // (2**bits - 1) if bits in (1, 2, 4) else 1
