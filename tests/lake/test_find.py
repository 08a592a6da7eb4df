"""python -m lake find: the records of a patient or an image, by the key of the hashes."""

import shutil

import pydicom
import pytest
from makers import lakes

from lake.__main__ import main
from lake.records import pseudonym


@pytest.fixture
def one(phantoms):
    """Return (image id, patient id) of a phantom."""
    path = sorted((phantoms / "dicom").glob("*.dcm"))[3]
    return path.stem, pydicom.dcmread(path, stop_before_pixels=True).PatientID


def test_a_patient_and_an_image_have_their_records(lake, one, key_file, capsys):
    image_id, patient = one
    key = f"--deidentify_key_file={key_file}"
    assert main(["find", str(lake), f"--patient={patient}", f"--image={image_id}", key]) == 0
    lines = capsys.readouterr().out.splitlines()
    code = pseudonym.hashed("patient", patient, key_file.read_bytes())
    rows = [row for row in lakes.index(lake) if row["patient"] == code]
    assert lines[0] == f"patient {patient}: {len(rows)} records" and rows
    assert {line.split()[0] for line in lines[1 : 1 + len(rows)]} == {r["image_id"] for r in rows}
    assert lines[-2] == f"image {image_id}: 1 records"
    [row] = [row for row in rows if row["image_id"] == image_id]
    place = f"-{row['shard']:05d}-of-00004 record {row['position']}"
    assert lines[-1].startswith(f"  {image_id}  {row['split']}  label {row['label']}  phantoms-")
    assert lines[-1].endswith(place)


def test_an_id_without_records_is_exit_code_1(lake, key_file, capsys):
    key = f"--deidentify_key_file={key_file}"
    assert main(["find", str(lake), "--patient=nobody", key]) == 1
    assert capsys.readouterr().out == "patient nobody: 0 records\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [((), "expected --patient ID or --image ID"), (("--patient=",), "an empty patient is no id")],
)
def test_what_is_no_id_is_refused(lake, key_file, capsys, options, message):
    assert main(["find", str(lake), f"--deidentify_key_file={key_file}", *options]) == 2
    assert message in capsys.readouterr().err


def test_another_key_is_refused_and_never_finds_nothing_in_silence(lake, tmp_path, capsys):
    (tmp_path / "key").write_bytes(bytes(32))
    arguments = ["--patient=x", f"--deidentify_key_file={tmp_path}/key"]
    assert main(["find", str(lake), *arguments]) == 2
    assert "was made with another key" in capsys.readouterr().err
    shared = shutil.copytree(lake, tmp_path / "lake", ignore=shutil.ignore_patterns(".work"))
    assert main(["find", str(shared), *arguments]) == 1
    assert "warning" in capsys.readouterr().err
    (tmp_path / "key").unlink()
    assert main(["find", str(lake), *arguments]) == 2
    assert "No such file" in capsys.readouterr().err
