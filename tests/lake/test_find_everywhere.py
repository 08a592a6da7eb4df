"""python -m lake find --everywhere: what was made from a patient's images, wherever it lies."""

import json
import shutil

import numpy as np
import pydicom
import pytest
from makers import lakes, runs, trained
from makers.marks import exhaustive

from lake.__main__ import main
from lake.records import identity, manifest, pseudonym
from lake.scan import stable_hash


@pytest.fixture
def one(phantoms):
    """Return (image id, patient id) of a phantom."""
    path = sorted((phantoms / "dicom").glob("*.dcm"))[3]
    return path.stem, pydicom.dcmread(path, stop_before_pixels=True).PatientID


@pytest.fixture
def search(lake, key_file, one, capsys):
    """Return a function: a folder -> (exit code, {path below it: reasons}, problems)."""

    def run(folder, *options):
        arguments = [f"--patient={one[1]}", f"--deidentify_key_file={key_file}", *options]
        capsys.readouterr()  # what was printed before
        code = main(["find", str(lake), *arguments, "--everywhere", str(folder)])
        lines = capsys.readouterr().out.splitlines()
        reasons = [line for line in lines if line.startswith(f"{folder.resolve()}")]
        places = dict(line.removeprefix(f"{folder.resolve()}/").split(": ", 1) for line in reasons)
        return code, places, [line for line in lines if line.startswith(("problem", "note"))]

    return run


def test_files_are_of_a_patient_by_name_and_by_content(search, one, tmp_path):
    image_id, patient = one
    other = f"{image_id}0"  # another image, whose id begins alike
    (tmp_path / "seg").mkdir()
    (tmp_path / "images").mkdir()
    for name in (f"seg/{image_id}.dcm", f"images/{image_id}_0000.png", f"seg/{other}.dcm"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "predictions.csv").write_text(f"ImageId,probability\n{image_id},0.5\n")
    (tmp_path / "others.csv").write_text(f"ImageId,probability\n{other},0.5\n")
    (tmp_path / "report.html").write_text(f'<script>{{"patient": "{patient}"}}</script>')
    (tmp_path / "empty.txt").write_bytes(b"")
    code, places, problems = search(tmp_path)
    assert code == 0 and not problems
    names = {f"seg/{image_id}.dcm", f"images/{image_id}_0000.png", "predictions.csv", "report.html"}
    assert places.keys() == names
    assert f"image {image_id}" in places["predictions.csv"]
    assert f"patient {patient}" in places["report.html"]


def test_hashes_of_the_key_name_a_patient_too(search, one, key_file, tmp_path):
    code = pseudonym.hashed("patient", one[1], key_file.read_bytes())
    (tmp_path / "subgroups.json").write_text(json.dumps({"worst": code}))
    assert search(tmp_path)[1].keys() == {"subgroups.json"}


def test_runs_caches_exports_and_written_lakes_are_told_by_what_they_keep(
    search, lake, one, tmp_path
):
    image_id, content = one[0], manifest.load(str(lake))
    [row] = [row for row in lakes.index(lake) if row["image_id"] == image_id]
    for name in ("run", "other_run", "old_run", "cache/ab", "export", "written", "later"):
        (tmp_path / name).mkdir(parents=True)
    nobody = np.array([stable_hash("nobody")], np.uint64)
    images = np.array([stable_hash(image_id)], np.uint64)
    np.savez(tmp_path / "run/images.npz", trained=nobody, chosen=images, patients=nobody)
    np.savez(tmp_path / "other_run/images.npz", trained=nobody, chosen=nobody, patients=nobody)
    ours = identity.identity(content)
    (tmp_path / "old_run/lake.json").write_text(json.dumps(ours))
    later = ours | {"shards": "0" * 64}
    (tmp_path / "later/lake.json").write_text(json.dumps(later))
    source = json.dumps([ours["shards"], [6, 6]])
    (tmp_path / "cache/ab/checksums.json").write_text(json.dumps({"source": source}))
    (tmp_path / "export/export.json").write_text(json.dumps({"lake": ours}))
    names = {key: content[key] for key in ("dataset", "version")}
    written = names | {"format": "png", "splits": {row["split"]: {}}}
    (tmp_path / "written/lake.json").write_text(json.dumps(written))
    places = search(tmp_path)[1]
    assert "saw 1 of the images and 0 of the patients" in places["run"]
    folders = {"run", "old_run", "cache/ab", "export", "written"}
    assert folders <= places.keys()
    assert not {name for name in places if name.startswith(("other_run", "later"))}


