"""What --labels holds, before a conversion starts. In: the flags; out: the columns of the file, or
an InputError that says what it looks like."""

import argparse
import itertools

from apache_beam.io.filesystems import FileSystems

from beam.running import files
from lake import InputError
from lake.labels import cells, class_choice, columns, rle, tables

CHECKED_TEXTS = 1000  # run-length texts whose dialect is checked


def layout(flags: argparse.Namespace) -> columns.Layout:
    """Return the columns of the label CSV; raise InputError where its first rows do not fit the
    flags."""
    if not FileSystems.exists(flags.labels):
        raise InputError(f"--labels={flags.labels}: no such file")
    choice = columns.ColumnChoice(
        flags.split_column, flags.id_column, flags.label_column, flags.classes
    )
    name, conflict = f"--labels={flags.labels}", None
    try:
        with files.open_unpacked(flags.labels) as file:
            layout = columns.layout(file, name, choice)
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
