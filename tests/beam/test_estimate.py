"""--estimate of the phantoms against the lake that the real job makes of them. It must open no more
files than --sample says, and write none."""

import contextlib
import json
import shutil

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import RLELossless

from beam import convert as converter
from beam import synthetic
from beam.conversion import deidentify, options
from beam.estimate import costs, estimate
from beam.running import files
from lake import Reject
from lake.scan import Storage
from lake.sources import reader

SPLITS = "--splits=train=0.6,val=0.2,test=0.2"


def arguments_of(folder, *more: str) -> list[str]:
    inputs = [f"--images={folder}/dicom/*.dcm", f"--labels={folder}/train-rle.csv"]
    return [*inputs, "--output=nowhere/phantoms/1.0.0", SPLITS, "--estimate", *more]


def estimated(arguments: list[str]) -> estimate.Estimate:
    flags = options.parser().parse_args([*arguments, "--estimate"])
    conversion = options.from_flags(flags, is_local=True, progress_file=None)
    return estimate.estimate(conversion, flags.sample)


@pytest.mark.parametrize("sampled", [40, 10])
def test_it_says_what_the_conversion_then_makes(phantoms, lake, sampled):
    result = estimated(arguments_of(phantoms, f"--sample={sampled}"))
    manifest = json.loads((lake / "manifest.json").read_text())
    assert (result.num_files, result.num_sampled, result.num_records) == (40, sampled, 40)
    assert result.codings == {"jpeg, kept": sampled}
    shards = [shard["split"] for shard in manifest["shards"]]
    assert {name: count for name, _, count in result.splits} == {
        name: shards.count(name) for name in ("train", "val", "test")
    }
    truth = sum(shard["bytes"] for shard in manifest["shards"])
    assert result.stored_bytes[0] == pytest.approx(truth, rel=0.1)
    assert result.stored_bytes[1] == 0 if sampled == 40 else result.stored_bytes[1] > 0


def test_no_more_files_are_opened_than_it_was_told(phantoms, monkeypatch):
    openings, opening = [], files.open_binary
    monkeypatch.setattr(files, "open_binary", lambda path: openings.append(path) or opening(path))
    estimated(arguments_of(phantoms, "--sample=7"))
    assert len(openings) == len(set(openings)) == 7
    paths = sorted(map(str, (phantoms / "dicom").glob("*.dcm")))
    for number, path in enumerate(sorted(openings)):  # one of each seventh of the listing
        assert number * 40 // 7 <= paths.index(path) < (number + 1) * 40 // 7


def test_nothing_is_written(phantoms, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(deidentify, "KEY_FILE", tmp_path / "key")
    assert converter.main(arguments_of(phantoms)) == 0
    assert not list(tmp_path.iterdir())
    assert "jpeg, kept 100%" in capsys.readouterr().out


def test_files_that_are_no_images_are_a_share(phantoms, tmp_path, capsys):
    shutil.copytree(phantoms, tmp_path / "mixed")
    for number in range(10):
        (tmp_path / "mixed" / "dicom" / f"{number}.dcm").write_bytes(b"notes" * 100)
    assert converter.main(arguments_of(tmp_path / "mixed")) == 0
    table = capsys.readouterr().out
    assert "rejects         20.0%  of the sample: not-dicom 20%; above --max_reject" in table
    assert [line.split()[1] for line in table.splitlines() if line.startswith("train ")] == ["24"]
    assert (
        converter.main(
            [*arguments_of(tmp_path / "mixed"), f"--images={tmp_path}/mixed/dicom/[0-9].dcm"]
        )
        == 2
    )
    assert "none of 10 headers can become a record, such as" in capsys.readouterr().err


def test_images_of_8_and_of_more_bits_stop_it_too(phantoms, tmp_path, capsys):
    synthetic.write(tmp_path, images=1, side=64, bits=12)
    shutil.copy(min((phantoms / "dicom").iterdir()), tmp_path / "dicom" / "eight.dcm")
    assert converter.main(arguments_of(tmp_path)) == 1
    assert "choose --bits 8 or --bits 16" in capsys.readouterr().err
    assert converter.main(arguments_of(tmp_path, "--bits=16")) == 0


def test_core_time_and_bytes_of_a_small_conversion_can_be_given(phantoms, capsys):
    """40 records of 90 s are a core-hour; 24 of 500 KB lie in the 4 shards of train."""
    measured = ["--core_seconds=90", "--record_kb=500"]
    assert converter.main(arguments_of(phantoms, *measured)) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["one"].split()[2:4] == ["60.0", "min"] and "90000.00 ms per" in lines["one"]
    assert lines["train"].split()[1:] == ["24", "4", "6", "3.0"]
    assert lines["lake"].split()[1:] == ["20.0", "MB"]
    assert lines["cores"].split()[1] == "12"


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (["--images=nowhere/*.dcm"], "no file matches"),
        (["--detach", "--runner=DataflowRunner"], "--estimate submits none"),
        (["--images=nowhere://bucket/*.dcm"], "cannot be listed: Unable to get filesystem"),
    ],
)
def test_mistakes_are_one_message(phantoms, mistake, message, capsys):
    assert converter.main(arguments_of(phantoms, *mistake)) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("number", ["nan", "inf", "-1"])
