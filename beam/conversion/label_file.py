"""What --labels holds, before a conversion starts. In: the flags; out: the columns of the file, or
an InputError that says what it looks like."""

import argparse
import itertools
import re
from dataclasses import replace

from beam.running import files, paths
from lake import InputError
from lake.labels import cells, class_choice, coco, columns, finding_choice, rle, tables
from lake.records import manifest

JSON = re.compile(r"\.json(\.(gz|bz2|xz|zip))?$", re.IGNORECASE)
FINDING_CELLS = {"uncertain": "ignore", "unmentioned": "zeros"}  # options of cells
CHECKED_TEXTS = 1000  # run-length texts whose dialect is checked


def layout(flags: argparse.Namespace) -> columns.Layout:
    """Return the columns of the label CSV; raise InputError where its first rows do not fit the
    flags."""
    if not paths.exists(flags.labels):
        raise InputError(f"--labels={flags.labels}: no such file")
    choice = columns.ColumnChoice(
        flags.split_column, flags.id_column, flags.label_column, flags.classes, flags.findings
    )
    name, conflict = f"--labels={flags.labels}", None
    try:
        if JSON.search(flags.labels):
            return _coco_layout(flags, name)
        with files.open_unpacked(flags.labels) as file:
            layout = columns.layout(file, name, choice)
        if flags.findings:
            return _with_findings(flags, name, layout)
        class_choice.check(lambda: files.open_unpacked(flags.labels), name, layout)
        if layout.kind == "rle":
            with files.open_unpacked(flags.labels) as file:
                rows = itertools.islice(tables.read(file, layout), CHECKED_TEXTS)
                texts = [cells.run_lengths(row.value or "") for _, row in rows]
                conflict = rle.dialect_conflict(texts, flags.dialect)
    except tables.DAMAGED as error:
        raise InputError(f"{name}: not readable: {error}") from None
    if conflict:
        raise InputError(f"{name}: {conflict}")
    if (layout.kind == "nodule") != (flags.source == "metaimage"):
        raise InputError(
            f"{name} is a {layout.kind} CSV; --source metaimage takes "
            f"seriesuid,coordX,coordY,coordZ,diameter_mm, the other sources run lengths or classes"
        )
    return layout


def _with_findings(flags: argparse.Namespace, name: str, layout: columns.Layout) -> columns.Layout:
    """Return the Layout of a CSV with its findings; raise InputError where it has none, or the
    flags are those of other labels."""
    if flags.source == "metaimage":
        raise InputError("--findings are of X-rays; --source metaimage takes a nodule CSV")
    if flags.dialect != "relative":
        raise InputError("--rle is for run lengths, and a lake of findings has no masks")
    layout = finding_choice.resolve(
        lambda: files.open_unpacked(flags.labels),
        name,
        layout,
        flags.findings,
        _earlier_findings(flags.splits_from),
    )
    for option, default in FINDING_CELLS.items():
        if layout.lists_names and getattr(flags, option) != default:
            raise InputError(
                f"--{option} is for a column per finding; {name} lists the names of findings"
            )
    return replace(layout, uncertain=flags.uncertain, unmentioned=flags.unmentioned)


def _earlier_findings(folder: str | None) -> tuple[str, ...]:
    """Return the findings of the lake of `--splits_from`; none where there is none."""
    path = folder and paths.join(folder, manifest.MANIFEST)
    if not path or not paths.exists(path):
        return ()
    return tuple(manifest.findings(manifest.parse(files.read_text(path), folder)))


def _coco_layout(flags: argparse.Namespace, name: str) -> columns.Layout:
    """Return the Layout of a COCO JSON; raise InputError where it is none, or the flags are those
    of a CSV."""
    if flags.source == "metaimage":
        raise InputError(f"{name}: --source metaimage takes its labels from a nodule CSV")
    for option in ("split_column", "id_column", "label_column", "findings"):
        if getattr(flags, option):
            raise InputError(f"--{option} is for a label CSV, not for {flags.labels}")
    if flags.dialect != "relative":
        raise InputError(f"--rle is for a label CSV; {flags.labels} says itself how it counts")
    classes = tuple(map(cells.class_name, flags.classes))
    with files.open_unpacked(flags.labels) as file:
        coco.check(file, name, classes)
    return columns.Layout("rle", classes=classes, is_coco=True)
