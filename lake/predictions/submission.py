"""Submission CSVs as the SIIM-ACR challenge takes them: rows of (id, run-length text) <-> a file
`ImageId,EncodedPixels`, one row an id, `-1` for an empty mask. And votes over several of them, and
what else stands in a folder of predictions.
"""

import csv
import io
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from lake import InputError, Reject, storage
from lake.labels import rle, tables
from lake.scan import MAX_PIXELS

HEADER = ("ImageId", "EncodedPixels")
MAX_SHOWN = 5  # mistakes or ids that a message quotes


def line(image_id: str, text: str) -> str:
    """One row as it stands in the file."""
    return csv_line((image_id, text))


def csv_line(values: tuple) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue()


def read(path: Path, num_pixels: Mapping[str, int] | int = MAX_PIXELS) -> dict[str, str]:
    """{image id: run-length text} in the order of the file; raises InputError with the first few
    mistakes of a file that is not exactly as the challenge wants it.

    `num_pixels` of an image, or of each by its id: no run may reach beyond. A text must be the one
    spelling that `rle.encode` gives: runs in order, none of length 0, none that touch.
    """
    rows, mistakes = {}, []
    for number, fields in enumerate(_fields(path), start=1):
        mistake = _mistake(fields, number, rows, num_pixels)
        if mistake is None and number > 1:
            rows[fields[0]] = fields[1]
        elif mistake is not None:
            mistakes.append(f"row {number}: {mistake}")
        if len(mistakes) == MAX_SHOWN:
            break
    if not rows and not mistakes:
        mistakes = [f"expected the header {','.join(HEADER)} and a row an image"]
    if mistakes:
        raise InputError(f"{path}: " + "; ".join(mistakes))
    return rows


def check_ids(path: Path, found: Collection[str], expected: Collection[str], where: str) -> None:
    """Raises InputError unless a submission has exactly these ids."""
    missing = [image_id for image_id in expected if image_id not in found]
    more = [image_id for image_id in found if image_id not in expected]
    for said, ids in (
        (f"lacks {len(missing):,} ids of", missing),
        (f"has {len(more):,} not in", more),
    ):
        if ids:
            shown = ", ".join(ids[:MAX_SHOWN]) + (" …" if len(ids) > MAX_SHOWN else "")
            raise InputError(f"{path} {said} {where}: {shown}; expected the same ids")


def majority(texts: list[str], votes: int) -> str:
    """The run-length text of the pixels that at least so many of these masks hold."""
    runs = [rle.runs(text, MAX_PIXELS) for text in texts]
    edges = np.concatenate([np.zeros((0, 2), np.int64), *runs])
    places, at = np.unique(edges, return_inverse=True)
    starts, ends = (np.bincount(side, minlength=len(places)) for side in at.reshape(-1, 2).T)
    is_in = np.r_[False, np.cumsum(starts - ends) >= votes, False]  # from each place to the next
    turns = np.flatnonzero(is_in[1:] != is_in[:-1]).reshape(-1, 2)
    return rle.to_text(places[turns] if len(turns) else rle.NO_RUNS)


def _fields(path: Path) -> Iterator[list[str]]:
    csv.field_size_limit(tables.FIELD_LIMIT)
    try:
        with storage.local(path) as local, local.open(encoding="utf-8", newline="") as file:
            yield from csv.reader(file, strict=True)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a submission: {error}") from None


def _mistake(fields: list[str], number: int, rows: dict, num_pixels) -> str | None:
    if number == 1:
        wrong = tuple(fields) != HEADER
        return (
            f"{','.join(fields)[:40]!r}, expected the header {','.join(HEADER)}" if wrong else None
        )
    if len(fields) != len(HEADER):
        return f"{len(fields)} fields, expected {len(HEADER)}"
    image_id, text = fields
    if not image_id or image_id != image_id.strip():
        return f"the id {image_id[:40]!r}, expected one without spaces"
    if image_id in rows:
        return f"the id {image_id} a second time"
    size = num_pixels if isinstance(num_pixels, int) else num_pixels.get(image_id, MAX_PIXELS)
    try:
        plain = rle.to_text(rle.runs(text, size))
    except Reject as reject:
        return f"{image_id}: {reject.message}"
    return None if plain == text else f"{image_id}: {text[:40]!r}, expected {plain[:40]!r}"
