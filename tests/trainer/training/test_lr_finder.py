"""The learning rate finder: rates, average and suggestion against formulas and curves that are
known; the loss at each rate against a plain loop; what it must leave alone."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from makers import trained
from makers.marks import exhaustive

from trainer import task
from trainer.config.files import load
from trainer.config.run import Config, merge
from trainer.training import lr_finder
from trainer.training.run import batches_from, build_run
from trainer.training.step import compile_steps, prepare_batch

ROOT = Path(__file__).parents[3]
SETTINGS = {
    "model": {"kind": "unet", "depth": 1, "filters": 4, "norm": "batch", "dropout": 0.2},
    "data": {"side": 16, "batch_size": 8},
    "train": {"device": "cpu"},
}


def config_with(lake, **changes) -> Config:
    return Config.model_validate(merge({**SETTINGS, "lake": str(lake)}, changes))


def falling(rates, centre: float, noise: float = 0.0) -> np.ndarray:
    """1.5, a smooth fall of one decade's width around the centre to 0.5, and up again from 100
    times the centre on."""
    decades = np.log10(rates / centre)
    curve = 1.5 - 1 / (1 + np.exp(-4 * decades)) + 10 ** (2 * (decades - 2))
    return curve + noise * np.random.default_rng(0).normal(size=len(rates))


def test_rates_grow_by_the_same_factor_from_the_lowest_to_the_highest():
    rates = lr_finder.growing_rates(1e-9, 1.0, 1000)
    assert len(rates) == 1001
    assert rates[[0, 1, 100, 500, 1000]] == pytest.approx(
        [1e-9, 1.020939e-09, 7.943282e-09, 3.162278e-05, 1.0], rel=1e-6
    )


def test_the_average_weighs_each_loss_96_percent_of_the_next():
    losses = np.random.default_rng(0).normal(size=60)
    for last in (0, 1, 59):
        weights = 0.96 ** np.arange(last, -1, -1)
        expected = np.average(losses[: last + 1], weights=weights)
        assert lr_finder.running_averages(losses)[last] == pytest.approx(expected)


@pytest.mark.parametrize("steps", [200, 1000])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_the_steepest_descent_is_found_within_the_averages_delay(steps, noise):
    rates = lr_finder.growing_rates(1e-9, 1.0, steps)
    suggestion = lr_finder.suggest(rates, falling(rates, 1e-4, noise))
    delay = (1e9) ** (24 / steps)  # 24 steps late at most
    assert 1e-4 / 1.3 < suggestion.steepest < 1e-4 * max(2.0, delay)
    assert suggestion.steepest < 10 * suggestion.tenth_of_lowest


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_suggested_where_the_loss_only_wavers_or_rises(seed):
    rates = lr_finder.growing_rates(1e-9, 1.0, 200)
    wavering = 1.5 + 0.1 * np.random.default_rng(seed).normal(size=201)
    assert lr_finder.suggest(rates, wavering) is None
    assert lr_finder.suggest(rates, wavering + np.arange(201) / 100) is None
    assert lr_finder.suggest(rates, wavering[:30]) is None


def test_it_has_diverged_above_four_times_the_lowest_average():
    assert not lr_finder.has_diverged(np.array([1.0, 0.5, 2.0]), lowest=0.0)
    assert lr_finder.has_diverged(np.array([1.0, 0.5, 2.01]), lowest=0.0)
    assert lr_finder.has_diverged(np.array([1.0, math.nan]), lowest=0.0)
    # −dice is 1 − dice, lower by 1: it ends at the same step.
    assert not lr_finder.has_diverged(np.array([0.0, -0.5, 1.0]), lowest=-1.0)
    assert lr_finder.has_diverged(np.array([0.0, -0.5, 1.01]), lowest=-1.0)


@pytest.mark.parametrize("rate", [1e-9, 1e-4, 3.16e-4, 1.0, 12.0])
def test_the_line_to_copy_is_read_as_a_number(rate, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("model: {kind: unet}\n" + lr_finder.yaml_line(rate) + "\n")
    loaded_rate = load(path, []).optimizer.learning_rate
    assert isinstance(loaded_rate, float) and loaded_rate == pytest.approx(rate, rel=0.05)
    override = [f"--optimizer.learning_rate={rate:.1e}"]
    assert load(path, override).optimizer.learning_rate == loaded_rate


@pytest.mark.slow
def test_each_loss_is_the_one_before_the_step_with_its_rate(lake):
    """A plain loop over the same batches: forward, gradient, weight -= rate · gradient."""
    plain = {"kind": "sgd", "momentum": 0.0, "clip_norm": None}
    run = build_run(config_with(lake, model={"dropout": 0.0}, optimizer=plain))
    rates = np.array([0.01, 0.5, 0.02, 1.0, 0.1, 0.3])  # in no order, so that a shift would show
    losses = lr_finder.losses_by_rate(run, rates)
    expected, weights = [], run.network.trainable_variables
    for rate, batch in zip(rates, batches_from(run, 0), strict=False):
        images, masks = prepare_batch(batch, run.config.augment)
        with tf.GradientTape() as tape:
            logits = run.network(images, training=True)
            loss = tf.reduce_sum(run.image_losses(masks, [logits], batch)) / 8
        for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
            weight.assign(weight - rate * gradient)
        expected.append(float(loss))
    assert np.ptp(expected) > 0.05
    assert losses == pytest.approx(expected, abs=1e-5)


@exhaustive
def test_network_optimizer_and_random_states_are_left_as_they_were(lake):
    run = build_run(config_with(lake, optimizer={"warmup_epochs": 0, "ema": 0.9}))
    compile_steps(run)(iter(batches_from(run, 0)), tf.constant(2))  # in mid-training
    states = [*run.network.variables, *run.optimizer.variables, *run.averages.shadows]
    names = {variable.name for variable in states}
    assert {"moving_mean", "moving_variance", "seed_generator_state"} <= names
    before = [variable.numpy() for variable in states]
    assert all(np.any(value) for value in before)
    losses = lr_finder.losses_by_rate(run, np.geomspace(1e-3, 1e-1, 4))
    assert len(losses) == 4 and len(set(losses)) == 4
    for variable, value in zip(states, before, strict=True):
        assert np.array_equal(variable.numpy(), value), variable.name


def test_the_network_is_left_as_it_was_after_an_error(lake):
    run = build_run(config_with(lake))
    before = [variable.numpy() for variable in run.network.variables]
    with pytest.raises(KeyError), lr_finder.restore_afterwards(run.network, run.strategy):
        for variable in run.network.variables:
            variable.assign(variable + 1)
        raise KeyError
    for variable, value in zip(run.network.variables, before, strict=True):
        assert np.array_equal(variable.numpy(), value)


def test_a_run_that_diverges_ends_there(lake):
    wild = {"kind": "sgd", "momentum": 0.0, "clip_norm": None}
    config = config_with(lake, model={"norm": "none", "dropout": 0.0}, optimizer=wild)
    losses = lr_finder.losses_by_rate(build_run(config), np.geomspace(1e-3, 1e12, 60))
    averages = lr_finder.running_averages(losses)
    assert 5 < len(losses) < 60 and np.isfinite(losses).all()
    assert (averages <= 4 * np.minimum.accumulate(averages)).all()


def command(lake, workdir, *options: object) -> list[str]:
    path = workdir.parent / "finder.json"  # JSON is YAML
    path.write_text(json.dumps(SETTINGS))
    paths = ["--config", path, "--lake", lake, "--workdir", workdir]
    return ["find_lr", *map(str, [*paths, *options])]


@exhaustive
def test_the_command_writes_one_folder_and_nothing_else_of_a_workdir(lake, tmp_path, capsys):
    workdir = tmp_path / "run"
    (workdir / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "metrics.json", "best.weights.h5", "checkpoints/checkpoint"):
        (workdir / name).write_text("of another run")
    options = ["--steps", 60, "--lowest", 1e-6, "--highest", 10]
    for _ in range(2):  # the second replaces the first
        assert task.main(command(lake, workdir, *options)) == 0
    files = {str(path.relative_to(workdir)) for path in workdir.rglob("*") if path.is_file()}
    new = {name for name in files if name.startswith("find_lr/")}
    [events] = {name for name in new if "/events." in name}
    assert new == {events, "find_lr/lr_finder.png", "find_lr/lr_finder.json"}
    assert all((workdir / name).read_text() == "of another run" for name in files - new)
    numbers = json.loads((workdir / "find_lr" / "lr_finder.json").read_text())
    output = capsys.readouterr().out
    assert output.endswith(lr_finder.yaml_line(numbers["suggestion"]["steepest"]) + "\n")
    curves = {}
    for event in tf.compat.v1.train.summary_iterator(str(workdir / events)):
        for value in event.summary.value:
            curves.setdefault(value.tag, []).append(float(tf.make_ndarray(value.tensor)))
    assert curves["find_lr/loss"] == pytest.approx(numbers["losses"])
    assert curves["find_lr/average_loss"] == pytest.approx(numbers["averages"])
    assert curves["find_lr/learning_rate"] == pytest.approx(numbers["rates"])
    assert numbers["rates"][0] == pytest.approx(1e-6)


@exhaustive
def test_rates_too_low_to_learn_are_said_to_be(lake, tmp_path, capsys):
    workdir = tmp_path / "run"
    options = ["--steps", 50, "--lowest", 1e-12, "--highest", 1e-11]
    assert task.main(command(lake, workdir, *options)) == 2
    message = capsys.readouterr().err
    assert "no rate to suggest" in message and "find_lr/lr_finder.png" in message
    assert json.loads((workdir / "find_lr/lr_finder.json").read_text())["suggestion"] is None
    assert (workdir / "find_lr" / "lr_finder.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lowest", "1", "--highest", "0.1"], "expected 0 < lowest < highest"),
        (["--lowest", "0"], "--lowest: 0: expected a number between 0 and inf"),
        (["--highest", "nan"], "--highest: nan: expected a number between 0 and inf"),
        (["--steps", "20"], "--steps=20: fewer than 50"),
        (["--model.depht=2"], "did you mean depth?"),
    ],
)
def test_bad_flags_are_refused(lake, tmp_path, capsys, options, message):
    assert trained.exit_code(*command(lake, tmp_path / "run", *options)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


ON_TWO_REPLICAS = """
import json, sys
import numpy as np
from trainer.config.run import Config
from trainer.training import lr_finder
from trainer.training.run import build_run

