"""Several workers: what each reads, what is refused, and that two train as one process does, even
when one of them is lost."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from makers.marks import exhaustive
from makers.runs import losses, scalars, weights

from lake import InputError
from lake.records import manifest
from trainer import task
from trainer.config import run
from trainer.data import order, splits
from trainer.data.batches import Split, evaluation_batches, training_batches
from trainer.devices import strategy, workers

ROOT = Path(__file__).parents[3]
SETTINGS = run.Data(side=32, batch_size=4, group_shards=2)


@pytest.fixture(scope="module")
def train_split(lake) -> Split:
    return splits.named_split(manifest.load(str(lake)), str(lake), "train")


def ids(split, settings, first_step=0, worker=workers.ALONE, epochs=2) -> np.ndarray:
    """Return the ids of a worker's images, [steps, images]."""
    numbers = 3, epochs, first_step, 8
    batches = training_batches(split, settings, *numbers, worker, ("image_id",))
    return np.array([batch["image_id"] for batch in batches.as_numpy_iterator()])


def test_two_workers_draw_the_two_streams_of_one_process(train_split):
    one = ids(train_split, SETTINGS.model_copy(update={"streams": 2}))  # [12, 4]
    pair = [ids(train_split, SETTINGS, 0, workers.Worker(n, ("a:1", "b:1"))) for n in range(2)]
    assert (np.concatenate(pair, axis=1) == one).all()
    for epoch in (one[:6], one[6:]):
        assert len(set(epoch.ravel())) == 24 == train_split.num_records
    resumed = ids(train_split, SETTINGS, 4, workers.Worker(1, ("a:1", "b:1")))
    assert (resumed == pair[1][4:]).all()


def test_each_worker_reads_groups_of_its_own(train_split):
    assert len(train_split.paths) == 4
    shards = []
    for stream in range(2):
        rows = order.group_rows(train_split, SETTINGS, 0, 1, 0, stream, 2)
        shards.append(set(rows["shards"].ravel()) - {-1})
    both = shards[0] & shards[1]  # of a group in which one's stretch ends
    assert shards[0] | shards[1] == {0, 1, 2, 3} and len(both) <= SETTINGS.group_shards


def test_fewer_shards_than_workers_are_refused_with_the_fix(train_split):
    with pytest.raises(InputError, match="has 4 shards for 5 streams.*--min_shards=5"):
        order.group_rows(train_split, SETTINGS, 0, 1, 0, 0, 5)


@pytest.mark.parametrize("count", [2, 3])
def test_validation_counts_each_image_once_over_all_workers(train_split, count):
    settings, image_ids, counts = SETTINGS.model_copy(update={"batch_size": 6}), [], []
    for number in range(count):
        worker = workers.Worker(number, ("a:1",) * count)
        batches = list(
            evaluation_batches(train_split, settings, ("image_id",), worker).as_numpy_iterator()
        )
        counts.append(len(batches))
        for batch in batches:
            assert len(batch["weight"]) == 6 // count
            image_ids += list(batch["image_id"][batch["weight"] > 0])
    assert len(set(counts)) == 1  # or one would wait for another
    assert len(image_ids) == len(set(image_ids)) == train_split.num_records


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, (0, 1)),
        ({"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}, (0, 1)),
        ({"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}, (1, 2)),
        (  # as Vertex AI writes it
            {
                "cluster": {"chief": ["a:1"], "worker": ["b:1", "c:1"]},
                "task": {"type": "worker", "index": 1},
            },
            (2, 3),
        ),
    ],
)
def test_tf_config_names_the_worker(monkeypatch, content, expected):
    monkeypatch.setenv("TF_CONFIG", "" if content is None else json.dumps(content))
    worker = workers.from_environment()
    assert (worker.number, worker.count) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "TF_CONFIG is malformed .JSONDecodeError"),
        ('{"task": {}}', "TF_CONFIG is malformed .KeyError: 'cluster'"),
        (
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
            "this process is worker 1, but the cluster has 1 worker",
        ),
        (
            '{"cluster": {"ps": ["a:1"], "worker": ["b:1"]}, "task": {"type": "ps", "index": 0}}',
            "names ps; only chief and worker take part",
        ),
    ],
)
def test_a_tf_config_that_is_wrong_is_refused(monkeypatch, text, message):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(InputError, match=message):
        workers.from_environment()


