"""python -m lake show: its numbers against the manifest's, its sheet against the records."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image, ImageColor

from lake.__main__ import main
from lake.inspection import sheet, show
from lake.labels import rle
from lake.records import manifest


def table(output: str, title: str) -> dict[str, list[str]]:
    """Rows of the table whose head begins with `title`, by their first word."""
    lines = output.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(title))
    end = lines.index("", start)
    return {line.split()[0]: line.split()[1:] for line in lines[start:end]}


def test_numbers_are_those_of_the_manifest(lake, capsys):
    assert main(["show", str(lake)]) == 0
    output = capsys.readouterr().out
    counts = manifest.load(str(lake))["counts"]
    rows = table(output, "split ")
    names = dict(zip(rows["split"], range(9), strict=False))
    for split, expected in counts["splits"].items():
        for column, key in (("records", "records"), ("positive", "positives")):
            assert rows[split][names[column]] == str(expected[key])
        assert rows[split][names["patients"]] == str(expected["patients"])
        assert rows[split][names["with_mask"]] == str(expected["with_mask"])
    assert rows["all"][names["records"]] == str(counts["records"])
    positives = sum(split["positives"] for split in counts["splits"].values())
    # Phantoms are 128 px, so that sizes in % and in pixels agree.
    assert "100% is 16,384 px" in output
    sizes = table(output, "quantiles ")
    assert sizes["all"][0] == str(positives)
    assert sum(int(n) for n in histogram(output)) == positives


def histogram(output: str) -> list[str]:
    return [line.split()[3] for line in output.splitlines() if "% to " in line]


def test_one_split(lake, capsys):
    assert main(["show", str(lake), "--split", "val"]) == 0
    rows = table(capsys.readouterr().out, "split ")
    assert rows.keys() == {"split", "val"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "{tmp}"], "no manifest.json, so this is not a (finished) lake"),
        (["verify", "{tmp}/none"], "no manifest.json, so this is not a (finished) lake"),
        (["show", "s3://bucket/lake/1.0.0"], "expected a local path or gs://BUCKET/PATH"),
        (["show", "{lake}", "--split", "dev"], "--split=dev: no such split"),
        (["show", "{lake}", "--sheet", "{tmp}/none/sheet.png"], "no folder"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(lake, tmp_path, capsys, arguments, message):
    arguments = [argument.format(tmp=tmp_path, lake=lake) for argument in arguments]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error


def test_a_manifest_without_its_keys_is_refused(lake, tmp_path, capsys):
    folder = Path(shutil.copytree(lake, tmp_path / "lake"))
    content = manifest.load(str(lake))
    del content["counts"], content["shards"][1]["sha256"]
    (folder / manifest.MANIFEST).write_text(json.dumps(content))
    assert main(["verify", str(folder)]) == 2
    assert "lacks counts, shards[1].sha256" in capsys.readouterr().err


def test_sheet_is_repeatable_and_whole(lake, tmp_path, capsys):
    path = tmp_path / "sheet.png"
    assert main(["show", str(lake), "--sheet", str(path)]) == 0
    assert "24 images, lesions outlined" in capsys.readouterr().out
    first = path.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["sheet.png"]
    assert main(["show", str(lake), "--sheet", str(path)]) == 0
    assert path.read_bytes() == first
    with Image.open(path) as image:
        width = sheet.COLUMNS * (sheet.TILE_PX + sheet.GAP_PX) + sheet.GAP_PX
        assert image.width == width and image.mode == "RGB"


def test_tiles_outline_their_own_lesion_and_nothing_else(lake):
    content = manifest.load(str(lake))
    index = show.read_index(lake, content, None)
    images = sheet.read(lake, content, index.take(sheet.choose(index)))
    assert {split for split, _ in images} == set(content["counts"]["splits"])
    for split, fields in images:
        pixels = np.asarray(sheet.tile(fields, split))[: sheet.TILE_PX]
        is_marked = (pixels == ImageColor.getrgb(sheet.OUTLINE)).all(axis=-1)
        assert is_marked.any() == (fields["label"] == 1)
        if is_marked.any():
            lesion = rle.decode(fields["original_rle"].decode(), 128, 128)
            scale = sheet.TILE_PX / 128
            for axis in (0, 1):
                expected = np.flatnonzero(lesion.any(axis=axis))[[0, -1]] * scale
                actual = np.flatnonzero(is_marked.any(axis=axis))[[0, -1]]
                assert np.abs(actual - expected).max() <= scale + 1


def test_sheet_names_a_damaged_shard(lake, tmp_path, capsys):
    folder = Path(shutil.copytree(lake, tmp_path / "lake"))
    for path in folder.glob("*.tfrecord-*"):
        path.write_bytes(path.read_bytes()[:50])
    assert main(["show", str(folder), "--sheet", str(tmp_path / "sheet.png")]) == 2
    assert "try python -m lake verify" in capsys.readouterr().err


def test_a_window_becomes_the_whole_range():
    pixels = np.array([[0, 1000], [2000, 3000]], np.uint16)
    assert sheet.to_uint8(pixels, (1000.0, 2000.0)).tolist() == [[0, 0], [255, 255]]


def test_sheet_takes_both_classes_from_every_split_along_lesion_sizes():
    def rows(split: str, sizes: list[int]) -> list[dict]:
        return [{"split": split, "label": int(px > 0), "lesion_px": px} for px in sizes]

    index = pyarrow.Table.from_pylist(
        [*rows("train", [*range(100), *[0] * 100]), *rows("val", [5, 0, 0, 0]), *rows("test", [0])]
    )
    rows_on_sheet = index.take(sheet.choose(index, 12)).to_pylist()
    assert len(rows_on_sheet) == 12
    sizes = {
        split: [row["lesion_px"] for row in rows_on_sheet if row["split"] == split]
        for split in ("train", "val", "test")
    }
    assert sizes["train"] == [1, 25, 50, 75, 99, 0, 0, 0]
    assert sizes["val"] == [5, 0, 0]
    assert sizes["test"] == [0]
    # One class alone fills the sheet.
    assert len(sheet.choose(index.filter(pyarrow.array([n < 100 for n in range(205)])), 12)) == 12
