"""Sixty nights of a hospital: each appends, some are killed and repeated, every eighth erases a
patient; what is left is what one conversion of the others would give."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from makers.hospital import Hospital, records
from makers.marks import exhaustive

from lake import __main__ as lake_command
from lake.inspection import verify
from lake.records import manifest

NIGHTS, IMAGES = 60, 20
OPTIONS = ("--splits=train=0.8,val=0.1,test=0.1", "--folds=3", "--unlabelled=keep")
LESIONS = ("30 4 20 4", "100 9", "7 12", "-1", "-1", "-1")


def newest(lake) -> str:
    """Return the newest finished version of a lake."""
    versions = [path.parent.name for path in lake.glob("*/manifest.json")]
    return max(versions, key=lambda version: [*map(int, version.split("."))])


def kill_one(module: str, arguments: list[str], seconds: float) -> None:
    """Start the command in a process of its own, and kill it, wherever it is by then."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()


@exhaustive
def test_sixty_nights_with_kills_equal_one_conversion(convert, key_file, tmp_path):
    nights = int(os.environ.get("RADLAKE_NIGHTS", NIGHTS))
    rng = random.Random(1)
    hospital, lake = Hospital(tmp_path / "hospital"), tmp_path / "lakes" / "ward"
    places, cpu_seconds, num_kept, patient_places = {}, [], 0, {}
    erased, erased_images = set(), []  # patients; the bytes of theirs
    for night in range(nights):
        for number in range(IMAGES):
            patient = f"p{rng.randrange(6 * (night + 1))}"
            label = rng.choice((None, *LESIONS))
            hospital.add(f"n{night}i{number}", patient, label)
        for image_id in rng.sample(sorted(hospital.labels), len(hospital.labels) // 20):
            hospital.labels[image_id] = rng.choice(LESIONS)
        arguments = [hospital.images, hospital.csv(), lake / "1.0.0", *OPTIONS]
        arguments += ["--append"] if night else ["--min_shards=1"]
        if night % 3 == 1:
            before = newest(lake)
            flags = ("--images", "--labels", "--output")
            command = [f"{f}={a}" for f, a in zip(flags, arguments[:3], strict=True)]
            command += [*arguments[3:], f"--deidentify_key_file={key_file}"]
            kill_one("beam.convert", command, rng.uniform(1, 8))
            num_kept += newest(lake) == before  # the kill came before the end
            content = manifest.load(str(lake / newest(lake)))
            problems, _ = verify.verify(lake / newest(lake), content)
            assert problems.lines() == []
        start = time.process_time()
        convert(*arguments)
        cpu_seconds.append(time.process_time() - start)
        content = manifest.load(str(lake / newest(lake)))
        rows = records(lake / newest(lake), content)
        for name, row in rows.items():
            place = row["split"], row["fields"]["fold"]
            assert places.setdefault(name, place) == place
            place_of_patient = patient_places.setdefault(hospital.patients[name], place)
            assert place_of_patient == place
        assert not erased & {hospital.patients[name] for name in rows}
        if night % 8 == 7:
            patient = rng.choice(sorted({hospital.patients[name] for name in rows}))
            erased.add(patient)
            theirs = [name for name in rows if hospital.patients[name] == patient]
            erased_images += [rows.pop(name)["fields"]["image"] for name in theirs]
            options = [f"--patient={patient}", f"--deidentify_key_file={key_file}"]
            options = ["erase", str(lake / newest(lake)), *options]
            kill_one("lake", options, rng.uniform(0.3, 1.5))
            assert lake_command.main(options) == 0
    assert num_kept  # some were killed in the middle
    for name, patient in hospital.patients.items():
        if patient in erased:  # their files were there all the time
            (hospital.folder / "dicom" / f"{name}.dcm").unlink()
    for path in filter(Path.is_file, lake.rglob("*")):
        content_of_file = path.read_bytes()
        assert not any(image in content_of_file for image in erased_images), path
    content = manifest.load(str(lake / newest(lake)))
    whole = convert(hospital.images, hospital.csv(), tmp_path / "all" / "1.0.0", *OPTIONS)
    expected = records(tmp_path / "all" / "1.0.0", whole)
    assert {name: repr(row["fields"] | {"fold": 0}) for name, row in rows.items()} == {
        name: repr(row["fields"] | {"fold": 0}) for name, row in expected.items()
    }
    problems, _ = verify.verify(lake / newest(lake), content)
    assert problems.lines() == []
    num_patients = {split: part["patients"] for split, part in content["counts"]["splits"].items()}
    total = sum(num_patients.values())
    for split, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
        assert abs(num_patients[split] - share * total) <= 3
    print(f"CPU seconds: first nights {cpu_seconds[1:11]}, last {cpu_seconds[-10:]}")
