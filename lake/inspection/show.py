"""What a person wants to know of a lake, as text: from its manifest and its index alone.

In: folder, manifest, index (a pyarrow Table, one row a record); out: lines of text.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow

from lake import InputError
from lake.records import index, manifest

COLUMNS = ("split", "shard", "position", "fold", "label", "has_mask", "lesion_px")
COLUMNS += ("view", "sex", "age")
CLASSES = {"positive": 1, "negative": 0, "unknown": -1}  # without class folders
DECADES = [*(f"{age}-{age + 9}" for age in range(0, 90, 10)), "90+", "unknown"]
# Edges of the histogram of lesion sizes, in % of the image: three steps a factor of ten.
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
    """Everything about the rows of `index`, which may be one split's."""
    groups = _groups(records, content)
    parts = [
        _head(folder, content),
        _splits(content, records),
        _shares(groups, _classes(content)),
        *(_crossed(name, *_coded(records, name), groups) for name in ("view", "sex")),
        _crossed("age", DECADES, _decades(records["age"].to_numpy()), groups),
        _sizes(content, groups, records),
        _folds(records, _classes(content)),
        _statistics(content),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right."""
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
    if dealt_by := counts.get("grouped_by"):
        rows.append(("splits dealt by", ", ".join(f"{k} {n:,}" for k, n in dealt_by.items())))
    return [f"{name:<21} {value}" for name, value in rows]


def _classes(content: dict) -> dict[str, int]:
    """Name -> label."""
    names = manifest.numbered(content.get("classes", []))
    return {name: label for label, name in enumerate(names)} or CLASSES


def _groups(records: pyarrow.Table, content: dict) -> dict[str, np.ndarray]:
    """Name -> which rows [N]: every split, then every class that there is, then all."""
    names, codes = _coded(records, "split")
    splits = [name for name in content["counts"]["splits"] if name in names]
    groups = {name: codes == names.index(name) for name in splits}
    label = records["label"].to_numpy()
    classes = _classes(content).items()
    groups |= {name: label == value for name, value in classes if (label == value).any()}
    return {**groups, "all": np.ones(len(records), bool)}


def _coded(records: pyarrow.Table, column: str) -> tuple[list[str], np.ndarray]:
    """The values of a column of text, sorted, and which of them each row [N] has; last `unknown`,
    for no text."""
    coded = records[column].combine_chunks().fill_null("").dictionary_encode()
    values = coded.dictionary.to_pylist()
    names = sorted(set(values) - {""})
    places = np.array([names.index(v) if v else len(names) for v in values] or [0])
    return [*names, "unknown"], places[coded.indices.to_numpy()]


def _decades(age: np.ndarray) -> np.ndarray:
    return np.where(age < 0, len(DECADES) - 1, np.minimum(age // 10, 9))


def _splits(content: dict, records: pyarrow.Table) -> list[str]:
    names, codes = _coded(records, "split")
    label, has_mask = records["label"].to_numpy(), records["has_mask"].to_numpy()
    classes = _classes(content)
    rows = [("split", "records", *classes, "with_mask", "patients", "shards", "MB")]
    sums = np.zeros(len(rows[0]) - 1)
    for split, stated in content["counts"]["splits"].items():
        if split not in names:
            continue
        own = codes == names.index(split)
        shards = [shard for shard in content["shards"] if shard["split"] == split]
        numbers = [own.sum(), *((own & (label == value)).sum() for value in classes.values())]
        numbers += [has_mask[own].sum(), stated["patients"], len(shards)]
        numbers.append(sum(shard["bytes"] for shard in shards) / 1e6)
        rows.append((split, *_split_row(numbers)))
        sums += numbers
    # Every patient is in one split, so that patients add up.
    return columns([*rows, ("all", *_split_row(sums))] if len(rows) > 2 else rows)


def _split_row(numbers: Sequence[float]) -> list[str]:
    whole = [f"{int(number):,}" for number in numbers[:-1]]
    if numbers[-3] == 0:
        whole[-2] = "unknown"  # patients
    return [*whole, f"{numbers[-1]:,.1f}"]


def _shares(groups: dict[str, np.ndarray], known: dict[str, int]) -> list[str]:
    """How the classes share a split, and the splits a class."""
    classes = [name for name in known if name in groups]
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
    """Which share of each group has which value; rows that nobody has are left out."""
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
        own = members & is_sized
        if group in CLASSES or not own.any():
            continue
        values = np.percentile(percent[own], list(QUANTILES.values()))
        rows.append((group, f"{own.sum():,}", *(f"{value:.3g}%" for value in values)))
    values = np.percentile(lesion_px[is_sized], list(QUANTILES.values()))
    rows.append(("all, px", f"{is_sized.sum():,}", *(f"{value:,.0f}" for value in values)))
    return [*lines, "", *columns(rows)]


def _mean_image_px(content: dict) -> float:
    """Pixels of a positive image on average: the index has no image sizes, but the manifest states
    the lesions' pixels and their share."""
    splits = content["counts"]["splits"].values()
    lesion_px = sum(split["lesion_pixels"] for split in splits)
    share = content["statistics"]["positive_pixel_share_of_positives"]
    num_positives = sum(split["positives"] for split in splits)
    return lesion_px / share / num_positives if share else 0


def _folds(records: pyarrow.Table, classes: dict[str, int]) -> list[str]:
    fold, label = records["fold"].to_numpy(), records["label"].to_numpy()
    rows = [("fold", "records", *classes)]
    for number in np.unique(fold[fold >= 0]):
        own = fold == number
        counts = (own.sum(), *((own & (label == value)).sum() for value in classes.values()))
        rows.append((str(number), *(f"{count:,}" for count in counts)))
    return columns(rows) if len(rows) > 1 else ["folds: none"]


def _statistics(content: dict) -> list[str]:
    stated = content["statistics"]
    lines = [
        f"stored values: mean {stated['mean']:.2f}, standard deviation "
        f"{stated['standard_deviation']:.2f} (of {stated['images_sampled']:,} images)"
    ]
    if stated["positive_pixel_share"]:
        lines.append(
            f"lesion pixels: {stated['positive_pixel_share']:.3%} of all with a mask, "
            f"{stated['positive_pixel_share_of_positives']:.3%} of the positives'"
        )
    return lines
