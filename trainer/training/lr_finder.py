"""The learning rate finder (Smith 2015, arXiv:1506.01186): a short run of a fresh network whose
rate grows from too little to too much. In: a run; out: a picture, the numbers, a rate to copy.

    rate of step k   lowest · (highest / lowest)^(k / N), k = 0 … N
    loss of step k   of the batch that step k learns from, before it does. So what stands at a rate
                     was reached with lower ones alone, and what a step destroys shows at the next.
    average          exponential, corrected for its start; it follows the losses up to 24 steps late
    the end          N + 1 steps, or divergence: the average is above 4 times its lowest so far
                     (both counted from the lowest possible loss), or the loss or a gradient is not
                     a number; that step is not recorded
    suggestion       the rate where the average falls most steeply over log rate, before its lowest;
                     beside it a tenth of the rate at its lowest
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from lake import InputError, picture, signals, storage
from lake.records import manifest
from lake.terminal import console
from trainer.config.run import Config
from trainer.data import damage
from trainer.devices.strategy import distribute
from trainer.display import plots
from trainer.display.board import Board
from trainer.scoring import objective
from trainer.training import stages
from trainer.training.optimizer import Rate, build_optimizer
from trainer.training.run import Run, batches_from, build_run, pace_encoder
from trainer.training.step import compile_steps
from trainer.workdir import write_json

FOLDER, PICTURE, NUMBERS = "find_lr", "lr_finder.png", "lr_finder.json"  # in the workdir
DECAY = 0.96  # of the average
MEMORY = 25  # steps, 1 / (1 - DECAY): the first ones do not count, and a slope is over as many
DIVERGED = 4.0  # times the lowest average


class Suggestion(NamedTuple):
    """The learning rates that the finder suggests."""

    steepest: float
    tenth_of_lowest: float


def report(config: Config, workdir: Path, num_steps: int, lowest: float, highest: float) -> str:
    """Run the finder and write its files into <workdir>/find_lr; return the lines to print. Raises
    InputError where no rate can be suggested."""
    rates = growing_rates(lowest, highest, num_steps)
    first, *others = config.as_stages()
    if others:
        console.note(f"the first of {1 + len(others)} stages")
    run = build_run(first)
    if run.worker.is_chief:
        storage.check_writable(workdir)
    with damage.locate_errors(first, first.lake):
        losses = losses_by_rate(run, rates)
    if not losses:
        raise InputError(
            f"the loss or a gradient of the first step is not a number, at the rate {lowest:g}"
        )
    rates, averages = rates[: len(losses)], running_averages(losses)
    suggestion = suggest(rates, losses)
    folder = workdir / FOLDER
    with stages.worker_folder(run.worker, workdir) as worker_workdir:
        title = picture.title(str(workdir), manifest.split_title(run.split.name, *run.lakes))
        _write(worker_workdir / FOLDER, title, rates, losses, averages, suggestion)
    end = f"{len(losses)} steps" + ("; then it diverged" if len(losses) <= num_steps else "")
    if suggestion is None:
        raise InputError(
            f"no rate to suggest ({end}): the average loss fell in fewer than {MEMORY} steps, "
            f"or by no more than the losses of two batches differ; see {folder / PICTURE}, and "
            f"give another --lowest and --highest, more --steps, or a larger data.batch_size"
        )
    is_falling = averages.argmin() == num_steps
    return (
        f"{folder / PICTURE}: {end}\n"
        f"a tenth of the rate with the lowest loss: {suggestion.tenth_of_lowest:.1e}"
        f"{', and it was still falling: give a larger --highest' if is_falling else ''}\n"
        f"the loss falls most steeply at:\n{yaml_line(suggestion.steepest)}"
    )


def yaml_line(rate: float) -> str:
    """Return the line for a config; PyYAML takes 1e-4, without a point, for text."""
    return f"optimizer: {{learning_rate: {rate:.1e}}}"


def growing_rates(lowest: float, highest: float, num_steps: int) -> np.ndarray:
    """Return rates [num_steps + 1] from lowest to highest, each the same factor times the one
    before it. Raises InputError for ends or a number of steps that show no slope."""
    if not 0 < lowest < highest < float("inf"):
        raise InputError(
            f"--lowest={lowest:g} --highest={highest:g}: expected 0 < lowest < highest"
        )
    if num_steps < 2 * MEMORY:
        raise InputError(f"--steps={num_steps}: fewer than {2 * MEMORY} show no slope; give more")
    return lowest * np.exp(np.arange(num_steps + 1) * np.log(highest / lowest) / num_steps)


def losses_by_rate(run: Run, rates: np.ndarray) -> list[float]:
    """Return the loss at each rate, up to where it diverges; the steps are those of training, with
    an optimizer of their own. Network and moving statistics are left as they were."""
    with run.strategy.scope():
        table = tf.constant(rates, tf.float32)
        rate_of_step = Rate(0.0, 0, lambda step: tf.gather(table, tf.cast(step, tf.int32)))
        optimizer = build_optimizer(run.config.optimizer, rate_of_step)
        optimizer.build(run.network.trainable_variables)
        pace_encoder(optimizer, run.config, run.network, per_epoch=0)  # nothing is frozen here
    # Without averages of the weights, which would not change the loss.
    take_steps = compile_steps(
        run._replace(optimizer=optimizer, rate=rate_of_step, averages=None, scale=None)
    )
    # The batches that training would see first; more epochs where its own are too few.
    epochs = max(run.config.train.epochs, -(-len(rates) // run.steps_per_epoch))
    iterator = iter(distribute(run.strategy, batches_from(run, 0, epochs)))
    losses, lowest = [], objective.lowest_loss(run.config.loss)
    with restore_afterwards(run.network, run.strategy):
        for number, rate in enumerate(rates):
            sums = take_steps(iterator, tf.constant(1))
            loss, is_finite = float(sums["loss"]), not float(sums["nonfinite_steps"])
            if not is_finite or has_diverged(running_averages([*losses, loss]), lowest):
                break
            losses.append(loss)
            if number % -(-len(rates) // 10) == 0:
                position = f"step {number}/{len(rates) - 1}"
                console.note(f"{position}  rate {rate:.1e}  loss {loss:.4f}", flush=True)
    return losses


@contextlib.contextmanager
def restore_afterwards(network: keras.Model, strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Give weights, moving statistics and the states of random generators back their values of the
    start, on each replica."""
    variables = [
        copy
        for variable in network.variables
        for copy in strategy.experimental_local_results(variable.value)
    ]
    old_values = [variable.numpy() for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, old_values, strict=True):
            variable.assign(value)


