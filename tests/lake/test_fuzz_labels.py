"""Label CSVs and run-length texts with seeded damage: a Label that is right or an error that is
meant, nothing else, and in bounded memory."""

import csv
import io
import random
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from makers import mutations

from lake import InputError, Reject
from lake.labels import cells, columns, csv_text, nodules, rle, tables

HEIGHT, WIDTH = 14, 9
TEXTS = {
    dialect: [
        rle.encode(np.random.default_rng(seed).random((HEIGHT, WIDTH)) < 0.2, dialect)
        for seed in range(3)
    ]
    for dialect in rle.DIALECTS
}
ROWS = {
    "rle": ["ImageId,EncodedPixels,Split", *(f"a{n},{TEXTS['relative'][n]},train" for n in (0, 1))],
    "class": ["ImageId,Class,Split", "a0,0,train", "a1,1,val", "a1,1,val"],
    "nodule": ["seriesuid,coordX,coordY,coordZ,diameter_mm", "a0,-1.5,2,3e1,4", "a1,1,2,3,4"],
}
ROWS["rle"] += ["a1,9 3,train", "a2,-1,test", "a3,,test"]


def plain_mask(text: str, dialect: str) -> np.ndarray:
    """A second reading of a text, pixel by pixel."""
    is_empty = text.strip() in ("-1", "nan")
    numbers = [] if is_empty else [int(number) for number in text.split()]
    flat, position = np.zeros(HEIGHT * WIDTH, bool), 0
    for first, length in zip(numbers[::2], numbers[1::2], strict=True):
        position = position + first if dialect == "relative" else first - 1
        for pixel in range(position, position + length):
            flat[pixel] = True
        position += length
    return flat.reshape(HEIGHT, WIDTH) if dialect == "row_major" else flat.reshape(WIDTH, HEIGHT).T


def check(label: tables.Label, rows: list[tables.Row], kind: str) -> None:
    mask = rle.decode(label.rle, HEIGHT, WIDTH) > 0
    if kind == "class":
        assert label.label in (0, 1) and not label.has_mask and label.lesion_px == -1
        values = {cells.truth(row.value) for row in rows}
        assert not mask.any() and values == {label.label}, rows
        return
    assert (mask == np.any([plain_mask(row.value, "relative") for row in rows], axis=0)).all()
    assert label.has_mask and label.lesion_px == mask.sum()
    assert label.label == int(mask.any())


def outcomes(data: bytes, split_column: str | None = None) -> list[str]:
    """How each image of a CSV ended; the CSV itself where it did not get that far."""
    try:
        layout = columns.layout(
            io.BytesIO(data), "labels.csv", columns.ColumnChoice(split=split_column)
        )
        rows = list(tables.read(io.BytesIO(data), layout))
    except (InputError, csv.Error) as error:
        assert len(str(error)) < 1000
        return [type(error).__name__]
    outcomes, by_id = [], {}
    for image_id, row in rows:
        by_id.setdefault(image_id, []).append(row)
    for rows in by_id.values():
        try:
            if layout.kind == "nodule":
                outcomes += [type(nodules.parse_nodule(row.value or "")).__name__ for row in rows]
                continue
            if split_column:
                assert tables.split_of(rows).isidentifier()
            label = tables.unite(rows, layout.kind, HEIGHT, WIDTH, "relative")
            check(label, rows, layout.kind)
            outcomes.append(f"{layout.kind} label")
        except Reject as reject:
            assert len(reject.message) < 1000
            outcomes.append(reject.reason)
    return outcomes


@pytest.mark.parametrize("kind", ["rle", "class", "nodule"])
def test_a_damaged_csv_gives_labels_or_errors_that_are_meant(kind):
    rng, ends = random.Random(kind), Counter()
    original = "\n".join(ROWS[kind]).encode()
    for number in range(500):
        split_column = "split" if number % 3 == 0 and kind != "nodule" else None
        ends.update(outcomes(mutations.labels(original, rng), split_column))
    expected = {
        "rle": {"rle label", "rle-not-numbers", "rle-odd-count", "rle-out-of-bounds"},
        "class": {"class label", "class-not-0-or-1", "conflicting-labels", "conflicting-splits"},
        "nodule": {"Nodule", "bad-nodule", "InputError"},
    }
    assert expected[kind] <= ends.keys(), ends


@pytest.mark.parametrize("dialect", rle.DIALECTS)
def test_a_damaged_text_gives_its_mask_or_a_reject(dialect):
    rng, ends = random.Random(dialect), Counter()
    for number in range(600):
        data = mutations.labels(TEXTS[dialect][number % 3].encode(), rng)
        text = data.decode("utf-8", "backslashreplace").strip()
        try:
            runs = rle.runs(text, HEIGHT, WIDTH, dialect)
        except Reject as reject:
            assert len(reject.message) < 1000
            ends[reject.reason] += 1
            continue
        ends["mask"] += 1
        mask = rle.to_mask(runs, HEIGHT, WIDTH) > 0
        assert (mask == plain_mask(text, dialect)).all(), text[:100]
        assert (runs == rle.from_mask(mask)).all() and rle.area(runs) == mask.sum()
    assert {"mask", "rle-not-numbers", "rle-odd-count", "rle-out-of-bounds"} <= ends.keys(), ends


@pytest.mark.parametrize("data", [bytes(2**27), b'a,"' + (b"0" * 8191 + b"\n") * 2**12])
def test_a_file_that_is_no_csv_costs_no_more_than_its_bounds(data):
    file = io.BytesIO(data)
    tracemalloc.start()
    with pytest.raises(InputError, match="not a CSV"):
        columns.layout(file, "labels.csv")
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 6 * csv_text.FIELD_LIMIT  # csv holds four bytes a character


def test_a_message_quotes_no_more_than_a_reader_wants():
    long = "A" * 100_000
    for text in (f"{long},{long}\n", f"Id,Class\n{long},{long}\n"):
        assert max(map(len, outcomes(text.encode()))) < 40
    rows = [tables.Row(n, str(n), str(n)) for n in range(10_000)]
    for function in (tables.split_of, lambda rows: tables.unite(rows, "class", 4, 4, "relative")):
        with pytest.raises(Reject) as caught:
            function(rows)
        assert len(caught.value.message) < 1000
