"""trainer.task benchmark: the numbers belong together, the prediction is a line's."""

import json
import math

import pytest
from makers.marks import exhaustive

from lake import InputError
from trainer import task
from trainer.training import benchmark

TINY = """
model: {kind: unet, depth: 1, filters: 4, norm: batch}
data: {side: 32, batch_size: 4}
"""


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def run(config_file, lake, *options: str) -> int:
    flags = ["--config", str(config_file), "--lake", str(lake), "--steps", "2", *options]
    return task.main(["benchmark", *flags])


@exhaustive
def test_a_run_s_rates(config_file, lake, tmp_path, capsys):
    assert run(config_file, lake, "--json", str(tmp_path / "b" / "found.json")) == 0
    [row] = json.loads((tmp_path / "b" / "found.json").read_text())["runs"]
    rates = row["images_per_second"]
    assert list(rates) == ["reading", "input", "augmentation", "step", "training"]
    assert all(math.isfinite(rate) and rate > 0 for rate in rates.values())
    assert row["input_share"] == pytest.approx(max(0, 1 - rates["training"] / rates["step"]))
    assert row["peak_gb"] >= row["built_gb"] > 0.1
    assert (row["replicas"], row["batch_size"], row["side"]) == (1, 4, 32)
    assert f"{rates['training']:,.1f}" in capsys.readouterr().out


@pytest.mark.slow
@exhaustive
def test_replicas_are_measured_in_processes_of_their_own(config_file, lake, tmp_path, capsys):
    path = tmp_path / "found.json"
    options = ["--replicas", "2", "--train.device=cpu", "--json", str(path)]
    assert run(config_file, lake, *options) == 0
    [two] = json.loads(path.read_text())["runs"]
    assert (two["replicas"], two["batch_size"], len(two["devices"])) == (2, 8, 2)
    assert capsys.readouterr().out.splitlines()[-1].split()[:2] == ["2", "8"]


def test_the_largest_batch_is_where_the_line_reaches_the_memory():
    # 2 GB before the first image, 10 GB an image: 16 · 0.92 = 14.7, 80 · 0.92 = 73.6, …
    batches = benchmark.images_that_fit(12.0, 22.0, [8, 16, 80, 141])
    assert batches == {"8": 0, "16": 1, "80": 7, "141": 12}
    with pytest.raises(InputError, match="larger --data.side"):
        benchmark.images_that_fit(1.5, 1.5, [16])


def test_best_round_behind_the_first():
    seconds = iter([9.0, 1.0, 5.0, 2.0, 4.0, 3.0, 7.0, 8.0])  # a, b, a, b, …
    calls = {"a": lambda: next(seconds), "b": lambda: next(seconds)}
    assert benchmark.best_seconds(calls) == {"a": 4.0, "b": 2.0}


@pytest.mark.parametrize("option", ["--steps=0", "--replicas=0", "--memory_gb=-1"])
def test_what_is_no_number_to_measure_with(config_file, lake, option, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        run(config_file, lake, option)
    name, _, value = option.partition("=")
    assert f"argument {name}: {value}: expected a number from 1 on" in capsys.readouterr().err


def test_what_cannot_be_measured(config_file, lake, capsys):
    assert run(config_file, lake, "--data.batch_size=3", "--train.replicas=2") == 2
    assert "data.batch_size=3" in capsys.readouterr().err


@exhaustive
def test_a_process_that_fails_says_its_own_reason(config_file, tmp_path, capsys):
    options = ["--replicas", "1"]
    assert run(config_file, tmp_path / "nowhere", *options) == 2
    assert "nowhere" in capsys.readouterr().err
