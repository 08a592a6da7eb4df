"""Runs that are interrupted, killed and damaged: they end as if undisturbed, and say what
happened."""

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorflow as tf
from makers import runs
from makers.marks import exhaustive
from makers.runs import weights
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata

from lake import signals
from trainer import task
from trainer.training import interruption

ROOT = Path(__file__).parents[3]
STAGED = f"""{runs.TINY}
stages:
- {{}}
- {{optimizer: {{learning_rate: 3.0e-3}}}}
"""
MEASURED = ("images_per_second", "input_wait_share", "peak_memory_gb")


@pytest.fixture(scope="module")
def command(lake, tmp_path_factory):
    """(workdir, options) -> arguments of a run of an epoch, two calls of 3 steps, on a tiny net."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(runs.TINY)

    def arguments(workdir: Path, *options: str, config: Path = path) -> list[str]:
        return runs.command(config, lake, workdir, *options)

    return arguments


def assert_same_end(actual: Path, expected: Path, tolerance: float = 1e-5) -> None:
    actual, expected = weights(actual), weights(expected)
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        if values.dtype.kind == "S":  # which objects' sums there are, none after an epoch
            assert actual[name] == values == b"{}"
            continue
        np.testing.assert_allclose(actual[name], values, tolerance, tolerance, err_msg=name)


@exhaustive  # test_changes.py says when
def test_more_epochs_and_other_parts_end_as_a_run_that_had_them_from_its_start(command, tmp_path):
    # A warm-up takes at most half of a run, so that one epoch more changes it.
    options = ["--optimizer.schedule=constant", "--optimizer.warmup_epochs=0"]
    options += ["--train.deterministic=true", "--model.norm=group"]
    options += ["--model.dropout=0", "--model.filters=16"]
    for workdir, epochs in (("expected", (3,)), ("extended", (1, 3))):
        for count in epochs:
            parts = f"--optimizer.accumulate={1 if count == 1 else 2}"
            words = [*options, f"--train.epochs={count}", parts]
            assert task.main(command(tmp_path / workdir, *words)) == 0
    assert_same_end(tmp_path / "extended", tmp_path / "expected", tolerance=1e-4)


@pytest.mark.slow
@exhaustive  # test_train.py has stages, and the next test a stop
def test_a_staged_run_stopped_by_the_clock_goes_on_to_the_same_end(command, tmp_path, capsys):
    path = tmp_path / "staged.yaml"
    path.write_text(STAGED)
    expected, workdir = tmp_path / "expected", tmp_path / "stopped"
    assert task.main(command(expected, config=path)) == 0
    capsys.readouterr()
    short = command(workdir, "--train.max_hours=1e-6", config=path)
    for stage in (1, 2):  # the first call of each is the last of a start
        assert task.main(short) == 42
        output = capsys.readouterr().out
        assert f"stage {stage} of 2" in output
        last = "train.max_hours=1e-06: stopped at step 3 and saved; the same command goes on from"
        assert output.splitlines()[-1].startswith(last)
    assert task.main(short) == 0
    assert_same_end(workdir, expected)
    assert_same_end(workdir / "stage_1", expected / "stage_1")


@exhaustive  # the test of a damaged checkpoint has the signal within this process
def test_a_signal_saves_and_exits_with_42(command, tmp_path):
    arguments = command(tmp_path / "run", "--train.epochs=10000")
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.task", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("epoch 2/"):
            process.send_signal(signal.SIGTERM)
            break
    last = process.stdout.read().splitlines()[-1]
    assert process.wait() == 42
    assert last.startswith("SIGTERM: stopped at step ")
    step = int(last.split()[4].replace(",", ""))
    newest = tf.train.latest_checkpoint(str(tmp_path / "run" / "checkpoints"))
    assert newest.endswith(f"ckpt-{step}")


def test_a_run_stops_after_its_hours():
    watch = interruption.Watch()
    assert watch.reason(None) is None and watch.reason(1) is None
    assert watch.reason(1e-9).startswith("train.max_hours")


@pytest.fixture
def run_copy(finished_run, tmp_path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "copied")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture
def signalled(monkeypatch):
    """Lets SIGTERM come when a run takes signals for the first time, behind its first call: what
    lake/signals.py calls for it, within this process."""
    original = interruption.Watch.wait_for_saving

    def wait_for_saving(watch: interruption.Watch) -> None:
        monkeypatch.undo()
        original(watch)
        signals._COMMAND.take(signal.SIGTERM)

    monkeypatch.setattr(interruption.Watch, "wait_for_saving", wait_for_saving)
    yield
    signals.take_by(None)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["index", pytest.param("data-00000-of-00001", marks=exhaustive)])
def test_behind_a_damaged_checkpoint_and_a_signal_it_goes_on_to_the_same_end(
    command, finished_run, run_copy, signalled, capsys, part
):
    truncate(run_copy / "checkpoints" / f"ckpt-12.{part}")
    (run_copy / "checkpoints" / "checkpoint").write_text("model_checkpoint_path")
    assert task.main(command(run_copy, "--train.epochs=2")) == 42
    output = capsys.readouterr().out
    assert "ckpt-12 is damaged, going back to the one before: " in output
    assert "resuming at step 6 from " in output
    assert output.splitlines()[-1].startswith("SIGTERM: stopped at step 9 and saved; the same")
    assert list((run_copy / "checkpoints" / "damaged").iterdir())
    assert task.main(command(run_copy, "--train.epochs=2")) == 0
    assert "resuming at step 9 from " in capsys.readouterr().out
    assert_same_end(run_copy, finished_run)
    names = {path.stem for path in (run_copy / "checkpoints").glob("ckpt-*.index")}
    assert {"ckpt-9", "ckpt-12"} <= names


@pytest.mark.slow
def test_damage_that_cannot_be_passed_over_is_one_clear_error(
    command, finished_run, run_copy, capsys
):
    def refusal() -> str:
        assert task.main(command(run_copy, "--train.epochs=2")) == 2
        return capsys.readouterr().err

    for name, message in (
        ("best.weights.h5", "best.weights.h5: the best epoch's weights cannot be read"),
        ("lake.json", "lake.json: not JSON"),
        ("metrics.json", "metrics.json: not JSON"),
        ("config.yaml", "config.yaml: cut off: no stages: at its end"),
    ):
        if name == "config.yaml":  # a whole number of lines is still YAML
            lines = (run_copy / name).read_text().splitlines(keepends=True)
            (run_copy / name).write_text("".join(lines[:-1]))
        else:
            truncate(run_copy / name)
        assert message in refusal()
        shutil.copy(finished_run / name, run_copy / name)
    for path in (run_copy / "checkpoints").glob("ckpt-*.data*"):
        path.write_bytes(b"")
    assert "all 2 are damaged; put back a copy" in refusal()
    assert len(list((run_copy / "checkpoints").glob("ckpt-*.data*"))) == 2  # none was thrown away


def curves(workdir: Path) -> dict[str, dict[int, bytes]]:
    """{curve/tag: {step: value}} as TensorBoard reads them; no value where it is a time's or a
    memory's."""
    result = {}
    for curve in ("", "train", "val"):
        accumulator = event_accumulator.EventAccumulator(
            str(workdir / curve), size_guidance={"tensors": 0}, purge_orphaned_data=False
        )
        accumulator.Reload()
        for tag in accumulator.Tags()["tensors"]:
            events = accumulator.Tensors(tag)
            result[f"{curve}/{tag}"] = {
                event.step: None if tag in MEASURED else event.tensor_proto.SerializeToString()
                for event in events
            }
            assert len(result[f"{curve}/{tag}"]) == len(events), f"{tag} has a step twice"
    return result


