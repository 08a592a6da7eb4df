"""How far the outline of a predicted mask lies from the true one: HD95 and surface dice of each
image, at the size of its source.

    HD95           from each point of either outline to the nearest one of the other: the distance
                   that 95% of them do not exceed, the larger of both directions
    surface dice   the share of both outlines that lies within a tolerance of the other
                   (Nikolov et al. 2018, arXiv:1809.04430)

                         truth and mask       truth, no mask       mask, no truth       neither
    HD95                 as above             infinite             not defined          not defined
    surface dice         as above             0                    not defined          not defined

So a lesion that is missed counts, as the worst of all; images without a lesion have neither score.
Lengths are in mm where the lake knows the distance of pixels, else in pixels of the source.
"""

import math
import zlib
from typing import NamedTuple

import numpy as np

PERCENT = 95
TRUTH = 128  # added to a level where the pixel is lesion in truth
MOST_PIXELS = 2**22  # of a box that is compared as it is; larger ones are made coarser


class Map(NamedTuple):
    """The levels of an image's probabilities and its true mask, packed: all that outlines at any of
    the thresholds need, in a few KB."""

    shape: tuple[int, int]
    packed: bytes


def pack(probabilities: np.ndarray, mask: np.ndarray, thresholds: np.ndarray) -> Map:
    """Return the Map of float32 probabilities [H, W]; thresholds float32, sorted, at most 127."""
    levels = np.searchsorted(thresholds, probabilities).astype(np.uint8)  # how many p exceeds
    levels += np.uint8(TRUTH) * mask
    return Map(levels.shape, zlib.compress(levels, level=1))


def column(maps: list[Map | None]) -> np.ndarray:
    """Return Maps as a column of predictions, [N]; NumPy would look into them by itself."""
    result = np.empty(len(maps), object)
    for place, one in enumerate(maps):
        result[place] = one
    return result


def unpack(packed: Map, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the true mask and p > the threshold of that number, bool [H, W] each."""
    levels = np.frombuffer(zlib.decompress(packed.packed), np.uint8).reshape(packed.shape)
    return levels >= TRUTH, levels % TRUTH > number


def compare(
    truth: np.ndarray, mask: np.ndarray, spacing: tuple[float, float], tolerance: float
) -> tuple[float, float]:
    """Return HD95 and surface dice of two masks, bool [H, W], in the unit of the spacing of rows
    and of columns; nan and nan without a true lesion."""
    if not truth.any():
        return math.nan, math.nan
    if not mask.any():
        return math.inf, 0.0
    truth, mask = _crop(truth, mask)
    step = math.ceil(math.sqrt(truth.size / MOST_PIXELS))
    if step > 1:
        truth, mask = _coarser(truth, step), _coarser(mask, step)
        spacing = spacing[0] * step, spacing[1] * step
    # Imported where it is needed: half a second.
    from surface_distance import metrics

    distances = metrics.compute_surface_distances(truth, mask, spacing)
    hd95 = metrics.compute_robust_hausdorff(distances, PERCENT)
    return float(hd95), float(metrics.compute_surface_dice_at_tolerance(distances, tolerance))


def _crop(truth: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both masks within the box that holds them."""
    either = truth | mask
    rows, columns = (np.flatnonzero(either.any(axis=axis)) for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return truth[box], mask[box]


def _coarser(mask: np.ndarray, step: int) -> np.ndarray:
    """Return a mask with one pixel for `step` x `step`, on where any of them is: no lesion is lost,
    and an outline is off by at most `step` pixels."""
    height, width = (-(-side // step) * step for side in mask.shape)
    padded = np.zeros((height, width), bool)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    return padded.reshape(height // step, step, width // step, step).any(axis=(1, 3))
