"""Runs that are tracked, killed and repeated: by MLflow's real server on loopback, and in W&B's
real files."""

import contextlib
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from makers import runs
from makers.marks import exhaustive

ROOT = Path(__file__).parents[2]
EPOCHS = "--train.epochs=12"
NOT_SET = {"MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_DIR"}
FILES = ("config.yaml", "metrics.json", "run.json")
START_SECONDS = 300  # for MLflow's server, of a busy machine

pytestmark = [exhaustive, pytest.mark.slow]


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(runs.TINY)
    return path


@contextlib.contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    """Run MLflow's server in the block; yield its address."""
    address = f"http://127.0.0.1:{port}"
    words = [
        *(sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}"),
        *("--workers=1", f"--backend-store-uri=sqlite:///{folder}/server.db"),
        f"--artifacts-destination={folder}/artifacts",
    ]
    # Its jobs, of language models, are seven processes.
    off = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment = os.environ | off
    with open(folder / "server.log", "ab") as log:
        process = subprocess.Popen(
            words, env=environment, stdout=log, stderr=log, cwd=folder, start_new_session=True
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError):
                connection = http.client.HTTPConnection("127.0.0.1", port)
                connection.request("GET", "/health")
                assert connection.getresponse().status == 200
                break
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextlib.contextmanager
def proxy() -> Iterator[tuple[dict[str, str], list[bytes]]]:
    """Yield (an environment whose every way out leads to a proxy that passes nothing on, the first
    bytes of each request that came to it)."""
    requests = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def listen() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    requests.append(connection.recv(100))
                    connection.close()

        threading.Thread(target=listen, daemon=True).start()
        names = "http_proxy", "https_proxy", "all_proxy"
        variables = {name: address for one in names for name in (one, one.upper())}
        yield variables | {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}, requests
        listener.shutdown(socket.SHUT_RDWR)


def run_task(
    arguments: list[str],
    variables: dict[str, str],
    line_start: str = "never",
    action: Callable[[subprocess.Popen], None] = subprocess.Popen.kill,
) -> str:
    """Run trainer.task in a process of its own; return all that it printed. The action, by default
    a SIGKILL, comes at the first line that begins with `line_start`."""
    environment = {k: v for k, v in os.environ.items() if k not in NOT_SET} | variables
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.task", *arguments],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    lines, is_killed = [], False
    for line in process.stdout:
        lines.append(line)
        if line.startswith(line_start) and not is_killed:
            action(process)
            is_killed = True
    is_end_expected = line_start == "never" or action is not subprocess.Popen.kill
    assert process.wait() == (0 if is_end_expected else -signal.SIGKILL), "".join(lines)
    assert is_killed == (line_start != "never"), "".join(lines)
    return "".join(lines)


def points_of(client, run_id: str) -> dict[tuple[str, int], float]:
    """Return {(name, step): value} of all that MLflow's run has; nothing is there twice."""
    points = {}
    for name in client.get_run(run_id).data.metrics:
        for metric in client.get_metric_history(run_id, name):
            assert (name, metric.step) not in points
            points[name, metric.step] = metric.value
    return points


def assert_is_complete(points: dict[tuple[str, int], float], workdir: Path) -> None:
    """Compare with TensorBoard's files, which are float32, and with metrics.json."""
    expected = {}
    for curve in ("train", "val"):
        for tag, values in runs.scalars(workdir / curve).items():
            expected |= {(f"{curve}/{tag}", step): value for step, value in values.items()}
    for tag, values in runs.scalars(workdir).items():
        expected |= {(tag, step): value for step, value in values.items()}
    curves = {key: value for key, value in points.items() if not key[0].startswith("evaluate")}
    assert curves == pytest.approx(expected, rel=1e-6) and len(curves) > 100
    metrics = json.loads((workdir / "metrics.json").read_text())
    last = metrics["last"]
    for curve in ("train", "val"):
        for tag, value in last[curve].items():
            assert points[f"{curve}/{tag}", last["step"]] == value
    score, value = metrics["best"]["score"], metrics["best"]["value"]
    bests = {step: v for (name, step), v in points.items() if name == f"best/{score}"}
    assert bests[max(bests)] == pytest.approx(value, rel=1e-6)  # it may be of the killed start