def steps_of(workdir: Path) -> dict[str, list[int]]:
    return {tag: list(events) for tag, events in curves(workdir).items()}


@exhaustive
def test_tensorboard_sees_each_step_of_a_resumed_run_once(command, finished_run, run_copy):
    expected = steps_of(finished_run)
    assert expected["train/gradient_norm"] == [3, 6, 9, 12] and expected["val/loss"] == [6, 12]
    # As if killed behind step 12, with the newest checkpoint at step 6 and an event half written.
    for path in (run_copy / "checkpoints").glob("ckpt-12.*"):
        path.unlink()
    [path] = (run_copy / "train").glob("events.*")
    path.write_bytes(path.read_bytes() + b"half")
    assert task.main(command(run_copy, "--train.epochs=2")) == 0
    assert steps_of(run_copy) == expected
    assert not list(run_copy.rglob("unfinished*"))
    starts = json.loads((run_copy / "run.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, 6]


@pytest.mark.slow
def test_a_run_says_what_it_was_made_with(finished_run, lake):
    text = (finished_run / "run.json").read_text()
    [start] = json.loads(text)["starts"]
    assert start["packages"]["tensorflow"] == tf.__version__
    assert start["devices"] == [f"CPU:0 {platform.machine()}"]
    manifest = json.loads((lake / "manifest.json").read_text())
    assert [one["version"] for one in start["lakes"]] == [manifest["version"]]
    assert platform.node() not in text and str(Path.home()) + "/" not in text
    if (ROOT / ".git").exists():
        assert len(start["commit"]["sha"]) == 40


@pytest.mark.slow
def test_tensorboard_has_the_config_and_the_best_score_as_hparams(finished_run):
    accumulator = event_accumulator.EventAccumulator(
        str(finished_run), size_guidance={"tensors": 0}
    )
    accumulator.Reload()
    metadata = accumulator.SummaryMetadata("_hparams_/session_start_info")
    content = hparams_metadata.parse_session_start_info_plugin_data(metadata.plugin_data.content)
    assert content.hparams["model.filters"].number_value == 4
    assert content.hparams["optimizer.clip_norm"].number_value == 1
    assert content.hparams["model.kind"].string_value == "unetpp"
    best = json.loads((finished_run / "metrics.json").read_text())["best"]
    value = tf.make_ndarray(accumulator.Tensors(f"best/{best['score']}")[-1].tensor_proto)
    assert value == np.float32(best["value"])
    [text] = accumulator.Tensors("config")
    assert "learning_rate: 0.001" in text.tensor_proto.string_val[0].decode()


@pytest.mark.slow
def test_tensorboard_says_what_the_run_is_and_which_charts_to_look_at(finished_run):
    accumulator = event_accumulator.EventAccumulator(str(finished_run))
    accumulator.Reload()
    [card] = accumulator.Tensors("run")
    text = card.tensor_proto.string_val[0].decode()
    assert "| command | `" in text and "| lake | `phantoms 1.0.0 (shards " in text
    [event] = accumulator.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(tf.make_ndarray(event.tensor_proto).item())
    tags = tags_of_validation(finished_run)
    for chart in layout.category[0].chart:
        [pattern] = chart.multiline.tag
        assert any(re.match(pattern, tag) for tag in tags), pattern


def tags_of_validation(workdir: Path) -> set[str]:
    """Return the tags of a run's curves of validation."""
    accumulator = event_accumulator.EventAccumulator(str(workdir / "val"))
    accumulator.Reload()
    return set(accumulator.Tags()["tensors"])


KILLED = """
import json, os, pathlib, random, signal, sys, time
from trainer import task
from trainer.training import stages  # imported once: no operation has run when this process forks

def start(arguments):
    child = os.fork()
    if not child:
        code = task.main(arguments)
        sys.stdout.flush()
        os._exit(code)
    return child

def end(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def newest(workdir):
    found = pathlib.Path(workdir, "checkpoints").glob("ckpt-*.index")
    return max((int(path.stem[5:]) for path in found), default=0)

def runs(child):
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

undisturbed, killed = map(json.loads, sys.argv[1:3])
workdir, kills, steps = sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
other = start(undisturbed)
generator, codes = random.Random(0), []
for number in range(kills):
    child = start(killed)
    moment = steps * generator.uniform(number, number + 0.8) / kills
    while newest(workdir) < moment and runs(child):
        time.sleep(0.005)
    time.sleep(generator.uniform(0, 0.2))
    os.kill(child, signal.SIGKILL)
    codes.append(end(child))
codes += [end(start(killed)), end(other)]
print(codes)
"""


@exhaustive
def test_killed_at_random_moments_it_ends_with_the_same_bits(command, tmp_path):
    """RADLAKE_KILLS sets how often; a start costs seconds of tracing."""
    expected_workdir, killed_workdir = tmp_path / "a", tmp_path / "b"
    kills = os.environ.get("RADLAKE_KILLS") or 10
    options = ["--train.deterministic=true", "--train.epochs=4", "--train.checkpoint_minutes=1e-9"]
    runs = [
        json.dumps(command(workdir, *options)) for workdir in (expected_workdir, killed_workdir)
    ]
    process = subprocess.run(
        [sys.executable, "-c", KILLED, *runs, str(killed_workdir), str(kills), "24"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    codes = json.loads(process.stdout.splitlines()[-1])
    assert -signal.SIGKILL in codes and codes[-2:] == [0, 0], codes
    actual, expected = weights(killed_workdir), weights(expected_workdir)
    assert actual.keys() == expected.keys()
    assert not [name for name in expected if actual[name].tobytes() != expected[name].tobytes()]
    assert best_weights(killed_workdir) == best_weights(expected_workdir)
    assert curves(killed_workdir) == curves(expected_workdir)
    assert steps_of(killed_workdir)["train/gradient_norm"] == list(range(3, 25, 3))
    assert {
        "train/dice_mean_at_half_network_size",
        "train/images/pr_curves",
        "train/loss",
    } <= curves(killed_workdir).keys()


def best_weights(workdir: Path) -> dict[str, bytes]:
    arrays = {}

    def add(name: str, item) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()].tobytes()

    with h5py.File(workdir / "best.weights.h5") as file:
        file.visititems(add)
    return arrays
