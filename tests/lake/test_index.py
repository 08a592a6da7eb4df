"""The index of a lake: its reader and its counts, against the records and a plain loop."""

import pytest

from lake import InputError
from lake.records import index, manifest
from tests.makers import lakes


def test_the_index_has_a_row_for_each_record(lake):
    rows = index.in_order(index.read(lake)).to_pylist()
    records = lakes.records(lake)
    expected = [index.row(r, *(r[name] for name in index.PLACE)) for r in records]
    assert rows == sorted(expected, key=lambda row: [row[name] for name in index.PLACE])
    assert len(rows) == 40


def test_columns_and_splits_are_chosen(lake):
    rows = index.read(lake, ["fold", "split"], ["val"])
    assert rows.column_names == ["fold", "split"]
    expected = manifest.load(str(lake))["counts"]["splits"]["val"]["records"]
    assert rows["split"].to_pylist() == ["val"] * expected


def test_counts_add_up_and_know_classes():
    rows = [
        {"label": 2, "has_mask": 0, "lesion_px": -1},
        {"label": 1, "has_mask": 1, "lesion_px": 7},
        {"label": 1, "has_mask": 1, "lesion_px": 5},
        {"label": 0, "has_mask": 1, "lesion_px": 0},
        {"label": -1, "has_mask": 0, "lesion_px": -1},
    ]
    counts = index.count(index.table(rows, index.COUNTED), num_classes=3)
    assert counts == {
        "records": 5,
        "positives": 3,
        "negatives": 1,
        "unknown": 1,
        "with_mask": 3,
        "lesion_pixels": 12,
        "classes": [1, 2, 1],
    }
    parts = [index.count(index.table([row], index.COUNTED), 3) for row in rows]
    assert index.total(parts) == counts
    empty = index.count(index.table([], index.COUNTED))
    assert set(empty.values()) == {0} and "classes" not in empty


def test_an_unreadable_index_is_named(tmp_path):
    (tmp_path / manifest.INDEX).write_bytes(b"PAR1")
    with pytest.raises(InputError, match=f"{manifest.INDEX} cannot be read"):
        index.read(tmp_path)
