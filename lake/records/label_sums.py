"""What the labels of a shard's records add up to.

In: the fields of records. Out: sums, which depend on nothing else, so they are made again where
records of a shard get other labels, or go.
"""

import functools
from collections import Counter

import numpy as np

from lake.labels import coherence, rle
from lake.records import mask_png

LINE_VOTES = 50  # of a shard's images; a vote takes a millisecond

Size = tuple[int, int]  # height, width


@functools.lru_cache(maxsize=1)
def runs(text: str, height: int, width: int) -> np.ndarray:
    """Return the runs [N, 2] of a record's text, of which its mask and its votes are made."""
    return rle.runs(text, height, width)


class Sums:
    """Adds up what the labels of a shard's records say."""

    def __init__(self, dialect: str, has_run_lengths: bool):
        """Begin a shard. `dialect`: of the label file's run lengths; `has_run_lengths`: whether
        they could be of images of another size."""
        self.dialect, self.has_run_lengths, self.sums = dialect, has_run_lengths, Counter()

    def add(self, record: dict) -> None:
        """Add the fields of one record."""
        if not record["has_mask"]:
            return
        num_pixels = record["height"] * record["width"]
        self.sums["mask_pixels"] += num_pixels
        self.sums["lesion_pixels"] += record["lesion_px"]
        self.sums["pixels_of_positives"] += num_pixels * record["label"]
        if record["lesion_px"]:
            text = record["original_rle"].decode()
            size = record["original_height"], record["original_width"]
            self._count_votes(text, size)
            if record["lesion_px"] == 1 and size != (record["height"], record["width"]):
                mask = rle.decode(text, *size)
                is_small = mask_png.shrink(mask, record["height"], record["width"])[1]
                self.sums["small_lesions"] += is_small

    def _count_votes(self, text: str, size: Size) -> None:
        """Add the votes of an image's run lengths, about the lines along which they count and how
        long those are."""
        if self.dialect in rle.ORDERS:
            votes = coherence.order_votes(runs(text, *size), *size, self.dialect)
            self.sums.update(order_as_columns=votes[0], order_as_rows=votes[1])
        if self.has_run_lengths and self.sums["line_votes"] < LINE_VOTES:
            vote = coherence.line_vote(runs(text, *size), *size, self.dialect)
            if vote is not None:
                self.sums.update({"line_votes": 1, vote.key: 1})
