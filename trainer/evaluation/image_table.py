"""Outcomes -> a row per image. All columns of a kind of network are in images_SPLIT.csv and in the
CSV that the report gives; the report's table shows those that have a title and a value.
page/table.js sorts it and writes its CSV.
"""

import csv
import io
from typing import NamedTuple

import numpy as np

from trainer.evaluation.outcomes import Outcomes
from trainer.scoring import metrics

MOST_ROWS = 20_000  # a page of more would be slow to open
DIGITS = 4  # behind the point
INFINITE = "inf"  # the HD95 of a missed lesion; JSON has no number for it
RESULTS = {  # (has a lesion, is called positive) -> what a reader calls it
    (True, True): "true positive",
    (True, False): "false negative",
    (False, True): "false positive",
    (False, False): "true negative",
}


class Column(NamedTuple):
    name: str  # in the CSV
    title: str  # in the page; "": it is in the CSV alone
    values: list  # one for each row; None: unknown or not defined
    is_number: bool = False

    @property
    def is_shown(self) -> bool:
        """Whether the page's table has the column."""
        return bool(self.title) and any(value not in (None, "") for value in self.values)


class ImageTable(NamedTuple):
    columns: list[Column]
    num_images: int  # of the split; there may be fewer rows


def from_outcomes(outcomes: Outcomes) -> ImageTable:
    """Return the table of a page: of more than MOST_ROWS images those with the lowest dice, or else
    the first."""
    num_images = len(outcomes.predictions.ids)
    places = np.arange(num_images)
    if num_images > MOST_ROWS:  # nan, where no mask is known, comes last
        places = np.sort(np.argsort(outcomes.dice, kind="stable")[:MOST_ROWS])
    return ImageTable(columns_of(outcomes.take(places)), num_images)


def csv_text(outcomes: Outcomes) -> str:
    """Return all images as a CSV with a header; empty where nothing is known. Numbers are written
    as page/table.js does."""
    columns, file = columns_of(outcomes), io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(column.name for column in columns)
    for values in zip(*(column.values for column in columns), strict=True):
        writer.writerow(
            int(value) if isinstance(value, float) and value.is_integer() else value
            for value in values
        )
    return file.getvalue()


def columns_of(outcomes: Outcomes) -> list[Column]:
    """Return the columns of all images: the same ones for every network of masks, of lesions, of
    classes, or of the same findings."""
    predictions = outcomes.predictions
    columns = [Column("image_id", "image", predictions.ids.tolist())]
    if predictions.findings is not None:
        columns += _finding_columns(outcomes)
    elif outcomes.decision is None:
        columns += _class_columns(outcomes)
    else:
        columns += _lesion_columns(outcomes)
    ages = [int(age) if age >= 0 else None for age in predictions.ages]
    return [
        *columns,
        Column("view", "view", predictions.views.tolist()),
        Column("sex", "sex", predictions.sexes.tolist()),
        Column("age_years", "age, years", ages, is_number=True),
    ]


def _class_columns(outcomes: Outcomes) -> list[Column]:
    """Return the columns of the label, the likeliest class and its p."""
    predictions = outcomes.predictions
    p = metrics.to_probabilities(predictions.scores)
    labels = [int(label) if label >= 0 else None for label in predictions.labels]
    return [
        Column("class", "class", labels, is_number=True),
        Column("predicted_class", "predicted class", p.argmax(axis=1).tolist(), is_number=True),
        _number_column("p", "its p", p.max(axis=1)),
    ]


def _finding_columns(outcomes: Outcomes) -> list[Column]:
    """Return the columns of the findings of an image and of the likeliest one, for the page, and
    those of truth and p of each finding, for the CSV."""
    predictions = outcomes.predictions
    names = np.array(predictions.finding_names)
    p = metrics.to_probabilities(predictions.scores, are_findings=True)
    texts = [", ".join(names[row > 0]) for row in predictions.findings]
    columns = [
        Column("findings", "findings", texts),
        Column("likeliest", "likeliest finding", names[p.argmax(axis=1)].tolist()),
        _number_column("p_of_likeliest", "its p", p.max(axis=1)),
    ]
    for name, truth, values in zip(names.tolist(), predictions.findings.T, p.T, strict=True):
        states = [int(value) if value >= 0 else None for value in truth]
        columns.append(Column(f"truth: {name}", "", states, is_number=True))
        columns.append(_number_column(f"p: {name}", "", values))
    return columns


