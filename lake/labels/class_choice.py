"""Which classes of a label CSV are the lesion: a lake has one kind of lesion, so where a CSV has
several, the user chooses. In: a CSV and its Layout; out: nothing, or an InputError."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO

from lake import InputError
from lake.labels import cells, tables
from lake.labels.columns import MAX_QUOTED, Layout

CHECKED_ROWS = 100_000  # in which classes are looked for that a message lists; 0.2 s
# Of the rows of a class CSV so many may hold something else than 0 and 1: those are rejects.
STRAY_SHARE = 0.1


def check(open_file: Callable[[], AbstractContextManager[BinaryIO]], path: str, columns: Layout):
    """Raise InputError where a CSV has classes and none is chosen, or a class is chosen that it
    does not have. Raises tables.DAMAGED, too."""
    if columns.classes:
        _check_chosen(open_file, path, columns)
        return
    if columns.kind == "rle" and not columns.has_classes or columns.kind == "nodule":
        return
    with open_file() as file:
        names = list(itertools.islice(class_texts(file, columns), CHECKED_ROWS))
    if columns.kind == "class":
        strays = [name for name in names if cells.truth(name) is None]
        if len(strays) <= STRAY_SHARE * len(names):
            return
        names, problem = strays, "holds classes other than 0 and 1"
    else:
        problem = "has run lengths of several classes"
    raise InputError(
        f"{path} {problem}: {_names_text(names)}; a lake has one kind of lesion: say with "
        f"--classes NAME,NAME which of them it is, or --classes all"
    )


def _check_chosen(open_file, path: str, columns: Layout) -> None:
    """Raise InputError where --classes does not fit the CSV."""
    if columns.kind != "category" and not columns.has_classes:
        raise InputError(f"{path} has no column of classes; leave --classes out")
    if columns.classes == (cells.ALL,):
        return
    with open_file() as file:
        absent_classes = set(columns.classes)
        for text in class_texts(file, columns):
            absent_classes.discard(cells.class_name(text))
            if not absent_classes:
                return
    with open_file() as file:
        names = list(itertools.islice(class_texts(file, columns), CHECKED_ROWS))
    raise InputError(
        f"--classes: {path} has no {' and no '.join(sorted(absent_classes))!r}; its classes are "
        f"{_names_text(names)}"
    )


def class_texts(file: BinaryIO, columns: Layout) -> Iterator[str]:
    """Yield the classes that each row of a CSV names, as they are written there."""
    for _, fields in tables.rows_below_header(file, columns):
        cell_of = dict(enumerate(fields))
        if columns.has_classes:
            texts = [tables.id_and_class(cell_of, columns)[1]]
        else:
            texts = cells.names_in(cell_of.get(columns.value_columns[0], ""))
        yield from (text.strip() for text in texts if text.strip())


def _names_text(names: list[str]) -> str:
    """Return the different names, the first few of many."""
    different = sorted({name[:40] for name in names})
    more = f" … ({len(different)} in all)" if len(different) > 2 * MAX_QUOTED else ""
    return ", ".join(different[: 2 * MAX_QUOTED]) + more
