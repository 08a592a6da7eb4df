"""Label CSVs -> labels. In: open CSV files; out: rows by image id, then one Label per image.

Run-length CSVs (`ImageId,EncodedPixels` in all its spellings), class CSVs (`ImageId,Class`) and
nodule CSVs (`seriesuid,coordX,coordY,coordZ,diameter_mm`) are recognised by their header or,
without one, by the values of the second column.
"""

import csv
import io
import itertools
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

from lake import InputError, Packed, Reject
from lake.labels import rle

ID_COLUMNS = ("imageid", "image_id", "id", "image")
RLE_COLUMNS = ("encodedpixels", "rle")
CLASS_COLUMNS = ("class", "label", "target")
NODULE_COLUMNS = ("seriesuid", "coordx", "coordy", "coordz", "diameter_mm")
NUMBERS = re.compile(r"-?\d+(\s+-?\d+)*")
HEAD_ROWS = 100  # from which the columns are recognised
# Errors of reading a damaged CSV, compressed or not.
DAMAGED = (csv.Error, EOFError, OSError, zlib.error)
# Characters. A run-length text can be longer than the csv module's 128 KiB, but an open quote or a
# file without line ends must not fill the memory.
FIELD_LIMIT = LINE_LIMIT = 2**24
MAX_SPLIT_NAME = 16
MAX_QUOTED = 8  # names, values or rows that a message quotes


@dataclass(frozen=True)
class Layout:
    """Says which columns of a label CSV hold what, by number."""

    kind: Literal["rle", "class", "nodule"]
    id_column: int
    value_columns: tuple[int, ...]
    has_header: bool
    split_column: int | None = None


@dataclass(frozen=True)
class Row(Packed):
    """Holds what one row of a CSV, or one mask image, says about an image."""

    number: int  # line of the CSV from 1, 0 for a mask image
    value: str | None  # None: the row ends before its column
    split: str | None = None  # from --split_column
    size: tuple[int, int] | None = None  # height, width of a mask image
    problem: tuple[str, str] | None = None  # reason, message of a mask image that is rejected


@dataclass(frozen=True)
class Label(Packed):
    """Says whether one image has a lesion, and where if that is known."""

    label: int  # 1 lesion, 0 none, -1 unknown; with class folders the class, from 0
    has_mask: bool
    lesion_px: int  # at the source's own size; -1 unknown
    rle: str  # the united mask at the source's own size; "-1" when empty or unknown


def label_without_mask(number: int) -> Label:
    """Return the label of an image of which only the class is known."""
    return Label(label=number, has_mask=False, lesion_px=-1, rle=rle.EMPTY)


NO_LESION = Label(label=0, has_mask=True, lesion_px=0, rle=rle.EMPTY)
UNKNOWN = label_without_mask(-1)


# --- reading ---


