"""A lake described in text: counts, classes, views, ages, lesion sizes, folds.

In: folder, manifest and `records`, the index (a pyarrow Table, one row per record). Out: text.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute

from lake import InputError
from lake.records import example, index, manifest

COLUMNS = (*index.PLACE, *index.COUNTED, "fold", "view", "sex", "age")
CLASSES = {"positive": 1, "negative": 0, "unknown": -1}  # name -> label, without class folders
DECADES = [*(f"{age}-{age + 9}" for age in range(0, 90, 10)), "90+", "unknown"]
# Edges of the histogram of lesion sizes, in % of the image: three steps per factor of ten.
SIZE_EDGES = (0, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 100)
QUANTILES = {"smallest": 0, "5%": 5, "25%": 25, "median": 50, "75%": 75, "95%": 95, "largest": 100}
BAR_LETTERS = 40
# {count of the manifest: (title, remark)}, each named where it is not 0.
RARE_COUNTS = {
    "files_left_out": ("files left out", " that a system left, or hidden"),
    "label_files_among_images": ("label files", " among --images"),
    "masks_without_suffix": ("masks left out", " without --mask_suffix"),
    "slices_left_out": ("slices left out", ""),
    "flat_views": ("flat views", " images have one grey level"),
    "small_lesions": ("small lesions", " are smaller than a stored pixel"),
}


def read_index(folder: Path, content: dict, split: str | None) -> pyarrow.Table:
    """Return the index's COLUMNS, of one split if it is named; raises InputError where there is no
    such split or the index cannot be read."""
    splits = content["counts"]["splits"]
    columns = (*COLUMNS, example.FINDINGS) if manifest.findings(content) else COLUMNS
    if split is not None and split not in splits:
        raise InputError(f"--split={split}: no such split; {folder} has {', '.join(splits)}")
    return index.read(folder, columns, [split] if split else None)


def text(folder: Path, content: dict, records: pyarrow.Table) -> str:
    """Return the text that describes the records, all of a lake or those of one split. `content` is
    the manifest."""
    labels, ages = (records[name].to_numpy() for name in ("label", "age"))
    names = manifest.class_titles(content.get("classes", []))
    label_by_name = {name: number for number, name in enumerate(names)} or CLASSES
    classes = {name: labels == number for name, number in label_by_name.items()}
    by_split = _by_value(records, "split")
    splits = {name: by_split[name] for name in content["counts"]["splits"] if name in by_split}
    splits_and_all = splits | {"all": np.ones(len(records), bool)}
    nonempty_classes = {name: members for name, members in classes.items() if members.any()}
    groups = splits | nonempty_classes | splits_and_all
    decades = np.where(ages < 0, len(DECADES) - 1, np.minimum(ages // 10, 9))
    by_age = {name: decades == number for number, name in enumerate(DECADES)}
    parts = [
        _head(folder, content),
        _splits(content, records, splits, classes),
        *_findings(manifest.findings(content), records, splits),
        _share_tables(splits_and_all, nonempty_classes),
        *(_cross_table(name, _by_value(records, name), groups) for name in ("view", "sex")),
        _cross_table("age", by_age, groups),
        _sizes(content, splits_and_all, nonempty_classes.get("positive", False), records),
        _folds(records, classes),
        _statistics(content["statistics"]),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts)


def table_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table: its first column aligned to the left, the others to the
    right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]


def _head(folder: Path, content: dict) -> list[str]:
    """Return the lines about the whole lake: folder, options, counts."""
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
    rows += [
        (title, f"{counts[name]:,}{remark}")
        for name, (title, remark) in RARE_COUNTS.items()
        if counts.get(name)
    ]
    rows.append(("labels without image", f"{counts['labels_without_image']:,}"))
    if grouped_by := counts.get("grouped_by"):
        rows.append(("splits dealt by", ", ".join(f"{k} {n:,}" for k, n in grouped_by.items())))
    rows += [("warning", text) for text in content.get("warnings", ())]
    return [f"{name:<21} {value}" for name, value in rows]


def _by_value(records: pyarrow.Table, column: str) -> dict[str, np.ndarray]:
    """Return value -> which records [N] have it, for the sorted values of a column of text; the
    last is `unknown`, for no text."""
    texts = records[column].fill_null("")
    values = sorted(texts.unique().to_pylist(), key=lambda value: (value == "", value))
    return {value or "unknown": pyarrow.compute.equal(texts, value).to_numpy() for value in values}


def _splits(
    content: dict,
    records: pyarrow.Table,
    splits: dict[str, np.ndarray],
    classes: dict[str, np.ndarray],
) -> list[str]:
    """Return the table of records, classes, patients, shards and MB per split."""
    has_mask = records["has_mask"].to_numpy() != 0
    rows = [("split", "records", *classes, "with_mask", "patients", "shards", "MB")]
    sums = np.zeros(len(rows[0]) - 1)
    for split, members in splits.items():
        shards = [shard for shard in content["shards"] if shard["split"] == split]
        megabytes = sum(shard["bytes"] for shard in shards) / 1e6
        num_patients = content["counts"]["splits"][split]["patients"]
        numbers = [(members & part).sum() for part in (members, *classes.values(), has_mask)]
        numbers += [num_patients, len(shards), megabytes]
        rows.append((split, *_split_row(numbers)))
        sums += numbers
    # Every patient is in one split, so that patients add up.
    return table_lines([*rows, ("all", *_split_row(sums))] if len(rows) > 2 else rows)


def _split_row(numbers: Sequence[float]) -> list[str]:
    """Return the cells of a split's row.

    `numbers`: its records, those of each class, those with a mask; its patients, shards and MB.
    """
    cells = [f"{int(number):,}" for number in numbers[:-1]]
    if numbers[-3] == 0:
        cells[-2] = "unknown"  # patients
    return [*cells, f"{numbers[-1]:,.1f}"]


def _findings(
    names: list[str], records: pyarrow.Table, splits: dict[str, np.ndarray]
) -> list[list[str]]:
    """Return the table of each finding: images that have it, have it not, and of which it is not
    known, per split; nothing without findings."""
    if not names:
        return []
    head = "finding (+ present, - absent, ? unknown)"
    rows = [(head, *(f"{split} {sign}" for split in splits for sign in "+-?"))]
    counts = [
        index.count_findings(records.filter(pyarrow.array(members)), len(names))
        for members in splits.values()
    ]  # per split [findings, 3]
    for number, name in enumerate(names):
        rows.append((name, *(f"{count:,}" for part in counts for count in part[number])))
    return [table_lines(rows)]


def _share_tables(splits: dict[str, np.ndarray], classes: dict[str, np.ndarray]) -> list[str]:
    """Return the lines of two tables: what share of each split belongs to each class and, with
    several splits, what share of each class lies in each split. The last of `splits` is all."""
    rows = [("share of the split", *classes)]
    for name, members in splits.items():
        rows.append((name, *(_share(members & part, members) for part in classes.values())))
    lines = table_lines(rows)
    if len(splits) > 2:
        rows = [("share of the class", *classes)]
        for name, members in list(splits.items())[:-1]:
            rows.append((name, *(_share(members & part, part) for part in classes.values())))
        lines += ["", *table_lines(rows)]
    return lines


def _share(part: np.ndarray, whole: np.ndarray) -> str:
    """Return the records of `part` [N] as a percentage of those of `whole` [N]."""
    return f"{100 * part.sum() / max(whole.sum(), 1):.1f}%"


def _cross_table(
    title: str, parts: dict[str, np.ndarray], groups: dict[str, np.ndarray]
) -> list[str]:
    """Return the lines of a table of each group's share in each part; a part without records is
    left out."""
    rows = [(title, "records", *groups)]
    for name, part in parts.items():
        if part.any():
            shares = (_share(part & members, members) for members in groups.values())
            rows.append((name, f"{part.sum():,}", *shares))
    return table_lines(rows)


def _sizes(
    content: dict,
    splits: dict[str, np.ndarray],
    positives: np.ndarray | bool,
    records: pyarrow.Table,
) -> list[str]:
    """Return the histogram of the lesions' sizes and their quantiles per split. The last of
    `splits` is all; `positives` says which records [N] are positive, False without such a class."""
    lesion_px = records["lesion_px"].to_numpy()
    is_sized = positives & (lesion_px > 0)
    if not is_sized.any():
        return ["lesion sizes: no lesion with a mask"]
    image_px = _mean_image_px(content)
    percent = 100 * lesion_px / image_px
    lines = [f"lesion sizes, 100% is {image_px:,.0f} px, the mean of the positives with a mask"]
    if num_too_small := (positives & (lesion_px == 0)).sum():
        lines.append(f"{num_too_small:,} positives have no pixel left at the stored size")
    counts, _ = np.histogram(percent[is_sized], SIZE_EDGES)
    rows = []
    for low, high, count in zip(SIZE_EDGES, SIZE_EDGES[1:], counts, strict=False):
        bar = "#" * -(-BAR_LETTERS * count // counts.max())
        rows.append((f"{low:g}% to {high:g}%", f"{count:,}", bar.ljust(BAR_LETTERS)))
    lines += table_lines(rows)
    rows = [("quantiles", "lesions", *QUANTILES)]
    for split, members in splits.items():
        if len(lesions := percent[members & is_sized]):
            values = np.percentile(lesions, list(QUANTILES.values()))
            rows.append((split, f"{len(lesions):,}", *(f"{value:.3g}%" for value in values)))
    values = np.percentile(lesion_px[is_sized], list(QUANTILES.values()))
    rows.append(("all, px", f"{is_sized.sum():,}", *(f"{value:,.0f}" for value in values)))
    return [*lines, "", *table_lines(rows)]


def _mean_image_px(content: dict) -> float:
    """Return the mean number of pixels of a positive image: the index has no image sizes, but the
    manifest states the lesions' pixels and their share."""
    splits = content["counts"]["splits"].values()
    lesion_px = sum(split["lesion_pixels"] for split in splits)
    share = content["statistics"]["positive_pixel_share_of_positives"]
    num_positives = sum(split["positives"] for split in splits)
    return lesion_px / share / num_positives if share else 0


def _folds(records: pyarrow.Table, classes: dict[str, np.ndarray]) -> list[str]:
    """Return the table of records and classes per fold."""
    folds = records["fold"].to_numpy()
    rows = [("fold", "records", *classes)]
    for number in np.unique(folds[folds >= 0]):
        members = folds == number
        parts = (members & part for part in (members, *classes.values()))
        rows.append((str(number), *(f"{part.sum():,}" for part in parts)))
    return table_lines(rows) if len(rows) > 1 else ["folds: none"]


def _statistics(statistics: dict) -> list[str]:
    """Return the lines about grey values and lesion pixels."""
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