def _lesion_columns(outcomes: Outcomes) -> list[Column]:
    """Return the columns of the truth, the answer, p of a lesion, and for masks their dice and
    areas."""
    predictions = outcomes.predictions
    truths = [{1: "lesion", 0: "none"}.get(min(label, 1)) for label in predictions.labels]
    results = [
        RESULTS[bool(label > 0), bool(called)] if compared else None
        for label, called, compared in zip(
            predictions.labels, outcomes.is_called, outcomes.is_compared, strict=True
        )
    ]
    p = np.full(len(truths), np.nan) if predictions.lesion is None else predictions.lesion
    return [
        Column("truth", "truth", truths),
        Column("result", "result", results),
        _number_column("p_of_lesion", "p of a lesion", p),
        *(_mask_columns(outcomes) if outcomes.decision.triplet is not None else ()),
    ]


def _mask_columns(outcomes: Outcomes) -> list[Column]:
    """Return the columns of the dice, the outlines' scores, and the areas, in percent of the image
    and in pixels of the source."""
    places, counts = outcomes.predictions.mask_places, outcomes.predictions.counts
    columns = [_number_column("dice", "dice", outcomes.dice), *_outline_columns(outcomes)]
    for name, percents in zip(("truth", "predicted"), area_percents(outcomes), strict=True):
        areas = np.full(len(outcomes.dice), np.nan)
        areas[places] = percents
        title = f"{name} area, % of image"
        columns.append(_number_column(f"{name}_area_percent", title, areas))
    pixels = {"truth": counts.truth, "predicted": outcomes.predicted_pixels()}
    for name, numbers in (pixels | {"image": counts.pixels}).items():
        values = np.full(len(outcomes.dice), None, object)
        values[places] = numbers.astype(int)
        columns.append(Column(f"{name}_px", "", values.tolist(), is_number=True))
    return columns


def _outline_columns(outcomes: Outcomes) -> list[Column]:
    """Return the columns of HD95 and surface dice, those in mm apart from those in pixels of the
    source."""
    has_spacing, columns = outcomes.predictions.has_spacing, []
    for unit, is_unit in (("mm", has_spacing), ("px", ~has_spacing)):
        hd95, surface_dice = np.where(is_unit[:, None], outcomes.outlines, np.nan).T
        columns.append(_number_column(f"hd95_{unit}", f"HD95, {unit}", hd95))
        title = f"surface dice, {unit}"
        columns.append(_number_column(f"surface_dice_{unit}", title, surface_dice))
    return columns


def area_percents(outcomes: Outcomes) -> tuple[np.ndarray, np.ndarray]:
    """Return the areas of the true and of the predicted masks in percent of the image, [M] each."""
    counts, predicted = outcomes.predictions.counts, outcomes.predicted_pixels()
    return 100 * counts.truth / counts.pixels, 100 * predicted / counts.pixels


def _number_column(name: str, title: str, values: np.ndarray) -> Column:
    """Return the column of numbers [N], rounded; nan is unknown."""
    return Column(name, title, _rounded_values(values), is_number=True)


def _rounded_values(values: np.ndarray) -> list:
    """Return numbers, rounded, for JSON, which has neither nan nor infinity. A value that is not
    quite 0 or 1 is not rounded to it."""

    def plain(value: float) -> float | str | None:
        if not np.isfinite(value):
            return INFINITE if np.isinf(value) else None
        number = round(value, DIGITS)
        if number in (0, 1) and number != value:
            return number + (10**-DIGITS if value > number else -(10**-DIGITS))
        return number

    return [plain(float(value)) for value in values]
