"""What one cell of a label CSV says: nothing, a number, yes or no, run lengths, names of classes.

In: texts as people, spreadsheets and pandas write them; out: values.
"""

import math
import re

# What pandas reads as missing (its `na_values`), in lower case, and a list without elements.
NOTHING = frozenset(
    (
        *("", "nan", "-nan", "null", "none", "na", "n/a", "<na>", "#n/a", "#n/a n/a", "#na", "nat"),
        *("-1.#ind", "-1.#qnan", "1.#ind", "1.#qnan", "[]", "()", "{}"),
    )
)
NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
TRUTHS = {
    **dict.fromkeys(("true", "t", "yes", "y", "positive", "pos"), 1),
    **dict.fromkeys(("false", "f", "no", "n", "negative", "neg"), 0),
}
LIST = re.compile(
    r"\[\s*([+-]?\d+(?:[\s,]+\d+)*)\s*\]|\(\s*([+-]?\d+(?:[\s,]+\d+)*)\s*\)", re.ASCII
)
# An element of a list of texts, between quotation marks, or without any.
QUOTED = re.compile(r"""(["'])(.*?)\1|([^\[\],'"]+)""")
RUNS = re.compile(r"\d+(\s+\d+)+", re.ASCII)
NO_FINDING = ("no finding", "normal")  # a class of NIH ChestX-ray14 and its like that is none
ALL = "all"  # of --classes


def is_nothing(text: str) -> bool:
    """Return whether a cell is empty or says that it is."""
    return text.strip().lower() in NOTHING


def number(text: str) -> float | None:
    """Return a cell's number, with a decimal point or comma; None where it holds none."""
    text = text.strip()
    value = float(text.replace(",", ".")) if NUMBER.fullmatch(text) else math.inf
    return value if math.isfinite(value) else None


def truth(text: str) -> int | None:
    """Return the label in a cell of a class: 1, 0, or -1 for unknown; None for any other text."""
    word = text.strip().lower()
    if word in TRUTHS:
        return TRUTHS[word]
    value = number(word)
    return int(value) if value in (-1, 0, 1) else None


def run_lengths(text: str) -> str:
    """Return the numbers of a run-length cell, without the brackets and commas of a list; an empty
    text where it says that there is no lesion: nothing, or -1 in any spelling."""
    if text.lstrip()[:1].isdigit() and "," not in text:  # nearly all are plain
        return text
    if list_match := LIST.fullmatch(text.strip()):
        text = list_match[1].replace(",", " ")
    return "" if is_nothing(text) or number(text) == -1 else text


def class_name(text: str) -> str:
    """Return the name of a class as it is compared: whole numbers without a decimal point, other
    names in lower case."""
    value = number(text)
    if value is not None and value == int(value):
        return str(int(value))
    return text.strip().lower()


def names_in(text: str) -> list[str]:
    """Return the names that a cell lists as they are written there: with | between them, as NIH
    ChestX-ray14 does, or as a list of Python, as PadChest does; none where it says nothing."""
    if is_nothing(text):
        return []
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        names = ((match[2] or match[3] or "").strip() for match in QUOTED.finditer(text))
        return [name for name in names if name]
    return [part.strip() for part in text.split("|") if part.strip()]


def class_names(text: str) -> list[str]:
    """Return the classes that a cell lists, as they are compared."""
    return [class_name(name) for name in names_in(text)]


def is_chosen(names: list[str], chosen: tuple[str, ...]) -> bool:
    """Return whether one of an image's classes is among those of --classes."""
    if chosen == (ALL,):
        return any(name not in NO_FINDING for name in names)
    return any(name in chosen for name in names)
