"""The lungs of an axial CT slice: HU [H, W] go in, a bool mask [H, W] of lungs and their rims comes
out.

The method is that of the LUNA16 tutorial which the 2017 Data Science Bowl built on: a threshold
between two means, erosion, dilation, a choice of the regions that lie where lungs do, dilation. The
tutorial counts pixels of 512 px slices of 0.7 mm; here they are mm and shares of the side. It also
cut holes into nodules that dilation did not close, and cut off those on the pleura; here the lungs
are closed, and holes as small as a nodule are filled.
"""

import numpy as np
from scipy import ndimage
from scipy.cluster.vq import kmeans

CENTRE = (100 / 512, 400 / 512)  # of each side: it holds lung and tissue, no air outside
HU_RANGE = (-1000.0, 400.0)  # outside lie padding and metal, which would distort a mean
# Aerated lung is below -500 HU, fat above -150. Where no lung is in the centre, the two means are
# those of fat and muscle, and only this bound keeps the abdomen out of the mask.
HIGHEST_THRESHOLD = -320.0
ERODE_MM, DILATE_MM = 2.8, 7.0  # 4 and 10 px of 0.7 mm: removes vessels and noise, restores rims
CLOSE_MM = 20.0  # closes the notch of a nodule on the pleura; one of 23 mm needs 15
LARGEST_NODULE_MM = 40.0  # the largest in LUNA16 has 32 mm
# Air outside the body spans the slice, or lies before the chest or under the table.
LARGEST_SHARE, TOP_SHARE, BOTTOM_SHARE = 475 / 512, 40 / 512, 472 / 512


def region(hu: np.ndarray, spacing_mm: tuple[float, float]) -> np.ndarray:
    """Return the mask of the lungs, all False where there is none; `spacing_mm` is (row,
    column)."""
    hu = np.clip(hu, *HU_RANGE)
    is_air = hu < threshold(hu)
    opened = _dilate(~_dilate(~is_air, ERODE_MM, spacing_mm), DILATE_MM, spacing_mm)
    regions, _ = ndimage.label(opened, np.ones((3, 3)))
    boxes = ndimage.find_objects(regions)
    is_lung = np.array([False, *(lies_as_a_lung(box, hu.shape) for box in boxes)])
    lung = _dilate(is_lung[regions], DILATE_MM, spacing_mm)
    closed = lung | ~_dilate(~_dilate(lung, CLOSE_MM, spacing_mm), CLOSE_MM, spacing_mm)
    holes, _ = ndimage.label(~closed)  # those small enough to be nodules are filled
    areas_mm2 = np.bincount(holes.ravel()) * np.prod(spacing_mm)
    return closed | (areas_mm2 < np.pi * LARGEST_NODULE_MM**2 / 4)[holes]


def threshold(hu: np.ndarray) -> float:
    """Return the HU half-way between the means of air and tissue in the centre of the slice."""
    height, width = hu.shape
    rows, columns = (
        slice(int(side * CENTRE[0]), max(1, int(side * CENTRE[1]))) for side in (height, width)
    )
    centre = hu[rows, columns].astype(np.float64).ravel()
    means, _ = kmeans(centre, np.array(HU_RANGE))  # starts from fixed means, so nothing is random
    return min(float(means.mean()), HIGHEST_THRESHOLD)


def lies_as_a_lung(box: tuple[slice, slice], shape: tuple[int, int]) -> bool:
    """Return whether a region's bounding box (rows, columns) lies where a lung can."""
    rows, columns = box
    height, width = shape
    return (
        rows.stop - rows.start < height * LARGEST_SHARE
        and columns.stop - columns.start < width * LARGEST_SHARE
        and rows.start > height * TOP_SHARE
        and rows.stop < height * BOTTOM_SHARE
    )


def _dilate(mask: np.ndarray, by_mm: float, spacing_mm: tuple[float, float]) -> np.ndarray:
    """Return a mask [H, W] dilated by a square of side `by_mm`, an odd number of pixels, so that
    nothing shifts."""
    size = [round(by_mm / mm) | 1 for mm in spacing_mm]
    return ndimage.maximum_filter(mask.astype(np.uint8), size) > 0
