"""Which columns of a label CSV hold what, told by their names or, without a header, by their
values.

In: an open file, and what the user says of its columns. Out: its Layout, or an InputError that
says what the file looks like.
"""

import csv
import itertools
import re
from dataclasses import dataclass, replace
from typing import BinaryIO, Literal, NamedTuple

from lake import InputError
from lake.labels import cells, csv_text
from lake.labels.csv_text import Form

# Names without spaces, underscores and hyphens, in lower case; of several the first here counts.
ID_COLUMNS = (
    *("imageid", "imageindex", "imgid", "imagename", "imgname", "image", "img", "filename"),
    *("file", "id", "path", "imagepath", "filepath"),
)
COMPOSED_ID_COLUMNS = (
    "subject",
    "img",
)  # the ultrasound nerve challenge: 1_1 is subject 1, image 1
# Severstal and the cloud challenge: IMAGE_CLASS in one cell
ID_AND_CLASS_COLUMNS = ("imageidclassid", "imagelabel")
RLE_COLUMNS = ("encodedpixels", "rle", "rlemask", "maskrle", "runlengths")
# Run lengths in some files, and in others a path, a class or a text: their values say it.
PERHAPS_RLE_COLUMNS = ("encoding", "segmentation", "annotation", "pixels", "predicted")
CLASS_COLUMNS = (
    *("class", "label", "target", "positive", "findinglabels", "finding", "classname", "classid"),
    *("labels", "category", "categoryid", "diagnosis"),
)
# Beside run lengths they say of which kind the lesion of a row is.
CLASSES_OF_RUNS = (*CLASS_COLUMNS, "celltype")
SIZE_COLUMNS = (("height", "width"), ("imgheight", "imgwidth"), ("imageheight", "imagewidth"))
BOX_COLUMNS = {"x", "y", "xmin", "ymin"}  # a height and width beside them are a box's
NODULE_COLUMNS = ("seriesuid", "coordx", "coordy", "coordz", "diameter_mm")
# Who read an image, in VinDr-CXR and its like.
READER_COLUMNS = ("radid", "radiologist", "radiologistid", "reader", "readerid", "annotator")
READER_COLUMNS += ("annotatorid",)
NUMBERS = re.compile(r"[+-]?\d+(\s+\d+)*", re.ASCII)
MAX_QUOTED = 8  # names, values or rows that a message quotes
EXPECTED = (
    f"ImageId,EncodedPixels or ImageId,Class or {','.join(NODULE_COLUMNS)}; --id_column and "
    f"--label_column name others"
)


class ColumnChoice(NamedTuple):
    """Holds what the user says of the columns of a label CSV."""

    split: str | None = None  # --split_column
    image_id: str | None = None  # --id_column
    label: str | None = None  # --label_column
    classes: tuple[str, ...] = ()  # --classes: those that are a lesion
    findings: tuple[str, ...] = ()  # --findings


@dataclass(frozen=True)
class Layout:
    """Says what a label file holds, and in which columns of a CSV, by number."""

    # category: classes of which some are the lesion; findings: classes each of which is a label
    kind: Literal["rle", "class", "category", "nodule", "findings"]
    id_columns: tuple[int, ...] = (0,)
    value_columns: tuple[int, ...] = (1,)
    has_header: bool = True
    split_column: int | None = None
    class_column: int | None = None  # of the lesion of a row of run lengths
    size_columns: tuple[int, int] | None = None  # height and width of the mask
    has_class_in_id: bool = False  # IMAGE_CLASS in one cell
    classes: tuple[str, ...] = ()  # as cells.class_name writes them; none: every row counts
    form: Form = Form()
    is_coco: bool = False  # a COCO JSON, not a CSV
    findings: tuple[str, ...] = ()  # one per value column; or those that the value column lists
    lists_names: bool = False  # the value column lists the names of findings that are present
    no_finding_column: int | None = None  # beside a column per finding
    reader_column: int | None = None  # who read the image, where several did
    uncertain: str = "ignore"  # what -1 and an empty cell say: see lake.labels.findings
    unmentioned: str = "zeros"

    @property
    def has_classes(self) -> bool:
        """Return whether rows of run lengths say of which class they are."""
        return self.class_column is not None or self.has_class_in_id