def _rows(file: BinaryIO) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, fields) of each row; bytes that are not UTF-8 are escaped, so that they spoil
    only their own row."""
    csv.field_size_limit(FIELD_LIMIT)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="backslashreplace", newline="")
    reader = csv.reader(_text_lines(text))
    for fields in reader:
        if any(field.strip() for field in fields):
            yield reader.line_num, [field.strip() for field in fields]


def _text_lines(text: io.TextIOBase) -> Iterator[str]:
    """Yield the lines of a text; raise csv.Error for one that is too long."""
    while line := text.readline(LINE_LIMIT):
        if len(line) == LINE_LIMIT:
            raise csv.Error(f"a line of {LINE_LIMIT:,} characters or more")
        yield line


def layout(file: BinaryIO, path: str, split_column: str | None = None) -> Layout:
    """Return the Layout of a label CSV, from its first rows; raise InputError where its columns
    cannot be recognised or it lacks `split_column`."""
    try:
        head = [fields for _, fields in itertools.islice(_rows(file), HEAD_ROWS)]
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV: {error}") from None
    if not head:
        raise InputError(f"{path}: the label CSV is empty")
    names = [name.lower() for name in head[0]]
    numbers = {name: names.index(name) for name in names}  # by name; of equal names the first
    split_number = None
    if split_column is not None:
        split_number = numbers.get(split_column.lower())
        if split_number is None:
            raise InputError(
                f"{path}: no column {split_column!r} for --split_column; its first row is "
                f"{_excerpt(head[0])}"
            )
    if all(name in numbers for name in NODULE_COLUMNS):
        series, *values = (numbers[name] for name in NODULE_COLUMNS)
        return Layout("nodule", series, tuple(values), True, split_number)
    for kind, value_columns in (("rle", RLE_COLUMNS), ("class", CLASS_COLUMNS)):
        ids = [numbers[name] for name in ID_COLUMNS if name in numbers]
        values = [numbers[name] for name in value_columns if name in numbers]
        if ids and values:
            return Layout(kind, ids[0], (values[0],), True, split_number)
    # Without a header. Values are empty or missing where negatives were left blank.
    second_texts = [fields[1] for fields in head if len(fields) == 2 and fields[1]]
    if len(head[0]) == 2 and second_texts and all(NUMBERS.fullmatch(text) for text in second_texts):
        is_class = all(text in ("0", "1") for text in second_texts)
        return Layout("class" if is_class else "rle", 0, (1,), has_header=False)
    raise InputError(
        f"{path}: no known columns in its first row {_excerpt(head[0])}; expected "
        f"ImageId,EncodedPixels or ImageId,Class or {','.join(NODULE_COLUMNS)}"
    )


def read(file: BinaryIO, columns: Layout) -> Iterator[tuple[str, Row]]:
    """Yield (image id, Row) of every row below the header; raise csv.Error where the text stops
    being a CSV."""
    numbers = (columns.id_column, *columns.value_columns)
    for line, fields in itertools.islice(_rows(file), columns.has_header, None):
        cells = dict(enumerate(fields))
        image_id, *values = (cells.get(number) for number in numbers)
        split = None
        if columns.split_column is not None:
            split = cells.get(columns.split_column, "")
        value = None if None in values else " ".join(values)
        yield image_id or "", Row(line, value, split)


# --- labels ---


def unite(rows: Iterable[Row], kind: str, height: int, width: int, dialect: str) -> Label:
    """Return the label of an image of [height, width] pixels from all its rows of one kind (rle,
    class or folder); raise Reject naming the row."""
    rows = sorted(rows, key=lambda row: row.number)
    for row in rows:
        if row.problem is not None:
            raise Reject(*row.problem)
        if row.value is None:
            raise Reject("row-without-value", f"row {row.number} ends before its label")
        if row.size not in (None, (height, width)):
            raise Reject(
                "mask-size",
                f"the mask has {row.size[0]}x{row.size[1]} pixels, the image {height}x{width}",
            )
    if kind == "class":
        return _class_label(rows)
    if kind == "folder":
        return label_without_mask(int(rows[0].value))
    parts = []
    for row in rows:
        try:
            parts.append(rle.runs(row.value, height, width, dialect))
        except Reject as reject:
            raise Reject(reject.reason, f"row {row.number}: {reject.message}") from None
    if len({len(part) > 0 for part in parts}) > 1:
        empty = next(row.number for row, part in zip(rows, parts, strict=True) if not len(part))
        raise Reject("conflicting-labels", f"row {empty} says no lesion, another row has one")
    return label_from_runs(rle.unite(parts))


def split_of(rows: Iterable[Row]) -> str:
    """Return the one split that all rows of an image name; raise Reject where they differ."""
    rows = list(rows)
    names = {row.split for row in rows}
    if len(names) > 1:
        texts = _excerpt(sorted(names))
        raise Reject("conflicting-splits", f"rows {_lines(rows)} name the splits {texts}")
    [name] = names or {""}
    if not name:
        raise Reject("no-split", "no row of the label CSV names its split")
    if not (name.isidentifier() and name.isascii()) or len(name) > MAX_SPLIT_NAME:
        raise Reject(
            "bad-split",
            f"split {name[:40]!r}: expected a plain word of at most {MAX_SPLIT_NAME} letters",
        )
    return name


def label_from_runs(runs) -> Label:
    """Return the label of an image whose whole mask is `runs` [N, 2]."""
    if not len(runs):
        return NO_LESION
    return Label(label=1, has_mask=True, lesion_px=rle.area(runs), rle=rle.to_text(runs))


def _class_label(rows: list[Row]) -> Label:
    """Return the label that all rows of an image state, 0 or 1; raise Reject where one states
    another, or two differ."""
    values = {row.value for row in rows}
    if not values <= {"0", "1"}:
        raise Reject(
            "class-not-0-or-1",
            f"row {_lines(rows)}: class {' and '.join(_excerpt(sorted(values)))!r}, expected 0 or "
            f"1",
        )
    if len(values) > 1:
        raise Reject("conflicting-labels", f"row {_lines(rows)}: both class 0 and class 1")
    return label_without_mask(int(values.pop()))


def label_without_rows(policy: str, kind: str) -> Label:
    """Return the label of an image without a row, by `--unlabelled reject|negative|keep`; raise
    Reject."""
    if policy == "reject":
        raise Reject("no-label", "no row in the label CSV")
    if policy == "keep":
        return UNKNOWN
    return NO_LESION if kind == "rle" else label_without_mask(0)


def _excerpt(texts: list[str]) -> list[str]:
    """Return what a message quotes of texts that can be many and long."""
    return [text[:40] for text in texts[:MAX_QUOTED]]


def _lines(rows: list[Row]) -> str:
    """Return the line numbers of the first few rows, as a message quotes them."""
    more = " …" if len(rows) > MAX_QUOTED else ""
    return ", ".join(str(row.number) for row in rows[:MAX_QUOTED]) + more
