"""A lake described in text: counts, classes, views, ages, lesion sizes, folds.

In: folder, manifest and `records`, the index (a pyarrow Table, one row per record). Out: text.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow

from lake import InputError
from lake.records import index, manifest

COLUMNS = (*index.PLACE, *index.COUNTED, "fold", "view", "sex", "age")
CLASSES = {"positive": 1, "negative": 0, "unknown": -1}  # name -> label, without class folders
DECADES = [*(f"{age}-{age + 9}" for age in range(0, 90, 10)), "90+", "unknown"]
# Edges of the histogram of lesion sizes, in % of the image: three steps per factor of ten.
SIZE_EDGES = (0, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 100)
QUANTILES = {"smallest": 0, "5%": 5, "25%": 25, "median": 50, "75%": 75, "95%": 95, "largest": 100}
BAR_LETTERS = 40


def read_index(folder: Path, content: dict, split: str | None) -> pyarrow.Table:
    """Return the index's COLUMNS, of one split if it is named; raises InputError where there is no
    such split or the index cannot be read."""
    splits = content["counts"]["splits"]
    if split is not None and split not in splits:
        raise InputError(f"--split={split}: no such split; {folder} has {', '.join(splits)}")
    return index.read(folder, COLUMNS, [split] if split else None)


def text(folder: Path, content: dict, records: pyarrow.Table) -> str:
    """Return everything about the records, all of a lake or those of one split. `content` is the
    manifest."""
    names = manifest.numbered(content.get("classes", []))
    classes = {name: label for label, name in enumerate(names)} or CLASSES
    groups = _groups(records, content, classes)
    age = records["age"].to_numpy()
    decades = np.where(age < 0, len(DECADES) - 1, np.minimum(age // 10, 9))
    parts = [
        _head(folder, content),
        _splits(content, records, groups, classes),
        _shares(groups, classes),
        *(_crossed(name, *_coded(records, name), groups) for name in ("view", "sex")),
        _crossed("age", DECADES, decades, groups),
        _sizes(content, groups, records),
        _folds(records, classes),
        _statistics(content["statistics"]),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table: its first column aligned to the left, the others to the
    right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]


def _head(folder: Path, content: dict) -> list[str]:
    counts = content["counts"]
    num_rejects = sum(counts["rejects"].values())
    reasons = ", ".join(f"{reason} {n:,}" for reason, n in counts["rejects"].items())
    rows = [
        ("dataset", f"{content['dataset']} {content['version']}"),
        ("folder", str(folder)),
        ("created", content["created"]),
        ("pixels", content["dtype"]),
        ("options", " ".join(f"{key}={value}" for key, value in content["options"].items())),
        ("images in", f"{counts['images']:,}"),
        ("records", f"{counts['records']:,}"),
        ("rejects", f"{num_rejects:,}{f': {reasons}' if reasons else ''}"),
    ]
    if left_out := counts.get("slices_left_out"):
        rows.append(("slices left out", f"{left_out:,}"))
    rows.append(("labels without image", f"{counts['labels_without_image']:,}"))
    if grouped_by := counts.get("grouped_by"):
        rows.append(("splits dealt by", ", ".join(f"{k} {n:,}" for k, n in grouped_by.items())))
    return [f"{name:<21} {value}" for name, value in rows]


def _groups(
    records: pyarrow.Table, content: dict, classes: dict[str, int]
) -> dict[str, np.ndarray]:
    """Return name -> which records [N] belong to it: every split, then every class, as far as there
    are records of it, then all."""
    names, codes = _coded(records, "split")
    splits = [name for name in content["counts"]["splits"] if name in names]
    groups = {name: codes == names.index(name) for name in splits}
    label = records["label"].to_numpy()
    groups |= {name: label == value for name, value in classes.items() if (label == value).any()}
    return {**groups, "all": np.ones(len(records), bool)}


def _coded(records: pyarrow.Table, column: str) -> tuple[list[str], np.ndarray]:
    """Return the values of a column of text, sorted, and which of them each record [N] has; the
    last value is `unknown`, for no text."""
    coded = records[column].combine_chunks().fill_null("").dictionary_encode()
    values = coded.dictionary.to_pylist()
    names = sorted(set(values) - {""})
    codes = np.array([names.index(v) if v else len(names) for v in values] or [0])
    return [*names, "unknown"], codes[coded.indices.to_numpy()]


def _splits(
    content: dict, records: pyarrow.Table, groups: dict[str, np.ndarray], classes: dict[str, int]
) -> list[str]:
    has_mask = records["has_mask"].to_numpy()
    rows = [("split", "records", *classes, "with_mask", "patients", "shards", "MB")]
    sums = np.zeros(len(rows[0]) - 1)
    for split, counts in content["counts"]["splits"].items():
        if split not in groups:
            continue
        shards = [shard for shard in content["shards"] if shard["split"] == split]
        megabytes = sum(shard["bytes"] for shard in shards) / 1e6
        numbers = _count_classes(records, groups[split], classes)
        numbers += [has_mask[groups[split]].sum(), counts["patients"], len(shards), megabytes]
        rows.append((split, *_split_row(numbers)))
        sums += numbers
    # Every patient is in one split, so that patients add up.
    return columns([*rows, ("all", *_split_row(sums))] if len(rows) > 2 else rows)


def _count_classes(
    records: pyarrow.Table, members: np.ndarray, classes: dict[str, int]
) -> list[int]:
    """Return how many records are members [N], and how many of those are of each class."""
    label = records["label"].to_numpy()[members]
    return [len(label), *((label == value).sum() for value in classes.values())]


def _split_row(numbers: Sequence[float]) -> list[str]:
    row = [f"{int(number):,}" for number in numbers[:-1]]
    if numbers[-3] == 0:
        row[-2] = "unknown"  # patients
    return [*row, f"{numbers[-1]:,.1f}"]


def _shares(groups: dict[str, np.ndarray], classes: dict[str, int]) -> list[str]:
    """Return which share of each split each class has, and which share of each class each split."""
    classes = [name for name in classes if name in groups]
    splits = [name for name in groups if name not in classes and name != "all"]
    rows = [("share of the split", *classes)]
    for split in [*splits, "all"]:
        rows.append((split, *(_share(groups[split] & groups[c], groups[split]) for c in classes)))
    lines = columns(rows)
    if len(splits) > 1:
        rows = [("share of the class", *classes)]
        for split in splits:
            rows.append((split, *(_share(groups[split] & groups[c], groups[c]) for c in classes)))
        lines += ["", *columns(rows)]
    return lines


def _share(part: np.ndarray, whole: np.ndarray) -> str:
    return f"{100 * part.sum() / max(whole.sum(), 1):.1f}%"


def _crossed(
    title: str, names: list[str], codes: np.ndarray, groups: dict[str, np.ndarray]
) -> list[str]:
    """Return which share of each group has which of the values `names`, by their codes [N]; a value
    without records is left out."""
    counts = {
        group: np.bincount(codes[rows], minlength=len(names)) for group, rows in groups.items()
    }
    rows = [(title, "records", *groups)]
    for code, name in enumerate(names):
        if counts["all"][code]:
            shares = (f"{100 * n[code] / max(n.sum(), 1):.1f}%" for n in counts.values())
            rows.append((name, f"{counts['all'][code]:,}", *shares))
    return columns(rows)


def _sizes(content: dict, groups: dict[str, np.ndarray], records: pyarrow.Table) -> list[str]:
    lesion_px = records["lesion_px"].to_numpy()
    is_sized = groups.get("positive", False) & (lesion_px > 0)
    if not is_sized.any():
        return ["lesion sizes: no lesion with a mask"]
    image_px = _mean_image_px(content)
    percent = 100 * lesion_px / image_px
    lines = [f"lesion sizes, 100% is {image_px:,.0f} px, the mean of the positives with a mask"]
    too_small = groups["positive"] & (lesion_px == 0)
    if too_small.any():
        lines.append(f"{too_small.sum():,} positives have no pixel left at the stored size")
    counts, _ = np.histogram(percent[is_sized], SIZE_EDGES)
    rows = []
    for low, high, count in zip(SIZE_EDGES, SIZE_EDGES[1:], counts, strict=False):
        bar = "#" * -(-BAR_LETTERS * count // counts.max())
        rows.append(((f"{low:g}% to {high:g}%"), f"{count:,}", bar.ljust(BAR_LETTERS)))
    lines += columns(rows)
    rows = [("quantiles", "lesions", *QUANTILES)]
    for group, members in groups.items():
        lesions = members & is_sized
        if group in CLASSES or not lesions.any():
            continue
        values = np.percentile(percent[lesions], list(QUANTILES.values()))
        rows.append((group, f"{lesions.sum():,}", *(f"{value:.3g}%" for value in values)))
    values = np.percentile(lesion_px[is_sized], list(QUANTILES.values()))
    rows.append(("all, px", f"{is_sized.sum():,}", *(f"{value:,.0f}" for value in values)))
    return [*lines, "", *columns(rows)]


def _mean_image_px(content: dict) -> float:
    """Return the mean number of pixels of a positive image: the index has no image sizes, but the
    manifest states the lesions' pixels and their share."""
    splits = content["counts"]["splits"].values()
    lesion_px = sum(split["lesion_pixels"] for split in splits)
    share = content["statistics"]["positive_pixel_share_of_positives"]
    num_positives = sum(split["positives"] for split in splits)
    return lesion_px / share / num_positives if share else 0


def _folds(records: pyarrow.Table, classes: dict[str, int]) -> list[str]:
    fold = records["fold"].to_numpy()
    rows = [("fold", "records", *classes)]
    for number in np.unique(fold[fold >= 0]):
        counts = _count_classes(records, fold == number, classes)
        rows.append((str(number), *(f"{count:,}" for count in counts)))
    return columns(rows) if len(rows) > 1 else ["folds: none"]


def _statistics(statistics: dict) -> list[str]:
    lines = [
        f"stored values: mean {statistics['mean']:.2f}, standard deviation "
        f"{statistics['standard_deviation']:.2f} (of {statistics['images_sampled']:,} images)"
    ]
    if statistics["positive_pixel_share"]:
        lines.append(
            f"lesion pixels: {statistics['positive_pixel_share']:.3%} of all with a mask, "
            f"{statistics['positive_pixel_share_of_positives']:.3%} of the positives'"
        )
    return lines
