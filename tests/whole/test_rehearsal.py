"""The run that the project is for, rehearsed: the shipped configs at 1024 px on two replicas, from
a lake of real X-rays. Four steps; 40 minutes of two cores and 15 GB of memory."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from makers import runs
from makers.marks import exhaustive

IMAGES = 8
# One image a replica, whose memory is halved; steps one by one, so that the run can be stopped.
FEW_STEPS = [
    *("--data.batch_size=2", "--train.epochs=2", "--train.steps_per_call=1"),
    *("--train.replicas=2", "--train.device=cpu", "--train.rematerialise=true"),
]


@pytest.fixture(scope="module")
def real_lake(real_data, convert, tmp_path_factory) -> Path:
    """A lake of the first X-rays, half of them with a lesion: 4 train, 2 val, 2 test."""
    folder = tmp_path_factory.mktemp("rehearsal")
    rows = (real_data / "siim" / "train-rle.csv").read_text().splitlines()
    runs_of_image = {}
    for row in rows[1:]:
        image_id, run_lengths = (cell.strip() for cell in row.split(",", 1))
        runs_of_image.setdefault(image_id, []).append(run_lengths)
    positives = [one for one in sorted(runs_of_image) if runs_of_image[one] != ["-1"]]
    negatives = [one for one in sorted(runs_of_image) if runs_of_image[one] == ["-1"]]
    lines = [rows[0]]
    images = folder / "images"
    images.mkdir()
    for image_id in positives[: IMAGES // 2] + negatives[: IMAGES // 2]:
        [path] = (real_data / "siim").rglob(f"{image_id}.dcm")
        (images / path.name).symlink_to(path)
        lines += [f"{image_id},{run_lengths}" for run_lengths in runs_of_image[image_id]]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    lake = folder / "lake" / "siim" / "1.0.0"
    splits = "--splits=train=0.5,val=0.25,test=0.25"
    convert(images / "*.dcm", folder / "labels.csv", lake, splits)
    return lake


def trained_in_two_starts(lake: Path, workdir: Path, score: str) -> None:
    """Train a shipped config, stop it after its first step, go on, and read its curves back."""
    config_name = workdir.name
    command = ["train", "--lake", lake, "--workdir", workdir, *FEW_STEPS]
    first = runs.task(*command, "--train.max_hours=1e-6", config_name=config_name)
    assert first.returncode == 42, first.stderr
    assert "2 replicas on CPU:0, CPU:1; 1 images each per step" in first.stdout
    assert "stopped at step 1 and saved" in first.stdout
    again = runs.task(*command, config_name=config_name)
    assert again.returncode == 0, again.stderr
    assert "resuming at step 1 " in again.stdout

    losses = runs.scalars(workdir / "train")["loss"]
    assert sorted(losses) == [1, 2, 3, 4] and np.isfinite(list(losses.values())).all()
    curves = {tag: values for tag, values in runs.scalars(workdir / "val").items() if score in tag}
    assert curves and all(sorted(values) == [2, 4] for values in curves.values())


@exhaustive
def test_the_shipped_configs_train_stop_go_on_and_answer(real_lake, tmp_path):
    classifier, segmenter = tmp_path / "classifier", tmp_path / "unetpp"
    trained_in_two_starts(real_lake, classifier, "auc")
    trained_in_two_starts(real_lake, segmenter, "dice")

    # A classifier alone draws no masks: it is scored alone, and exported in front of the segmenter.
    both = ["--workdir", segmenter, "--classifier", classifier]
    for networks, folder in [(["--workdir", classifier], classifier), (both, segmenter)]:
        picture = folder / "picture.png"
        evaluation = runs.task("evaluate", *networks, "--picture", picture)
        assert evaluation.returncode == 0, evaluation.stderr
        assert json.loads((folder / "metrics.json").read_text())
        assert picture.stat().st_size > 10_000
    export = runs.task("export", *both, "--output", tmp_path / "exported")
    assert export.returncode == 0, export.stderr
    assert "pixels" in tf.saved_model.load(str(tmp_path / "exported")).signatures