def test_mlflow_has_one_run_of_one_that_was_killed_and_whose_server_was_away(
    config, lake, tmp_path
):
    mlflow = pytest.importorskip("mlflow")
    workdir, port = tmp_path / "run", free_port()
    arguments = runs.command(config, lake, workdir, EPOCHS, "--train.tracker=mlflow")
    with proxy() as (variables, requests):
        variables |= {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"}
        variables |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
        with contextlib.ExitStack() as stack:
            client = mlflow.MlflowClient(stack.enter_context(mlflow_server(tmp_path, port)))
            run_task(arguments, variables, "epoch 2/12  |")
            experiment_id = client.get_experiment_by_name("radlake").experiment_id
            [run] = client.search_runs([experiment_id])
            assert run.info.status == "RUNNING" and run.info.user_id == "unknown"
            assert run.data.params["optimizer.learning_rate"] == "0.001"
            assert {step for _, step in points_of(client, run.info.run_id)} >= {3, 6}
            text = run_task(arguments, variables, "epoch 5/12  |", lambda _: stack.close())
        assert "resuming at step " in text and "not there yet" in text
        assert text.splitlines()[-2].endswith("all 12 epochs are done")
        assert text.splitlines()[-1].startswith("warning: train.tracker=mlflow: steps ")
        with mlflow_server(tmp_path, port):
            run_task(arguments, variables)
            [run] = client.search_runs([experiment_id])
            assert run.info.status == "FINISHED"
            points = points_of(client, run.info.run_id)
            assert_is_complete(points, workdir)
            evaluation = ["evaluate", f"--workdir={workdir}", "--bootstrap=10"]
            for _ in range(2):
                assert "scores and report are in" in run_task(evaluation, variables)
            more_points = points_of(client, run.info.run_id)
            files = {file.path for file in client.list_artifacts(run.info.run_id)}
            [run] = client.search_runs([experiment_id])
    assert not requests
    metrics = json.loads((workdir / "metrics.json").read_text())
    scores = {
        (f"evaluate/{split}/{name}", 0): value
        for split, values in metrics["evaluate"]["splits"].items()
        for name, value in values.items()
        if value is not None
    }
    assert more_points == points | scores and len(scores) > 20
    assert files == {"best.weights.h5", "report.html", *FILES}


def records(path: Path) -> Iterator:
    """Yield the records of a .wandb file: a LevelDB log behind a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    content, place, record = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:  # no header fits into the rest of the block
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", content[place : place + 7])
        record += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


def test_wandb_has_each_step_of_a_killed_run_once_in_its_files_and_sends_nothing(
    config, lake, tmp_path
):
    pytest.importorskip("wandb")
    workdir = tmp_path / "run"
    arguments = runs.command(config, lake, workdir, EPOCHS, "--train.tracker=wandb")
    with proxy() as (variables, requests):
        run_task(arguments, variables, "epoch 2/12  |")
        text = run_task(arguments, variables)
        assert "resuming at step " in text and "`wandb sync " in text and "\nwandb:" not in text
        evaluation = ["evaluate", f"--workdir={workdir}", "--bootstrap=10"]
        assert "scores and report are in" in run_task(evaluation, variables)
    assert not requests
    # Of the second start and of evaluate, in the order in which `wandb sync` joins them.
    paths = sorted((workdir / "wandb").glob("offline-run-*/*.wandb"))
    assert len(paths) == 2 and len({path.name for path in paths}) == 1
    points, scores = {}, {}
    for path in paths:
        for record in records(path):
            assert record.run.host in ("", "-") and not record.run.git.remote_url
            step = record.history.step.num
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                if not name.startswith("_"):
                    assert (name, step) not in points
                    points[name, step] = json.loads(item.value_json)
            for item in record.summary.update:
                scores[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    assert_is_complete(points, workdir)
    metrics = json.loads((workdir / "metrics.json").read_text())
    for name, value in metrics["evaluate"]["splits"]["test"].items():
        assert value is None or scores[f"evaluate/test/{name}"] == value
    folders = [path.parent / "files" / "run" for path in paths]
    assert (folders[0] / "best.weights.h5").stat().st_size
    assert (folders[1] / "report.html").read_text() == (workdir / "report.html").read_text()
