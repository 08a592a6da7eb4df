"""launch.slurm and the trainer on a real Slurm of two nodes, which run on this machine."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from makers import slurm as cluster
from makers.marks import exhaustive
from makers.runs import losses, weights

from launch import slurm, slurm_job

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(bool(cluster.reason_against()), reason=str(cluster.reason_against())),
]
AGAIN = "to be started again"
TINY = """
model: {kind: unet, depth: 1, filters: 4}
data: {side: 16, batch_size: 12}
optimizer: {kind: sgd, learning_rate: 0.3}
train: {epochs: 6, device: cpu, steps_per_call: 2}
"""


@pytest.fixture(scope="module")
def conf(tmp_path_factory) -> Path:
    with cluster.running(tmp_path_factory.mktemp("slurm")) as conf:
        yield conf


@pytest.fixture
def launch(conf, lake, tmp_path, monkeypatch):
    """Starts a training on a thread by launch.slurm; returns the Future of its exit code."""
    monkeypatch.setenv("SLURM_CONF", str(conf))
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(slurm_job, "POLL_SECONDS", 0.2)
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY)

    with ThreadPoolExecutor() as pool, contextlib.ExitStack() as stack:
        stack.callback(cluster.cancel_all, os.environ)  # a failed test may leave a job behind

        def start(workdir: Path, *flags: str, options: tuple[str, ...] = ()) -> Future:
            train = [sys.executable, "-m", "trainer.task", "train", f"--config={config}"]
            train += [f"--lake={lake}", f"--workdir={workdir}", *options]
            logs = f"--logs={logs_of(workdir)}"
            return pool.submit(slurm.main, [logs, *flags, "--", *train])

        yield start


def logs_of(workdir: Path) -> Path:
    return workdir.with_name(f"{workdir.name}_logs")


def log_text(workdir: Path, name: str = "worker-0") -> str:
    paths = [*logs_of(workdir).rglob(f"{name}.log")]
    return "".join(path.read_text() for path in paths)


def wait_for_line(workdir: Path, text: str, job: Future) -> None:
    while text not in log_text(workdir):
        assert not job.done(), log_text(workdir)
        time.sleep(0.02)


def pid_of_worker(number: int) -> int:
    """Return the process of the trainer that is this worker of the step that runs."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            variables = (path / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended, or is no process of ours
            continue
        is_worker = f"SLURM_PROCID={number}".encode() in variables
        if is_worker and words[0] == sys.executable.encode() and b"trainer.task" in words:
            return int(path.name)
    raise AssertionError(f"there is no worker {number}")


def starts(workdir: Path) -> int:
    return len(json.loads((workdir / "run.json").read_text())["starts"])


@exhaustive
def test_a_run_whose_worker_is_killed_is_queued_again_and_ends_as_an_undisturbed_one(
    launch, tmp_path, capsys
):
    expected, workdir = tmp_path / "expected", tmp_path / "run"
    assert launch(expected, "--nodes=2").result() == 0, capsys.readouterr()
    job = launch(workdir, "--nodes=2")
    wait_for_line(workdir, "epoch 1/6  |", job)
    os.kill(pid_of_worker(1), signal.SIGKILL)
    assert job.result() == 0, capsys.readouterr()

    output = capsys.readouterr().out
    assert "worker 0: another of the 2 workers is gone (worker 1 (n2:" in output
    for line in ("exit code 137\n", f"\n{AGAIN}\n", "resuming at step", "exit code 0\n"):
        assert line in output
    assert starts(workdir) == 2 and starts(expected) == 1
    assert log_text(workdir, "worker-1").count("one of 2 workers, at n2:") == 2
    actual_weights, expected_weights = weights(workdir), weights(expected)
    assert actual_weights.keys() == expected_weights.keys() and len(actual_weights) > 10
    for name, values in expected_weights.items():
        np.testing.assert_array_equal(actual_weights[name], values, err_msg=name)
    assert losses(workdir) == losses(expected)


