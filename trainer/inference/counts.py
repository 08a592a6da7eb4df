"""What the dice of any thresholds is made of: an image's pixels above each of them, and those of
its mask. Maps go in one at a time, a few whole numbers an image stay.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


def area_px(area_share: float, num_pixels) -> np.float32:
    """Of an image of so many pixels; in float32 wherever it is computed, so that all agree."""
    return np.float32(area_share) * np.float32(num_pixels)


def from_image(probabilities: np.ndarray, mask: np.ndarray, thresholds: np.ndarray) -> "Counts":
    """One image's row, without the axis of images; probabilities float32, mask bool, of one shape,
    thresholds float32, sorted."""
    p, is_lesion, length = probabilities.ravel(), mask.ravel(), len(thresholds) + 1
    place = np.searchsorted(thresholds, p)  # how many thresholds p exceeds
    of_lesion = p[is_lesion].astype(np.float64)
    return Counts(
        thresholds,
        _downwards(np.bincount(place, minlength=length)),
        _downwards(np.bincount(place[is_lesion], minlength=length)),
        np.count_nonzero(is_lesion),
        p.size,
        np.bincount(place, weights=p, minlength=length),
        np.square(p, dtype=np.float64).sum() + (1 - 2 * of_lesion).sum(),
    )


def _downwards(numbers: np.ndarray) -> np.ndarray:
    """Pixels between thresholds [T + 1] -> above each threshold [T]."""
    return numbers[::-1].cumsum()[::-1][1:]


def stack(rows: list["Counts"], thresholds: np.ndarray) -> "Counts":
    columns = list(zip(*rows, strict=True))[1:] if rows else [[]] * (len(Counts._fields) - 1)
    wide = (len(thresholds), len(thresholds), None, None, len(thresholds) + 1, None)
    return Counts(
        thresholds,
        *(
            np.array(column).reshape(-1, *([] if width is None else [width]))
            for column, width in zip(columns, wide, strict=True)
        ),
    )


class Counts(NamedTuple):
    """Of N images at the source's own size."""

    thresholds: np.ndarray  # float32 [T], sorted
    above: np.ndarray  # [N, T] pixels with p > the threshold
    hits: np.ndarray  # [N, T] those of the mask
    truth: np.ndarray  # [N] pixels of the mask
    pixels: np.ndarray  # [N]
    p_sums: np.ndarray  # [N, T + 1] of p between thresholds: (…, t0], (t0, t1], …, (tT, …)
    squares: np.ndarray  # [N] of p - truth, summed

    def columns(self, thresholds: Sequence[float]) -> np.ndarray:
        """The places of thresholds that were counted."""
        return np.searchsorted(self.thresholds, np.float32(thresholds))

    def dice_at(self, thresholds: Sequence[float]) -> np.ndarray:
        """[N, K] of the masks p > threshold; 1 where it and the truth are empty."""
        places = self.columns(thresholds)
        total = self.above[:, places] + self.truth[:, None]
        return np.where(total > 0, 2 * self.hits[:, places] / np.maximum(total, 1), 1.0)

    def dice_emptied(self) -> np.ndarray:
        """[N] of empty masks: 1 without a lesion, else 0."""
        return (self.truth == 0).astype(np.float64)

    def is_kept(self, tops: Sequence[float], areas_share: Sequence[float]) -> np.ndarray:
        """[N, T, A]: whether at least that share of the image has p > top."""
        sure = self.above[:, self.columns(tops)].astype(np.float32)  # exact up to 2^24 pixels
        areas = np.stack([area_px(share, self.pixels) for share in areas_share], axis=1)  # [N, A]
        return sure[:, :, None] >= areas[:, None, :]
