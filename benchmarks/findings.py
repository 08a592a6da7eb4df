"""How long a label CSV with many findings takes to read, as a ratio to pandas.read_csv of the same
file in the same run, and whether its counts are those that pandas gives.

    python benchmarks/findings.py --labels train.csv [--readers majority]

Needs pandas (pip install pandas). The label files of CheXpert, NIH ChestX-ray14 and VinBigData are
in the wheel of torchxrayvision (pip download --no-deps torchxrayvision). "Reading" chooses the
findings, reads all rows and gives each image its labels: all that a conversion does with the CSV.
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import pandas

from beam.running import files
from lake.labels import columns, finding_choice, findings

ROUNDS = 3


def read(path: str, rule: str) -> tuple[columns.Layout, Counter, int]:
    """The Layout of a CSV with all its findings; {(finding, value): images}; the images."""

    def open_file():
        return files.open_unpacked(path)

    with open_file() as file:
        layout = columns.layout(file, path, columns.ColumnChoice(findings=("all",)))
    layout = finding_choice.resolve(open_file, path, layout, ("all",))
    rows_by_image = {}
    with open_file() as file:
        for image_id, row in findings.read(file, layout, Counter()):
            rows_by_image.setdefault(image_id, []).append(row)
    labels = Counter(
        findings.unite(rows, layout.findings, rule).findings for rows in rows_by_image.values()
    )
    counts = Counter()
    for values, number in labels.items():
        for name, value in zip(layout.findings, values, strict=True):
            counts[name, value] += number
    return layout, counts, len(rows_by_image)


def counts_of_pandas(path: str, layout: columns.Layout, rule: str) -> tuple[Counter, int]:
    """The same counts by pandas alone, of the columns that the Layout names."""
    table = pandas.read_csv(path)
    ids = table.columns[layout.id_columns[0]]
    counts = Counter()
    if not layout.lists_names:  # CheXpert: one row per image
        for name in layout.findings:
            present, unknown = int((table[name] == 1).sum()), int((table[name] == -1).sum())
            counts.update({(name, 1): present, (name, -1): unknown})
            counts[name, 0] = len(table) - present - unknown
        return counts, table[ids].nunique()
    names = table.columns[layout.value_columns[0]]
    has = table[names].str.get_dummies("|")
    has[ids], num_images = table[ids], table[ids].nunique()
    if layout.reader_column is None:
        present = has.groupby(ids).max().sum()
    else:
        reader = table.columns[layout.reader_column]
        has[reader] = table[reader]
        votes = has.groupby([ids, reader]).max().groupby(ids).mean()
        present = (votes > (0 if rule == "any" else 0.5)).sum()
    for name in layout.findings:
        counts.update({(name, 1): int(present[name]), (name, 0): num_images - int(present[name])})
    return counts, num_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", required=True)
    parser.add_argument("--readers", choices=findings.READER_RULES, default="any")
    flags = parser.parse_args()
    ours, theirs, wall = [], [], []
    for _ in range(ROUNDS):  # in turn, so that a busy moment slows both
        start, start_wall = time.process_time(), time.monotonic()
        layout, counts, num_images = read(flags.labels, flags.readers)
        ours.append(time.process_time() - start)
        wall.append(time.monotonic() - start_wall)
        start = time.process_time()
        pandas.read_csv(flags.labels)
        theirs.append(time.process_time() - start)
    expected, expected_images = counts_of_pandas(flags.labels, layout, flags.readers)
    print(f"{num_images:,} images, {len(layout.findings)} findings")
    for name in layout.findings:
        print(f"{name:<28}" + "".join(f"{counts[name, value]:>9,}" for value in (1, 0, -1)))
    print(
        f"{min(ours):.2f} s of CPU ({min(wall):.2f} s), pandas.read_csv {min(theirs):.2f} s: "
        f"{min(ours) / min(theirs):.1f}x"
    )
    if (+counts, num_images) != (+expected, expected_images):
        sys.exit("the counts differ from those of pandas")
    print("the counts are those of pandas")


if __name__ == "__main__":
    main()
