"""`lake erase`: patients and images leave every version of a lake, and do not come back."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from makers.hospital import Hospital, records
from makers.marks import exhaustive

from beam import convert as converter
from lake import lock
from lake.__main__ import main
from lake.inspection import erase_shard
from lake.records import manifest

OPTIONS = ("--splits=train=0.5,val=0.25,test=0.25", "--folds=2", "--unlabelled=keep")
OPTIONS += ("--max_reject_fraction=0.5",)
LESION = "30 4 20 4"
GONE = ("--patient=ward.4711", "--image=i3")  # i1 and j0; i3
LEFT = {f"i{number}" for number in range(8)} - {"i1", "i3"}


class Killed(BaseException):
    """Ends an erasure where it is, as a kill does."""


@pytest.fixture(scope="module")
def ward(tmp_path_factory, convert):
    """Return the hospital of a lake of the versions 1.0.0 and 1.1.0, and the lake's folder."""
    root = tmp_path_factory.mktemp("ward")
    hospital, lake = Hospital(root / "hospital"), root / "lakes" / "ward"
    for number in range(8):
        patient = "ward.4711" if number == 1 else f"p{number % 6}"
        hospital.add(f"i{number}", patient, [LESION, "-1", None][number % 3], Modality="CR")
    (hospital.folder / "dicom" / "ward.4711-half.dcm").write_bytes(b"no image")
    hospital.labels["i3.dcm"], hospital.labels["nobody"] = hospital.labels.pop("i3"), LESION
    convert(hospital.images, hospital.csv(), lake / "1.0.0", *OPTIONS, "--min_shards=1")
    hospital.add("j0", "ward.4711", LESION)
    hospital.add("j1", "newer", "-1")
    convert(hospital.images, hospital.csv(), lake / "1.0.0", *OPTIONS, "--append")
    return hospital, lake


@pytest.fixture
def lake(ward, tmp_path):
    """Return a copy of the lake, whose versions share files as those of the original do."""
    subprocess.run(["cp", "-a", ward[1].parent, tmp_path / "lakes"], check=True)
    return tmp_path / "lakes" / "ward"


@pytest.fixture
def erase(key_file):
    """Return a function that erases from a version of a lake."""

    def run(folder: Path, *options: str) -> int:
        return main(["erase", str(folder), f"--deidentify_key_file={key_file}", *options])

    return run


def copied(hospital: Hospital, folder: Path) -> Hospital:
    """Return the same hospital in another folder, to change."""
    copy = Hospital.__new__(Hospital)
    copy.folder = shutil.copytree(hospital.folder, folder)
    copy.patients, copy.labels = dict(hospital.patients), dict(hospital.labels)
    return copy


def images_in(folder: Path) -> dict[str, dict]:
    return records(folder, manifest.load(str(folder)))


def is_sound(folder: Path, key_file: Path) -> bool:
    return main(["verify", str(folder), f"--deidentify_key_file={key_file}"]) == 0


def test_what_is_erased_is_in_no_version_and_all_else_is_as_it_was(lake, erase, key_file, capsys):
    versions = {name: images_in(lake / name) for name in ("1.0.0", "1.1.0")}
    assert erase(lake / "1.0.0", *GONE) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "patient ward.4711: records erased from 1.0.0: 1, 1.1.0: 2",
        "image i3: records erased from 1.0.0: 1, 1.1.0: 1",
    ]
    assert lines[-1].startswith("none is left in 1.0.0, 1.1.0: ")
    for name, before in versions.items():
        after = images_in(lake / name)
        assert after.keys() == before.keys() - {"i1", "i3", "j0"}
        assert all(row["bytes"] == before[image]["bytes"] for image, row in after.items())
        assert is_sound(lake / name, key_file)
    for path in filter(Path.is_file, lake.rglob("*")):
        content = path.read_bytes()
        assert not any(versions["1.1.0"][image]["fields"]["image"] in content for image in ("i1",))
        assert not {b'"i3"', b"ward.4711", b"i3.dcm"} & {
            part for part in (b'"i3"', b"ward.4711", b"i3.dcm") if part in content
        }, path
    [patient, image] = map(json.loads, (lake / "1.1.0" / manifest.ERASED).read_text().splitlines())
    assert (patient["records"], image["records"], len(patient["shards"])) == (2, 1, 2)


def test_versions_go_on_sharing_files(lake, erase):
    before = {name: os.stat(path).st_ino for name in ("1.0.0",) for path in (lake / name).iterdir()}
    assert before and erase(lake / "1.1.0", *GONE) == 0
    shards = manifest.load(str(lake / "1.0.0"))["shards"]
    linked = [os.stat(lake / "1.0.0" / shard["name"]).st_nlink for shard in shards]
    assert linked == [2] * len(shards)


