"""Submission CSVs as the SIIM-ACR challenge takes them: rows of (id, run-length text) <-> a file
`ImageId,EncodedPixels` with one row per id, `-1` for an empty mask; and votes over several masks.
"""

import csv
import io
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from lake import InputError, Reject, storage
from lake.labels import csv_text, rle
from lake.scan import MAX_PIXELS

HEADER = ("ImageId", "EncodedPixels")
MAX_QUOTED = 5  # mistakes or ids that a message quotes


def csv_line(values: tuple) -> bytes:
    """Return one row of a CSV file, with its end of line; what is not UTF-8 in the name of a file
    is escaped."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue().encode(errors="backslashreplace")


def read(path: Path, num_pixels: Mapping[str, int] | int = MAX_PIXELS) -> dict[str, str]:
    """Return {image id: run-length text} in the order of the file; raise InputError with the first
    few mistakes of a file that is not exactly as the challenge wants it.

    No run may reach beyond the image's number of pixels: `num_pixels` is that of all images, or
    {image id: its number}. A text must be the one spelling that `rle.encode` gives: runs in order,
    none of length 0, none that touch.
    """
    rows, mistakes = {}, []
    for number, cells in enumerate(_read_cells(path), start=1):
        mistake = _mistake(cells, number, rows, num_pixels)
        if mistake is not None:
            mistakes.append(f"row {number}: {mistake}")
        elif number > 1:
            rows[cells[0]] = cells[1]
        if len(mistakes) == MAX_QUOTED:
            break
    if not rows and not mistakes:
        mistakes = [f"expected the header {','.join(HEADER)} and a row per image"]
    if mistakes:
        raise InputError(f"{path}: " + "; ".join(mistakes))
    return rows


def check_ids(path: Path, ids: Collection[str], expected: Collection[str], where: str) -> None:
    """Raise InputError unless a submission has exactly the expected ids, which are those of
    `where`."""
    absent_ids = [image_id for image_id in expected if image_id not in ids]
    further_ids = [image_id for image_id in ids if image_id not in expected]
    if wrong_ids := absent_ids or further_ids:
        number = f"{len(wrong_ids):,}"
        difference = f"lacks {number} ids of" if absent_ids else f"has {number} not in"
        names = ", ".join(wrong_ids[:MAX_QUOTED]) + (" …" if len(wrong_ids) > MAX_QUOTED else "")
        raise InputError(f"{path} {difference} {where}: {names}; expected the same ids")


def majority(texts: list[str], min_votes: int) -> str:
    """Return the run-length text of the pixels that are lesion in at least `min_votes` of the masks
    with these texts."""
    # A run is [start, end) in a mask. How many masks hold a pixel changes only at `places`,
    # by the runs that start there minus those that end; the running sum is that number.
    edges = np.concatenate([rle.NO_RUNS, *(rle.runs(text, MAX_PIXELS) for text in texts)])
    places, inverse = np.unique(edges, return_inverse=True)
    starts, ends = (np.bincount(side, minlength=len(places)) for side in inverse.reshape(-1, 2).T)
    # From each place to the next.
    is_in = np.r_[False, np.cumsum(starts - ends) >= min_votes, False]
    turns = np.flatnonzero(is_in[1:] != is_in[:-1]).reshape(-1, 2)
    return rle.to_text(places[turns] if len(turns) else rle.NO_RUNS)


def _read_cells(path: Path) -> Iterator[list[str]]:
    """Yield the cells of each row; raise InputError where the file is not a CSV."""
    csv.field_size_limit(csv_text.FIELD_LIMIT)
    try:
        with storage.local(path) as local, local.open(encoding="utf-8", newline="") as file:
            yield from csv.reader(file, strict=True)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a submission: {error}") from None


def _mistake(cells: list[str], number: int, rows: dict, num_pixels) -> str | None:
    """Return a message on what is wrong with row `number`, None where it is right; `rows` are those
    before."""
    if number == 1:
        is_header, text = tuple(cells) == HEADER, ",".join(cells)[:40]
        return None if is_header else f"{text!r}, expected the header {','.join(HEADER)}"
    if len(cells) != len(HEADER):
        return f"{len(cells)} fields, expected {len(HEADER)}"
    image_id, text = cells
    if not image_id or image_id != image_id.strip():
        return f"the id {image_id[:40]!r}, expected one without spaces"
    if image_id in rows:
        return f"the id {image_id} a second time"
    size = num_pixels if isinstance(num_pixels, int) else num_pixels.get(image_id, MAX_PIXELS)
    try:
        canonical = rle.to_text(rle.runs(text, size))
    except Reject as reject:
        return f"{image_id}: {reject.message}"
    return None if canonical == text else f"{image_id}: {text[:40]!r}, expected {canonical[:40]!r}"
