"""What a conversion says at its end, and while it runs: numbers that fit together, and warnings."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from makers import dicom, lakes

from beam.conversion import labelling, listing, options, summary
from beam.running import progress
from lake.inspection import show

THIRDS = {"train": 8, "val": 1, "test": 1}
SAME = "{} of {} images have the same patient id, and so lie in one split; is it one patient?"


def conversion(**changes) -> options.ConversionOptions:
    flags = options.parser().parse_args(
        ["--images=d/*.png", "--labels=l.csv", "--output=a/b/1.0.0", "--deidentify=keep"]
    )
    return dataclasses.replace(options.from_flags(flags, True, None), **changes)


@pytest.mark.parametrize(
    ("records", "patients", "largest", "changes", "expected"),
    [
        (THIRDS, 0, 0, {}, []),
        (THIRDS, 4, 3, {}, []),
        ({"train": 3}, 0, 0, {}, ["no image is in val or test: there are only 3 images"]),
        (
            *({"train": 40}, 1, 40, {}),
            ["no image is in val or test: patient ids in all 40 images: 1", SAME.format(40, 40)],
        ),
        ({"train": 39, "val": 3, "test": 3}, 3, 39, {}, [SAME.format(39, 45)]),
        # The slices of a volume are those of one patient.
        ({"train": 300, "val": 90, "test": 90}, 1, 300, {"source": "metaimage"}, []),
        ({"train": 9}, 0, 0, {"splits": "train=1"}, []),
        (
            *({"training": 8, "testing": 2}, 0, 0, {"split_column": "part"}),
            ["no image is in train or val or test: --split_column part names training, testing"],
        ),
    ],
)
def test_a_split_without_images_and_one_patient_id_for_most_are_warned_of(
    records, patients, largest, changes, expected
):
    choice = conversion(**changes)
    labels = {"positives": 1, "negatives": 1}
    splits = {name: {"records": n, "patients": patients, **labels} for name, n in records.items()}
    counts = {
        "splits": splits,
        "records": sum(records.values()),
        "images_of_largest_patient": largest,
        "empty_splits": summary.empty_splits(splits, choice),
        "empty_folds": [],
        "images_named_as_masks": 0,
    }
    assert summary.warnings(counts, choice) == expected


def test_headers_that_are_read_are_never_more_than_the_files(tmp_path):
    """Rejects of the join come after all headers are read, and are no headers once more."""
    changes = {"source": "dicom", "frames": "each", "images": f"{tmp_path}/*.dcm"}
    choice = conversion(**changes, progress_file=str(tmp_path / "progress"))
    film = dicom.make(np.zeros((8, 8), "u1"), NumberOfFrames=3, PixelData=bytes(192))
    (tmp_path / "film.dcm").write_bytes(film)
    (tmp_path / "broken.dcm").write_text("no image")
    outputs = listing.match_images(choice.images, choice)
    chunks = [output for output in outputs if isinstance(output, list)]
    headers = [
        output[1]
        for chunk in chunks
        for output in listing.read_headers(chunk, choice)
        if isinstance(output, tuple)
    ]
    lines = [line_of(choice)]
    list(labelling.join(("film", {"headers": headers, "rows": []}), "class", choice))
    lines.append(line_of(choice))
    assert lines == ["listing: 4 of 4 headers read, 1 s"] * 2  # three frames and a broken file


def line_of(choice: options.ConversionOptions) -> str:
    """The line about the events in the progress file."""
    with open(choice.progress_file, "rb") as file:
        events = file.read()
    counts = Counter({event: events.count(event) for event in progress.EVENTS})
    return progress.progress_line(counts, 1.0)


def test_the_table_the_manifest_and_show_tell_of_all_that_is_odd(convert, tmp_path, capsys):
    """One patient id, two flat views, a file that a system left, a label without an image."""
    output, rows = tmp_path / "odd" / "1.0.0", ["ImageId,Class", "nobody,1"]
    (tmp_path / "d").mkdir()
    for number in range(6):
        ramp = np.arange(64, dtype="u2").reshape(8, 8) * 10 + (30_000 if number < 2 else 0)
        window = {"WindowCenter": 300, "WindowWidth": 600}
        path = tmp_path / "d" / f"i{number}.dcm"
        path.write_bytes(dicom.make(ramp, PatientID="ANONYMOUS", **window))
        rows.append(f"i{number},{number % 2}")
    (tmp_path / "d" / "._i0.dcm").write_bytes(b"\0\5\x16\7")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    manifest = convert(tmp_path / "d" / "*", tmp_path / "labels.csv", output)
    counts = manifest["counts"]
    assert counts["empty_splits"] == ["val", "test"]
    assert (counts["files"], counts["files_left_out"], counts["flat_views"]) == (6, 1, 2)
    assert (counts["images_of_largest_patient"], counts["labels_without_image"]) == (6, 1)
    table = capsys.readouterr().out
    assert "\n1 files left out: hidden, or left there by a system\n" in table
    assert "\n2 images have one grey level in the view that networks see first\n" in table
    assert "\n1 labels have no image: labels_without_image.txt\n" in table
    assert manifest["warnings"][0].startswith("no image is in val or test: patient ids in all 6")
    for text in manifest["warnings"]:
        assert f"\nwarning: {text}\n" in table and "ANONYMOUS" not in text
        assert text in show.text(output, manifest, show.read_index(output, manifest, None))
    assert len(lakes.index(output)) == 6
