"""Rows of label CSVs, or mask files -> labels. In: open CSV files; out: rows by image id, then one
Label per image.

`columns` says which columns count, `cells` what a cell says, `csv_text` how a CSV is written.
"""

import csv
import itertools
import lzma
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from lake import Packed, Reject
from lake.labels import cells, csv_text, rle
from lake.labels.columns import MAX_QUOTED, Layout, excerpt

# Errors of reading a damaged CSV, compressed or not.
DAMAGED = (csv.Error, EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
MAX_SPLIT_NAME = 16


@dataclass(frozen=True)
class Row(Packed):
    """Holds what one row of a CSV, or one mask file, says about an image."""

    number: int  # line of the CSV from 1, 0 for a mask file
    value: str | None  # None: the row ends before its column
    split: str | None = None  # from --split_column
    size: tuple[int, int] | None = None  # height, width of the mask, where the row says it
    problem: tuple[str, str] | None = None  # reason, message of a mask that is rejected
    path: str = ""  # of a mask file
    reader: str = ""  # who read the image, where several did; of findings

    @property
    def place(self) -> str:
        """Return where a message finds the row."""
        return self.path or f"row {self.number}"


@dataclass(frozen=True)
class Label(Packed):
    """Says whether one image has a lesion, and where if that is known."""

    label: int  # 1 lesion, 0 none, -1 unknown; with class folders the class, from 0
    has_mask: bool
    lesion_px: int  # at the source's own size; -1 unknown
    rle: str  # the united mask at the source's own size; "-1" when empty or unknown
    findings: tuple[int, ...] = ()  # of a multi-label lake: 1, 0 or -1 each

    def for_record(self) -> dict:
        """Return the fields on which a record depends, as lakes of every version have them."""
        fields = dict(vars(self))
        if not self.findings:
            del fields["findings"]
        return fields


def label_without_mask(number: int, findings: tuple[int, ...] = ()) -> Label:
    """Return the label of an image of which only the class, or the findings, are known."""
    return Label(number, has_mask=False, lesion_px=-1, rle=rle.EMPTY, findings=findings)


NO_LESION = Label(label=0, has_mask=True, lesion_px=0, rle=rle.EMPTY)
UNKNOWN = label_without_mask(-1)


# --- reading ---


def read(file: BinaryIO, columns: Layout) -> Iterator[tuple[str, Row]]:
    """Yield (image id, Row) of every row below the header; raise csv.Error where the text stops
    being a CSV."""
    for line, fields in rows_below_header(file, columns):
        cell_of = dict(enumerate(fields))
        image_id, class_text = id_and_class(cell_of, columns)
        values = [cell_of.get(number) for number in columns.value_columns]
        value = None if None in values else " ".join(values)
        split = size = None
        if columns.split_column is not None:
            split = cell_of.get(columns.split_column, "")
        if columns.kind == "nodule" and value is not None:
            value = value.replace(",", ".")  # decimal commas
        if columns.kind == "category" and value is not None and not cells.is_nothing(value):
            value = str(int(cells.is_chosen(cells.class_names(value), columns.classes)))
        if columns.has_classes:
            is_chosen = cells.is_chosen([cells.class_name(class_text)], columns.classes)
            if columns.classes and not is_chosen:
                value = rle.EMPTY  # it says nothing of the classes that were chosen
        if columns.size_columns is not None:
            size = _size(cell_of, columns.size_columns)
        yield image_id, Row(line, value, split, size)


def id_and_class(cell_of: dict[int, str], columns: Layout) -> tuple[str, str]:
    """Return (image id, class of the run lengths, "" where the CSV has none) of a row."""
    image_id = "_".join(cell_of.get(number, "") for number in columns.id_columns)
    if columns.has_class_in_id:
        image_id, _, class_text = image_id.rpartition("_")
        return image_id, class_text
    return image_id, cell_of.get(columns.class_column, "")


def _size(cell_of: dict[int, str], size_columns: tuple[int, int]) -> tuple[int, int] | None:
    """Return (height, width) of the mask of a row, None where its cells hold none."""
    numbers = [cells.number(cell_of.get(number, "")) for number in size_columns]
    if any(number is None or number < 1 or number != int(number) for number in numbers):
        return None
    return int(numbers[0]), int(numbers[1])


def rows_below_header(file: BinaryIO, columns: Layout) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, fields) of the rows of a CSV; raise csv.Error at a row that is no CSV, or in
    which an open quotation mark has swallowed the rows below it."""
    rows = csv_text.rows(file, columns.form)
    for line, fields in itertools.islice(rows, columns.has_header, None):
        text = "".join(fields)
        if ("\n" in text or "\r" in text) and _holds_rows(fields, columns):
            raise csv.Error(
                f"row {line}: a quotation begins in it that takes in the rows below; close it, or "
                f"remove its quotation mark"
            )
        yield line, fields


def _holds_rows(fields: list[str], columns: Layout) -> bool:
    """Return whether a quotation in a row has swallowed others: its id or class has more than one
    line, or a field has a line that is a row by itself."""
    cell_of = dict(enumerate(fields))
    names = [*columns.id_columns, *(columns.value_columns if columns.kind != "rle" else ())]
    if any(len(cell_of.get(number, "").splitlines()) > 1 for number in names):
        return True
    numbers = columns.value_columns
    if not numbers:  # those of findings are not chosen yet
        return False
    for text in itertools.chain.from_iterable(field.splitlines() for field in fields):
        parts = text.split(columns.form.delimiter)
        is_row = len(parts) == len(fields) > max(numbers)
        if is_row and all(_is_value(parts[number], columns) for number in numbers):
            return True
    return False


def _is_value(text: str, columns: Layout) -> bool:
    """Return whether a cell holds what the layout's value columns do."""
    text = text.strip("\"' ")
    if columns.kind == "findings" and not columns.lists_names:
        return cells.is_nothing(text) or cells.truth(text) is not None
    if columns.kind == "rle":
        numbers = cells.run_lengths(text)
        return not numbers or cells.RUNS.fullmatch(numbers) is not None
    return cells.number(text) is not None


