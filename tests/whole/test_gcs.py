"""Everything on gs://, against a local stand-in of Cloud Storage: a conversion, a run that is
killed and damaged, and what is made of it."""

import contextlib
import io
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from makers import cloud_storage

from lake import __main__ as lake_command
from lake import storage as storage_of_lake
from lake.predictions import submission
from trainer import task
from trainer.display import board

ROOT = Path(__file__).parents[2]
LAKE, RUN = "gs://bucket/lakes/phantoms/1.0.0", "gs://bucket/runs/tiny"
# Without credentials Beam asks for some for 20 s.
CONVERT = (
    "import sys; from apache_beam.internal.gcp import auth\n"
    "auth._Credentials._credentials_init = True\n"
    "from beam import convert; sys.exit(convert.main(sys.argv[1:]))"
)
TINY = """
model: {kind: unet, depth: 1, filters: 4, norm: batch}
data: {side: 32, batch_size: 4}
train: {epochs: 2, device: cpu, steps_per_call: 1, keep: 2}
"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def storage(phantoms, tmp_path_factory):
    """A stand-in with the phantoms, that this process speaks to as well."""
    folder = tmp_path_factory.mktemp("storage")
    with cloud_storage.served(folder) as served, pytest.MonkeyPatch.context() as patch:
        for name, value in served.environment.items():
            patch.setenv(name, value)
        images = sorted((phantoms / "dicom").glob("*.dcm"))[:20]
        for path in [*images, phantoms / "train-rle.csv"]:
            served.bucket.blob(str(path.relative_to(phantoms))).upload_from_filename(str(path))
        yield served


@pytest.fixture(scope="module")
def converted(storage):
    """The lake, and what its conversion said."""
    command = [sys.executable, "-c", CONVERT, "--images=gs://bucket/dicom/*.dcm"]
    command += ["--labels=gs://bucket/train-rle.csv", f"--output={LAKE}", "--deidentify=keep"]
    command += ["--splits=train=0.6,val=0.2,test=0.2", "--runner=DirectRunner", "--no_auth"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    return said


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY)
    return path


def train(config: Path, workdir: str | Path, *options: str) -> list[str]:
    return ["train", f"--config={config}", f"--lake={LAKE}", f"--workdir={workdir}", *options]


@pytest.fixture(scope="module")
def finished(storage, converted, config):
    """A run that was killed, whose newest checkpoint was then cut off; returns what was said."""
    words = train(config, RUN, "--train.checkpoint_minutes=1e-6")
    command, said = [sys.executable, "-m", "trainer.task", *words], io.StringIO()
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as killed:
        deadline = time.monotonic() + 900
        while len(steps_of(storage)) < 2:
            assert killed.poll() is None and time.monotonic() < deadline, killed.communicate()[0]
            time.sleep(0.1)
        killed.send_signal(signal.SIGKILL)
        first = killed.communicate()[0]
    newest = f"runs/tiny/checkpoints/ckpt-{max(steps_of(storage))}.index"
    storage.bucket.blob(newest).upload_from_string(storage.read(newest)[:20])
    with contextlib.redirect_stdout(said):
        assert task.main(words) == 0
    path = f"gs://bucket/{newest.removesuffix('.index')}"
    assert f"{path} is damaged, going back to the one before" in said.getvalue()
    return first + said.getvalue()


def steps_of(storage) -> list[int]:
    """The checkpoints that are there."""
    names = "\n".join(storage.names("runs/tiny/checkpoints/"))
    return [int(step) for step in re.findall(r"/ckpt-(\d+)\.index", names)]


def test_verify_and_show(converted, capsys):
    assert "records  " in converted.stdout
    assert lake_command.main(["verify", LAKE]) == 0
    said = capsys.readouterr().out
    assert f"{LAKE}: 20 records" in said and said.endswith("ok\n")
    assert lake_command.main(["show", LAKE]) == 0
    assert "images in             20" in capsys.readouterr().out


def test_an_estimate_from_the_listing(storage):
    given = ["--images=gs://bucket/dicom/*.dcm", "--labels=gs://bucket/train-rle.csv", "--no_auth"]
    given += [f"--output={LAKE}", "--estimate", "--sample=5"]
    command = [sys.executable, "-c", CONVERT, *given]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    size = sum(blob.size for blob in storage.bucket.list_blobs(prefix="dicom/"))
    expected = f"files              20  {size / 1e6:.1f} MB; the headers of 5 read: jpeg, kept 100%"
    assert said.stdout.splitlines()[0] == expected


@pytest.mark.parametrize(("bucket", "status"), [("typo", "404"), ("private", "403")])
def test_a_bucket_that_cannot_be_listed_is_one_message(storage, bucket, status):
    given = [f"--images=gs://{bucket}/dicom/*.dcm", "--labels=gs://bucket/train-rle.csv"]
    given += [f"--output={LAKE}", "--estimate", "--no_auth"]
    command = [sys.executable, "-c", CONVERT, *given]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 2, said.stderr
    message = said.stderr.splitlines()[-1]
    assert message.startswith(f"error: --images=gs://{bucket}/dicom/*.dcm: cannot be listed")
    assert status in message and cloud_storage.TOKEN not in said.stderr
    assert "Traceback" not in said.stderr


def test_a_killed_and_damaged_run_ends_as_one_on_disk(finished, storage, config, tmp_path):
    assert task.main(train(config, tmp_path)) == 0
    found, expected = (
        tf.train.load_checkpoint(f"{folder}/checkpoints") for folder in (RUN, tmp_path)
    )
    for name in expected.get_variable_to_shape_map():
        if name.startswith(("network", "optimizer", "best")):
            values = found.get_tensor(name), expected.get_tensor(name)
            np.testing.assert_allclose(*values, 1e-5, 1e-5, err_msg=name)
    kept = json.loads(storage.read("runs/tiny/metrics.json"))["kept"]
    weights = {name.removeprefix("runs/tiny/") for name in storage.names("runs/tiny/best/")}
    assert {one["weights"] for one in kept} == {name for name in weights if name[-1] != "/"}
    assert not [name for name in storage.names("runs/") if "unfinished" in name]
    starts = json.loads(storage.read("runs/tiny/run.json"))["starts"]
    assert len(starts) == 2 and starts[1]["step"] > 0


def test_its_curves_have_each_step_once(finished, storage):
    steps = []
    for name in storage.names("runs/tiny/train/events"):
        for record in tf.data.TFRecordDataset(f"gs://bucket/{name}").as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            steps += [event.step for value in event.summary.value if value.tag == "loss"]
    assert sorted(set(steps)) == list(range(1, 7)), steps


def test_events_behind_a_checkpoint_are_dropped(storage):
    path = "gs://bucket/events.out.tfevents.1"
    with tf.io.TFRecordWriter(path) as file:
        for step in range(1, 5):
            file.write(tf.compat.v1.Event(step=step).SerializeToString())
    board.drop_after(storage_of_lake.path_of(path), 2)
    left = tf.data.TFRecordDataset(path).as_numpy_iterator()
    assert [tf.compat.v1.Event.FromString(record).step for record in left] == [1, 2]


@pytest.fixture
def said(capfd):
    """Runs a command of trainer.task; returns what it says, in which there is no credential."""

    def run(*words: str, code: int = 0) -> str:
        assert task.main([*words]) == code
        printed = capfd.readouterr()
        assert cloud_storage.TOKEN not in printed.out + printed.err
        return printed.out + printed.err

    return run


PICTURE = "runs/truth_and_prediction.png"


@pytest.fixture(scope="module")
def evaluated(finished):
    words = ["evaluate", f"--workdir={RUN}", "--bootstrap=10", f"--picture=gs://bucket/{PICTURE}"]
    assert task.main(words) == 0


def last_written(storage, prefix: str) -> str:
    found = storage.bucket.list_blobs(prefix=prefix)
    return max(found, key=lambda blob: blob.updated).name.removeprefix(prefix)


def test_evaluate(evaluated, storage, said):
    assert {"runs/tiny/report.html", PICTURE} <= {*storage.names("runs/")}
    scores = storage.read("runs/tiny/metrics.json")
    refused = said("evaluate", f"--workdir={RUN}", "--report=gs://typo/report.html", code=2)
    assert "error: gs://typo: there is no bucket" in refused
    assert storage.read("runs/tiny/metrics.json") == scores  # nothing was scored in vain


def test_predict_and_vote(evaluated, storage, said, phantoms, tmp_path):
    remote, local = "gs://bucket/runs/out", tmp_path / "out"
    images = [str(path) for path in sorted((phantoms / "dicom").glob("*.dcm"))[:20]]
    predict = ["predict", f"--workdir={RUN}", "--overlays", "--probabilities"]
    for output, files in ((remote, ["gs://bucket/dicom/"]), (local, images)):
        done = said(*predict, f"--output={output}", "--input", *files)
        assert "20 images predicted" in done
    made = {str(path.relative_to(local)): path for path in local.rglob("*.*")}
    assert {f"runs/out/{name}" for name in made} == {*storage.names("runs/out/")}
    assert len(made) == 3 + 2 * 20 and last_written(storage, "runs/out/") == "submission.csv"
    for name, path in made.items():
        assert storage.read(f"runs/out/{name}") == path.read_bytes()
    assert "not an empty folder" in said(*predict, f"--output={remote}", code=2)
    assert "there is no bucket" in said(*predict, "--output=gs://typo/out", code=2)
    for name in ("submission.csv", "probabilities"):
        both = f"{remote}/{name}", str(local / name)
        said("vote", *both, f"--output={remote}.csv")
        said("vote", both[1], both[1], f"--output={local}.csv")
        assert storage.read("runs/out.csv") == (tmp_path / "out.csv").read_bytes()


def test_export(evaluated, storage, said, phantoms, tmp_path):
    exported, output = "gs://bucket/runs/exported", tmp_path / "out"
    done = said("export", f"--workdir={RUN}", f"--output={exported}")
    assert f'tf.saved_model.load("{exported}")' in done
    assert last_written(storage, "runs/exported/") == "export.json"
    said("predict", f"--workdir={RUN}", f"--output={output}")
    rows = submission.read(output / "submission.csv")
    files = [(phantoms / "dicom" / f"{image_id}.dcm").read_bytes() for image_id in rows]
    found = tf.saved_model.load(exported).signatures["dicom"](files=tf.constant(files))
    assert found["rle"].numpy().tolist() == [text.encode() for text in rows.values()]


def test_augment(storage, converted, config, said):
    sheet = "gs://bucket/runs/sheet.png"
    said("augment", f"--config={config}", f"--lake={LAKE}", f"--output={sheet}", "--examples=1")
    assert storage.read("runs/sheet.png").startswith(b"\x89PNG")


def test_what_cannot_be_reached_is_one_message(storage, converted, config, said, capfd, tmp_path):
    refused = "error: Cloud Storage refuses: "
    typo = said(*train(config, "gs://typo/runs/tiny"), code=2)
    assert "error: gs://typo/runs/tiny: there is no bucket" in typo
    assert refused in said(*train(config, "gs://private/runs/tiny"), code=2)
    config = tmp_path / "two_lakes.yaml"
    config.write_text(TINY.replace("batch_size: 4", "more_lakes: {gs://private/lake/1.0.0: 1.0}"))
    assert refused in said(*train(config, tmp_path), code=2)
    assert lake_command.main(["show", "gs://private/lake/1.0.0"]) == 2
    assert "gcloud auth application-default login" in capfd.readouterr().err
    assert lake_command.main(["show", "gs://typo/lake/1.0.0"]) == 2
    assert "no manifest.json" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("bucket", "expected"), [("typo", "; no bucket?"), ("private", "Cloud Storage refuses: ")]
)
def test_a_conversion_to_where_nothing_can_be_written(storage, bucket, expected):
    command = [sys.executable, "-c", CONVERT, "--images=gs://bucket/dicom/*.dcm", "--no_auth"]
    command += ["--labels=gs://bucket/train-rle.csv", f"--output=gs://{bucket}/lake/1.0.0"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 2 and "Traceback" not in said.stderr, said.stderr
    assert expected in said.stderr.splitlines()[-1]


def test_no_credential_is_said_or_written(storage, converted, finished):
    said = converted.stdout + converted.stderr + finished
    written = [storage.read(name) for name in storage.names("runs/") + storage.names("lakes/")]
    token = cloud_storage.TOKEN
    assert token not in said and not [text for text in written if token.encode() in text]