def test_counts_are_those_of_a_conversion_without_them(lake, erase, ward, convert, tmp_path):
    hospital = ward[0]
    erase(lake / "1.0.0", *GONE)
    smaller = Hospital(tmp_path / "smaller")
    for image in sorted({*LEFT, "j1"}):
        shutil.copy2(hospital.folder / "dicom" / f"{image}.dcm", smaller.folder / "dicom")
    smaller.labels = hospital.labels
    whole = convert(smaller.images, smaller.csv(), tmp_path / "all" / "1.0.0", *OPTIONS)
    content = manifest.load(str(lake / "1.1.0"))
    for key in ("images", "records", "rejects", "grouped_by", "exams", "small_lesions"):
        assert content["counts"][key] == whole["counts"][key], key
    for key in ("positive_pixel_share", "positive_pixel_share_of_positives"):
        assert content["statistics"][key] == whole["statistics"][key]


def test_an_append_does_not_bring_them_back(lake, erase, ward, convert, key_file, tmp_path):
    """Their files are still there, and another image of the patient has come."""
    night = copied(ward[0], tmp_path / "hospital")
    assert erase(lake / "1.1.0", *GONE) == 0
    convert(night.images, night.csv(), lake / "1.0.0", *OPTIONS, "--append")
    assert not (lake / "1.2.0" / manifest.MANIFEST).exists()  # nothing is new
    night.add("k0", "ward.4711", LESION)
    night.add("k1", "newest", LESION)
    content = convert(night.images, night.csv(), lake / "1.0.0", *OPTIONS, "--append")
    assert images_in(lake / "1.2.0").keys() == {*LEFT, "j1", "k1"}
    assert content["counts"]["rejects"]["erased"] == 5  # i1, i3, j0, k0, and the half file
    text = (lake / "1.2.0" / "rejects.jsonl").read_text()
    assert "4711" not in text and '"k0"' not in text and '"i3"' not in text
    assert "i3" not in (lake / "1.2.0" / "labels_without_image.txt").read_text()
    assert is_sound(lake / "1.2.0", key_file)


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=exhaustive)])
def test_wherever_it_is_interrupted_a_repeat_completes_it(lake, erase, key_file, monkeypatch, step):
    """No version is ever a lake that is neither as before nor as after."""
    before = {name: images_in(lake / name).keys() for name in ("1.0.0", "1.1.0")}
    subprocess.run(["cp", "-a", lake, lake.with_name("whole")], check=True)
    calls, num_partly = 0, 0

    def counting(function, at_call: int):
        def call(*arguments, **more):
            nonlocal calls
            calls += 1
            if calls == at_call:
                raise Killed
            return function(*arguments, **more)

        return call

    for number in range(2, 200, step):
        calls = 0
        with monkeypatch.context() as patch:
            for place, name in ((Path, "unlink"), (erase_shard, "sync"), (Path, "replace")):
                patch.setattr(place, name, counting(getattr(place, name), number))
            try:
                erase(lake / "1.1.0", *GONE)
                break
            except Killed:
                pass
        for name, names in before.items():
            if (lake / name / manifest.MANIFEST).exists():
                now = images_in(lake / name).keys()
                assert now in (names, names - {"i1", "i3", "j0"})
            else:
                num_partly += 1
        assert erase(lake / "1.1.0", *GONE) == 0
        assert images_in(lake / "1.0.0").keys() == LEFT
        shutil.rmtree(lake)
        subprocess.run(["cp", "-a", lake.with_name("whole"), lake], check=True)
    assert num_partly > 5 and number < 190
    assert is_sound(lake / "1.0.0", key_file) and is_sound(lake / "1.1.0", key_file)


def test_verify_sees_what_is_left(lake, erase, key_file, capsys):
    other = shutil.copytree(lake, lake.with_name("other"))
    erase(lake / "1.1.0", *GONE)
    shutil.copy(lake / "1.1.0" / manifest.ERASED, other / "1.1.0")
    assert not is_sound(other / "1.1.0", key_file)
    assert "index.parquet row" in capsys.readouterr().out


def test_other_versions_are_kept_aloud(lake, erase, capsys):
    assert erase(lake / "1.1.0", *GONE, "--keep_versions") == 0
    assert f"{lake}/1.0.0 is kept as it is (--keep_versions), with 2 records" in (
        capsys.readouterr().out
    )
    assert images_in(lake / "1.0.0").keys() == LEFT | {"i1", "i3"}
    assert images_in(lake / "1.1.0").keys() == LEFT | {"j1"}


