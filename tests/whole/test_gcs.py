"""Everything on gs://, against a local stand-in of Cloud Storage: a conversion, a run that is
killed and damaged, and all commands that use it."""

import contextlib
import io
import json
import logging
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from apache_beam.internal.gcp import auth
from makers import cloud_storage
from makers.marks import exhaustive

from beam import convert as converter
from lake import InputError, lock
from lake import __main__ as lake_command
from lake import storage as storage_of_lake
from lake.predictions import submission
from launch import preflight
from trainer import task
from trainer.display import board

ROOT = Path(__file__).parents[2]
LAKE = "gs://bucket/lakes/phantoms/1.0.0"
RUN, KILLED = "gs://bucket/runs/tiny", "gs://bucket/runs/killed"
# Commands one after the other, as if TensorFlow were not installed; prints the exit code of each.
WITHOUT_TENSORFLOW = """
import json, sys
sys.modules["tensorflow"] = None
from lake import __main__
for words in json.loads(sys.argv[1]):
    print("exit code", __main__.main(words), flush=True)
"""
TINY = """
model: {kind: unet, depth: 1, filters: 4, norm: batch}
data: {side: 32, batch_size: 2}
train: {epochs: 2, device: cpu, steps_per_call: 1, keep: 2}
"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def storage(phantoms, tmp_path_factory):
    """Yield a stand-in with the phantoms; this process uses it, too."""
    folder = tmp_path_factory.mktemp("storage")
    with cloud_storage.serve(folder) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        patch.setattr(auth._Credentials, "_credentials_init", True)  # or Beam looks for some: 20 s
        images = sorted((phantoms / "dicom").glob("*.dcm"))[:10]
        for path in [*images, phantoms / "train-rle.csv"]:
            server.bucket.blob(str(path.relative_to(phantoms))).upload_from_filename(str(path))
        yield server


def conversion(*words: str) -> list[str]:
    """Return the words of a conversion; `words` may replace some."""
    inputs = "--images=gs://bucket/dicom/*.dcm", "--labels=gs://bucket/train-rle.csv"
    options = "--splits=train=0.6,val=0.2,test=0.2", "--runner=DirectRunner", "--no_auth"
    return [*inputs, f"--output={LAKE}", *options, *words]


@pytest.fixture(scope="module")
def converted(storage) -> str:
    """Convert the lake; return all that was printed and logged."""
    streams = io.StringIO(), io.StringIO()
    logged = logging.StreamHandler(streams[1])
    logging.getLogger().addHandler(logged)
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        code = converter.main(conversion("--deidentify=keep"))
    logging.getLogger().removeHandler(logged)
    output = "".join(stream.getvalue() for stream in streams)
    assert code == 0, output
    return output


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY)
    return path


def train(config: Path, workdir: str | Path, *options: str) -> list[str]:
    return ["train", f"--config={config}", f"--lake={LAKE}", f"--workdir={workdir}", *options]


@pytest.fixture(scope="module")
def finished(converted, config) -> str:
    """Train a run; return its output."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert task.main(train(config, RUN)) == 0
    return output.getvalue()


@pytest.fixture(scope="module")
def killed(storage, converted, config) -> None:
    """Train a run that is killed, and again after its newest checkpoint is cut off."""
    words = train(config, KILLED, "--train.checkpoint_minutes=1e-6")
    command, output = [sys.executable, "-m", "trainer.task", *words], io.StringIO()
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        deadline = time.monotonic() + 900
        while len(steps_of(storage)) < 2:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        assert cloud_storage.TOKEN not in process.communicate()[0]
    newest = f"runs/killed/checkpoints/ckpt-{max(steps_of(storage))}.index"
    storage.bucket.blob(newest).upload_from_string(storage.read(newest)[:20])
    # The killed run still counts as at work when this one looks, also on a slow machine.
    with contextlib.redirect_stdout(output), quick_locks(silent_s=60):
        assert task.main(words) == 0
    path = f"gs://bucket/{newest.removesuffix('.index')}"
    assert "may be at work; listening for" in output.getvalue()  # to the run that was killed
    assert f"{path} is damaged, going back to the one before" in output.getvalue()
    assert cloud_storage.TOKEN not in output.getvalue()


@contextlib.contextmanager
def quick_locks(silent_s: float = 6):
    """Make processes that hold a lock give signs of life often, and silence short."""
    with pytest.MonkeyPatch.context() as patch:
        times = {"FIRST_BEAT": 0.2, "BEAT": 0.2, "SILENT": silent_s, "RETRY": 0.5}
        for name, seconds in times.items():
            patch.setattr(lock, f"{name}_SECONDS", seconds)
        yield


def test_one_workdir_holds_one_run(finished, storage, config, run_task):
    before = {name: storage.read(name) for name in storage.names("runs/tiny/")}
    assert not [name for name in before if "run.lock" in name]
    other = train(config, RUN, "--train.seed=1")
    assert "runs/tiny holds another run" in run_task(*other, code=2)
    with quick_locks():
        hold = lock.hold(storage_of_lake.path_of(RUN), "run.lock", "trains", "wait")
        with hold:
            assert "process" in (message := run_task(*train(config, RUN), code=2))
    assert f"error: {RUN}: process " in message and " trains here; wait" in message
    assert {name: storage.read(name) for name in storage.names("runs/tiny/")} == before