def running_averages(losses: list[float]) -> np.ndarray:
    """Return at each step the mean of the losses so far, each weighing DECAY times the next."""
    total, weight, averages = 0.0, 0.0, []
    for loss in losses:
        total, weight = DECAY * total + loss, DECAY * weight + 1
        averages.append(total / weight)
    return np.array(averages)


def has_diverged(averages: np.ndarray, lowest: float) -> bool:
    """Return whether the last average is too high; `lowest`: the lowest possible loss."""
    last = averages[-1] - lowest
    return not np.isfinite(last) or last > DIVERGED * (averages.min() - lowest)


def suggest(rates: np.ndarray, losses: list[float]) -> Suggestion | None:
    """Return the rates to suggest; None where the average's lowest comes too early for a slope, or
    is no further below its start than two batches in a row differ."""
    averages = running_averages(losses)[MEMORY:]
    rates = rates[MEMORY : len(losses)]
    if len(averages) < MEMORY:
        return None
    lowest = int(averages.argmin())
    noise = np.abs(np.diff(losses[: MEMORY + lowest + 1])).mean()
    if lowest + 1 < MEMORY or averages[0] - averages[lowest] <= noise:
        return None
    # Two averages in a row differ by one batch's luck: the slope is of the line through several.
    windows = np.lib.stride_tricks.sliding_window_view(averages[: lowest + 1], MEMORY)
    slopes = windows @ (np.arange(MEMORY) - MEMORY // 2)  # by least squares, but a factor
    steepest = int(slopes.argmin()) + MEMORY // 2
    return Suggestion(float(rates[steepest]), float(rates[lowest]) / 10)


def _write(
    folder: Path, title: str, rates, losses, averages, suggestion: Suggestion | None
) -> None:
    """Write the picture, the numbers and TensorBoard's curves, in place of an earlier finder's."""
    signals.set_repeat(signals.PARTLY_WRITTEN)
    storage.make_folder(folder)
    for path in folder.glob("events.*"):
        path.unlink()
    marks = {}
    if suggestion:
        marks = {
            "suggested, where the loss falls most steeply": suggestion.steepest,
            "a tenth of the rate with the lowest loss": suggestion.tenth_of_lowest,
        }
    plot = plots.losses_by_rate(title, rates, losses, averages, marks)
    storage.write(folder / PICTURE, picture.to_png(plot))
    numbers = {
        "suggestion": suggestion and suggestion._asdict(),
        "rates": list(rates),
        "losses": losses,
        "averages": list(averages),
    }
    write_json(folder / NUMBERS, numbers)
    board = Board(folder.parent, 0, (FOLDER,))
    for step, values in enumerate(zip(rates, losses, averages, strict=True)):
        tags = ("find_lr/learning_rate", "find_lr/loss", "find_lr/average_loss")
        board.scalars(FOLDER, step, dict(zip(tags, values, strict=True)))
    board.flush()
