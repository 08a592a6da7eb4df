"""CT volumes written by SimpleITK, and masks of series."""

import math

import numpy as np
import SimpleITK as sitk

from lake.labels import rle


def volume(voxels, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1), spacing=(0.7, 0.9, 2.5)) -> sitk.Image:
    """A volume [S, H, W] that does not lie at the origin."""
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing)
    image.SetOrigin((-120.5, 33.0, -210.25))
    image.SetDirection(direction)
    return image


def written(image, folder, name="volume.mhd", compress=False):
    path = folder / name
    sitk.WriteImage(image, str(path), compress)
    return path


a, b = math.radians(20), math.radians(-35)
OBLIQUE = tuple(
    (
        np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
        @ np.array([[math.cos(b), -math.sin(b), 0], [math.sin(b), math.cos(b), 0], [0, 0, 1]])
    ).ravel()
)


def masks_of(selection, height, width) -> dict[int, np.ndarray]:
    return {
        int(header.image_id.split("#")[1]): rle.decode(label.rle, height, width) > 0
        for header, label in selection
        if label.lesion_px
    }
