"""Mask files -> run-length texts: PNG, JPEG, TIFF, BMP, GIF, NIfTI, DICOM images and DICOM SEG
objects. In: bytes of a file and its path; out: the masks in it.

`lesions` says which pixels are lesion. A file that is no mask is a Reject, with the reasons of the
source that reads it or

mask-not-binary     values between background and lesion, or several classes
mask-axes           a NIfTI or a SEG whose axes may not be those of the image
"""

import io
from typing import NamedTuple

import numpy as np

from lake.labels import rle
from lake.sources.damage import reject_damage
from lake.sources.masks import dicom_masks, lesions, nifti_masks
from lake.sources.pictures import formats

LEVELS = ("1", "L", "I", "F")  # how the names of Pillow's modes of grey levels begin
LOSSY = ("JPEG",)


class Mask(NamedTuple):
    """A mask at its own size."""

    text: str  # relative run lengths
    size: tuple[int, int]  # height, width
    sop_uid: str = ""  # of its image, where the file says it
    values: tuple[str, ...] = ()  # in it, where some were chosen


def read(data: bytes, path: str, mask_values: tuple[str, ...] = ()) -> list[Mask]:
    """Return the masks in a file: of a DICOM SEG one for each image that it refers to, of any other
    file one. Only `mask_values` are lesion, where there are any; else whatever is not 0. Raises
    Reject."""
    with reject_damage("undecodable", path):
        if dicom_masks.is_dicom(data):
            return [
                Mask(rle.to_text(runs), size, uid, values_in_file)
                for uid, runs, size, values_in_file in dicom_masks.read(data, path, mask_values)
            ]
        if nifti_masks.is_nifti(data[: nifti_masks.HEADER_BYTES]):
            choice = lesions.choose(nifti_masks.read(data), is_lossy=False, mask_values=mask_values)
        else:
            choice = _choice_of_picture(data, mask_values)
        text = rle.to_text(rle.from_mask(choice.lesion))
        return [Mask(text, choice.lesion.shape, values=choice.values)]


def _choice_of_picture(data: bytes, mask_values: tuple[str, ...]) -> lesions.Choice:
    """Return the lesion of an image file that is no DICOM, and which of `mask_values` occur in
    it."""
    file = formats.open_image(io.BytesIO(data))
    is_lossy = file.name in LOSSY
    has_levels = file.image.mode.startswith(LEVELS) and not file.image.mode.startswith("LA")
    if has_levels and not file.image.has_transparency_data:
        levels = formats.grey(file, data)
        if mask_values:
            levels = levels // _step(file, data)
        return lesions.choose(levels, is_lossy, mask_values)
    picture = formats.decode(file, data)
    is_palette = picture.mode == "P"
    if is_palette and mask_values and not any(value.startswith("#") for value in mask_values):
        choice = lesions.choose(np.asarray(picture), is_lossy, mask_values)
        return choice._replace(lesion=formats.upright(choice.lesion, file))
    picture = picture.convert("RGB") if picture.mode == "CMYK" else picture
    colours, alpha = np.split(np.asarray(picture.convert("RGBA")), [3], axis=2)
    if alpha.min() < 255:
        colours = lesions.colours_on_black(colours, alpha[..., 0])
    elif is_palette and not mask_values:
        lesions.check_palette(np.asarray(picture), colours)
    choice = lesions.choose(colours, is_lossy, mask_values)
    return choice._replace(lesion=formats.upright(choice.lesion, file))


def _step(file: formats.ImageFile, data: bytes) -> int:
    """Return by how much Pillow's levels rise where the file's rise by 1: it spreads levels of
    fewer than 8 bits over 0 … 255."""
    bits = data[24] if file.name == "PNG" else file.directory.bits if file.directory else 8
    if file.image.mode == "1":
        bits = 1
    return 255 // (2**bits - 1) if bits in (1, 2, 4) else 1
