"""Label CSVs -> what is known of each image. In: open CSV files; out: rows by image id, then one
Label an image.

Run-length CSVs (`ImageId,EncodedPixels` in all its spellings), class CSVs (`ImageId,Class`) and
nodule CSVs (`seriesuid,coordX,coordY,coordZ,diameter_mm`) are told apart by their header or,
without one, by what stands in the second column.
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
SNIFFED_ROWS = 100
# What reading a CSV, packed or not, raises where it is damaged.
DAMAGED = (csv.Error, EOFError, OSError, zlib.error)
# Characters. A run-length text can be longer than the module's 128 KiB; neither an open quote nor a
# file without line ends must be held whole.
FIELD_LIMIT = LINE_LIMIT = 2**24
MAX_SPLIT_NAME = 16
MAX_SHOWN = 8  # names, values or rows that a message quotes


@dataclass(frozen=True)
class Layout:
    kind: Literal["rle", "class", "nodule"]
    id_column: int
    value_columns: tuple[int, ...]
    has_header: bool
    split_column: int | None = None


@dataclass(frozen=True)
class Row(Packed):
    """What one CSV row, or one mask image, says of an image; `number` counts from 1 as an editor
    does, 0 is a mask image."""

    number: int
    value: str | None  # None: the row ends before its column
    split: str | None = None  # of a CSV's own column
    size: tuple[int, int] | None = None  # height, width of a mask image
    problem: tuple[str, str] | None = None  # reason, message of a mask image that is none


@dataclass(frozen=True)
class Label(Packed):
    label: int  # 1 lesion, 0 none, -1 unknown; with class folders the class, from 0
    has_mask: bool
    lesion_px: int  # at the source's own size; -1 unknown
    rle: str  # the united mask at the source's own size; "-1" when empty or unknown


NO_LESION = Label(label=0, has_mask=True, lesion_px=0, rle=rle.EMPTY)
UNKNOWN = Label(label=-1, has_mask=False, lesion_px=-1, rle=rle.EMPTY)


def _rows(file: BinaryIO) -> Iterator[tuple[int, list[str]]]:
    """(line, fields) of each row; bytes that are not UTF-8 are escaped, so that they spoil their
    own row only."""
    csv.field_size_limit(FIELD_LIMIT)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="backslashreplace", newline="")
    reader = csv.reader(_lines(text))
    for fields in reader:
        if any(field.strip() for field in fields):
            yield reader.line_num, [field.strip() for field in fields]


def _lines(text: io.TextIOBase) -> Iterator[str]:
    while line := text.readline(LINE_LIMIT):
        if len(line) == LINE_LIMIT:
            raise csv.Error(f"a line of {LINE_LIMIT:,} characters or more")
        yield line


def layout(file: BinaryIO, path: str, split_column: str | None = None) -> Layout:
    """The columns of a label CSV; raises InputError when they cannot be recognised."""
    try:
        head = [fields for _, fields in itertools.islice(_rows(file), SNIFFED_ROWS)]
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV: {error}") from None
    if not head:
        raise InputError(f"{path}: the label CSV is empty")
    names = [name.lower() for name in head[0]]
    split_at = None
    if split_column is not None:
        if split_column.lower() not in names:
            raise InputError(
                f"{path}: no column {split_column!r} for --split_column; its first row is "
                f"{_shown(head[0])}"
            )
        split_at = names.index(split_column.lower())
    if all(name in names for name in NODULE_COLUMNS):
        series, *values = (names.index(name) for name in NODULE_COLUMNS)
        return Layout("nodule", series, tuple(values), True, split_at)
    for kind, known in (("rle", RLE_COLUMNS), ("class", CLASS_COLUMNS)):
        ids, values = (
            [names.index(n) for n in group if n in names] for group in (ID_COLUMNS, known)
        )
        if ids and values:
            return Layout(kind, ids[0], (values[0],), True, split_at)
    # The value is empty or missing where a writer left negatives blank.
    seconds = [fields[1] for fields in head if len(fields) == 2 and fields[1]]
    if len(head[0]) == 2 and seconds and all(NUMBERS.fullmatch(text) for text in seconds):
        is_class = all(text in ("0", "1") for text in seconds)
        return Layout("class" if is_class else "rle", 0, (1,), has_header=False)
    raise InputError(
        f"{path}: no known columns in its first row {_shown(head[0])}; expected "
        f"ImageId,EncodedPixels or ImageId,Class or {','.join(NODULE_COLUMNS)}"
    )


def read(file: BinaryIO, columns: Layout) -> Iterator[tuple[str, Row]]:
    """(image id, row) of every row under the header; raises csv.Error where it is no CSV any
    more."""
    wanted = (columns.id_column, *columns.value_columns)
    for number, fields in itertools.islice(_rows(file), columns.has_header, None):
        image_id, *values = (fields[at] if at < len(fields) else None for at in wanted)
        split = None
        if columns.split_column is not None:
            split = fields[columns.split_column] if columns.split_column < len(fields) else ""
        value = None if None in values else " ".join(values)
        yield image_id or "", Row(number, value, split)


def unite(rows: Iterable[Row], kind: str, height: int, width: int, dialect: str) -> Label:
    """The label of an image of [height, width] pixels from all its rows; raises Reject naming the
    row."""
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
        return Label(label=int(rows[0].value), has_mask=False, lesion_px=-1, rle=rle.EMPTY)
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
    """The one split that all rows of an image name; raises Reject."""
    rows = list(rows)
    names = {row.split for row in rows}
    if len(names) > 1:
        where = _numbers(rows)
        raise Reject("conflicting-splits", f"rows {where} name the splits {_shown(sorted(names))}")
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
    """The label of an image whose whole mask is `runs` [N, 2]."""
    if not len(runs):
        return NO_LESION
    return Label(label=1, has_mask=True, lesion_px=rle.area(runs), rle=rle.to_text(runs))


def _class_label(rows: list[Row]) -> Label:
    values = {row.value for row in rows}
    where = f"row {_numbers(rows)}"
    if not values <= {"0", "1"}:
        raise Reject(
            "class-not-0-or-1",
            f"{where}: class {' and '.join(_shown(sorted(values)))!r}, expected 0 or 1",
        )
    if len(values) > 1:
        raise Reject("conflicting-labels", f"{where}: both class 0 and class 1")
    return Label(label=int(values.pop()), has_mask=False, lesion_px=-1, rle=rle.EMPTY)


def label_without_rows(policy: str, kind: str) -> Label:
    """The label of an image without a row, by `--unlabelled reject|negative|keep`; raises
    Reject."""
    if policy == "reject":
        raise Reject("no-label", "no row in the label CSV")
    if policy == "keep":
        return UNKNOWN
    if kind == "rle":
        return NO_LESION
    return Label(label=0, has_mask=False, lesion_px=-1, rle=rle.EMPTY)


def _shown(texts: list[str]) -> list[str]:
    """What a message quotes of texts that can be many and long."""
    return [text[:40] for text in texts[:MAX_SHOWN]]


def _numbers(rows: list[Row]) -> str:
    more = " …" if len(rows) > MAX_SHOWN else ""
    return ", ".join(str(row.number) for row in rows[:MAX_SHOWN]) + more
