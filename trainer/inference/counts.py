"""Pixel counts above each threshold, from which the dice of any of them follows.

In: probability maps and masks, one at a time. Out: a few numbers per image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


def area_px(area_share: float, num_pixels) -> np.float32:
    """Return the pixels in a share of an image; always in float32, so that all who compute it
    agree."""
    return np.float32(area_share) * np.float32(num_pixels)


def from_image(probabilities: np.ndarray, mask: np.ndarray, thresholds: np.ndarray) -> "Counts":
    """Return the Counts of one image, whose arrays lack the axis of images; probabilities float32
    and mask bool of one shape, thresholds float32, sorted."""
    p, is_lesion, length = probabilities.ravel(), mask.ravel(), len(thresholds) + 1
    bins = np.searchsorted(thresholds, p)  # how many thresholds p exceeds
    # From pixels between thresholds [T + 1] to pixels above each of them [T].
    above, hits = (
        np.bincount(numbers, minlength=length)[::-1].cumsum()[::-1][1:]
        for numbers in (bins, bins[is_lesion])
    )
    # (p - 1)² = p² + 1 - 2 p on the mask, (p - 0)² elsewhere.
    squares = np.square(p, dtype=np.float64).sum()
    squares += (1 - 2 * p[is_lesion].astype(np.float64)).sum()
    p_sums = np.bincount(bins, weights=p, minlength=length)
    return Counts(thresholds, above, hits, np.count_nonzero(is_lesion), p.size, p_sums, squares)


def stack(rows: list["Counts"], thresholds: np.ndarray) -> "Counts":
    """Return the rows of `from_image` as one Counts; there may be none."""
    # `thresholds` is the first field; `shapes` are those of the others, in their order.
    columns = list(zip(*rows, strict=True))[1:] if rows else [[]] * (len(Counts._fields) - 1)
    length = len(thresholds)
    shapes = ((-1, length), (-1, length), -1, -1, (-1, length + 1), -1)
    return Counts(thresholds, *map(np.reshape, columns, shapes))


class Counts(NamedTuple):
    """Pixel counts of N images at the size of their sources."""

    thresholds: np.ndarray  # float32 [T], sorted
    above: np.ndarray  # [N, T] pixels with p > the threshold
    hits: np.ndarray  # [N, T] pixels of the mask among them
    truth: np.ndarray  # [N] pixels of the mask
    pixels: np.ndarray  # [N] pixels of the image
    p_sums: np.ndarray  # [N, T + 1] sums of p between thresholds: (…, t0], (t0, t1], …, (tT, …)
    squares: np.ndarray  # [N] sum of (p - truth)²

    def columns(self, thresholds: Sequence[float]) -> np.ndarray:
        """Return the columns [K] of `above` and `hits` that belong to counted thresholds [K]."""
        return np.searchsorted(self.thresholds, np.float32(thresholds))

    def dice_at(self, thresholds: Sequence[float]) -> np.ndarray:
        """Return the dice [N, K] of the masks p > threshold; 1 where mask and truth are empty."""
        columns = self.columns(thresholds)
        total = self.above[:, columns] + self.truth[:, None]
        return np.where(total > 0, 2 * self.hits[:, columns] / np.maximum(total, 1), 1.0)

    def dice_emptied(self) -> np.ndarray:
        """Return the dice [N] of empty masks: 1 without a lesion, else 0."""
        return (self.truth == 0).astype(np.float64)

    def is_kept(self, tops: Sequence[float], areas_share: Sequence[float]) -> np.ndarray:
        """Return whether a mask is kept at each top and area, [N, T, A]: at least this share of the
        image has p > top."""
        above_top = self.above[:, self.columns(tops)].astype(np.float32)  # exact up to 2^24 pixels
        areas = np.stack([area_px(share, self.pixels) for share in areas_share], axis=1)  # [N, A]
        return above_top[:, :, None] >= areas[:, None, :]