def layout(file: BinaryIO, path: str, choice: ColumnChoice | None = None) -> Layout:
    """Return the Layout of a label CSV, from its first rows; raise InputError where its columns
    cannot be recognised, or one that the user names is absent."""
    choice = choice or ColumnChoice()
    try:
        heads = [(form, rows) for form, rows in csv_text.heads(file) if rows]
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV: {error}") from None
    if not heads:
        raise InputError(f"{path}: the label CSV is empty")
    recognised = [(form, rows, _recognise(_Head(rows, choice))) for form, rows in heads]
    form, rows, result = next((one for one in recognised if one[2]), (None, None, None))
    if result is None:
        raise InputError(_unknown_columns(path, heads, choice))
    result = replace(result, form=form, classes=tuple(map(cells.class_name, choice.classes)))
    _check_names_differ(path, result, rows[0])
    try:
        for _ in itertools.islice(csv_text.rows(file, form), csv_text.HEAD_LINES):
            pass
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV: {error}") from None
    if choice.split is not None:
        split = _names(rows[0]).get(choice.split.lower().strip())
        if split is None:
            raise InputError(
                f"{path}: no column {choice.split!r} for --split_column; its first row is "
                f"{excerpt(rows[0])}"
            )
        result = replace(result, split_column=split)
    return result


def _check_names_differ(path: str, result: Layout, header: list[str]) -> None:
    """Raise InputError where a column that is used has the name of another."""
    names = [name.strip("'\" ").lower() for name in header]
    for number in (*result.id_columns, *result.value_columns):
        if result.has_header and names.count(names[number]) > 1:
            raise InputError(f"{path}: two columns are called {header[number][:40]!r}; rename one")


def excerpt(texts: list[str]) -> list[str]:
    """Return the beginnings of the first texts, for a message: texts can be many and long."""
    return [text[:40] for text in texts[:MAX_QUOTED]]


def _unknown_columns(path: str, heads: list, choice: ColumnChoice) -> str:
    """Return the message about a CSV whose columns are not recognised with any delimiter."""
    form, rows = max(reversed(heads), key=lambda head: len(head[1][0]))  # most columns
    names = _names(rows[0])
    for option, name in (("--id_column", choice.image_id), ("--label_column", choice.label)):
        if name is not None and name.lower().strip() not in names:
            return (
                f"{path}: no column {name!r} for {option}; read as {form}, its first row is "
                f"{excerpt(rows[0])}"
            )
    return (
        f"{path}: no known columns in its first row {excerpt(rows[0])}, read as {form}; expected "
        f"{EXPECTED}"
    )


class _Head:
    """Holds the first rows of a CSV, the numbers of its columns by name, and what was chosen."""

    def __init__(self, rows: list[list[str]], choice: ColumnChoice):
        self.rows, self.choice, self.names = rows, choice, _names(rows[0])
        self.short_names = {}
        for name, number in self.names.items():
            self.short_names.setdefault(short(name), number)

    def number(self, names: tuple[str, ...]) -> int | None:
        """Return the number of the first of some short names that is a column's."""
        return next((self.short_names[name] for name in names if name in self.short_names), None)

    def chosen(self, name: str) -> int | None:
        """Return the number of the column that the user named."""
        return self.names.get(name.lower().strip())


def _recognise(head: _Head) -> Layout | None:
    """Return the Layout of a CSV by its first rows, None where they say nothing."""
    if head.choice.findings:
        return _finding_layout(head)
    if all(name in head.names for name in NODULE_COLUMNS):
        series, *values = (head.names[name] for name in NODULE_COLUMNS)
        return Layout("nodule", (series,), tuple(values))
    kind, value = _value_column(head)
    combined = head.number(ID_AND_CLASS_COLUMNS)
    if kind == "rle" and combined is not None and head.choice.image_id is None:
        return Layout("rle", (combined,), (value,), has_class_in_id=True)
    ids = _id_columns(head)
    if kind and ids:
        result = Layout(kind, ids, (value,))
        return _with_more_columns(result, head) if kind == "rle" else result
    has_choice = head.choice.image_id is not None or head.choice.label is not None
    return None if has_choice else _without_header(head.rows)


def _names(header: list[str]) -> dict[str, int]:
    """Return the number of each column by its name in lower case; of equal names the first."""
    numbers = {}
    for number, name in enumerate(header):
        numbers.setdefault(name.strip("'\" ").lower(), number)
    return numbers


