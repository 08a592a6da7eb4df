"""An interrupted predict goes on and ends with the bytes of one that nobody disturbed."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from makers.ct_series import ROOT, body, positions, slice_file
from makers.painter import RADIOGRAPHS, painter, picture, predict_files, save_dicom, save_image
from makers.volumes import volume, write_volume

from lake import InputError
from lake.predictions.folder import SUMMARY
from lake.scan import Storage
from lake.sources import reader
from trainer.prediction import finished, predict
from trainer.prediction.finished import WORK
from trainer.prediction.one_image import ImageFinisher

CT = reader.ReaderSettings(True, "name", Storage(bits=16, max_side=1024, window="-1000,400"))


class Killed(Exception):
    """Stands for a kill, after so many images."""


def contents(folder: Path) -> dict[str, bytes]:
    """Return {name: bytes}; of a DICOM SEG, which states when it was made, those of its mask."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): pydicom.dcmread(path).PixelData
        if path.suffix == ".dcm"
        else path.read_bytes()
        for path in files
    }


@pytest.fixture
def kill_after(monkeypatch):
    """Return a function that lets predict end when it is about to finish image number `count`, and
    returns the list of the places that are finished."""
    finish = ImageFinisher.__call__

    def prepare(count: int) -> list[int]:
        places = []

        def call(finisher, prediction):
            if len(places) >= count:
                raise Killed
            places.append(prediction.place)
            return finish(finisher, prediction)

        monkeypatch.setattr(ImageFinisher, "__call__", call)
        return places

    monkeypatch.setattr(finished, "PART_SECONDS", 0.0)
    monkeypatch.setattr(predict.threads.os, "cpu_count", lambda: 1)
    return prepare