def test_links_outside_of_the_lake_and_what_was_unfinished(lake, erase, capsys):
    shutil.copytree(lake / "1.0.0", lake.with_name("snapshot"), copy_function=os.link)
    shutil.copytree(lake / "1.1.0", lake / "1.2.0")
    (lake / "1.2.0" / manifest.MANIFEST).unlink()
    assert erase(lake / "1.1.0", *GONE) == 1
    text = capsys.readouterr().out
    assert "shards are still there under other names" in text
    assert f"{lake}/1.2.0: removed" in text and not [*(lake / "1.2.0").glob("*.tfrecord-*")]


def test_ids_come_from_a_list_and_one_without_records_is_exit_code_1(lake, erase, tmp_path, capsys):
    (tmp_path / "ids").write_text("# withdrawn\npatient ward.4711\n\nimage nowhere\n")
    assert erase(lake / "1.1.0", f"--list={tmp_path}/ids") == 1
    assert "image nowhere: no record, but it stays out" in capsys.readouterr().out
    assert erase(lake / "1.1.0", "--image=nowhere") == 1
    assert "i1" not in images_in(lake / "1.0.0")
    assert erase(lake / "1.1.0", "--patient=ward.4711") == 0
    assert "patient ward.4711: erased already, 20" in capsys.readouterr().out


def test_what_cannot_be_erased_is_refused_and_nothing_is_changed(lake, erase, tmp_path, capsys):
    def refused(message: str, *options: str) -> None:
        assert erase(lake / "1.1.0", *options) == 2
        assert message in capsys.readouterr().err

    before = sorted((path, path.stat().st_mtime_ns) for path in lake.rglob("*") if path.is_file())
    refused("expected --patient ID, --image ID or --list FILE")
    (tmp_path / "ids").write_text("4711\n")
    refused("line 1: expected `patient ID` or `image ID`", f"--list={tmp_path}/ids")
    refused("all of its 8 records would go", *(f"--image=i{number}" for number in range(8)))
    (tmp_path / "key").write_bytes(bytes(32))
    refused("with another key", *GONE, f"--deidentify_key_file={tmp_path}/key")
    with lock.hold(lake / "1.0.0", converter.LOCK, *converter.LOCK_WORDS):
        refused("converts or erases here", *GONE)
    assert erase("gs://bucket/ward/1.0.0", *GONE) == 2
    assert "expected a lake on a disk" in capsys.readouterr().err
    assert before == sorted(
        (path, path.stat().st_mtime_ns) for path in lake.rglob("*") if path.is_file()
    )
    shutil.rmtree(lake / "1.0.0" / ".work")
    refused(".work", *GONE)


@exhaustive
@pytest.mark.parametrize("options", [("--deidentify=keep",), ("--image_id=hash",)])
def test_ids_that_are_kept_and_ids_that_are_hashed(
    ward, convert, erase, key_file, tmp_path, options
):
    lake, hospital = tmp_path / "lakes" / "ward", copied(ward[0], tmp_path / "hospital")
    arguments = (hospital.images, hospital.csv(), lake / "1.0.0", *OPTIONS, *options)
    convert(*arguments)
    assert erase(lake / "1.0.0", *GONE) == 0
    assert manifest.load(str(lake / "1.0.0"))["counts"]["records"] == 7
    files = filter(Path.is_file, (lake / "1.0.0").rglob("*"))
    assert b"4711" not in b"".join(path.read_bytes() for path in files)
    assert is_sound(lake / "1.0.0", key_file)
    hospital.add("z0", "last", LESION)
    content = convert(*arguments, "--append")
    assert (content["counts"]["records"], content["counts"]["rejects"]["erased"]) == (8, 4)


@exhaustive
def test_a_killed_erasure_is_completed(lake, key_file):
    command = [sys.executable, "-m", "lake", "erase", str(lake / "1.1.0"), *GONE]
    command.append(f"--deidentify_key_file={key_file}")
    code = "import runpy, sys, threading, os; "
    code += "threading.Timer(float(sys.argv.pop(1)), os._exit, [9]).start(); "
    code += "runpy.run_module('lake', run_name='__main__')"
    for seconds in (0.5, 0.8, 1.0, 1.2):
        subprocess.run([sys.executable, "-c", code, str(seconds), *command[3:]], check=False)
    assert subprocess.run(command, check=False).returncode == 0
    assert images_in(lake / "1.0.0").keys() == LEFT
    assert is_sound(lake / "1.1.0", key_file)
