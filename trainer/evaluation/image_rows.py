"""The outcomes of a split, a row per image: for a CSV in the workdir and the report's table."""

import csv
import io

import numpy as np

from trainer.evaluation.outcomes import Outcomes

COLUMNS = (
    *("image_id", "has_lesion", "is_called", "p_of_lesion", "dice", "hd95", "surface_dice"),
    *("unit", "truth_px", "predicted_px", "pixels", "view", "sex", "age"),
)


def rows(outcomes: Outcomes) -> list[dict]:
    """Return {column: value} of each image, None where it is not known or not defined. `has_lesion`
    is 1, 0, or the number of a class; `unit` (mm or px) is that of hd95, which is infinite where no
    pixel of a lesion is marked."""
    predictions = outcomes.predictions
    truth, predicted, pixels = _areas(outcomes)
    columns = {
        "image_id": predictions.ids.tolist(),
        "has_lesion": [int(label) if label >= 0 else None for label in predictions.labels],
        "is_called": [
            int(is_called) if outcomes.decision and is_compared else None
            for is_called, is_compared in zip(outcomes.is_called, outcomes.is_compared, strict=True)
        ],
        "p_of_lesion": [None] * len(truth) if predictions.lesion is None else predictions.lesion,
        "dice": outcomes.dice,
        "hd95": outcomes.outlines[:, 0],
        "surface_dice": outcomes.outlines[:, 1],
        "unit": np.where(predictions.has_spacing, "mm", "px"),
        "truth_px": truth,
        "predicted_px": predicted,
        "pixels": pixels,
        "view": predictions.views,
        "sex": predictions.sexes,
        "age": [int(age) if age >= 0 else None for age in predictions.ages],
    }
    values = zip(*(map(_plain, columns[name]) for name in COLUMNS), strict=True)
    return [dict(zip(COLUMNS, row, strict=True)) for row in values]


def csv_text(outcomes: Outcomes) -> str:
    """Return the rows as a CSV with a header; empty where nothing is known."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(outcomes))
    return file.getvalue()


def _areas(outcomes: Outcomes) -> tuple[list, list, list]:
    """Return the pixels of each image's truth, of its prediction, and all; None without a mask."""
    predictions = outcomes.predictions
    result = np.full((3, len(predictions.ids)), None, object)
    if outcomes.decision is not None and outcomes.decision.triplet is not None:
        counts = predictions.counts
        areas = counts.truth, outcomes.predicted_pixels(), counts.pixels
        for row, values in zip(result, areas, strict=True):
            row[predictions.mask_places] = values.astype(int)
    return tuple(row.tolist() for row in result)


def _plain(value):
    """Return a value as Python's own; None for nan and for empty texts."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if value == "" or value != value else value  # nan alone differs from itself
