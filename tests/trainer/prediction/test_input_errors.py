"""What goes wrong while predict reads files: a file's own fault is a reject, whichever file it is;
anything else ends the process with its message, within seconds."""

import dataclasses
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from makers.images import encoded
from makers.marks import exhaustive
from makers.painter import RADIOGRAPHS, painter, picture, predict_files, save_image, table

from lake.predictions.folder import REJECTS_CSV, SUBMISSION_CSV
from lake.sources import reader
from trainer.inference import images
from trainer.prediction import input_files

NUM_FILES = 12
# trainer.task predict, where reading one of the files raises what no reader should.
FAILING_PREDICT = """
    import sys
    from lake.sources import reader

    read_scan = reader.read_scan

    def failing(source, inputs, header, settings):
        if header.image_id == "{name}":
            raise {error}
        return read_scan(source, inputs, header, settings)

    reader.read_scan = failing
    from lake.terminal import cli
    from trainer import task

    cli.end(task.main(sys.argv[1:]))
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    for k in range(NUM_FILES):
        save_image(tmp_path / "in" / f"i{k:02}.png", picture(64, 64, (3, 5, 20, 11)))
    return tmp_path / "in"


def change_scan(monkeypatch, image_id: str, change) -> None:
    """Let the reader give `change(scan)` instead of the scan of an image."""
    read_scan = reader.read_scan

    def changed(source, inputs, header, settings):
        scan = read_scan(source, inputs, header, settings)
        return change(scan) if header.image_id == image_id else scan

    monkeypatch.setattr(reader, "read_scan", changed)


@pytest.mark.parametrize("number", [0, 5, NUM_FILES - 1])
def test_an_error_that_is_no_files_fault_is_raised_and_leaves_no_thread(
    number, folder, tmp_path, monkeypatch
):
    change_scan(monkeypatch, f"i{number:02}", lambda scan: 1 // 0)
    threads_before = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError):
        predict_files(folder, tmp_path / "out")
    assert set(threading.enumerate()) <= threads_before
    assert not (tmp_path / "out" / SUBMISSION_CSV).exists()


def test_an_image_that_only_tensorflow_cannot_decode_is_a_reject(folder, tmp_path, monkeypatch):
    def broken(scan):
        return dataclasses.replace(scan, image=b"\xff\xd8\xff\xe0 no image", encoding="jpeg-kept")

    change_scan(monkeypatch, "i03", broken)
    message = predict_files(folder, tmp_path / "out")
    assert message.startswith(f"{NUM_FILES - 1} images predicted") and "1 rejected" in message
    [row] = table(tmp_path / "out" / REJECTS_CSV)
    assert (row["path"], row["image_id"]) == (str(folder / "i03.png"), "i03")
    assert row["reason"] == "undecodable" and "TensorFlow" in row["message"]


def test_images_longer_than_any_box_are_predicted(tmp_path):
    """1 px of the network is the least that an image is given, on each axis."""
    (tmp_path / "in").mkdir()
    shapes = {"a": (1, 300), "b": (300, 1), "c": (1, 1), "d": (2, 4000), "e": (64, 64), "f": (1, 2)}
    for name, shape in shapes.items():
        save_image(tmp_path / "in" / f"{name}.png", np.full(shape, 90, np.uint8))
    message = predict_files(tmp_path / "in", tmp_path / "out", overlays=True, probabilities=True)
    assert message.startswith(f"{len(shapes)} images predicted") and "0 rejected" in message


def test_batches_come_in_order_and_blank_records_fill_the_last(folder):
    inputs = input_files.from_files([str(folder)], RADIOGRAPHS)
    batches = list(images.batches(inputs, painter(batch_size=5), ("image_id",), with_image=True))
    ids = np.concatenate([batch["image_id"].numpy() for batch in batches]).tolist()
    assert ids == [f"i{k:02}".encode() for k in range(NUM_FILES)] + [b""] * 3
    assert [batch["weight"].numpy().sum() for batch in batches] == [5, 5, 2]
    assert len(list(inputs.first(3).records())) == 3


def test_what_a_system_left_is_counted_and_ids_have_folders_where_those_of_the_lake_do(tmp_path):
    names = (
        "a/i.png",
        "b/i.png",
        "b/.i.png",
        "Thumbs.db",
        "__MACOSX/b/i.png",
        ".c/i.png",
        "b/d/k.png",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded(np.full((4, 4), 9, np.uint8)))
    hidden, settings = str(tmp_path / ".c" / "i.png"), RADIOGRAPHS._replace(image_id_from="path")
    inputs = input_files.from_files([str(tmp_path), hidden], settings)
    assert sorted(inputs.headers) == ["a/i", "b/d/k", "b/i", "i"] and not inputs.rejects
    assert inputs.num_left_out == 4
    message = predict_files(tmp_path / "b", tmp_path / "out")
    assert "2 images predicted" in message and "1 files of the system or hidden left out" in message


@exhaustive
@pytest.mark.parametrize(
    ("name", "error"),
    [("i00", "ZeroDivisionError('a bug')"), ("i07", "AttributeError()"), ("i11", "MemoryError")],
)
def test_the_process_ends_within_a_minute(name, error, folder, systems, tmp_path):
    command = textwrap.dedent(FAILING_PREDICT.format(name=name, error=error))
    options = [*systems["cascade"], "--input", folder, "--output", tmp_path / "out"]
    process = subprocess.run(
        [sys.executable, "-c", command, "predict", *map(str, options)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode != 0
    assert error.partition("(")[0] in process.stderr
