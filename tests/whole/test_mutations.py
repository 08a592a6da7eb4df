"""Damaged files of every source, and damaged labels: none ends the process, costs more than a file
may, or reads as something else the second time.

`python tests/makers/mutated_reads.py KIND COUNT` prints what becomes of them.
"""

import pytest
from makers import mutated_reads
from makers.marks import exhaustive

COUNTS = {"dicom": 20_000, "pictures": 5_000, "volumes": 5_000, "labels": 5_000}


def assert_harmless(kind: str, count: int) -> None:
    rows = mutated_reads.run(kind, count)
    assert len(rows) == count
    assert not [row for row in rows if row["problem"]], mutated_reads.table(rows)
    # The damage is neither nothing nor all: some files are rejects, some can be read.
    num_rejects = sum(len(row["digest"]) != 24 for row in rows)
    assert count / 20 < num_rejects < count * 0.95


@pytest.mark.parametrize("kind", COUNTS)
def test_damaged_files_are_read_alike_or_rejects(kind):
    assert_harmless(kind, COUNTS[kind] // 100)


@exhaustive
@pytest.mark.parametrize("kind", COUNTS)
def test_many_damaged_files_neither(kind):
    assert_harmless(kind, COUNTS[kind])
