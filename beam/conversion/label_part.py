"""The label's part of a record, and of the sums of a shard.

In: a label, or a record's fields. Out: fields, sums. The sums depend on the fields alone, so an
append makes those of a shard again, of which some records got other labels.
"""

import functools
from collections import Counter

import numpy as np

from beam.conversion.options import ConversionOptions
from lake.labels import coherence, rle
from lake.labels.tables import Label
from lake.records import example, mask_png

LINE_VOTES = 50  # of a shard's images; a vote takes a millisecond
FIELDS = ("mask", "has_mask", "label", "lesion_px", "original_rle", example.FINDINGS)

Size = tuple[int, int]  # height, width


def fields(label: Label, original_size: Size, stored_size: Size) -> dict:
    """Return the fields of a record that its label alone decides."""
    mask, lesion_px = _mask(label, original_size, stored_size)
    return {
        "mask": mask,
        "has_mask": int(label.has_mask),
        "label": label.label,
        "lesion_px": lesion_px,
        "original_rle": label.rle.encode(),
        **({example.FINDINGS: label.findings} if label.findings else {}),
    }


def _mask(label: Label, original_size: Size, stored_size: Size) -> tuple[bytes, int]:
    """Return (PNG, lesion pixels or -1) of the mask at the stored size."""
    runs = _runs(label.rle, *original_size) if label.has_mask else rle.NO_RUNS
    if not len(runs):
        # A lesion of unknown size has no mask, and its size stays unknown.
        return mask_png.encode_empty(*stored_size), label.lesion_px
    if original_size == stored_size:
        return mask_png.encode_runs(runs, *stored_size), label.lesion_px
    mask, _ = mask_png.shrink(rle.to_mask(runs, *original_size), *stored_size)
    return mask_png.encode(mask), int(np.count_nonzero(mask))


@functools.lru_cache(maxsize=1)
def _runs(text: str, height: int, width: int) -> np.ndarray:
    """Return the runs [N, 2] of a record's text, of which its mask and its votes are made."""
    return rle.runs(text, height, width)


class Sums:
    """Adds up what the labels of a shard's records say."""

    def __init__(self, options: ConversionOptions):
        self.options, self.sums = options, Counter()

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
        dialect = self.options.dialect
        if dialect in rle.ORDERS:
            columns, rows = coherence.order_votes(_runs(text, *size), *size, dialect)
            self.sums.update(order_as_columns=columns, order_as_rows=rows)
        # Masks in files have a size of their own, and a CT's nodules have none.
        has_run_lengths = self.options.labels and self.options.source != "metaimage"
        if has_run_lengths and self.sums["line_votes"] < LINE_VOTES:
            vote = coherence.line_vote(_runs(text, *size), *size, dialect)
            if vote is not None:
                self.sums.update({"line_votes": 1, vote.key: 1})