# --- labels ---


def unite(rows: Iterable[Row], kind: str, height: int, width: int, dialect: str) -> Label:
    """Return the label of an image of [height, width] pixels from all its rows of one kind (rle,
    class, category or folder); raise Reject naming the row."""
    rows = checked(rows)
    for row in rows:
        if row.size not in (None, (height, width)):
            is_turned = row.size == (width, height)
            hint = "; are its rows and columns exchanged?" if is_turned else ""
            raise Reject(
                "mask-size",
                f"{row.place}: the mask has {row.size[0]}x{row.size[1]} pixels, the image "
                f"{height}x{width}{hint}",
            )
    if kind == "category":  # a chosen class in any row is one
        return label_without_mask(max(int(row.value) for row in rows))
    if kind == "class":
        return _class_label(rows)
    if kind == "folder":
        return label_without_mask(int(rows[0].value))
    parts = []
    for row in rows:
        try:
            text = cells.run_lengths(row.value)
            parts.append(rle.runs(text, height, width, dialect))
        except Reject as reject:
            raise Reject(reject.reason, f"{row.place}: {reject.message}") from None
    is_alone = len(rows) == 1 and dialect == "relative"
    canonical = text.strip() if is_alone and rle.is_canonical(text.strip()) else None
    return label_from_runs(rle.unite(parts), canonical)


def checked(rows: Iterable[Row]) -> list[Row]:
    """Return the rows of an image in the order of their file; raise Reject naming the first one
    that has a problem or no value."""
    rows = sorted(rows, key=lambda row: (row.number, row.path))
    for row in rows:
        if row.problem is not None:
            raise Reject(*row.problem)
        if row.value is None:
            raise Reject("row-without-value", f"{row.place} ends before its label")
    return rows


def is_silent(row: Row, kind: str, unlabelled: str) -> bool:
    """Return whether a row says nothing of its image's class: its cell is empty, or it says -1 and
    unknown labels are kept; or of any finding."""
    if kind == "findings":
        return row.value is not None and row.problem is None and not row.value.strip("-")
    if kind not in ("class", "category") or row.value is None:
        return False
    return cells.is_nothing(row.value) or (
        kind == "class" and unlabelled == "keep" and cells.truth(row.value) == -1
    )


def split_of(rows: Iterable[Row]) -> str:
    """Return the one split that all rows of an image name; raise Reject where they differ."""
    rows = list(rows)
    names = {row.split for row in rows}
    if len(names) > 1:
        texts = excerpt(sorted(names))
        raise Reject("conflicting-splits", f"rows {lines(rows)} name the splits {texts}")
    [name] = names or {""}
    if not name:
        raise Reject("no-split", "no row of the label CSV names its split")
    if not (name.isidentifier() and name.isascii()) or len(name) > MAX_SPLIT_NAME:
        raise Reject(
            "bad-split",
            f"split {name[:40]!r}: expected a plain word of at most {MAX_SPLIT_NAME} letters",
        )
    return name


def label_from_runs(runs, text: str | None = None) -> Label:
    """Return the label of an image whose whole mask is `runs` [N, 2]; `text` is their relative text
    where that is known."""
    if not len(runs):
        return NO_LESION
    text = text or rle.to_text(runs)
    return Label(label=1, has_mask=True, lesion_px=rle.area(runs), rle=text)


def _class_label(rows: list[Row]) -> Label:
    """Return the label that all rows of an image state, 0 or 1; raise Reject where one states
    another, or two differ."""
    truths = {cells.truth(row.value) for row in rows}
    if not truths <= {0, 1}:
        values = excerpt(sorted({row.value for row in rows}))
        is_known = None not in truths
        hint = "; --unlabelled keep stores -1 as unknown" if is_known else ""
        raise Reject(
            "class-not-0-or-1",
            f"row {lines(rows)}: class {' and '.join(values)!r}, expected 0 or 1{hint}",
        )
    if len(truths) > 1:
        raise Reject("conflicting-labels", f"row {lines(rows)}: both class 0 and class 1")
    return label_without_mask(truths.pop())


def label_without_rows(policy: str, kind: str, message: str, num_findings: int = 0) -> Label:
    """Return the label of an image without a row, in a lake of so many findings, by `--unlabelled
    reject|negative|keep`; raise a Reject with this message."""
    if policy == "reject":
        raise Reject("no-label", message)
    if policy == "keep":
        return label_without_mask(-1, (-1,) * num_findings)
    return NO_LESION if kind == "rle" else label_without_mask(0, (0,) * num_findings)


def lines(rows: list[Row]) -> str:
    """Return the line numbers of the first few rows, as a message quotes them."""
    more = " …" if len(rows) > MAX_QUOTED else ""
    return ", ".join(str(row.number) for row in rows[:MAX_QUOTED]) + more
