"""Trackers against stand-ins of MLflow's and W&B's own calls, which can fail;
tests/whole/test_tracked_runs.py has MLflow's real server and W&B's real files."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import pytest
from makers import runs

from lake import InputError
from trainer import task
from trainer.config import required
from trainer.config.run import Config
from trainer.devices.workers import Worker
from trainer.display import mlflow_run, wandb_run
from trainer.display.board import RUN, Board
from trainer.display.tracker import FILE, FINISHED, STOPPED, Tracker
from trainer.training import stages

ADDRESS = "http://name:correct-horse" + "@server:5000"  # in two parts for detect-secrets
LAST = {"train": {"loss": 0.1, "auc": 2 / 3}, "val": {"auc": 1 / 3}}


class MlflowException(Exception):
    pass


class Metric(NamedTuple):
    key: str
    value: float
    timestamp: int
    step: int


class Param(NamedTuple):
    key: str
    value: str


class Server:
    """What MLflow's client calls, and what it keeps of one run."""

    def __init__(self):
        self.runs, self.status, self.address = [], None, None
        self.params, self.metrics, self.files = {}, [], []
        self.calls_left = 1000  # until it does not answer any more

    def _answer(self) -> None:
        self.calls_left -= 1
        if self.calls_left < 0:
            raise MlflowException(f"API request to {ADDRESS}/api failed")

    def get_experiment_by_name(self, name: str) -> None:
        self._answer()

    def create_experiment(self, name: str) -> str:
        self._answer()
        return "1"

    def create_run(self, experiment_id: str, run_name: str) -> SimpleNamespace:
        self._answer()
        self.runs.append(run_name)
        return SimpleNamespace(info=SimpleNamespace(run_id=f"run{len(self.runs)}"))

    def update_run(self, run_id: str, status: str) -> None:
        self._answer()
        self.status = status

    set_terminated = update_run

    def get_run(self, run_id: str) -> SimpleNamespace:
        self._answer()
        values = {metric.key: metric.value for metric in self.metrics}
        return SimpleNamespace(data=SimpleNamespace(params=self.params, metrics=values))

    def log_batch(self, run_id: str, metrics=(), params=()) -> None:
        self._answer()
        assert not self.params.keys() & {param.key for param in params}
        self.params |= dict(params)
        self.metrics += metrics

    def get_metric_history(self, run_id: str, key: str) -> list[Metric]:
        self._answer()
        return [metric for metric in self.metrics if metric.key == key]

    def log_artifact(self, run_id: str, path: str) -> None:
        self._answer()
        self.files.append(Path(path).name)

    def points(self) -> dict[tuple[str, int], float]:
        """Return {(name, step): value}; no point is there twice."""
        points = {(metric.key, metric.step): metric.value for metric in self.metrics}
        assert len(points) == len(self.metrics)
        return points


@pytest.fixture
def server(monkeypatch) -> Server:
    """A server at ADDRESS, and an mlflow that knows no other."""
    server = Server()

    def client(tracking_uri: str) -> Server:
        server.address = tracking_uri
        return server

    mlflow = ModuleType("mlflow")
    mlflow.MlflowClient, mlflow.get_tracking_uri = client, lambda: "sqlite:////here/mlflow.db"
    mlflow.entities = SimpleNamespace(Metric=Metric, Param=Param)
    exceptions = ModuleType("mlflow.exceptions")
    exceptions.MlflowException = MlflowException
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "mlflow.exceptions", exceptions)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", ADDRESS)
    for variable in mlflow_run.ENVIRONMENT:
        monkeypatch.setenv(variable, "")
    return server


CONFIG = Config.model_validate({"model": {"kind": "unet"}, "train": {"tracker": "mlflow"}})


