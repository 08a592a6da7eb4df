"""The label's part of a record, and of the sums of a shard.

In: a label. Out: fields, and where their sums are made.
"""

import numpy as np

from beam.conversion.options import ConversionOptions
from lake.labels import rle
from lake.labels.tables import Label
from lake.records import example, label_sums, mask_png

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
    runs = label_sums.runs(label.rle, *original_size) if label.has_mask else rle.NO_RUNS
    if not len(runs):
        # A lesion of unknown size has no mask, and its size stays unknown.
        return mask_png.encode_empty(*stored_size), label.lesion_px
    if original_size == stored_size:
        return mask_png.encode_runs(runs, *stored_size), label.lesion_px
    mask, _ = mask_png.shrink(rle.to_mask(runs, *original_size), *stored_size)
    return mask_png.encode(mask), int(np.count_nonzero(mask))


def sums(options: ConversionOptions) -> label_sums.Sums:
    """Return what adds up the labels of a shard's records. Masks in files have a size of their own,
    and a CT's nodules have none: they have no run lengths that could be of another size."""
    has_run_lengths = bool(options.labels) and options.source != "metaimage"
    return label_sums.Sums(options.dialect, has_run_lengths)