def test_an_array_runs_once_per_number_and_ends_with_the_worst_code(
    conf, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("SLURM_CONF", str(conf))
    monkeypatch.setattr(slurm_job, "POLL_SECONDS", 0.2)
    words = [f"--logs={tmp_path}", "--array=n=0..2", "--", "sh", "-c", "echo this is {n}; exit {n}"]
    assert slurm.main(words) == 1
    output = capsys.readouterr().out
    number = re.search(r"^job (\d+): scancel", output, re.MULTILINE)[1]
    for n in range(3):
        assert f"\n{number}_{n}: this is {n}\n" in output
        assert f"\n{number}_{n}: exit code {n}\n" in output
    assert f"\njob {number}_2: failed\n" in output and f": {AGAIN}\n" not in output


@exhaustive
def test_a_run_that_meets_the_time_limit_is_queued_again_and_ends(launch, tmp_path, capsys):
    """Limits of Slurm are minutes, and it looks every 30 s, so the run is frozen meanwhile; Slurm's
    signal wakes it."""
    workdir = tmp_path / "run"
    job = launch(workdir, "--save_seconds=120")
    wait_for_line(workdir, "epoch 1/6  |", job)
    os.kill(pid_of_worker(0), signal.SIGSTOP)
    number, elapsed = subprocess.check_output(
        ["squeue", "--noheader", "--format=%i %M"], text=True
    ).split()
    minutes = int(elapsed.split(":")[-2])
    update = ["scontrol", "update", f"JobId={number}"]
    subprocess.run([*update, f"TimeLimit={minutes + 2}"], check=True)
    while AGAIN not in log_text(workdir, f"radlake-train-{number}"):
        assert not job.done(), capsys.readouterr()
        time.sleep(0.1)
    subprocess.run([*update, "TimeLimit=UNLIMITED"], check=True)
    assert job.result() == 0, capsys.readouterr()
    output = capsys.readouterr().out
    for line in ("stopped at step", "exit code 42", "resuming at step", "exit code 0"):
        assert line in output
    assert "SIGTERM: stopping after these steps" in log_text(workdir)
    assert starts(workdir) == 2
    assert json.loads((workdir / "metrics.json").read_text())["last"]["epoch"] == 6


@exhaustive
def test_ctrl_c_cancels_the_job_which_saves(conf, lake, tmp_path):
    config, workdir = tmp_path / "tiny.yaml", tmp_path / "run"
    config.write_text(TINY)
    command = [sys.executable, "-m", "launch.slurm", f"--logs={logs_of(workdir)}", "--"]
    command += [sys.executable, "-m", "trainer.task", "train", f"--config={config}"]
    command += [f"--lake={lake}", f"--workdir={workdir}", "--train.epochs=1000"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"SLURM_CONF": str(conf)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Ctrl-C is ignored where the tests run in the background, and a child inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for line in process.stdout:
        if line.startswith("epoch 2/1000  |"):
            break
    process.send_signal(signal.SIGINT)
    output, error = process.communicate()
    assert process.returncode == 130
    assert "is cancelled; the same command goes on from where it was saved" in error
    step = int(re.search(r"stopped at step (\d+)", output)[1])
    assert step >= 4 and (workdir / "checkpoints" / f"ckpt-{step}.index").exists()
    assert f"\n{AGAIN}\n" not in output


@exhaustive
def test_runs_side_by_side_under_one_srun_are_refused(conf, lake, tmp_path):
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY)
    train = f"{sys.executable} -m trainer.task train --config={config} --lake={lake}"
    script = f"exec {train} --workdir={tmp_path}/run_$SLURM_PROCID --train.seed=$SLURM_PROCID"
    process = subprocess.run(
        ["srun", "-N2", "sh", "-c", script],
        cwd=ROOT,
        env=os.environ | {"SLURM_CONF": str(conf)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2
    assert process.stderr.count("the 2 tasks of this srun were given different runs") == 2
    assert not [*tmp_path.rglob("config.yaml")]


@exhaustive
def test_a_conversion_is_a_job_on_one_node(conf, phantoms, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_CONF", str(conf))
    monkeypatch.chdir(ROOT)
    output = tmp_path / "phantoms" / "1.0.0"
    convert = [sys.executable, "-m", "beam.convert", f"--images={phantoms}/dicom/*.dcm"]
    convert += [f"--labels={phantoms}/train-rle.csv", f"--output={output}"]
    assert slurm.main([f"--logs={tmp_path / 'logs'}", "--", *convert]) == 0
    assert "records         40" in capsys.readouterr().out
    assert (output / "manifest.json").exists()