def short(name: str) -> str:
    """Return a column's name as names are compared: in lower case, without spaces, _ and -."""
    return re.sub(r"[\s_\-]+", "", name.lower())


def _id_columns(head: _Head) -> tuple[int, ...]:
    """Return the columns whose texts, with _ between them, are the image's id; none where there is
    no such name."""
    if head.choice.image_id is not None:
        number = head.chosen(head.choice.image_id)
    elif all(name in head.short_names for name in COMPOSED_ID_COLUMNS):
        return tuple(head.short_names[name] for name in COMPOSED_ID_COLUMNS)
    else:
        number = head.number(ID_COLUMNS)
    return () if number is None else (number,)


def _finding_layout(head: _Head) -> Layout | None:
    """Return the Layout of a CSV with many findings: a column per finding, which `finding_choice`
    chooses, or one that lists their names; or its kind of another; None without ids."""
    kind, number = _value_column(head)
    ids, names = _id_columns(head), head.choice.findings
    if not ids or (kind is None and head.choice.label is not None):
        return None
    if kind == "rle":
        return Layout("rle", ids, (number,))
    result = Layout("findings", ids, (), reader_column=head.number(READER_COLUMNS))
    is_named = all(head.chosen(name) is not None for name in names)
    if kind is None or (is_named and head.choice.label is None):
        return result
    texts = [fields[number] for fields in head.rows[1:] if number < len(fields)]
    texts = [text for text in texts if not cells.is_nothing(text)]
    is_truth = texts and all(cells.truth(text) is not None for text in texts)
    if head.choice.label is None and is_truth:
        return result  # one column of 1 and 0 beside others
    return replace(result, value_columns=(number,), lists_names=True)


def _value_column(head: _Head) -> tuple[Literal["rle", "class", "category"] | None, int]:
    """Return (kind, number) of the column that says whether or where there is a lesion; no kind
    where there is none."""
    class_kind = "category" if head.choice.classes else "class"
    if head.choice.label is not None:
        number = head.chosen(head.choice.label)
        if number is None:
            return None, 0
        return ("rle" if _holds_runs(head, number, head.choice.label) else class_kind), number
    for name in (*RLE_COLUMNS, *PERHAPS_RLE_COLUMNS):
        if name in head.short_names and _holds_runs(head, head.short_names[name], name):
            return "rle", head.short_names[name]
    number = head.number(CLASS_COLUMNS)
    return (None, 0) if number is None else (class_kind, number)


def _holds_runs(head: _Head, number: int, name: str) -> bool:
    """Return whether a column holds run lengths, by its name or else by its first values. Where
    those say that there is no lesion, or nothing, no other kind could be meant by such a name but
    classes, by `predicted`."""
    short_name = short(name)
    if short_name in RLE_COLUMNS:
        return True
    texts = [cells.run_lengths(fields[number]) for fields in head.rows[1:] if number < len(fields)]
    texts = [text for text in texts if text]
    if not texts:
        return short_name in PERHAPS_RLE_COLUMNS and short_name != "predicted"
    return any(cells.RUNS.fullmatch(text) for text in texts)


def _with_more_columns(result: Layout, head: _Head) -> Layout:
    """Return the Layout of run lengths with the columns that say more of each."""
    names = tuple(name for name in CLASSES_OF_RUNS if name in head.short_names)
    numbers = [head.short_names[name] for name in names]
    numbers = [number for number in numbers if number not in result.value_columns]
    size_columns = None
    for height, width in SIZE_COLUMNS:
        has_both = height in head.short_names and width in head.short_names
        if has_both and not BOX_COLUMNS & head.short_names.keys():
            size_columns = head.short_names[height], head.short_names[width]
            break
    return replace(result, class_column=next(iter(numbers), None), size_columns=size_columns)


def _without_header(rows: list[list[str]]) -> Layout | None:
    """Return the Layout of two columns without names, by the values of the second, which is empty
    or missing where negatives were left blank; None where they are neither classes nor runs."""
    texts = [fields[1] for fields in rows if len(fields) == 2]
    texts = [text for text in texts if not cells.is_nothing(text)]
    if len(rows[0]) != 2 or not texts:
        return None
    if all(cells.number(text) in (0, 1) for text in texts):
        return Layout("class", has_header=False)
    if all(cells.number(text) == -1 or NUMBERS.fullmatch(text) for text in texts):
        return Layout("rle", has_header=False)
    return None