def steps_of(storage) -> list[int]:
    """Return the steps of the killed run's checkpoints."""
    names = "\n".join(storage.names("runs/killed/checkpoints/"))
    return [int(step) for step in re.findall(r"/ckpt-(\d+)\.index", names)]


def test_verify_and_show(converted, capsys):
    assert "records  " in converted
    assert lake_command.main(["verify", LAKE]) == 0
    output = capsys.readouterr().out
    assert f"{LAKE}: 10 records" in output and output.endswith("ok\n")
    assert lake_command.main(["show", LAKE]) == 0
    assert "images in             10" in capsys.readouterr().out


def test_a_launcher_reads_the_manifest(converted):
    assert preflight.read_manifest(LAKE, "my-project")["counts"]["records"] == 10
    with pytest.raises(InputError, match="no manifest.json"):
        preflight.read_manifest("gs://bucket/lakes/other/1.0.0", "my-project")
    assert "403" in preflight.read_manifest("gs://private/lake/1.0.0", "my-project")


def test_a_lake_is_read_without_tensorflow(converted):
    commands = [["show", LAKE], ["verify", LAKE]]
    commands += [["show", f"gs://{bucket}/lake/1.0.0"] for bucket in ("typo", "private")]
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, json.dumps(commands)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    parts = re.split(r"exit code (\d)\n", process.stdout)
    assert parts[1::2] == ["0", "0", "2", "2"] and "Traceback" not in process.stdout, parts
    assert "images in             10" in parts[0] and f"{LAKE}: 10 records" in parts[2]
    assert "no manifest.json" in parts[4] and "Cloud Storage refuses: " in parts[6]


def test_an_estimate_from_the_listing(storage, capfd):
    assert converter.main(conversion("--estimate", "--sample=5")) == 0
    size = sum(blob.size for blob in storage.bucket.list_blobs(prefix="dicom/"))
    expected = f"files              10  {size / 1e6:.1f} MB; the headers of 5 read: jpeg, kept 100%"
    assert capfd.readouterr().out.splitlines()[0] == expected


@pytest.mark.parametrize(("bucket", "status"), [("typo", "404"), ("private", "403")])
def test_a_bucket_that_cannot_be_listed_is_one_message(storage, bucket, status, capfd):
    images = f"--images=gs://{bucket}/dicom/*.dcm"
    assert converter.main(conversion(images, "--estimate")) == 2
    output = capfd.readouterr()
    message = output.err.splitlines()[-1]
    assert message.startswith(f"error: {images}: cannot be listed")
    assert status in message and cloud_storage.TOKEN not in output.err + output.out
    assert "Traceback" not in output.err


@exhaustive
def test_a_killed_and_damaged_run_ends_as_one_on_disk(killed, storage, config, tmp_path):
    assert task.main(train(config, tmp_path)) == 0
    actual, expected = (
        tf.train.load_checkpoint(f"{folder}/checkpoints") for folder in (KILLED, tmp_path)
    )
    for name in expected.get_variable_to_shape_map():
        if name.startswith(("network", "optimizer", "best")):
            values = actual.get_tensor(name), expected.get_tensor(name)
            np.testing.assert_allclose(*values, 1e-5, 1e-5, err_msg=name)
    best_epochs = json.loads(storage.read("runs/killed/metrics.json"))["kept"]
    weights = {name.removeprefix("runs/killed/") for name in storage.names("runs/killed/best/")}
    assert {one["weights"] for one in best_epochs} == {name for name in weights if name[-1] != "/"}
    assert not [name for name in storage.names("runs/") if "unfinished" in name]
    starts = json.loads(storage.read("runs/killed/run.json"))["starts"]
    assert len(starts) == 2 and starts[1]["step"] > 0


@exhaustive
def test_a_signal_before_the_first_step_leaves_no_lock(storage, converted, config):
    words = train(config, "gs://bucket/runs/stopped")
    command, prefix = [sys.executable, "-m", "trainer.task", *words], "runs/stopped/run.lock."
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        while not storage.names(prefix):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate()
    assert process.returncode == 42 and "SIGTERM: stopped; the same command goes on" in error
    assert storage.names(prefix) == []


@exhaustive
def test_its_curves_have_each_step_once(killed, storage):
    steps = []
    for name in storage.names("runs/killed/train/events"):
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
    events = tf.data.TFRecordDataset(path).as_numpy_iterator()
    assert [tf.compat.v1.Event.FromString(record).step for record in events] == [1, 2]


@pytest.fixture
def run_task(capfd):
    """Return a function that runs a command of trainer.task and returns its output, in which no
    credential may be."""

    def run(*words: str, code: int = 0) -> str:
        assert task.main([*words]) == code
        streams = capfd.readouterr()
        assert cloud_storage.TOKEN not in streams.out + streams.err
        return streams.out + streams.err

    return run


PICTURE = "runs/truth_and_prediction.png"


