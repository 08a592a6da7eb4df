"""The real Beam job on damaged files and labels: every image is a record or a reject, none is lost
or counted twice."""

import csv
import json
import random
from collections import Counter
from pathlib import Path

import pyarrow.parquet
import pytest
from makers.dicom import PACKAGED, mutate

from lake import Reject
from lake.inspection import verify
from lake.records import manifest
from lake.sources.dicom import dicom

# Colours, palettes, an overlay, frames, run lengths, deflate, big-endian, no image.
ODD = [
    *("examples_ybr_color.dcm", "examples_palette.dcm", "examples_overlay.dcm", "rtdose.dcm"),
    *("SC_rgb_small_odd.dcm", "SC_rgb_rle_2frame.dcm", "MR_small_RLE.dcm", "MR_small_padded.dcm"),
    *("JPEG2000.dcm", "image_dfl.dcm", "MR_small_bigendian.dcm", "CT_small.dcm", "rtplan.dcm"),
]


@pytest.fixture
def damaged_inputs(phantoms, tmp_path) -> tuple[Path, Path]:
    """(folder of 300 damaged DICOM files and 20 sound ones, a label CSV of broken rows, rows given
    twice and rows of nobody)."""
    rng, folder = random.Random(7), tmp_path / "dicom"
    sound = sorted(phantoms.glob("dicom/*.dcm"))
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
    for number in range(300):
        path = rng.choice(sound) if rng.random() < 0.7 else PACKAGED / rng.choice(ODD)
        target = folder / "ab"[number % 2] / f"{path.stem}-{number}.dcm"
        target.write_bytes(mutate(path.read_bytes(), rng))
    for path in sound[:20]:
        (folder / "a" / path.name).write_bytes(path.read_bytes())
    for path in sorted(folder.glob("b/*.dcm"))[::8]:  # one id, two files
        path.rename(folder / "b" / rng.choice(sorted(folder.glob("a/*.dcm"))).name)
    texts = {}
    with (phantoms / "train-rle.csv").open() as file:
        for image_id, text in csv.reader(file):
            texts.setdefault(image_id, text.strip())
    lines = ["ImageId,EncodedPixels", *(f"nobody{n},1 2" for n in range(30))]
    for path in sorted(folder.glob("*/*.dcm")):
        text = texts.get(path.stem.rpartition("-")[0], texts.get(path.stem, "-1"))
        names = [path.stem, *(f"{path.stem}#{k:04d}" for k in range(rng.randrange(3)))]
        lines += [f"{name},{text}" for name in names if rng.random() < 0.8]
    for _ in range(150):
        position = rng.randrange(1, len(lines))
        name, _, text = lines[position].partition(",")
        values = (",", f",{text} x", ",9 99999999", ",-1", "", f",{text}")
        lines.append(name + rng.choice(values))
    labels = tmp_path / "labels.csv"
    labels.write_bytes("\n".join(lines).encode() + b"\n\xff\xfe\0,1\n")
    return folder, labels


def plain_count(paths: list[Path]) -> tuple[Counter, Counter]:
    """(images of each id, unreadable files of each name), by a plain loop over the files."""
    images, unreadable = Counter(), Counter()
    for path in paths:
        try:
            with path.open("rb") as file:
                size = path.stat().st_size
                headers = dicom.read_headers(file, str(path), size, "name", "each")
        except Reject:
            unreadable[path.stem] += 1
        else:
            images.update(header.image_id for header in headers)
    return images, unreadable


@pytest.mark.slow
def test_damaged_inputs_are_all_accounted_for(damaged_inputs, convert, tmp_path):
    folder, labels = damaged_inputs
    lake, paths = tmp_path / "fuzz" / "1.0.0", sorted(folder.glob("*/*.dcm"))
    options = ("--max_reject_fraction=1", "--unlabelled=keep", "--bits=8", "--frames=each")
    counts = convert(folder / "*" / "*.dcm", labels, lake, *options)["counts"]
    rejects = [json.loads(line) for line in (lake / manifest.REJECTS).read_text().splitlines()]
    ids = pyarrow.parquet.read_table(lake / manifest.INDEX)["image_id"].to_pylist()
    by_id, by_reason = Counter(), Counter()
    for reject in rejects:
        by_id[reject["image_id"]] += reject["images"]
        by_reason[reject["reason"]] += reject["images"]
    # Every image of every file is one record or one reject.
    images, unreadable = plain_count(paths)
    assert Counter(ids) + by_id == images + unreadable
    assert {reject["path"] for reject in rejects} <= set(map(str, paths))
    assert (counts["files"], counts["records"]) == (len(paths), len(set(ids)))
    assert counts["images"] == len(ids) + by_id.total()
    assert counts["rejects"] == by_reason
    reasons = {"duplicate-id", "undecodable", "unreadable-header", "row-without-value"}
    reasons |= {"rle-not-numbers", "rle-out-of-bounds"}
    assert reasons <= by_reason.keys() and len(ids) > 100, by_reason
    orphans = (lake / manifest.ORPHANS).read_text().splitlines()
    lines = labels.read_text("latin-1").splitlines()[1:]
    # The row of a file is that of its frames.
    met = images.keys() | {name.partition("#")[0] for name in images}
    assert sorted(orphans) == sorted({line.partition(",")[0] for line in lines} - met)
    assert len(orphans) == counts["labels_without_image"] > 30
    problems, num_records = verify.verify(lake, manifest.load(str(lake)))
    assert not problems.counts, problems.lines()
    assert num_records == len(ids)
