"""radlake tune: many runs share a folder, survive kills, and the best values come out. In most
tests a script stands for `train`: it writes the scores of a planted optimum."""

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from makers.marks import exhaustive

from lake import InputError
from trainer import task
from trainer.config import files
from trainer.tuning import space, study, trials, tune

ROOT = Path(__file__).parents[3]
# Best is a rate of 0.001 with the optimizer sgd; a run whose rate is above 0.05 fails, one of
# 0.04 to 0.05 is interrupted, as by max_hours. It goes on where it was stopped, as train does.
RUN = """
import json, math, signal, sys, time
from pathlib import Path
values = dict(word[2:].split("=", 1) for word in sys.argv[1:])
workdir = Path(values["workdir"])
workdir.mkdir(exist_ok=True)
file, rate = workdir / "metrics.json", float(values["optimizer.learning_rate"])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))
if rate > 0.05:
    sys.exit("the loss is not a number")
score = 1 - abs(math.log10(rate) + 3) / 4 - 0.2 * (values.get("optimizer.kind") != "sgd")
last = json.loads(file.read_text())["last"]["epoch"] if file.exists() else 0
with (workdir / "starts").open("a") as starts:
    starts.write(f"{last}\\n")
for epoch in range(last + 1, 5):
    time.sleep(float(values["train.seed"]) / 1000)
    scores = {"dice_positives_at_half_network_size": score * epoch / 4}
    content = {"last": {"epoch": epoch, "val": scores}, "best": {"value": score * epoch / 4}}
    file.with_suffix(".new").write_text(json.dumps(content))
    file.with_suffix(".new").replace(file)
    if 0.04 <= rate and epoch == 2 and not last:
        sys.exit(42)
"""
START = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # may be ignored where tests run
from trainer import task
from trainer.tuning import trials, tune
trials.TRAIN, trials.POLL_SECONDS, tune.WAIT_SECONDS = [sys.executable, sys.argv[1]], 0.02, 0.05
from lake import signals
signals.arm(goes_on=True)
sys.exit(task.main(sys.argv[2:]))
"""
SPACE = {
    "optimizer.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "optimizer.kind": ["sgd", "adamw"],
}
MODEL = {"kind": "unet", "filters": 2, "depth": 1}


@pytest.fixture
def words(lake, tmp_path, monkeypatch) -> list[str]:
    """The words of a command of 8 trials, each of 4 epochs of 30 ms."""
    (tmp_path / "run.py").write_text(RUN)
    (tmp_path / "start.py").write_text(START)
    (tmp_path / "config.yaml").write_text(json.dumps({"model": MODEL, "train": {"epochs": 4}}))
    write_space(tmp_path, SPACE)
    monkeypatch.setattr(trials, "TRAIN", [sys.executable, str(tmp_path / "run.py")])
    monkeypatch.setattr(trials, "POLL_SECONDS", 0.005)
    config, folder = tmp_path / "config.yaml", tmp_path / "tuning"
    words = ["tune", f"--config={config}", f"--lake={lake}", f"--space={tmp_path / 'space.yaml'}"]
    return [*words, "--trials=8", f"--workdir={folder}", "--train.seed=30"]


def write_space(folder: Path, content: dict) -> None:
    (folder / "space.yaml").write_text(json.dumps(content))


def start(words: list[str], folder: Path) -> subprocess.Popen:
    """Start the command in a process of its own, and in a session of its own."""
    command = [sys.executable, str(folder / "start.py"), str(folder / "run.py"), *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **streams)


def rows_of(folder: Path) -> list[dict]:
    with (folder / tune.TABLE).open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_best_values_come_out(words, tmp_path, capsys):
    assert task.main(words) == 0
    printed, folder = capsys.readouterr().out, tmp_path / "tuning"
    rows = rows_of(folder)
    complete = [row for row in rows if row["state"] == "complete"]
    best = max(complete, key=lambda row: float(row["score"]))
    assert len(rows) == 8 and best["optimizer.kind"] == '"sgd"'
    config = files.load(folder / tune.BEST, [])
    assert config.optimizer.learning_rate == pytest.approx(float(best["optimizer.learning_rate"]))
    assert config.optimizer.kind == "sgd" and config.train.seed == 30
    assert f"best config: {folder / tune.BEST}" in printed and "importance (PED-ANOVA" in printed
    assert (folder / tune.PICTURE).read_bytes().startswith(b"\x89PNG")
    # More trials go on with the same ones; no run starts again.
    assert task.main([*words, "--trials=9"]) == 0
    assert rows_of(folder)[:8] == rows and len(rows_of(folder)) == 9
    starts = [path.read_text() for path in sorted(folder.glob("trials/*/starts"))]
    assert starts == ["0\n"] * 9


def test_the_values_depend_on_the_seed_alone(words, tmp_path):
    """A killed command goes on with the values that it would have drawn."""
    assert task.main(words) == 0
    (tmp_path / "tuning").rename(tmp_path / "whole")
    assert task.main([*words, "--trials=3"]) == 0 == task.main(words)
    columns = [
        [[row[name] for name in SPACE] for row in rows_of(tmp_path / name)]
        for name in ("whole", "tuning")
    ]
    assert columns[0][:6] == columns[1][:6]  # later ones may learn of a run that was pruned sooner
    assert len({row[0] for row in columns[0]}) == 8


def test_a_bad_run_is_ended_before_its_last_epoch(words, tmp_path):
    write_space(tmp_path, {"optimizer.learning_rate": {"low": 1e-6, "high": 1e-3, "log": True}})
    words += ["--trials=10", "--optimizer.kind=sgd"]
    assert task.main(words) == 0
    rows = rows_of(tmp_path / "tuning")
    pruned = [row for row in rows if row["state"] == "pruned"]
    assert pruned and all(int(row["epochs"]) < 4 for row in pruned)
    rates = [float(row["optimizer.learning_rate"]) for row in rows]
    assert all(float(row["optimizer.learning_rate"]) < max(rates) / 2 for row in pruned)
    assert task.main([*words, "--prune=none"]) == 2  # another tuning


@pytest.mark.parametrize(
    ("kills", "together", "count"), [(1, 1, 5), pytest.param(2, 2, 12, marks=exhaustive)]
)
def test_a_process_takes_the_trials_of_a_killed_one(words, tmp_path, kills, together, count):
    folder, generator = tmp_path / "tuning", random.Random(0)
    words = [*words, f"--trials={count}"]
    for _ in range(kills):
        process = start(words, tmp_path)
        trials_so_far = len(list(folder.glob("trials/*/starts")))
        while len(list(folder.glob("trials/*/starts"))) < trials_so_far + 2:
            time.sleep(0.01)
        time.sleep(generator.random() / 10)
        process.kill()  # not its run, which goes on to its end
        process.communicate()
    processes = [start(words, tmp_path) for _ in range(together)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * together, outputs
    rows = rows_of(folder)
    assert [int(row["trial"]) for row in rows] == list(range(count))
    assert {row["state"] for row in rows} <= {"complete", "pruned"}
    ended = [re.findall(r"^trial (\d+),", output, re.MULTILINE) for output in outputs]
    assert len(ended[0]) < count  # the others were those of killed processes, or of the other one


def test_a_run_that_a_killed_process_left_starting_is_waited_for(words, tmp_path, monkeypatch):
    """It takes the workdir while the command of the same trial starts another process."""
    folder = tmp_path / "tuning" / "trials" / "0000"
    (tmp_path / "refused.py").write_text("import sys\nsys.exit('error: process 1 trains here')")
    own_run, refused = trials.TRAIN, [sys.executable, str(tmp_path / "refused.py")]
    monkeypatch.setattr(trials, "TRAIN", refused)
    monkeypatch.setattr(tune, "WAIT_SECONDS", 0.01)
    answers = iter([True, False])

    def is_trained_now(workdir: Path) -> bool:
        if not workdir.exists():  # as _take asks of a new trial
            workdir.mkdir(parents=True)
            return False
        is_busy = next(answers, False)
        monkeypatch.setattr(trials, "TRAIN", refused if is_busy else own_run)
        return is_busy

    monkeypatch.setattr(study, "is_trained_now", is_trained_now)
    assert task.main([*words, "--trials=1"]) == 0
    assert rows_of(tmp_path / "tuning")[0]["state"] == "complete"
    assert (folder / "starts").read_text() == "0\n"


def test_ctrl_c_lets_the_run_save(words, tmp_path):
    process = start([*words, "--train.seed=200"], tmp_path)
    while not list((tmp_path / "tuning").glob("trials/*/metrics.json")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it
    assert "SIGINT: stopped; the same command goes on" in process.communicate()[0]
    assert process.returncode == 42
    process = start([*words, "--trials=1", "--train.seed=200"], tmp_path)
    assert process.communicate() and process.returncode == 0
    assert len((tmp_path / "tuning" / "trials" / "0000" / "starts").read_text().split()) == 2


def test_an_interrupted_run_goes_on(words, tmp_path, capsys):
    write_space(tmp_path, {"optimizer.learning_rate": [0.04, 0.041]})
    assert task.main([*words, "--trials=1"]) == 42
    assert "the run of trial 0 was interrupted; the same command" in capsys.readouterr().out
    assert task.main([*words, "--trials=1"]) == 0
    assert (tmp_path / "tuning" / "trials" / "0000" / "starts").read_text() == "0\n2\n"
    assert rows_of(tmp_path / "tuning")[0]["epochs"] == "4"


def test_values_that_were_drawn_before_are_not_run_again(words, tmp_path, capsys):
    write_space(tmp_path, {"optimizer.learning_rate": [1e-3, 0.1]})
    assert task.main(words) == 0
    assert re.search(r"the values of trial \d again, so it was not run", capsys.readouterr().out)
    assert len(rows_of(tmp_path / "tuning")) == 8
    assert len(list((tmp_path / "tuning").glob("trials/*/starts"))) == 1


def test_a_failed_run_is_listed_and_the_others_go_on(words, tmp_path, capsys):
    write_space(tmp_path, {"optimizer.learning_rate": [1e-3, 0.1, 0.2]})
    assert task.main(words) == 0
    printed = capsys.readouterr().out
    assert "failed: learning_rate" in printed and "the loss is not a number" in printed
    assert {row["state"] for row in rows_of(tmp_path / "tuning")} >= {"complete", "failed"}


def test_all_failed(words, tmp_path, capsys):
    write_space(tmp_path, {"optimizer.learning_rate": [0.1, 0.2]})
    assert task.main([*words, "--trials=2"]) == 1
    assert "no trial is complete" in capsys.readouterr().err


def test_values_that_clash_only_together_fail_in_their_trial(words, tmp_path, capsys):
    write_space(tmp_path, {"optimizer.ema": [0, 0.9], "optimizer.swa_epochs": [0, 1]})
    assert task.main([*words, "--trials=6", "--optimizer.learning_rate=0.001"]) in (0, 1)
    assert "ema and swa_epochs are two averages" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected section.field: values"),
        ({"optimizer.learning_rate": 0.1}, "0.1: expected a list of values, or a range"),
        ({"optimizer.learning_rate": [0.1]}, "at least two values, all different"),
        ({"optimizer.learning_rate": {"low": 1, "high": 0.1}}, "expected low < high"),
        ({"optimizer.learning_rate": {"low": "a", "high": 1}}, "'a': expected a number"),
        ({"optimizer.learning_rate": {"low": 0, "high": 1, "log": True}}, "has a positive low"),
        ({"optimizer.learning_rat": {"low": 0.1, "high": 1}}, "learning_rat"),
        ({"optimizer.learning_rate": {"low": -1.0, "high": 1}}, "learning_rate"),
        ({"train.seed": [1, 2]}, "--train.seed is given, and --space has it, too"),
        ({"train.keep_best": ["auc", "last"]}, "trials are compared by one score"),
    ],
)
def test_mistakes_in_the_space(words, tmp_path, capsys, content, message):
    write_space(tmp_path, content)
    assert task.main(words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "tuning" / "study.json").exists()


def test_other_mistakes(words, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {}}')
    assert task.main(words) == 2 and "one of several workers" in capsys.readouterr().err
    monkeypatch.delenv("TF_CONFIG")
    assert task.main([*words, "--trials=1"]) == 0
    assert task.main([*words, "--seed=1"]) == 2
    assert "is a tuning with seed 0, not 1" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    assert task.main([*words, f"--workdir={tmp_path / 'other'}"]) == 2
    assert "holds files of something else" in capsys.readouterr().err


def test_numbers_of_a_space():
    """PyYAML reads 1e-4 and 1e-05 as texts."""
    path = ROOT / "docs" / "tuning.md"
    [block] = [part for part in path.read_text().split("```") if part.startswith("yaml")]
    assert "learning_rate: {low: 1e-4" in block
    assert space._distribution(["1e-4", 0.1, "adam"]).choices == ("0.0001", "0.1", '"adam"')
    with pytest.raises(InputError, match="no such file"):
        space.read(path.with_name("nothing.yaml"))
    distribution = space._distribution({"low": "1e-4", "high": "1e-2", "log": True})
    assert (distribution.low, distribution.high) == (1e-4, 1e-2)
    texts = space.overrides({"a.b": 1e-5, "a.c": 12}, {"a.b": distribution, "a.c": distribution})
    assert texts == ["--a.b=1.0e-05", "--a.c=12"]


@exhaustive
def test_twelve_runs_of_train_killed_twice(lake, tmp_path):
    """Real runs: the planted optimum is the one rate that learns, at least the empty mask; what
    learns nothing marks nearly all with this seed."""
    rates = [1e-9, 1e-8, 1e-2]
    write_space(tmp_path, {"optimizer.learning_rate": rates, "optimizer.clip_norm": [0.5, 1.0]})
    config = {
        "model": {"kind": "unet", "filters": 4, "depth": 2},
        "data": {"side": 64, "batch_size": 4, "positive_share": [0.7, 0.7]},
        "augment": {"affine": {"rotate_deg": 0, "scale": 0, "shift": 0}},
        "train": {"epochs": 6, "device": "cpu", "keep_best": "dice_mean_at_half_network_size"},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    words = [f"--config={tmp_path / 'config.yaml'}", f"--lake={lake}", "--trials=12"]
    words += [f"--space={tmp_path / 'space.yaml'}", f"--workdir={tmp_path / 'tuning'}"]
    command = [sys.executable, "-m", "trainer.task", "tune", *words]
    for seconds in (25, 40):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        time.sleep(seconds)
        process.kill()
        process.wait()
    assert subprocess.run(command, cwd=ROOT).returncode == 0
    rows = rows_of(tmp_path / "tuning")
    assert len(rows) == 12 and {row["state"] for row in rows} <= {"complete", "pruned"}
    best = max(rows, key=lambda row: float(row["score"]))
    assert float(best["optimizer.learning_rate"]) == 1e-2
    assert (tmp_path / "tuning" / "trials" / "0000" / "config.yaml").exists()