@pytest.fixture(scope="module")
def evaluated(finished):
    words = ["evaluate", f"--workdir={RUN}", "--bootstrap=10", f"--picture=gs://bucket/{PICTURE}"]
    assert task.main(words) == 0


def last_written(storage, prefix: str) -> str:
    blobs = storage.bucket.list_blobs(prefix=prefix)
    return max(blobs, key=lambda blob: blob.updated).name.removeprefix(prefix)


def test_evaluate(evaluated, storage, run_task):
    assert {"runs/tiny/report.html", PICTURE} <= {*storage.names("runs/")}
    scores = storage.read("runs/tiny/metrics.json")
    message = run_task("evaluate", f"--workdir={RUN}", "--report=gs://typo/report.html", code=2)
    assert "error: gs://typo: there is no bucket" in message
    assert storage.read("runs/tiny/metrics.json") == scores  # nothing was scored in vain


def test_predict_and_vote(evaluated, storage, run_task, phantoms, tmp_path):
    remote, local = "gs://bucket/runs/out", tmp_path / "out"
    images = [str(path) for path in sorted((phantoms / "dicom").glob("*.dcm"))[:10]]
    predict = ["predict", f"--workdir={RUN}", "--overlays", "--probabilities"]
    for output, inputs in ((remote, ["gs://bucket/dicom/"]), (local, images)):
        report = run_task(*predict, f"--output={output}", "--input", *inputs)
        assert "10 images predicted" in report
    files = {str(path.relative_to(local)): path for path in local.rglob("*.*")}
    assert {f"runs/out/{name}" for name in files} == {*storage.names("runs/out/")}
    assert len(files) == 4 + 2 * 10 and last_written(storage, "runs/out/") == "predict.json"
    files.pop("predict.json")  # says where the images lie
    for name, path in files.items():
        assert storage.read(f"runs/out/{name}") == path.read_bytes()
    assert "has predictions by other images" in run_task(*predict, f"--output={remote}", code=2)
    assert "there is no bucket" in run_task(*predict, "--output=gs://typo/out", code=2)
    for name in ("submission.csv", "probabilities"):
        both = f"{remote}/{name}", str(local / name)
        run_task("vote", *both, f"--output={remote}.csv")
        run_task("vote", both[1], both[1], f"--output={local}.csv")
        assert storage.read("runs/out.csv") == (tmp_path / "out.csv").read_bytes()


@exhaustive
def test_export(evaluated, storage, run_task, phantoms, tmp_path):
    export_folder, output = "gs://bucket/runs/exported", tmp_path / "out"
    report = run_task("export", f"--workdir={RUN}", f"--output={export_folder}")
    assert f'tf.saved_model.load("{export_folder}")' in report
    assert last_written(storage, "runs/exported/") == "export.json"
    run_task("predict", f"--workdir={RUN}", f"--output={output}")
    rows = submission.read(output / "submission.csv")
    files = [(phantoms / "dicom" / f"{image_id}.dcm").read_bytes() for image_id in rows]
    answers = tf.saved_model.load(export_folder).signatures["dicom"](files=tf.constant(files))
    assert answers["rle"].numpy().tolist() == [text.encode() for text in rows.values()]


@exhaustive
def test_augment(storage, converted, config, run_task):
    sheet = "gs://bucket/runs/sheet.png"
    run_task("augment", f"--config={config}", f"--lake={LAKE}", f"--output={sheet}", "--examples=1")
    assert storage.read("runs/sheet.png").startswith(b"\x89PNG")


def test_what_cannot_be_reached_is_one_message(
    storage, converted, config, run_task, capfd, tmp_path
):
    message = "error: Cloud Storage refuses: "
    typo = run_task(*train(config, "gs://typo/runs/tiny"), code=2)
    assert "error: gs://typo/runs/tiny: there is no bucket" in typo
    assert message in run_task(*train(config, "gs://private/runs/tiny"), code=2)
    config = tmp_path / "two_lakes.yaml"
    config.write_text(TINY.replace("batch_size: 2", "more_lakes: {gs://private/lake/1.0.0: 1.0}"))
    assert message in run_task(*train(config, tmp_path), code=2)
    assert lake_command.main(["show", "gs://private/lake/1.0.0"]) == 2
    assert "gcloud auth application-default login" in capfd.readouterr().err
    assert lake_command.main(["show", "gs://typo/lake/1.0.0"]) == 2
    assert "no manifest.json" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("bucket", "expected"), [("typo", "; no bucket?"), ("private", "Cloud Storage refuses: ")]
)
def test_a_conversion_to_where_nothing_can_be_written(storage, bucket, expected, capfd):
    assert converter.main(conversion(f"--output=gs://{bucket}/lake/1.0.0")) == 2
    error = capfd.readouterr().err
    assert expected in error.splitlines()[-1] and "Traceback" not in error


def test_no_credential_is_printed_or_written(storage, converted, finished):
    output = converted + finished
    contents = [storage.read(name) for name in storage.names("runs/") + storage.names("lakes/")]
    token = cloud_storage.TOKEN
    assert token not in output and not [text for text in contents if token.encode() in text]
