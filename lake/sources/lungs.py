"""The lungs of an axial CT slice. In: HU [H, W]; out: a bool mask [H, W] of lungs and their
rims.

After the LUNA16 tutorial that the 2017 Data Science Bowl built on: a threshold between two means,
erosion, dilation, the regions that lie as lungs do, dilation. Its pixel counts, made for 512 px of
0.7 mm, are mm and shares of the side here. It cut the core out of nodules that dilation did not
close, and those on the pleura; here the lungs are closed and holes as small as a nodule filled.
"""

import numpy as np
from scipy import ndimage
from scipy.cluster.vq import kmeans

CENTRE = (100 / 512, 400 / 512)  # of each side: lung and tissue, no outside air
HU_RANGE = (-1000.0, 400.0)  # beyond lie the scanner's padding and metal, which pull a mean away
# Aerated lung is below -500 HU, fat above -150. Without lung in the centre the two means are fat
# and muscle, and only a bound keeps the abdomen out.
HIGHEST_THRESHOLD = -320.0
ERODE_MM, DILATE_MM = 2.8, 7.0  # 4 and 10 px of 0.7 mm: vessels and noise go, rims come back
CLOSE_MM = 20.0  # across the notch of a nodule on the pleura; one of 23 mm needs 15
LARGEST_NODULE_MM = 40.0  # LUNA16's largest has 32 mm
# Outside air spans the slice, or lies before the chest or under the table.
LARGEST_SHARE, TOP_SHARE, BOTTOM_SHARE = 475 / 512, 40 / 512, 472 / 512


def region(hu: np.ndarray, spacing_mm: tuple[float, float]) -> np.ndarray:
    """Where the lungs are; all False on a slice without any. `spacing_mm` is (row, column)."""
    hu = np.clip(hu, *HU_RANGE)
    is_air = hu < threshold(hu)
    opened = _grown(~_grown(~is_air, ERODE_MM, spacing_mm), DILATE_MM, spacing_mm)
    regions, _ = ndimage.label(opened, np.ones((3, 3)))
    boxes = ndimage.find_objects(regions)
    is_lung = np.array([False, *(lies_as_a_lung(box, hu.shape) for box in boxes)])
    lung = _grown(is_lung[regions], DILATE_MM, spacing_mm)
    closed = lung | ~_grown(~_grown(lung, CLOSE_MM, spacing_mm), CLOSE_MM, spacing_mm)
    return _filled(closed, spacing_mm)


def threshold(hu: np.ndarray) -> float:
    """HU half-way between the means of air and tissue in the centre of the slice."""
    height, width = hu.shape
    rows, columns = (
        slice(int(side * CENTRE[0]), max(1, int(side * CENTRE[1]))) for side in (height, width)
    )
    centre = hu[rows, columns].astype(np.float64).ravel()
    means, _ = kmeans(centre, np.array(HU_RANGE))  # from fixed first means: no random choice
    return min(float(means.mean()), HIGHEST_THRESHOLD)


def lies_as_a_lung(box: tuple[slice, slice], shape: tuple[int, int]) -> bool:
    """Whether a region's bounding box (rows, columns) is where a lung can be in the slice."""
    rows, columns = box
    height, width = shape
    return (
        rows.stop - rows.start < height * LARGEST_SHARE
        and columns.stop - columns.start < width * LARGEST_SHARE
        and rows.start > height * TOP_SHARE
        and rows.stop < height * BOTTOM_SHARE
    )


def _grown(mask: np.ndarray, by_mm: float, spacing_mm: tuple[float, float]) -> np.ndarray:
    """Dilation by a rectangle of `by_mm` a side, in an odd number of pixels: it moves nothing."""
    size = [round(by_mm / mm) | 1 for mm in spacing_mm]
    return ndimage.maximum_filter(mask.astype(np.uint8), size) > 0


def _filled(mask: np.ndarray, spacing_mm: tuple[float, float]) -> np.ndarray:
    """The mask without holes that a nodule could have made."""
    holes, _ = ndimage.label(~mask)
    areas_mm2 = np.bincount(holes.ravel()) * np.prod(spacing_mm)
    return mask | (areas_mm2 < np.pi * LARGEST_NODULE_MM**2 / 4)[holes]