@pytest.mark.skipif(bool(tf.config.list_physical_devices("TPU")), reason="this machine has a TPU")
def test_a_tpu_that_is_missing_is_an_error():
    with pytest.raises(InputError, match="no TPU to use here .TPUs not found.*train.device=auto"):
        strategy.create_strategy("tpu", None, 8)
    with pytest.raises(InputError, match="TF_CONFIG names 2 workers; unset it"):
        strategy.create_strategy("tpu", None, 8, worker=workers.Worker(0, ("a:1", "b:1")))


def test_a_cpu_worker_has_one_replica():
    with pytest.raises(InputError, match="train.replicas=2: with several workers, each has 1"):
        strategy.create_strategy("cpu", 2, 8, worker=workers.Worker(0, ("a:1", "b:1")))


def test_streams_that_do_not_fit_are_refused(lake, tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text("{model: {kind: unetpp}, data: {batch_size: 8, streams: 3}}")
    arguments = ["train", f"--config={path}", f"--lake={lake}", f"--workdir={tmp_path / 'run'}"]
    assert task.main(arguments) == 2
    assert "streams=3 must divide batch_size=8" in capsys.readouterr().err


TINY = """
model: {kind: unetpp, depth: 1, filters: 8, activation: elu}
data: {side: 16, batch_size: 12, streams: 2}
optimizer: {kind: sgd, learning_rate: 0.3, clip_norm: 0.05}
train: {epochs: 10, device: cpu, steps_per_call: 2}
"""


@pytest.fixture(scope="module")
def command(lake, tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY)

    def arguments(workdir: Path, *options: str) -> list[str]:
        train = ["-m", "trainer.task", "train", f"--config={path}", f"--lake={lake}"]
        return [sys.executable, *train, f"--workdir={workdir}", *options]

    return arguments


def on_two_workers(command: list[str]) -> subprocess.Popen:
    cluster = [sys.executable, "-m", "launch.cluster", "--workers=2", "--"]
    return subprocess.Popen(
        [*cluster, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@exhaustive  # a minute: three processes
def test_two_workers_train_as_one_process_with_two_replicas(command, tmp_path):
    expected, workdir = tmp_path / "one", tmp_path / "two"
    few = "--train.epochs=2"
    alone = subprocess.run(command(expected, few, "--train.replicas=2"), cwd=ROOT)
    assert alone.returncode == 0
    process = on_two_workers(command(workdir, few))
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert_alike(workdir, expected, epochs=2)


@exhaustive
@pytest.mark.parametrize("is_stopped", [False, True])
def test_two_workers_stopped_and_then_one_lost_end_as_one_process_with_two_replicas(
    command, tmp_path, is_stopped
):
    """20 steps; the validation split's 8 images do not fill a batch of 12."""
    expected, workdir = tmp_path / "one", tmp_path / "two"
    alone = subprocess.run(command(expected, "--train.replicas=2"), cwd=ROOT, capture_output=True)
    assert alone.returncode == 0, alone.stderr

    step = 0
    if is_stopped:  # both at one step, although only the one that is not the chief was asked to
        lines, _ = after_signal(command(workdir), "epoch 1/10  |", "TERM")
        endings = [line for line in lines if "stopped at step" in line]
        assert any("worker 0: another worker stops" in line for line in endings), lines
        step = int(endings[0].partition("stopped at step ")[2].split()[0])
        assert 2 <= step < 20 and (workdir / "checkpoints" / f"ckpt-{step}.index").exists()

    lines, seconds = after_signal(command(workdir), f"epoch {step // 2 + 2}/10  |", "KILL")
    assert seconds < 60 and any(f"resuming at step {step}" in line for line in lines) == is_stopped
    messages = [
        line for line in lines if "another of the 2 workers is gone (worker 1 (127." in line
    ]
    assert len(messages) == 1, lines
    assert "start all workers again with the same command" in messages[0]

    process = on_two_workers(command(workdir))
    output, _ = process.communicate()
    assert process.returncode == 0 and "resuming at step" in output, output
    assert_alike(workdir, expected)
    assert not [path for path in workdir.rglob("*") if "temp" in path.name]
    assert len(json.loads((workdir / "run.json").read_text())["starts"]) == 2 + is_stopped


def after_signal(command: list[str], text: str, signal: str) -> tuple[list[str], float]:
    """Return what two workers print when worker 1 receives a signal at the line with this text, and
    the seconds from then to their end with exit code 42."""
    process, lines = on_two_workers(command), []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            signal_worker(process, 1, signal)
            start = time.monotonic()
            break
    lines += process.stdout.read().splitlines()
    assert process.wait() == 42, lines
    assert not any("Traceback" in line for line in lines)
    return lines, time.monotonic() - start


def signal_worker(process: subprocess.Popen, number: int, signal: str) -> None:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    subprocess.run(["kill", f"-{signal}", str(sorted(map(int, children))[number])], check=True)


def assert_alike(workdir: Path, expected: Path, epochs: int = 10) -> None:
    actual_weights, expected_weights = weights(workdir), weights(expected)
    assert actual_weights.keys() == expected_weights.keys()
    numbers = {
        name: values for name, values in expected_weights.items() if values.dtype.kind not in "SO"
    }
    assert len(numbers) > 20
    for name, values in numbers.items():
        np.testing.assert_allclose(actual_weights[name], values, atol=1e-5, err_msg=name)
    assert np.allclose(losses(workdir), losses(expected), atol=1e-5, rtol=0)
    val = [scalars(folder / "val")["loss"] for folder in (workdir, expected)]
    assert val[0].keys() == val[1].keys() and len(val[0]) == epochs
    assert np.allclose(list(val[0].values()), list(val[1].values()), atol=1e-5, rtol=0)


@exhaustive
def test_a_worker_that_does_not_come_is_an_error_in_time(command, tmp_path):
    cluster = {"worker": ["127.0.0.1:0", "127.0.0.1:1"]}
    cluster["worker"][0] = json.loads(free_config())["cluster"]["worker"][0]
    content = {"cluster": cluster, "task": {"type": "worker", "index": 0}}
    process = subprocess.run(
        command(tmp_path / "run", "--train.worker_minutes=0.05"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"TF_CONFIG": json.dumps(content)},
    )
    assert process.returncode == 2 and "Traceback" not in process.stderr
    expected = "worker 0 waited 0.05 minutes (train.worker_minutes) for worker 1 (127.0.0.1:1)"
    assert expected in process.stderr


def free_config() -> str:
    from launch import cluster

    return cluster.configs(1)[0]


@exhaustive
def test_images_whose_loss_is_no_number_are_named(lake, tmp_path, capsys):
    """A record with a window of NaN, whose image is then NaN as well."""
    lake_copy = tmp_path / "phantoms" / "1.0.0"
    shutil.copytree(lake, lake_copy)
    shard = sorted(lake_copy.glob("*train*"))[0]
    records = [tf.train.Example.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(shard))]
    window = records[2].features.feature["window"].float_list.value
    window[:] = [float("nan")] * 2
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for record in records:
            writer.write(record.SerializeToString())
    path = tmp_path / "run.yaml"
    path.write_text(
        """
        model: {kind: unet, depth: 1, filters: 4}
        data: {side: 16, batch_size: 8}
        train: {epochs: 1, device: cpu, steps_per_call: 3}
        """
    )
    arguments = [
        "train",
        f"--config={path}",
        f"--lake={lake_copy}",
        f"--workdir={tmp_path / 'run'}",
    ]
    assert task.main(arguments) == 1
    image_id = records[2].features.feature["image_id"].bytes_list.value[0].decode()
    error = capsys.readouterr().err
    assert f"between steps 1 and 3: not finite by themselves: {image_id};" in error