@pytest.fixture
def radiographs(tmp_path) -> Path:
    """14 images, one of which cannot be read, and a file that is none."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(13):
        pixels = picture(60 + number, 70, (10, 10, 5 + number, 20))
        save_dicom(folder / f"i{number:02}.dcm", pixels, PixelSpacing=[0.2, 0.3])
    save_image(folder / "i05b.png", picture(64, 64))
    damaged = bytearray((folder / "i05b.png").read_bytes())
    damaged[60:80] = bytes(20)
    (folder / "i05b.png").write_bytes(damaged)
    (folder / "none.txt").write_text("no image")
    return folder


@pytest.mark.parametrize(
    ("count", "options"),
    [(0, {}), (7, {"overlays": True, "probabilities": True, "seg": "lesion"}), (12, {})],
)
def test_an_interrupted_predict_goes_on_to_the_same_bytes(
    radiographs, tmp_path, kill_after, count, options
):
    expected = predict_files(radiographs, tmp_path / "expected", **options)
    kill_after(count)
    with pytest.raises(Killed):
        predict_files(radiographs, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "submission.csv").exists()
    places = kill_after(99)
    message = predict_files(radiographs, tmp_path / "out", **options)
    assert message == expected.replace("expected", "out")
    # Two wait for the next one, which says that all before are there, and two for their SEGs.
    assert len(places) <= 13 - max(count - 2 - 2 * ("seg" in options), 0)
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")
    assert len(contents(tmp_path / "out")) == 4 + 13 * len(options)


def test_a_volume_goes_on_behind_its_last_whole_series(tmp_path, kill_after):
    (tmp_path / "in").mkdir()
    for number in range(3):
        voxels = np.full((6, 64, 64), -1000, np.int16)
        voxels[1 + number : 4 + number, 20:30, 20:30] = 100
        write_volume(volume(voxels), tmp_path / "in", f"v{number}.mhd")
    expected = predict_files(tmp_path / "in", tmp_path / "expected", CT, candidates=True)
    kill_after(17)
    with pytest.raises(Killed):
        predict_files(tmp_path / "in", tmp_path / "out", CT, candidates=True)
    [part] = [
        json.loads(content)
        for name, content in contents(tmp_path / "out").items()
        if name.startswith(f"{WORK}/0")
    ][-1:]
    assert part["stop"] == 12
    places = kill_after(99)
    message = predict_files(tmp_path / "in", tmp_path / "out", CT, candidates=True)
    assert places == [12, 13, 14, 15, 16, 17] and message == expected.replace("expected", "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")
    assert len(contents(tmp_path / "out")["candidates.csv"].splitlines()) == 4


@pytest.mark.filterwarnings("ignore")
def test_the_seg_of_a_series_in_which_predict_stopped_has_all_its_slices(tmp_path, kill_after):
    """Two series whose slices take turns; the first is whole when predict is killed."""
    (tmp_path / "in").mkdir()
    hu, places = body(8), positions(8)
    for k in range(8):
        content = slice_file(places[k], k, hu[k])
        (tmp_path / "in" / f"i{2 * k:02}.dcm").write_bytes(content)
        if k < 3:
            uids = {"SeriesInstanceUID": f"{ROOT}.6", "SOPInstanceUID": f"{ROOT}.7.{k}"}
            content = slice_file(places[k], k, hu[k], **uids)
            (tmp_path / "in" / f"i{2 * k + 1:02}.dcm").write_bytes(content)
    predict_files(tmp_path / "in", tmp_path / "expected", seg="nodule")
    kill_after(10)
    with pytest.raises(Killed):
        predict_files(tmp_path / "in", tmp_path / "out", seg="nodule")
    assert {path.name for path in (tmp_path / "out" / "seg").iterdir()} == {f"{ROOT}.6.dcm"}
    assert len(kill_after(99)) == 0
    predict_files(tmp_path / "in", tmp_path / "out", seg="nodule")
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")
    for name, count in ((f"{ROOT}.4.dcm", 8), (f"{ROOT}.6.dcm", 3)):
        first, again = (pydicom.dcmread(tmp_path / d / "seg" / name) for d in ("expected", "out"))
        assert first.SOPInstanceUID == again.SOPInstanceUID and first.NumberOfFrames == count


def test_a_finished_folder_is_not_written_again(radiographs, tmp_path, kill_after):
    expected = predict_files(radiographs, tmp_path / "out")
    before = contents(tmp_path / "out")
    (tmp_path / "out" / WORK).mkdir()  # a kill when all was written
    places = kill_after(99)
    message = predict_files(radiographs, tmp_path / "out")
    assert message == f"{expected}\nnothing was written: {tmp_path / 'out'} has all of this"
    assert not places and contents(tmp_path / "out") == before
    assert not (tmp_path / "out" / WORK).exists()
    (tmp_path / "out" / "submission.csv").unlink()
    predict_files(radiographs, tmp_path / "out")
    assert len(places) == 13 and contents(tmp_path / "out") == before


@pytest.mark.parametrize("is_finished", [False, True])
def test_what_another_command_began_is_refused(radiographs, tmp_path, kill_after, is_finished):
    output = tmp_path / "out"
    kill_after(99 if is_finished else 5)
    with contextlib.suppress(Killed):
        predict_files(radiographs, output)
    before = contents(output)
    kill_after(99)
    refusals = [
        ("other networks", {"system": painter(0.2)}),
        ("other networks", {"system": painter(fit="stretch")}),
        ("other options", {"overlays": True}),
    ]
    for reason, options in refusals:
        with pytest.raises(InputError, match=f"has predictions by {reason}; repeat the command"):
            predict_files(radiographs, output, **options)
    save_image(radiographs / "more.png", picture(64, 64))
    with pytest.raises(InputError, match="by other images;"):
        predict_files(radiographs, output)
    assert contents(output) == before and (SUMMARY in before) == is_finished


def test_a_folder_with_something_else_is_refused(radiographs, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and is not an empty folder"):
        predict_files(radiographs, tmp_path / "out")
    assert contents(tmp_path / "out") == {"mine.txt": b"mine"}
    (tmp_path / "out" / "mine.txt").unlink()
    (tmp_path / "out" / WORK).mkdir()  # a kill right behind this
    assert RADIOGRAPHS and predict_files(radiographs, tmp_path / "out").startswith("13 images")