run = build_run(Config.model_validate(json.loads(sys.argv[1])))
copies = [
    copy
    for variable in run.network.variables
    for copy in run.strategy.experimental_local_results(variable.value)
]
before = [copy.numpy() for copy in copies]
losses = lr_finder.losses_by_rate(run, np.geomspace(1e-3, 1.0, 20))
same = [np.array_equal(copy.numpy(), value) for copy, value in zip(copies, before, strict=True)]
print(json.dumps({"losses": losses, "variables": len(run.network.variables), "same": same}))
"""


@pytest.mark.slow
@exhaustive
def test_two_replicas_find_the_same_losses_and_are_left_as_they_were(lake):
    # Adam would divide what rounding leaves of a zero gradient by its own size.
    sgd = {"kind": "sgd", "clip_norm": 0.05}
    group = {"norm": "group", "filters": 8, "dropout": 0.0}
    one = build_run(config_with(lake, model=group, optimizer=sgd))
    expected = lr_finder.losses_by_rate(one, np.geomspace(1e-3, 1.0, 20))
    in_parts = {"optimizer": sgd | {"accumulate": 2}, "train": {"replicas": 2}}
    both = config_with(lake, model=group, **in_parts)
    code = [sys.executable, "-c", ON_TWO_REPLICAS, both.model_dump_json()]
    process = subprocess.run(code, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    results = json.loads(process.stdout.splitlines()[-1])
    assert len(expected) == 20 and results["losses"] == pytest.approx(expected, abs=1e-5)
    assert len(results["same"]) == 2 * results["variables"] and all(results["same"])
