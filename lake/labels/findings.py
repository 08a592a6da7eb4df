"""Rows of a CSV with many findings -> which of them an image has.

In: open CSV files whose columns `finding_choice` has chosen; out: rows, whose value has one of the
STATES for each finding, then one Label per image. Policies of cells that say -1 or nothing are
applied to a row, those of several readers to an image.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from lake import Reject
from lake.labels import cells, tables
from lake.labels.columns import Layout
from lake.labels.tables import Label, Row

# What a row says of a finding. In a CSV that lists names, one that is not in this row may be in
# another of the same reader.
PRESENT, ABSENT, UNLISTED, UNCERTAIN, UNMENTIONED = "1", "0", ".", "?", "-"
STATES = {1: PRESENT, 0: ABSENT, -1: UNCERTAIN}  # of a cell with a number
VALUES = {PRESENT: 1, ABSENT: 0, UNLISTED: 0, UNCERTAIN: -1, UNMENTIONED: -1}  # of a record
# The U-Ignore, U-Zeros and U-Ones of CheXpert (Irvin et al. 2019).
POLICIES = {"ignore": UNCERTAIN, "zeros": ABSENT, "ones": PRESENT}
READER_RULES = ("any", "majority")
# CheXpert's labeler says "No Finding" of an image with devices, too: they are no pathology.
NO_PATHOLOGIES = ("support devices",)
CACHED_LISTS = 10_000  # different cells, or values, of which most rows have one
UNCERTAIN_CELLS, UNMENTIONED_CELLS, READERS = "uncertain_cells", "unmentioned_cells", "readers"


def label_of(values: Iterable[int]) -> int:
    """Return the label of an image with these values of its findings: 1 where one is present, 0
    where all are absent, else -1."""
    values = {*values}
    if 1 in values:
        return 1
    return 0 if values == {0} else -1


def label(values: tuple[int, ...]) -> Label:
    """Return the Label of an image with these values of its findings."""
    return tables.label_without_mask(label_of(values), values)


# --- reading ---


def read(file: BinaryIO, columns: Layout, counts: Counter) -> Iterator[tuple[str, Row]]:
    """Yield (image id, Row) of every row below the header, and count cells that say -1 or nothing
    and, at the end, the readers; raise csv.Error where the text stops being a CSV."""
    states_of = _listed_states(columns) if columns.lists_names else _column_states(columns, counts)
    others = columns.no_finding_column, columns.reader_column, columns.split_column
    num_cells = 1 + max(columns.value_columns)
    last = max(num_cells, *(1 + n for n in (*columns.id_columns, *others) if n is not None))
    readers = set()
    for line, fields in tables.rows_below_header(file, columns):
        is_cut_off = len(fields) < num_cells
        fields += [""] * (last - len(fields))
        value, problem = (None, None) if is_cut_off else states_of(fields, line)
        _, reader, split = ["" if n is None else fields[n] for n in others]
        if reader:
            readers.add(reader)
        image_id = "_".join([fields[n] for n in columns.id_columns])
        yield image_id, Row(line, value, split, problem=problem, reader=reader)
    counts[READERS] = len(readers)


def _column_states(columns: Layout, counts: Counter) -> Callable:
    """Return the function (fields, line) -> (states, problem) of a row with a column per finding;
    it counts cells that say -1 or nothing."""
    state_of = _StateOfCell()

    def states_of(fields: list[str], line: int) -> tuple[str, tuple[str, str] | None]:
        value = "".join([state_of[fields[n]] for n in columns.value_columns])
        if _StateOfCell.NO_STATE in value:
            return value, _no_state(value, fields, columns, line)
        if num_uncertain := value.count(UNCERTAIN):
            counts[UNCERTAIN_CELLS] += num_uncertain
            value = value.replace(UNCERTAIN, POLICIES[columns.uncertain])
        if num_unmentioned := value.count(UNMENTIONED):
            counts[UNMENTIONED_CELLS] += num_unmentioned
            value = _with_unmentioned(value, fields, columns)
        return value, None

    return states_of


def _listed_states(columns: Layout) -> Callable:
    """Return the function (fields, line) -> (states, problem) of a row that lists the names of
    findings; no states where it says nothing."""
    [column] = columns.value_columns
    numbers = {cells.class_name(name): n for n, name in enumerate(columns.findings)}

    @functools.lru_cache(CACHED_LISTS)
    def states_in(text: str) -> tuple[str, str]:
        """Return (states, problem) of a cell, no problem being an empty text."""
        names = {*cells.class_names(text)}
        says_none = names <= {*cells.NO_FINDING}
        if not says_none and names.intersection(cells.NO_FINDING):
            return "", f"{text[:80]!r} says that there is no finding, and names one"
        states = [ABSENT if says_none else UNLISTED] * (len(numbers) if names else 0)
        for name in names & numbers.keys():
            states[numbers[name]] = PRESENT
        return "".join(states), ""

    def states_of(fields: list[str], line: int) -> tuple[str, tuple[str, str] | None]:
        states, problem = states_in(fields[column])
        return states, ("conflicting-labels", f"row {line}: {problem}") if problem else None

    return states_of


class _StateOfCell(dict):
    """Returns the state that a cell's text says, NO_STATE for any other text: most texts are as
    others."""

    NO_STATE = "!"

    def __missing__(self, text: str) -> str:
        state = UNMENTIONED if cells.is_nothing(text) else STATES.get(cells.truth(text))
        self[text] = state or self.NO_STATE
        return self[text]


def _no_state(value: str, fields: list[str], columns: Layout, line: int) -> tuple[str, str]:
    """Return the reason and the message of a row one of whose cells says no state."""
    number = value.index(_StateOfCell.NO_STATE)
    name, text = columns.findings[number], fields[columns.value_columns[number]][:40]
    return "class-not-0-or-1", f"row {line}: {name} is {text!r}, expected 1, 0, -1 or nothing"


def _with_unmentioned(value: str, fields: list[str], columns: Layout) -> str:
    """Return the states of a row after the policy of cells that say nothing. They say that a
    pathology is absent, whatever the policy, where the row says that there is none."""
    if columns.unmentioned == "zeros":
        return value.replace(UNMENTIONED, ABSENT)
    number = columns.no_finding_column
    if number is None or cells.truth(fields[number]) != 1:
        return value
    pairs = zip(value, columns.findings, strict=True)
    return "".join(
        ABSENT if state == UNMENTIONED and name.lower() not in NO_PATHOLOGIES else state
        for state, name in pairs
    )


# --- labels ---


def unite(rows: Iterable[Row], names: tuple[str, ...], rule: str) -> Label:
    """Return the label of an image from all its rows, by the rule for several readers; raise Reject
    naming the row."""
    rows = tables.checked(rows)
    if len(rows) == 1:
        return _label_of_states(rows[0].value)
    rows_by_reader = {}
    for row in rows:
        rows_by_reader.setdefault(row.reader, []).append(row)
    opinions = [_opinion(rows_of_one, names) for rows_of_one in rows_by_reader.values()]
    return label(tuple(_vote(values, rule) for values in zip(*opinions, strict=True)))


@functools.lru_cache(CACHED_LISTS)
def _label_of_states(states: str) -> Label:
    """Return the label of an image of which one row says these states."""
    return label(tuple(VALUES[state] for state in states))


def _opinion(rows: list[Row], names: tuple[str, ...]) -> list[int]:
    """Return the values of the findings by the rows of one reader; raise Reject where two differ,
    as tables.unite does for classes."""
    values = []
    for name, states in zip(names, zip(*(row.value for row in rows), strict=True), strict=True):
        if PRESENT in states and ABSENT in states:
            lines = tables.lines(rows)
            raise Reject("conflicting-labels", f"row {lines}: {name} is present and absent")
        values.append(max(VALUES[state] for state in states))
    return values


def _vote(values: tuple[int, ...], rule: str) -> int:
    """Return the value of a finding from those of all readers of an image: with `any` 1 where one
    has it, with `majority` what most have; unknown where none knows it, or votes are equal."""
    present, absent = values.count(1), values.count(0)
    if rule == "any":
        return 1 if present else 0 if absent else -1
    return -1 if present == absent else int(present > absent)