class Training:
    """What a run leaves in its workdir: curves at the steps 2, 4, …, an epoch at 4, 8, …"""

    def __init__(self, workdir: Path):
        self.workdir, self.board = workdir, Board(workdir, 0)

    def go_on(self, first: int, last: int) -> None:
        for step in range(first, last + 1, 2):
            self.board.scalars("train", step, {"loss": 1 / step})
        if last % 4 == 0:
            for curve, values in LAST.items():
                self.board.scalars(curve, last, values)
            self.board.scalars(RUN, last, {"best/auc": 1 / 3})
            best = {"score": "auc", "value": 1 / 3, "epoch": last // 4}
            content = {"last": {"epoch": last // 4, "step": last, **LAST}, "best": best}
            (self.workdir / "metrics.json").write_text(json.dumps(content))
        self.board.flush()


@pytest.fixture
def training(tmp_path) -> Training:
    return Training(tmp_path / "runs" / "a")


def started(training: Training, step: int = 0) -> Tracker:
    tracker = Tracker(training.workdir, CONFIG)
    tracker.start(step, is_trained=False)
    return tracker


def test_a_run_is_sent_with_all_digits_and_ends(server, training, capsys):
    tracker = started(training)
    assert server.status == "RUNNING" and server.runs == ["runs/a"] and server.address == ADDRESS
    assert server.params["optimizer.learning_rate"] == "0.001"
    training.go_on(2, 4)
    tracker.send(4)
    curves = {
        (f"{curve}/{tag}", 4): v for curve, values in LAST.items() for tag, v in values.items()
    }
    assert server.points() == curves | {("train/loss", 2): 0.5, ("best/auc", 4): 1 / 3}
    training.go_on(6, 8)
    tracker.send(6)  # a checkpoint before the epoch is complete: what is later stays here
    assert max(step for _, step in server.points()) == 6
    tracker.end(FINISHED, [training.workdir / "metrics.json"])
    assert server.status == "FINISHED" and server.files == ["metrics.json"]
    text = (training.workdir / FILE).read_text() + capsys.readouterr().out
    assert "run1 at http://server:5000" in text and "correct-horse" not in text


@pytest.mark.parametrize("num_calls", [0, 1, 2])
def test_what_a_server_did_not_take_comes_later_and_nothing_twice(
    server, training, monkeypatch, capsys, num_calls
):
    """It takes a part of the numbers before it stops to answer."""
    monkeypatch.setattr(mlflow_run, "METRICS_AT_ONCE", 2)
    tracker = started(training)
    training.go_on(2, 4)
    server.calls_left = num_calls
    tracker.send(4)
    assert len(server.metrics) == 2 * num_calls
    message = capsys.readouterr().err
    assert message.startswith("warning: train.tracker=mlflow: steps 2 to 4 are not there yet")
    assert "correct-horse" not in message
    training.go_on(6, 8)
    server.calls_left = 1000
    if num_calls == 1:  # the process was killed meanwhile
        tracker = started(training)
    tracker.send(8)
    assert len(server.points()) == 10 and server.runs == ["runs/a"]


def test_a_server_that_is_away_at_the_end_gets_all_by_the_same_command(server, training, capsys):
    tracker = started(training)
    server.calls_left = 0
    training.go_on(2, 4)
    tracker.send(4)
    tracker.end(FINISHED)
    message = capsys.readouterr().err
    assert "steps 2 to 4, files and end are not there; the same command sends them" in message
    server.calls_left = 1000
    tracker = Tracker(training.workdir, CONFIG)
    tracker.start(4, is_trained=True)
    tracker.end(FINISHED)
    assert len(server.points()) == 5 and server.status == "FINISHED"
    tracker = Tracker(training.workdir, CONFIG)
    tracker.start(4, is_trained=True)  # nothing is left to send
    assert tracker.run is None


def test_a_server_that_does_not_answer_at_the_start_is_one_message(server, training):
    server.calls_left = 0
    with pytest.raises(InputError) as error:
        started(training)
    message = str(error.value)
    assert "http://server:5000 does not take the run" in message
    assert "MLFLOW_TRACKING_URI" in message and "correct-horse" not in message


def test_a_run_of_this_machine_goes_on_where_it_began(server, training, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    started(training).end(STOPPED)
    assert server.status == "KILLED"
    sys.modules["mlflow"].get_tracking_uri = lambda: "sqlite:////elsewhere/mlflow.db"
    started(training)
    assert server.address == "sqlite:////here/mlflow.db" and len(server.runs) == 1


def test_scores_of_evaluate_join_a_run_that_has_ended(server, training, capsys):
    page = training.workdir / "report.html"
    scores = {"test": {"auc": 0.75, "auc/Mass (left)": 0.5, "dice_mean": float("nan")}}
    tracker = started(training)
    Tracker(training.workdir, CONFIG).add_evaluation("evaluate", scores, page)
    assert "no run of" in capsys.readouterr().out and not server.metrics
    tracker.end(FINISHED)
    for _ in range(2):
        Tracker(training.workdir, CONFIG).add_evaluation("evaluate", scores, page)
    names = {"evaluate/test/auc": 0.75, "evaluate/test/auc/Mass _left_": 0.5}
    assert server.points() == {(name, 0): value for name, value in names.items()}
    assert server.files == 2 * ["report.html", "metrics.json"] and server.status == "FINISHED"
    server.calls_left = 0
    Tracker(training.workdir, CONFIG).add_evaluation("evaluate", scores, page)
    assert "evaluate again sends them" in capsys.readouterr().err


def test_evaluate_without_the_package_is_a_warning(server, training, monkeypatch, capsys):
    """As on another machine than that of the training."""
    started(training).end(FINISHED)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    page = training.workdir / "report.html"
    Tracker(training.workdir, CONFIG).add_evaluation("evaluate", {"test": {"auc": 0.5}}, page)
    warning = capsys.readouterr().err
    assert "evaluate again sends them" in warning and "mlflow" in warning


def test_a_finished_run_is_sent_by_the_same_command(
    server, finished_run, lake, tmp_path, monkeypatch
):
    workdir = shutil.copytree(finished_run, tmp_path / "run")
    config = tmp_path / "tiny.yaml"
    config.write_text(runs.TINY)
    monkeypatch.setattr(required, "check_tracker", lambda config: None)
    options = "--train.epochs=2", "--train.tracker=mlflow"
    assert task.main(runs.command(config, lake, workdir, *options)) == 0
    points = server.points()
    for curve in ("train", "val"):
        for tag, values in runs.scalars(workdir / curve).items():
            for step, value in values.items():
                assert points[f"{curve}/{tag}", step] == pytest.approx(value, rel=1e-6)
    last = json.loads((workdir / "metrics.json").read_text())["last"]
    assert all(points[f"val/{tag}", last["step"]] == value for tag, value in last["val"].items())
    assert server.files == ["config.yaml", "metrics.json", "run.json", "best.weights.h5"]


def test_only_the_chief_logs(tmp_path):
    with stages._tracked(Worker(1, ("a:1", "b:1")), tmp_path, CONFIG) as tracker:
        assert tracker is None


@pytest.mark.parametrize("tool", ["mlflow", "wandb"])
def test_a_package_that_is_not_installed_is_named(tool, lake, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    config = tmp_path / "tiny.yaml"
    config.write_text(runs.TINY)
    assert task.main(runs.command(config, lake, tmp_path / "run", f"--train.tracker={tool}")) == 2
    message = f"train.tracker={tool} needs {tool}; pip install 'radlake[{tool}]'"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


class WandbRun:
    """What is called of W&B's run; `rows` are what its server has by now."""

    def __init__(self, rows: dict[int, dict], **options):
        self.rows, self.options, self.url = rows, options, "http://server/run"
        self.dir, self.files, self.exit_code = "/wandb/offline-run-1/files", [], None
        self.summary, self.is_preempted = {}, False
        self.step = max(rows, default=-1) + 1 if options["resume"] else 0

    def log(self, values: dict, step: int, commit: bool) -> None:
        assert step >= self.step and commit
        self.rows[step] = values
        self.step = step + 1

    def save(self, path: Path, base_path: Path, policy: str) -> None:
        self.files.append(str(path.relative_to(base_path)))

    def mark_preempting(self) -> None:
        self.is_preempted = True

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


@pytest.fixture
def wandb_runs(monkeypatch) -> list[WandbRun]:
    """The runs that W&B begins or goes on with, of one server."""
    begun, rows = [], {}

    def init(**options) -> WandbRun:
        begun.append(WandbRun(rows, **options))
        return begun[-1]

    wandb = ModuleType("wandb")
    wandb.init, wandb.Settings, wandb.Error = init, dict, RuntimeError
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for name in ("WANDB_MODE", "WANDB_DIR", *wandb_run.NAMES):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_SILENT", "WANDB_ERROR_REPORTING"):
        monkeypatch.setenv(name, "")
    return begun


WANDB = CONFIG.model_copy(update={"train": CONFIG.train.model_copy(update={"tracker": "wandb"})})


def test_wandb_without_a_server_gets_a_start_at_its_end(wandb_runs, training, capsys):
    tracker = Tracker(training.workdir, WANDB)
    tracker.start(0, is_trained=False)
    training.go_on(2, 4)
    tracker.send(4)  # and then a kill: W&B has nothing yet
    tracker = Tracker(training.workdir, WANDB)
    tracker.start(4, is_trained=False)
    training.go_on(6, 8)
    tracker.send(8)
    assert not wandb_runs
    tracker.end(STOPPED)
    [run] = wandb_runs
    assert run.rows.keys() == {2, 4, 6, 8} and run.rows[8]["val/auc"] == 1 / 3
    assert run.is_preempted and run.exit_code == 42 and run.options["mode"] == "offline"
    assert run.options["settings"]["console"] == "off" and run.options["dir"] == training.workdir
    assert "`wandb sync /wandb/offline-run-1` sends it" in capsys.readouterr().out
    tracker = Tracker(training.workdir, WANDB)
    tracker.start(8, is_trained=True)
    tracker.end(FINISHED, [training.workdir / "metrics.json"])
    assert wandb_runs[1].files == ["a/metrics.json"] and wandb_runs[1].exit_code == 0
    assert wandb_runs[1].options["id"] == run.options["id"]


def test_wandbs_server_knows_what_it_has(wandb_runs, training, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "none")
    tracker = Tracker(training.workdir, WANDB)
    tracker.start(0, is_trained=False)
    training.go_on(2, 4)
    tracker.send(4)
    training.go_on(6, 8)
    tracker.send(8)
    for step in (6, 8):  # W&B's program had not sent these before it was killed
        del wandb_runs[0].rows[step]
    Tracker(training.workdir, WANDB).start(8, is_trained=False)
    assert wandb_runs[1].rows.keys() == {2, 4, 6, 8}
    assert wandb_runs[1].options["resume"] == "allow"


@pytest.mark.parametrize(
    ("variables", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_API_KEY": "x"}, "online"),
        ({"WANDB_BASE_URL": "http://server"}, "online"),
        ({"WANDB_API_KEY": "x", "WANDB_MODE": "offline"}, "offline"),
        ({"WANDB_MODE": "online"}, "online"),
    ],
)
def test_wandb_sends_nothing_unless_the_environment_says_where(variables, mode, monkeypatch):
    for name in ("WANDB_MODE", *wandb_run.NAMES):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert wandb_run.mode_of_environment() == mode
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with pytest.raises(InputError, match="WANDB_MODE=disabled"):
        wandb_run.mode_of_environment()
