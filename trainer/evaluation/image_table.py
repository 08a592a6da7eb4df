"""Outcomes -> the report's table of all images, a row each; page/table.js sorts it and writes it as
a CSV."""

from typing import NamedTuple

import numpy as np

from trainer.evaluation.outcomes import Outcomes
from trainer.scoring import metrics

MOST_ROWS = 20_000  # a page of more would be slow to open
DIGITS = 4
INFINITE = "Infinity"  # as JavaScript reads it: the HD95 of a missed lesion
RESULTS = {  # (has a lesion, is called positive) -> what a reader calls it
    (True, True): "true positive",
    (True, False): "false negative",
    (False, True): "false positive",
    (False, False): "true negative",
}


class Column(NamedTuple):
    name: str  # in the CSV
    title: str  # in the page
    values: list  # one for each row; None: unknown
    is_number: bool = False


class ImageTable(NamedTuple):
    columns: list[Column]
    num_images: int  # of the split; there may be fewer rows


def from_outcomes(outcomes: Outcomes) -> ImageTable:
    """Return the table, without columns that are unknown for all images. Of more than MOST_ROWS
    images it has those with the lowest dice, or else the first."""
    num_images = len(outcomes.predictions.ids)
    places = np.arange(num_images)
    if num_images > MOST_ROWS:  # nan, where no mask is known, comes last
        places = np.sort(np.argsort(outcomes.dice, kind="stable")[:MOST_ROWS])
    columns = _columns(outcomes.take(places))
    is_useful = [any(value not in (None, "") for value in column.values) for column in columns]
    columns = [column for column, useful in zip(columns, is_useful, strict=True) if useful]
    return ImageTable(columns, num_images)


def _columns(outcomes: Outcomes) -> list[Column]:
    predictions = outcomes.predictions
    columns = [Column("image_id", "image", predictions.ids.tolist())]
    if outcomes.decision is None:
        columns += _class_columns(outcomes)
    else:
        columns += _lesion_columns(outcomes)
    ages = [int(age) if age >= 0 else None for age in predictions.ages]
    return [
        *columns,
        Column("view", "view", predictions.views.tolist()),
        Column("sex", "sex", predictions.sexes.tolist()),
        Column("age_years", "age, years", ages, True),
    ]


def _class_columns(outcomes: Outcomes) -> list[Column]:
    """Return the label, the likeliest class and its p."""
    predictions = outcomes.predictions
    p = metrics.to_probabilities(predictions.scores)
    labels = [int(label) if label >= 0 else None for label in predictions.labels]
    return [
        Column("class", "class", labels, True),
        Column("predicted_class", "predicted class", p.argmax(axis=1).tolist(), True),
        Column("p", "its p", _rounded(p.max(axis=1)), True),
    ]


def _lesion_columns(outcomes: Outcomes) -> list[Column]:
    """Return what is true, what is answered, and for masks their dice and areas."""
    predictions = outcomes.predictions
    truths = [{1: "lesion", 0: "none"}.get(min(label, 1)) for label in predictions.labels]
    results = [
        RESULTS[bool(label > 0), bool(called)] if compared else None
        for label, called, compared in zip(
            predictions.labels, outcomes.is_called, outcomes.is_compared, strict=True
        )
    ]
    columns = [Column("truth", "truth", truths), Column("result", "result", results)]
    if outcomes.decision.triplet is not None:
        columns.append(Column("dice", "dice", _rounded(outcomes.dice), True))
        truth, predicted = area_percents(outcomes)
        for name, shares in (("truth", truth), ("predicted", predicted)):
            areas = np.full(len(predictions.ids), np.nan)
            areas[predictions.mask_places] = shares
            title = f"{name} area, % of image"
            columns.append(Column(f"{name}_area_percent", title, _rounded(areas), True))
        columns += _outline_columns(outcomes)
    if predictions.lesion is not None:
        columns.append(Column("p_of_lesion", "p of a lesion", _rounded(predictions.lesion), True))
    return columns


def _outline_columns(outcomes: Outcomes) -> list[Column]:
    """Return HD95 and surface dice, lengths in mm apart from those in pixels of the source."""
    has_spacing, columns = outcomes.predictions.has_spacing, []
    for unit, is_unit in (("mm", has_spacing), ("px", ~has_spacing)):
        hd95, surface_dice = np.where(is_unit[:, None], outcomes.outlines, np.nan).T
        columns.append(Column(f"hd95_{unit}", f"HD95, {unit}", _rounded(hd95), True))
        title = f"surface dice, {unit}"
        columns.append(Column(f"surface_dice_{unit}", title, _rounded(surface_dice), True))
    return columns


def area_percents(outcomes: Outcomes) -> tuple[np.ndarray, np.ndarray]:
    """Return the areas of the true and of the predicted masks in percent of the image, [M] each."""
    counts, predicted = outcomes.predictions.counts, outcomes.predicted_pixels()
    return 100 * counts.truth / counts.pixels, 100 * predicted / counts.pixels


def _rounded(values: np.ndarray) -> list:
    """Return numbers for JSON, which has neither nan nor infinity."""
    return [
        INFINITE if np.isinf(v) else None if np.isnan(v) else round(float(v), DIGITS)
        for v in values
    ]
