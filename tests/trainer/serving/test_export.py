"""export: the SavedModel answers as predict does, in a process that has none of our code."""

import base64
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import tensorflow as tf
from makers import trained
from makers.marks import exhaustive
from makers.trained import read_predictions, run_task, workdir_of
from PIL import Image

from lake import lock
from lake.labels.rle import decode, encode
from lake.records import example
from lake.scan import Storage
from lake.sources import reader
from lake.terminal import progress
from trainer import task
from trainer.prediction import input_files
from trainer.serving import rle as serving_rle
from trainer.workdir import LAKE, read_json, write_json

pytestmark = pytest.mark.slow  # graphs take seconds to make
UNETPP = {"kind": "unetpp", "filters": 2, "depth": 2, "deep_supervision": True}
# A client: argument 1 is a list of (SavedModel, signature, paths of files or of an npz).
CLIENT = """
import base64, json, pathlib, sys
import numpy as np
import tensorflow as tf

answers, models = [], {}
for folder, name, paths in json.loads(sys.argv[1]):
    if paths[0].endswith(".npz"):
        inputs = dict(np.load(paths[0]))
    else:
        inputs = {"files": [pathlib.Path(path).read_bytes() for path in paths]}
    if folder not in models:
        models[folder] = tf.saved_model.load(folder)
    call = models[folder].signatures[name]
    found = call(**{key: tf.constant(value) for key, value in inputs.items()})
    texts = {key: value.numpy().tolist() for key, value in found.items()}
    texts["mask_bytes"] = [base64.b64encode(png) for png in texts["mask_bytes"]]
    for key in ("rle", "error", "mask_bytes"):
        texts[key] = [text.decode() for text in texts[key]]
    answers.append(texts)
assert not {"lake", "trainer", "beam"} & set(sys.modules)
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def files(phantoms, tmp_path_factory) -> Path:
    """DICOM of 8 and 12 bits, both ways round; PNG and JPEG, not square."""
    folder = tmp_path_factory.mktemp("files")
    dicoms = sorted((phantoms / "dicom").glob("*.dcm"))
    for path in dicoms[:6]:
        shutil.copy(path, folder)
    for number, path in enumerate(dicoms[6:10]):
        dataset = pydicom.dcmread(path)
        levels = dataset.pixel_array[: 100 + number]
        Image.fromarray(levels).save(folder / f"grey{number}.{('png', 'jpg')[number % 2]}")
        Image.fromarray(levels).convert("RGB").save(folder / f"colour{number}.png")
        dataset.PhotometricInterpretation = f"MONOCHROME{1 + number % 2}"
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        dataset.Rows = len(levels)
        if number < 2:
            dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
            levels = levels.astype(np.uint16) * 16
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OW", False
        dataset.PixelData = levels.tobytes()
        dataset.save_as(folder / f"plain{number}.dcm")
    return folder


@pytest.fixture(scope="module")
def exports(systems, exported, files, tmp_path_factory) -> Path:
    """A folder with what predict says of the files, in NAME_predicted, and with answers.json of a
    client that asks the exports."""
    folder = tmp_path_factory.mktemp("exports")
    (folder / "cascade").symlink_to(exported)
    run_task("export", *systems["deep"], "--output", folder / "deep")
    for name, options in systems.items():
        run_task("predict", *options, "--input", files, "--output", folder / f"{name}_predicted")
    settings = reader.ReaderSettings(False, "name", Storage(bits=16, max_side=1024))
    [record] = input_files.from_files([str(files / "plain0.dcm")], settings).records()
    fields = example.decode(record)
    levels = tf.io.decode_png(fields["image"], 1, tf.uint16)[..., 0].numpy()
    windows = np.float32([fields["window"], (7, 7)])
    np.savez(folder / "pixels.npz", pixels=np.array([levels] * 2), window=windows)
    (folder / "broken.dcm").write_bytes(b"no image")
    pictures = sorted(map(str, files.glob("*g")))
    (folder / "cut.png").write_bytes(Path(pictures[1]).read_bytes()[:-300])
    inputs = {
        "dicom": [*sorted(map(str, files.glob("*.dcm"))), str(folder / "broken.dcm"), pictures[0]],
        "image": [*pictures, str(folder / "cut.png"), str(folder / "broken.dcm")],
    }
    jobs = [(system, name, paths) for system in systems for name, paths in inputs.items()]
    jobs.append(("deep", "pixels", [str(folder / "pixels.npz")]))
    command = [sys.executable, "-I", "-c", CLIENT, json.dumps(jobs)]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    answers = zip(jobs, json.loads(process.stdout.splitlines()[-1]), strict=True)
    by_job = {f"{job[0]} {job[1]}": {"paths": job[2], **answer} for job, answer in answers}
    write_json(folder / "answers.json", by_job)
    return folder


@pytest.mark.parametrize(
    ("job", "wrong"),
    [
        ("cascade dicom", {10: "not-dicom", 11: "not-dicom"}),
        ("cascade image", {8: "undecodable", 9: "not-an-image"}),
        ("deep dicom", {10: "not-dicom", 11: "not-dicom"}),
        ("deep image", {8: "undecodable", 9: "not-an-image"}),
        ("deep pixels", {1: "window: expected low < high"}),
    ],
)
def test_the_answers_are_those_of_predict(exports, job, wrong):
    """And a file without an answer says why, without harm to the others."""
    answers = json.loads((exports / "answers.json").read_text())[job]
    system, signature = job.split()
    ids = [Path(path).stem for path in answers.pop("paths")]
    ids = ["plain0", "no window"] if signature == "pixels" else ids
    expected, masks = read_predictions(exports / f"{system}_predicted"), 0
    for number, image_id in enumerate(ids):
        answer = {name: values[number] for name, values in answers.items()}
        if number in wrong:
            assert answer.pop("error").startswith(wrong[number])
            assert np.isnan(answer.pop("probability"))
            assert set(answer.values()) == {"", 0}
            continue
        text, probability, lesion_px = expected[image_id]
        # For a lake of 16 bits the converter decodes a JPEG with pydicom, which is up to one level
        # from TensorFlow; everywhere else the pixels are equal.
        is_other = job == "deep dicom" and not image_id.startswith("plain")
        mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["mask_bytes"]))))
        size = answer["height"], answer["width"]
        assert mask.shape == size and answer["error"] == ""
        assert (mask == decode(answer["rle"], *size)).all()
        assert answer["lesion_px"] == np.count_nonzero(mask)
        assert (mask == decode(text, *size)).mean() >= (0.99 if is_other else 0.9999)
        assert answer["probability"] == pytest.approx(probability, abs=1e-3 if is_other else 1e-5)
        masks += 0 < lesion_px < mask.size
    assert masks >= (1 if signature == "pixels" else 2)


@pytest.mark.parametrize("system", ["deep", pytest.param("cascade", marks=exhaustive)])
def test_a_batch_has_any_size(exports, files, lake, system):
    """Also 0 and more than a training batch: each answer is that of the image alone."""
    [shard, *_] = sorted(lake.glob("*-test.tfrecord-*"))
    levels = np.arange(3 * 20 * 30, dtype=np.uint8).reshape(3, 20, 30)
    images = {
        "dicom": {"files": [path.read_bytes() for path in sorted(files.glob("*.dcm"))[:3]]},
        "image": {"files": [path.read_bytes() for path in sorted(files.glob("*.png"))[:3]]},
        "records": {"records": [record.numpy() for record in tf.data.TFRecordDataset(str(shard))]},
        "pixels": {"pixels": levels, "window": np.float32([[0, 255]] * 3)},
    }
    signatures = tf.saved_model.load(str(exports / system)).signatures
    for name, inputs in images.items():
        types = {key: signatures[name].structured_input_signature[1][key].dtype for key in inputs}

        def answers_of(places, name=name, inputs=inputs, types=types):
            batch = {
                key: tf.gather(tf.constant(values, types[key]), tf.constant(places, tf.int64))
                for key, values in inputs.items()
            }
            return {key: value.numpy() for key, value in signatures[name](**batch).items()}

        count = len(next(iter(inputs.values())))
        alone = [answers_of([place]) for place in range(count)]
        for size in (0, 7, 19):
            places = np.arange(size) % count
            for key, values in answers_of(places).items():
                assert len(values) == size
                for place, value in zip(places, values, strict=True):
                    expected = alone[place][key][0]
                    is_number = key == "probability"
                    assert value == (pytest.approx(expected, abs=1e-6) if is_number else expected)


def test_the_description(exports, lake):
    description = json.loads((exports / "cascade" / "export.json").read_text())
    assert description["decision"]["triplet"]["area_share"] == 0.25
    assert [len(shas) for shas in description["weights_sha256"].values()] == [1, 1]
    assert description["stored"]["bits"] == 8 and description["stored"]["image_id_from"] == "name"
    assert set(description["signatures"]) == {"dicom", "image", "pixels", "records"}
    assert description["signatures"]["dicom"]["inputs"] == {"files": ["string", [None]]}
    assert description["signatures"]["pixels"]["outputs"]["probability"] == ["float32", [None]]
    assert description["segmenters"][0]["data"]["side"] == 32
    assert description["decoder"] == "graph"


def test_run_lengths_in_the_graph_are_those_of_the_lake():
    text_of = tf.function(serving_rle.encode_mask, [tf.TensorSpec([None, None], tf.bool)])
    rng = np.random.default_rng(0)
    last = np.zeros((7, 5), bool)
    last[-1, -1] = True
    masks = [np.zeros((3, 4), bool), np.ones((3, 4), bool), last, last.T, ~last]
    masks += [rng.random(rng.integers(1, 30, 2)) < rng.random() for _ in range(100)]
    for mask in masks:
        assert text_of(mask).numpy().decode() == encode(mask)


def test_levels_that_were_not_evaluated_are_refused(lake, tmp_path, capsys):
    workdir = workdir_of(tmp_path / "run", lake, UNETPP, 32)
    words = ["export", "--workdir", str(workdir), "--level=all", "--output", str(tmp_path / "out")]
    assert task.main(words) == 2
    message = capsys.readouterr().err
    assert "evaluate --workdir" in message
    assert "--level=1\n" in message and "--level=2\n" in message
    assert not (tmp_path / "out").exists()


@exhaustive
def test_every_level_of_a_unetpp(lake, tmp_path, capsys):
    workdir = workdir_of(tmp_path / "run", lake, UNETPP, 32)
    arguments = ["export", "--workdir", str(workdir), "--level=all", "--output"]
    for level in (1, 2):
        run_task("evaluate", "--workdir", workdir, f"--level={level}", "--bootstrap=0")
    run_task(*arguments, tmp_path / "out")
    assert "| L2 | " in capsys.readouterr().out
    rows = json.loads((tmp_path / "out" / "levels.json").read_text())["levels"]
    metrics = json.loads((workdir / "metrics.json").read_text())
    for level, row in enumerate(rows, start=1):
        dice = metrics[f"evaluate_l{level}"]["splits"]["test"]["dice_mean"]
        assert (row["level"], row["test_dice"], row["interval"]) == (level, dice, None)
        description = json.loads((tmp_path / "out" / f"l{level}" / "export.json").read_text())
        assert description["level"] == level and description["parameters"] == row["parameters"]
        assert row["ms_per_image"] > 0 and row["megabytes"] > 0
    assert rows[0]["parameters"] < rows[1]["parameters"]
    assert not (tmp_path / "unfinished.out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir", "{deep}", "--tta", "flip"], "no evaluate_tta_flip"),
        (["--workdir", "{classifier}"], "holds a classifier, which draws no masks"),
        (["--workdir", "{deep}", "--output", "{used}"], "not an empty folder"),
        (["--workdir", "{deep}", "--level", "all"], "holds a unet, not a unetpp"),
        (["--workdir", "{deep}", "--decode", "x"], "--decode"),
        (["--workdir", "{deep}", "--decoder", "tfio"], "pip install -r requirements/tfio.txt"),
    ],
)
def test_mistakes_of_a_user(systems, tmp_path, capsys, arguments, message):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "a.txt").write_text("a")
    workdirs = {"deep": systems["deep"][1], "classifier": systems["cascade"][3]}
    arguments = [text.format(used=tmp_path / "used", **workdirs) for text in arguments]
    output = [] if "--output" in arguments else ["--output", str(tmp_path / "out")]
    assert trained.exit_code("export", *arguments, *output) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["used"]


def test_where_the_graph_cannot_convert_there_are_no_files(
    systems, lake, tmp_path, capsys, monkeypatch
):
    """CLAHE is no op of TensorFlow's. A line says how far the export is. What an export that was
    killed left beside the folder is gone afterwards."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    workdir = tmp_path / "run"
    shutil.copytree(systems["deep"][1], workdir)
    content = read_json(workdir / LAKE)
    content["options"]["clahe"] = True
    write_json(workdir / LAKE, content)
    (tmp_path / "unfinished.out" / "variables").mkdir(parents=True)
    (tmp_path / "unfinished.out" / "saved_model.pb").write_bytes(b"half")
    killed = lock._this_process()._replace(pid=1, start="of a process that was killed")
    (tmp_path / "out.export.lock").write_bytes(lock._text(killed, 3))
    run_task("export", "--workdir", workdir, "--output", tmp_path / "out")
    printed = capsys.readouterr()
    assert {path.name for path in tmp_path.iterdir()} == {"run", "out"}
    assert "the signatures pixels, records;" in printed.out
    first, *others = printed.err.splitlines()
    assert first == "exporting: 0 of 3 steps (0%)"
    for number, line in enumerate(others, 1):
        assert line.startswith(f"exporting: {number} of 3 steps ({number * 100 // 3}%), ")
        assert (", ETA 0:0" in line) == (number < 3)
    assert len(others) == 3
    model = tf.saved_model.load(str(tmp_path / "out"))
    assert set(model.signatures) == {"pixels", "records", "serving_default"}