def test_another_version_of_the_lake_is_listed_once(search, lake, tmp_path):
    shutil.copytree(lake, tmp_path / "copy")
    code, places, problems = search(tmp_path)
    assert code == 0 and places.keys() == {"copy"} and "records; radlake erase" in places["copy"]
    assert not problems


def test_what_cannot_be_looked_into_is_said_and_is_exit_code_1(search, tmp_path):
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    (folder / "run").mkdir(parents=True)
    outside.mkdir()
    (folder / "run" / "images.npz").write_bytes(b"damaged")
    (folder / "table.parquet").write_bytes(b"damaged")
    (folder / "log.gz").write_bytes(b"packed")
    (folder / "link").symlink_to(outside)
    (folder / "sheet.png").write_bytes(b"x")
    code, places, problems = search(folder)
    assert code == 1 and not places
    starts = [line.split(": ")[1].rsplit("/", 1)[-1] for line in problems[:-1]]
    assert sorted(starts) == ["link", "log.gz", "run", "table.parquet"]
    assert problems[-1].startswith("note: 1 pictures")


def test_a_folder_that_is_none_is_refused(search, tmp_path, capsys):
    assert search(tmp_path / "nothing")[0] == 2


def test_erase_lists_first_and_then_erases_from_the_lake_alone(
    lake, one, key_file, tmp_path, capsys
):
    folder, overlay = tmp_path / "lakes" / "phantoms" / "1.0.0", tmp_path / f"{one[0]}.png"
    shutil.copytree(lake, folder)
    overlay.write_bytes(b"x")
    key = f"--deidentify_key_file={key_file}"
    arguments = ["erase", str(folder), f"--patient={one[1]}", key, "--everywhere", str(tmp_path)]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    listed = text.index(f"{overlay}: names image {one[0]}")
    assert listed < text.index("records; radlake erase") < text.index("none is left in 1.0.0")
    assert overlay.exists() and not [r for r in lakes.index(folder) if r["image_id"] == one[0]]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert str(overlay) not in captured.out  # no lake tells whose it was
    assert f"warning: patient {one[1]}: no lake has records" in captured.err


@exhaustive  # the cases above have each kind by itself
def test_all_that_names_an_image_after_training_evaluation_and_prediction_is_listed(
    search, lake, phantoms, one, key_file, tmp_path
):
    """Every byte below the folder is scanned: no file with the ids or their hashes is missing."""
    image_id, patient = one
    runs.train_tiny(tmp_path, lake)
    run = tmp_path / "run"
    trained.run_task("evaluate", "--workdir", run, "--bootstrap", 20)
    files = phantoms / "dicom" / f"{image_id}.dcm"
    output = tmp_path / "predictions"
    options = "--seg", "--mint_uids", "--overlays", "--probabilities"
    trained.run_task("predict", "--workdir", run, "--input", files, "--output", output, *options)
    assert main(["write", str(lake), "--to=png", f"--output={tmp_path / 'png'}"]) == 0
    _, places, _ = search(tmp_path)
    texts = [image_id, patient, pseudonym.hashed("patient", patient, key_file.read_bytes())]
    paths = [path for path in tmp_path.rglob("*") if path.is_file()]
    names = {
        str(path.relative_to(tmp_path))
        for path in paths
        if any(text.encode() in path.read_bytes() or text in path.name for text in texts)
    }
    assert names and names <= places.keys()
    assert {"run", "png"} <= places.keys()
    assert any(name.startswith("predictions/seg/") for name in names)
