"""Label CSVs -> what is known of each image. In: open CSV files; out: rows by image id, then one
Label an image.

Run-length CSVs (`ImageId,EncodedPixels` in all its spellings) and class CSVs (`ImageId,Class`) are
told apart by their header or, without one, by what stands in the second column.
"""

import csv
import io
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

from lake import InputError, Reject, rle

ID_COLUMNS = ("imageid", "image_id", "id", "image")
RLE_COLUMNS = ("encodedpixels", "rle")
CLASS_COLUMNS = ("class", "label", "target")
NUMBERS = re.compile(r"-?\d+(\s+-?\d+)*")
SNIFFED_ROWS = 100


@dataclass(frozen=True)
class Layout:
    kind: Literal["rle", "class"]
    id_column: int
    value_column: int
    has_header: bool


@dataclass(frozen=True)
class Row:
    """One CSV row's value; `number` counts from 1 as an editor does."""

    number: int
    value: str | None  # None: the row ends before its column


@dataclass(frozen=True)
class Label:
    label: int  # 1 lesion, 0 none, -1 unknown
    has_mask: bool
    lesion_px: int  # at the source's own size; -1 unknown
    rle: str  # the united mask at the source's own size; "-1" when empty or unknown


UNKNOWN = Label(label=-1, has_mask=False, lesion_px=-1, rle=rle.EMPTY)


def _rows(file: BinaryIO) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(2**30)  # a run-length text can be longer than the module's 128 KiB
    reader = csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))
    for fields in reader:
        if any(field.strip() for field in fields):
            yield reader.line_num, [field.strip() for field in fields]


def layout(file: BinaryIO, path: str) -> Layout:
    """The columns of a label CSV; raises InputError when they cannot be recognised."""
    try:
        head = [fields for _, fields in itertools.islice(_rows(file), SNIFFED_ROWS)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV in UTF-8: {error}") from None
    if not head:
        raise InputError(f"{path}: the label CSV is empty")
    names = [name.lower() for name in head[0]]
    for kind, known in (("rle", RLE_COLUMNS), ("class", CLASS_COLUMNS)):
        ids, values = (
            [names.index(n) for n in group if n in names] for group in (ID_COLUMNS, known)
        )
        if ids and values:
            return Layout(kind, ids[0], values[0], has_header=True)
    # The value is empty or missing where a writer left negatives blank.
    seconds = [fields[1] for fields in head if len(fields) == 2 and fields[1]]
    if len(head[0]) == 2 and seconds and all(NUMBERS.fullmatch(text) for text in seconds):
        is_class = all(text in ("0", "1") for text in seconds)
        return Layout("class" if is_class else "rle", 0, 1, has_header=False)
    raise InputError(
        f"{path}: no known columns in its first row {head[0][:4]}; expected ImageId,EncodedPixels "
        f"or ImageId,Class"
    )


def read(file: BinaryIO, columns: Layout) -> Iterator[tuple[str, Row]]:
    """(image id, row) of every row under the header."""
    for number, fields in itertools.islice(_rows(file), columns.has_header, None):
        image_id, value = (
            fields[at] if at < len(fields) else None
            for at in (columns.id_column, columns.value_column)
        )
        yield image_id or "", Row(number, value)


def unite(rows: Iterable[Row], kind: str, num_pixels: int) -> Label:
    """The label of an image of `num_pixels` pixels from all its rows; raises Reject naming the
    row."""
    rows = sorted(rows, key=lambda row: row.number)
    for row in rows:
        if row.value is None:
            raise Reject("row-without-value", f"row {row.number} ends before its label")
    if kind == "class":
        return _class_label(rows)
    parts = []
    for row in rows:
        try:
            parts.append(rle.runs(row.value, num_pixels))
        except Reject as reject:
            raise Reject(reject.reason, f"row {row.number}: {reject.message}") from None
    return of_runs(rle.unite(parts))


def of_runs(runs) -> Label:
    """The label of an image whose whole mask is `runs` [N, 2]."""
    lesion_px = rle.area(runs)
    return Label(
        label=int(lesion_px > 0), has_mask=True, lesion_px=lesion_px, rle=rle.to_text(runs)
    )


def _class_label(rows: list[Row]) -> Label:
    values = {row.value for row in rows}
    where = "row " + ", ".join(str(row.number) for row in rows)
    if not values <= {"0", "1"}:
        raise Reject(
            "class-not-0-or-1", f"{where}: class {' and '.join(sorted(values))!r}, expected 0 or 1"
        )
    if len(values) > 1:
        raise Reject("conflicting-labels", f"{where}: both class 0 and class 1")
    return Label(label=int(values.pop()), has_mask=False, lesion_px=-1, rle=rle.EMPTY)


def of_unlabelled(policy: str, kind: str) -> Label:
    """The label of an image without a row, by `--unlabelled reject|negative|keep`; raises
    Reject."""
    if policy == "reject":
        raise Reject("no-label", "no row in the label CSV")
    if policy == "keep":
        return UNKNOWN
    return (
        of_runs(rle.NO_RUNS)
        if kind == "rle"
        else Label(label=0, has_mask=False, lesion_px=-1, rle=rle.EMPTY)
    )
