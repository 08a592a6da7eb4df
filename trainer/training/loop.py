"""A run's epochs: calls of several steps, then validation, curves, the best weights, a checkpoint.

It goes on from where the state stands, so that a run that was stopped or killed anywhere ends as
one that was not.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf

from trainer.config.run import Config
from trainer.devices import workers
from trainer.display import progress
from trainer.display.board import RUN, Board
from trainer.scoring.sums import scores
from trainer.training import checkpoint, interruption, optimizer, profiling
from trainer.workdir import write_metrics


class Parts(NamedTuple):
    """What a loop calls."""

    several_steps: Callable[[tf.Tensor], dict]  # how many -> sums over them
    validation: Callable[[Board, int], dict]  # board, step -> sums over the split
    averaged: Callable[[int], AbstractContextManager]  # epoch -> with the weights to validate
    peak_memory_bytes: Callable[[], int]
    blamed: Callable[[int, int], str]  # first step, how many -> which images made them no number
    optimizer: keras.optimizers.Optimizer
    rate: optimizer.Rate
    scale: optimizer.LossScale | None  # of float16; None: a step that is no number ends the run


class Loop:
    """`per_epoch`: steps."""

    def __init__(
        self,
        run: Config,
        workdir: Path,
        parts: Parts,
        state: checkpoint.State,
        board: Board,
        stop: "Stop",
        per_epoch: int,
    ):
        self.run, self.workdir, self.parts, self.per_epoch = run, workdir, parts, per_epoch
        self.state, self.board, self.stop = state, board, stop
        self.step = int(state.step.numpy())
        self.line = progress.Progress(per_epoch, run, self.step)
        self.profile = profiling.Profile(workdir, run.train.profile)

    def train(self) -> str:
        """To the end of the run, and why it is one; raises Interrupted when it was asked to
        stop."""
        while True:
            self.train_epoch()
            self.finish_epoch()
            if ended := why_ended(self.run, self.state, self.step // self.per_epoch):
                return ended
            self.stop.if_asked(self.step, self.run.train.max_hours)

    def train_epoch(self) -> None:
        """What is left of it."""
        end = (self.step // self.per_epoch + 1) * self.per_epoch
        while self.step < end:
            self.call(min(self.run.train.steps_per_call, end - self.step))
            if self.step < end:  # behind its last step an epoch is validated first, then saved
                self.stop.if_asked(self.step, self.run.train.max_hours)
                if self.state.is_due(self.run.train.checkpoint_minutes):
                    save(self.state, self.board, self.step)
        self.profile.stop()

    def call(self, count: int) -> None:
        with self.profile.call(self.step, count):
            sums = self.parts.several_steps(tf.constant(count))
            # An epoch has more pixels than float32 can count.
            sums = {name: value.numpy().astype("float64") for name, value in sums.items()}
        self.step += count
        scale, skipped = self.parts.scale, round(float(sums["nonfinite_steps"]))
        if skipped and (scale is None or scale.is_spent):
            first = self.step - count
            raise FloatingPointError(
                f"the loss or a gradient is not a number between steps {first + 1} and "
                f"{self.step}: {self.parts.blamed(first, count)}; look at them, or lower "
                f"optimizer.learning_rate in a new workdir"
            )
        drawn = {"input_wait_share": sums.pop("input_wait_share")}
        self.state.sums.add({**sums, "steps": count - skipped})
        self.line.show(self.step, self.state.sums.values)
        if count > skipped:
            drawn |= {name: sums[name] / (count - skipped) for name in ("loss", "gradient_norm")}
        if scale:
            drawn |= {"loss_scale": float(scale.value.numpy()), "skipped_steps": skipped}
        rates = self.line.rates(self.parts.optimizer)
        self.board.scalars("train", self.step, {**drawn, **rates})

    def finish_epoch(self) -> None:
        epoch = self.step // self.per_epoch
        with self.parts.averaged(epoch):
            sums = {
                "train": self.state.sums.take(),
                "val": self.parts.validation(self.board, self.step),
            }
            curves = {curve: scores(of_curve) for curve, of_curve in sums.items()}
            score = epoch if self.run.score == "last" else curves["val"][self.run.score]
            is_best = self.state.keep_if_best(score, epoch)
        self.draw(sums, curves, is_best)
        stale_epochs = int(self.state.stale_epochs.numpy())
        optimizer.lower_on_plateau(self.run.optimizer, self.parts.rate, stale_epochs)
        self.write_metrics(epoch, curves)  # before the checkpoint, or a kill between could lose it
        save(self.state, self.board, self.step)
        self.line.epoch(epoch, curves, is_best)

    def draw(self, sums: dict, curves: dict, is_best: bool) -> None:
        """An epoch in TensorBoard; the scores of the best one are the run's in HParams."""
        for curve, values in curves.items():
            self.board.distributions(curve, self.step, sums[curve])
            tagged = {name.replace("dice_", "dice/"): value for name, value in values.items()}
            self.board.scalars(curve, self.step, tagged)
        memory = {"peak_memory_gb": self.parts.peak_memory_bytes() / 1e9}
        self.board.scalars("train", self.step, memory)
        if is_best:
            best = {f"best/{name}": value for name, value in curves["val"].items()}
            self.board.scalars(RUN, self.step, best)

    def write_metrics(self, epoch: int, curves: dict) -> None:
        kept = self.state.kept()
        best = {"score": self.run.score, "value": kept[0]["value"], "epoch": kept[0]["epoch"]}
        last = {"epoch": epoch, "step": self.step, **curves}
        write_metrics(self.workdir, {"last": last, "best": best, "kept": kept})


class Stop:
    """What ends a run before its end: all workers at the same step, with everything saved."""

    def __init__(
        self,
        watch: interruption.Watch,
        agreement: workers.Agreement,
        state: checkpoint.State,
        board: Board,
    ):
        self.watch, self.agreement = watch, agreement
        self.state, self.board = state, board

    def if_asked(self, step: int, max_hours: float | None) -> None:
        """Saves what is not saved yet and raises Interrupted, if a worker has a reason to stop;
        max_hours waits for a step, or restarts would never end."""
        own = self.watch.reason(max_hours)
        if not self.agreement.any(own is not None):
            return
        if step != int(self.state.step.numpy()):
            save(self.state, self.board, step)
        self.agreement.chief_value(step)  # behind it, all have saved
        raise interruption.Interrupted(
            f"{own or 'another worker stops'}: stopped at step {step:,} and saved; the same "
            f"command goes on from here"
        )


def why_ended(run: Config, state: checkpoint.State, epoch: int) -> str | None:
    """What to say where nothing is left to do after an epoch; None: something is."""
    if epoch >= run.train.epochs:
        return f"all {run.train.epochs} epochs are done"
    patience = run.train.patience
    if patience is None or state.stale_epochs.numpy() < patience:
        return None
    best = state.kept()[0]
    return (
        f"ended early after epoch {epoch} of {run.train.epochs}: {run.score} has not been better "
        f"than epoch {best['epoch']}'s {best['value']:.4f} for train.patience={patience} epochs"
    )


def save(state: checkpoint.State, board: Board, step: int) -> None:
    board.flush()  # no checkpoint is ahead of its curves
    state.save(step)