def test_a_number_is_finite(phantoms, number, capsys):
    with pytest.raises(SystemExit, match="2"):
        converter.main(arguments_of(phantoms, f"--core_seconds={number}"))
    assert f"{number}: expected a number from 0 on" in capsys.readouterr().err


def test_its_options_are_for_it_alone(phantoms, capsys):
    arguments = [word for word in arguments_of(phantoms, "--sample=3") if word != "--estimate"]
    assert converter.main(arguments) == 2
    assert "--sample: only with --estimate" in capsys.readouterr().err


def test_a_total_is_that_of_the_sizes():
    """Twice the bytes of each file; of files whose values do not follow their sizes the half of an
    interval by Cochran's 6.13."""
    sizes = np.array([10, 20, 30, 40])
    assert estimate.extrapolate([20.0, 60.0], sizes[[0, 2]], sizes) == (200.0, 0.0)
    total, error = estimate.extrapolate([30.0, 50.0], sizes[[0, 2]], sizes)
    assert total == 200.0
    assert error == pytest.approx(1.96 * 4 * np.sqrt((1 - 2 / 4) / 2 * (10**2 + 10**2)))


def coded(kind: str, path, storage: Storage) -> tuple[bool, str]:
    """(whether the header says that a file is kept, as what it is then stored)."""
    with path.open("rb") as file:
        [header] = reader.read_headers(kind, file, str(path), path.stat().st_size, "name", "first")
        coding = reader.read_coding(kind, file, header, storage)
    scan = reader.read_scan(kind, files.Inputs(), header, storage)
    return coding.is_kept, scan.encoding


def test_what_is_kept_is_known_from_the_header(real_data):
    reader.quieten()
    pairs = []
    for path in sorted((real_data / "odd_dicom").iterdir()):
        with contextlib.suppress(Reject):
            pairs.append(coded("dicom", path, Storage(8, None)))
    assert {(encoding == "jpeg-kept") == is_kept for is_kept, encoding in pairs} == {True}
    assert {True, False} == {is_kept for is_kept, _ in pairs}
    path = min((real_data / "siim" / "dicom").iterdir())
    assert coded("dicom", path, Storage(8, 1024)) == (True, "jpeg-kept")
    assert coded("dicom", path, Storage(8, 512)) == (False, "png")


def test_pngs_of_the_lakes_bits_are_kept(real_data):
    path = min((real_data / "nih_png" / "images").iterdir())
    assert coded("images", path, Storage(8, None)) == (True, "png")
    assert coded("images", path, Storage(8, 512)) == (False, "png")


def test_of_colours_one_channel_is_stored(phantoms, tmp_path):
    """RGB and RGBA by turns; a PNG of one channel takes about as much as its record does."""
    paths = sorted((phantoms / "dicom").iterdir())[:8]
    for number, path in enumerate(paths):
        grey = Image.fromarray(pydicom.dcmread(path).pixel_array)
        grey.convert(("RGB", "RGBA")[number % 2]).save(tmp_path / f"{number}.png")
    images = f"--images={tmp_path}/*"
    result = estimated([images, "--source=images", "--unlabelled=keep", "--output=a/b/1.0.0"])
    pngs = 0
    for path in tmp_path.iterdir():
        with path.open("rb") as file:
            [header] = reader.read_headers(
                "images", file, str(path), path.stat().st_size, "name", ""
            )
        pngs += len(reader.read_scan("images", files.Inputs(), header, Storage(8, None)).image)
    assert result.codings == {"png": 8}
    assert result.stored_bytes[0] == pytest.approx(pngs + 8 * costs.FIELDS_BYTES, rel=0.3)  # noise
    assert result.file_bytes > 1.5 * pngs


def test_colours_of_a_dicom_are_channels(phantoms, tmp_path):
    dataset = pydicom.dcmread(min((phantoms / "dicom").iterdir()))
    grey = dataset.pixel_array
    dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
    dataset.PhotometricInterpretation = "RGB"
    dataset.compress(RLELossless, np.stack([grey] * 3, -1), generate_instance_uid=False)
    dataset.save_as(path := tmp_path / "colour.dcm")
    with path.open("rb") as file:
        size = path.stat().st_size
        [header] = reader.read_headers("dicom", file, str(path), size, "name", "reject")
        coding = reader.read_coding("dicom", file, header, Storage(8, None))
    assert (coding.name, coding.channels, coding.is_kept) == ("rle", 3, False)


def test_volumes_count_by_their_slices(real_data):
    """Three slabs of 11, 16 and 12 slices of 512 x 512 x 2 bytes, in files beside their headers."""
    images = f"--images={real_data}/luna/mhd/*"
    result = estimated([images, "--source=metaimage", "--unlabelled=keep", "--output=a/b/1.0.0"])
    assert (result.num_files, result.num_records) == (3, 11 + 16 + 12)
    assert result.has_pixels_elsewhere
    assert result.read_bytes == pytest.approx(39 * 512 * 512 * 2, rel=1e-3)
