"""Which findings of a label CSV a multi-label lake has: those that the user names, or all.

In: a CSV, the Layout of its other columns and the names of --findings. Out: the Layout with
findings and their columns, or an InputError that says what the file has.
"""

import itertools
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import BinaryIO

from lake import InputError
from lake.labels import cells, csv_text, tables
from lake.labels.class_choice import STRAY_SHARE
from lake.labels.columns import MAX_QUOTED, Layout, short

# Columns that may hold 1 and 0, and are none of the findings that `all` means.
PERSON = ("sex", "gender", "patientsex", "patientgender", "age", "patientage", "fold", "view")
MAX_FINDINGS = 200  # PadChest, which has most, names 174
ROWS_PER_CHUNK = 500  # counted at once, a text of a cell for all rows that have it
OpenFile = Callable[[], AbstractContextManager[BinaryIO]]


def resolve(
    open_file: OpenFile,
    path: str,
    columns: Layout,
    names: tuple[str, ...],
    earlier: tuple[str, ...] = (),
) -> Layout:
    """Return the Layout with the findings that `names` are of all those in the CSV, which is read
    to its end; raise InputError where it has no such ones. Raises tables.DAMAGED, too.

    `earlier` are the findings of the lake whose splits this one keeps: a CSV of fewer images may
    name fewer, and `all` are those of the earlier lake where it names no others.
    """
    if columns.kind == "rle":
        raise InputError(
            f"{path} has run lengths, and a lake of findings has no masks; leave --findings out, "
            f"or name the column of findings with --label_column"
        )
    different = {cells.class_name(name) for name in names}
    if len(different) < len(names):
        raise InputError(f"--findings={','.join(names)}: one is named twice")
    choose = _listed if columns.lists_names else _columns
    result = choose(open_file, path, columns, names, earlier)
    if len(result.findings) > MAX_FINDINGS:
        raise InputError(
            f"{path} has {len(result.findings):,} findings, such as "
            f"{_quote(result.findings)}; expected at most {MAX_FINDINGS}: name them with "
            f"--findings, or their column with --label_column"
        )
    return result


# --- one column lists names ---


def _listed(
    open_file: OpenFile,
    path: str,
    columns: Layout,
    names: tuple[str, ...],
    earlier: tuple[str, ...],
) -> Layout:
    """Return the Layout of a CSV that lists the names of findings in one column."""
    spellings = {}  # as cells.class_name writes it -> as the file does at first
    [number] = columns.value_columns
    with open_file() as file:
        for _, fields in tables.rows_below_header(file, columns):
            for name in cells.names_in(fields[number] if number < len(fields) else ""):
                if (short_name := cells.class_name(name)) not in spellings:
                    spellings[short_name] = name
    present = sorted(name for name in spellings if name not in cells.NO_FINDING)
    earlier_spellings = {cells.class_name(name): name for name in earlier}
    spellings |= earlier_spellings
    if names == (cells.ALL,):
        if earlier and {*present} <= earlier_spellings.keys():
            return replace(columns, findings=earlier)
        if not present:
            raise InputError(f"{path}: no row names a finding")
        return replace(columns, findings=tuple(spellings[name] for name in present))
    absent = [name for name in names if cells.class_name(name) not in spellings]
    if absent:
        known_names = _quote([spellings[name] for name in present])
        raise InputError(f"--findings: {path} has no {absent[0]!r}; it names {known_names}")
    return replace(columns, findings=tuple(spellings[cells.class_name(name)] for name in names))


# --- a column per finding ---


def _columns(
    open_file: OpenFile,
    path: str,
    columns: Layout,
    names: tuple[str, ...],
    earlier: tuple[str, ...],
) -> Layout:
    """Return the Layout of a CSV that has a column per finding."""
    others = {*columns.id_columns, columns.split_column, columns.reader_column}
    with open_file() as file:
        _, header = next(csv_text.rows(file, columns.form))
    header = {n: name.strip("'\" ") for n, name in enumerate(header) if n not in others}
    no_finding = [n for n, name in header.items() if name.lower() in cells.NO_FINDING]
    if names == (cells.ALL,):
        candidates = [n for n in header if n not in no_finding and short(header[n]) not in PERSON]
    else:
        candidates = [_column(name, header, path) for name in names]
    shares = _stray_shares(open_file, columns, candidates)
    if names == (cells.ALL,):
        # A column without a text is no finding of which anybody knows, but may be named.
        candidates = [n for n in candidates if n in shares and shares[n] <= STRAY_SHARE]
        candidates = _as_earlier(candidates, header, earlier)
        if not candidates:
            raise InputError(
                f"{path}: no column holds 1, 0, -1 or nothing, and none of a known name lists "
                f"findings; --label_column names one. Its columns are {_quote(header.values())}"
            )
    findings = tuple(header[n] for n in candidates)
    _check_columns(path, findings, [shares.get(n, 0.0) for n in candidates], header)
    return replace(
        columns,
        value_columns=tuple(candidates),
        findings=findings,
        no_finding_column=next(iter(no_finding), None),
    )


def _as_earlier(numbers: list[int], header: dict[int, str], earlier: tuple[str, ...]) -> list[int]:
    """Return the columns of the earlier lake's findings where the header has all of them and these
    `numbers` are no others; else the numbers."""
    by_title = {cells.class_name(title): number for number, title in header.items()}
    earlier_numbers = [by_title.get(cells.class_name(name)) for name in earlier]
    is_same = None not in earlier_numbers and {*numbers} <= {*earlier_numbers}
    return earlier_numbers if earlier and is_same else numbers


def _column(name: str, header: dict[int, str], path: str) -> int:
    """Return the number of the column of a finding; raise InputError where there is none."""
    for number, title in header.items():
        if cells.class_name(title) == cells.class_name(name):
            return number
    raise InputError(
        f"--findings: {path} has no column {name!r}; its columns are {_quote(header.values())}"
    )


def _stray_shares(open_file: OpenFile, columns: Layout, numbers: list[int]) -> dict[int, float]:
    """Return, for each of these columns that has a text, the share of its cells with one that say
    neither 1, 0 nor -1."""
    texts, strays = dict.fromkeys(numbers, 0), dict.fromkeys(numbers, 0)
    with open_file() as file:
        rows = (fields for _, fields in tables.rows_below_header(file, columns))
        while chunk := list(itertools.islice(rows, ROWS_PER_CHUNK)):
            by_column = dict(enumerate(itertools.zip_longest(*chunk, fillvalue="")))
            for number in numbers:
                for text, count in Counter(by_column.get(number, ())).items():
                    if not cells.is_nothing(text):
                        texts[number] += count
                        strays[number] += count * (cells.truth(text) is None)
    return {n: strays[n] / texts[n] for n in numbers if texts[n]}


def _check_columns(
    path: str, findings: tuple[str, ...], shares: list[float], header: dict[int, str]
) -> None:
    """Raise InputError where a finding's column is not one, or two have its name."""
    titles = [cells.class_name(title) for title in header.values()]
    for name, share in zip(findings, shares, strict=True):
        if titles.count(cells.class_name(name)) > 1:
            raise InputError(f"{path}: two columns are called {name[:40]!r}; rename one")
        if share > STRAY_SHARE:
            raise InputError(
                f"--findings: {path}: the column {name!r} does not hold 1, 0, -1 or nothing"
            )


def _quote(names) -> str:
    """Return the first few names, as a message quotes them."""
    names = [name[:40] for name in names]
    more = f" … ({len(names)} in all)" if len(names) > 2 * MAX_QUOTED else ""
    return ", ".join(names[: 2 * MAX_QUOTED]) + more
