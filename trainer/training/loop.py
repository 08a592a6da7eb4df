"""The story of a run: build, restore, and then epoch after epoch train, validate, keep the best
weights, draw, save.

It goes on from the newest checkpoint, so that a run that was stopped or killed anywhere ends as one
that was not.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from lake.terminal import console
from trainer import provenance
from trainer.config import files
from trainer.config.run import Config
from trainer.data import vanishing
from trainer.devices.strategy import distribute, peak_memory_bytes
from trainer.devices.workers import Agreement
from trainer.display.board import FIRST_TAB, RUN, Board
from trainer.display.progress import Progress
from trainer.display.tracker import Tracker
from trainer.scoring.sums import scores
from trainer.training import averaging, culprits, ownership
from trainer.training.checkpoint import State
from trainer.training.frozen import compile_phases
from trainer.training.interruption import Interrupted, Watch
from trainer.training.optimizer import lower_on_plateau
from trainer.training.profiling import Profile
from trainer.training.run import (
    Run,
    batches_from,
    build_run,
    cached_images,
    checkpoint_objects,
    write_seen,
)
from trainer.training.step import prepare_batch
from trainer.training.validation import Validation
from trainer.workdir import CONFIG, checkpoint_steps, write_metrics


def train_stage(
    config: Config,
    shared_workdir: Path,
    workdir: Path,
    watch: Watch,
    later_stages: Sequence[Config] = (),
    tracker: Tracker | None = None,
) -> None:
    """Train one stage to its end; raise Interrupted where it was asked to stop before.

    `shared_workdir`: that of all workers, which restore from it; `workdir`: where this one writes,
    the same with the chief; `later_stages`: before the first, all are looked at."""
    # --- build ---
    run = build_run(config, bool(checkpoint_steps(shared_workdir)), shared_workdir)
    agreement = Agreement(run.strategy, run.worker)
    events = claim(run, shared_workdir, workdir, later_stages)

    # --- restore ---
    with run.strategy.scope():
        state = State(workdir, run.network, agreement, config.train.keep, **checkpoint_objects(run))
    state.restore(shared_workdir)
    run = run._replace(state=state, tracker=tracker)
    end = why_ended(run)
    if tracker:
        tracker.start(state.step, is_trained=bool(end))
    if end:
        print(f"{shared_workdir}: {end}")
        return
    run = run._replace(board=Board(workdir, state.step, run=events))
    stop_while_tracing(run, watch)
    batches = batches_from(run, state.step, images=cached_images(run))
    take_steps = compile_phases(run, iter(distribute(run.strategy, batches)))
    validate = Validation(run)
    if not state.step:
        write_config(run, workdir)
    provenance.add_start(workdir, run.lakes, run.strategy, state.step)
    curves_line = f"curves: tensorboard --logdir {workdir}; loss and dice: {FIRST_TAB}"
    console.note(f"{introduction(run)}\n{curves_line}", flush=True)

    # --- epochs ---
    progress = Progress(run.steps_per_epoch, config, state.step)
    profile = Profile(workdir, config.train.profile)
    while True:
        train_epoch(run, take_steps, watch, progress, profile)
        with weights_to_validate(run):
            sums = {"train": state.sums.take(), "val": validate(run.board, state.step)}
            curves = {curve: scores(values, config.findings) for curve, values in sums.items()}
            score = run.epoch if config.score == "last" else curves["val"][config.score]
            is_best = state.keep_if_best(score, run.epoch)
        write_curves(run, sums, curves, is_best)
        lower_on_plateau(config.optimizer, run.rate, int(state.stale_epochs.numpy()))
        record_scores(run, curves)  # before the checkpoint, or a kill between could lose them
        save(run)
        progress.epoch(run.epoch, curves, is_best)
        if end := why_ended(run):
            break
        stop_if_asked(run, watch, config.train.max_hours)
    agreement.wait()  # until the chief has written the weights that the next stage starts from
    print(f"{shared_workdir}: {end}")


def claim(
    run: Run, shared_workdir: Path, workdir: Path, later_stages: Sequence[Config]
) -> str | None:
    """Write the run's config, lake and seen images into the workdir; return the text of its event
    files' names, as ownership.claim does. Raises InputError where no lesion is left to learn from,
    or the workdir is another run's."""
    lost_lesions = vanishing.check([run.config, *later_stages], shared_workdir)
    events = ownership.claim(workdir, run.config, run.lakes)
    write_seen(run.config, workdir)
    vanishing.save(workdir, lost_lesions)
    return events


def write_config(run: Run, workdir: Path) -> None:
    """Write for TensorBoard what the run is."""
    hyperparameters = files.hyperparameters(run.config), files.hyperparameter_names(run.config)
    config_yaml = (workdir / CONFIG).read_text()
    run.board.config(*hyperparameters, config_yaml, provenance.origin(run.lakes))


def train_epoch(
    run: Run, take_steps: Callable, watch: Watch, progress: Progress, profile: Profile
) -> None:
    """Train the rest of the epoch, in calls of train.steps_per_call steps, and save when it is due;
    `take_steps`: number of steps -> sums over them. Raises FloatingPointError where the run
    diverges, and Interrupted where it is asked to stop."""
    state, settings = run.state, run.config.train
    last_step = (run.epoch + 1) * run.steps_per_epoch
    while state.step < last_step:
        count = min(settings.steps_per_call, last_step - state.step)
        with profile.call(state.step, count):
            sums = take_steps(tf.constant(count))
            # An epoch has more pixels than float32 can count.
            sums = {name: value.numpy().astype("float64") for name, value in sums.items()}
        watch.wait_for_saving()
        state.step += count
        num_skipped = round(float(sums["nonfinite_steps"]))
        if num_skipped and (run.scale is None or run.scale.is_exhausted):
            run.board.flush()
            raise FloatingPointError(
                f"the loss or a gradient is not a number between steps {state.step - count + 1} "
                f"and {state.step}: {culprits.describe(run, state.step - count, count)}; look "
                f"at them, or lower optimizer.learning_rate in a new workdir"
            )
        input_wait_share = sums.pop("input_wait_share")
        num_steps = count - num_skipped
        state.sums.add({**sums, "steps": num_steps})
        progress.show(state.step, state.sums.values)
        scalars = {"input_wait_share": input_wait_share, **progress.rates(run.optimizer)}
        if num_steps > 0:
            scalars |= {name: sums[name] / num_steps for name in ("loss", "gradient_norm")}
        if run.scale:
            scalars |= {"loss_scale": float(run.scale.value.numpy()), "skipped_steps": num_skipped}
        run.board.scalars("train", state.step, scalars)
        if state.step < last_step:  # behind its last step an epoch is validated first, then saved
            stop_if_asked(run, watch, settings.max_hours)
            if state.is_due(settings.checkpoint_minutes):
                save(run)
    profile.stop()


@contextlib.contextmanager
def weights_to_validate(run: Run) -> Iterator[None]:
    """Put the averaged weights into the network while it is validated: EMA's after every epoch, and
    SWA's, the mean of the last epochs, after the last one."""
    optimizer, epochs = run.config.optimizer, run.config.train.epochs
    if optimizer.swa_epochs and run.epoch > epochs - optimizer.swa_epochs:
        run.averages.add_epoch()
    is_swa = bool(optimizer.swa_epochs) and run.epoch == epochs
    if not (optimizer.ema or is_swa):
        yield
        return
    run.averages.swap()
    if is_swa:
        estimate_statistics(run)
    yield
    run.averages.swap()


def estimate_statistics(run: Run) -> None:
    """Estimate the statistics of batch norm anew, on the batches of the run's last epoch."""

    def forward(batch: dict):
        run.network(prepare_batch(batch, run.config.augment)[0], training=True)

    batches = batches_from(run, (run.config.train.epochs - 1) * run.steps_per_epoch)
    averaging.estimate_statistics(run.network, run.strategy, forward, batches)


def write_curves(run: Run, sums: dict, curves: dict, is_best: bool) -> None:
    """Write an epoch's curves for TensorBoard; the scores of the best epoch are the run's scores in
    its HParams table."""
    board, step = run.board, run.state.step
    for curve, values in curves.items():
        board.distributions(curve, step, sums[curve], run.config.findings)
        board.scalars(curve, step, values)
    board.scalars("train", step, {"peak_memory_gb": peak_memory_bytes(run.strategy) / 1e9})
    if is_best:
        board.scalars(RUN, step, {f"best/{name}": v for name, v in curves["val"].items()})


def record_scores(run: Run, curves: dict) -> None:
    """Write the scores of the last epoch and of the best ones into metrics.json."""
    entries = run.state.kept_epochs()
    best = {"score": run.config.score, "value": entries[0]["value"], "epoch": entries[0]["epoch"]}
    last = {"epoch": run.epoch, "step": run.state.step, **curves}
    write_metrics(run.state.workdir, {"last": last, "best": best, "kept": entries})


def save(run: Run) -> None:
    """Write a checkpoint; the curves first, so that no checkpoint is ahead of them, and a tracker's
    last, so that no tracker is ahead of the checkpoint."""
    run.board.flush()
    run.state.save()
    if run.tracker:
        run.tracker.send(run.state.step)


def stop_if_asked(run: Run, watch: Watch, max_hours: float | None) -> None:
    """Save and raise Interrupted if any worker has a reason to stop. All workers call it at the
    same step.

    `max_hours` is None before the first step of a start: a run whose every start reached its limit
    before a step would never end.
    """
    state, agreement = run.state, run.state.agreement
    reason = watch.reason(max_hours)
    if not agreement.any(reason is not None):
        return
    if not state.is_saved:
        save(run)
    agreement.wait()  # until all have saved
    raise Interrupted(
        f"{reason or 'another worker stops'}: stopped at step {state.step:,} and saved; the same "
        f"command goes on from here"
    )


def stop_while_tracing(run: Run, watch: Watch) -> None:
    """Stop if asked before the minutes of tracing, and let a signal end them."""
    stop_if_asked(run, watch, max_hours=None)
    if run.worker.count == 1:  # several workers agree on the step at which they stop
        watch.end_at_once(run.state.step)
    else:
        watch.wait_for_saving()


def why_ended(run: Run) -> str | None:
    """Return the reason why a run has ended after an epoch; None where it goes on."""
    config, state = run.config, run.state
    epochs, patience = config.train.epochs, config.train.patience
    if run.epoch >= epochs:
        return f"all {epochs} epochs are done" if epochs > 1 else "its epoch is done"
    if patience is None or state.stale_epochs.numpy() < patience:
        return None
    best = state.kept_epochs()[0]
    return (
        f"ended early after epoch {run.epoch} of {epochs}: {config.score} has not been better than "
        f"epoch {best['epoch']}'s {best['value']:.4f} for train.patience={patience} epochs"
    )


def introduction(run: Run) -> str:
    """Return a line about the network, the images and the steps of a run."""
    config = run.config
    parts = [
        f"{split.counts['records']:,} images to {purpose} on{_unlabelled(config, split.counts)}"
        for split, purpose in ((run.split, "train"), (run.val_split, "validate"))
    ]
    labels = ""
    if config.findings:
        labels = f" of {len(config.findings)} findings"
    elif config.is_classifier:
        labels = f" of {config.model.classes} classes"
    return (
        f"{config.model.kind}{labels} with {run.network.count_params():,} parameters at "
        f"{config.data.side} px, {keras.mixed_precision.dtype_policy().name}; {'; '.join(parts)}; "
        f"{run.steps_per_epoch} steps of {config.data.batch_size} per epoch"
    )


def _unlabelled(config: Config, counts: dict) -> str:
    """Return the end of a sentence about images without a label, or findings that are not known,
    in a split with these counts; "" where there are none."""
    if config.findings:
        numbers = np.sum(counts["findings"], axis=0)  # with a finding, without, not known
        share = numbers[-1] / numbers.sum()
        return f", {share:.1%} of their findings are not known and weigh nothing" if share else ""
    records = counts["records"]
    num_labelled = records - counts["unknown"] if config.is_classifier else counts["with_mask"]
    if num_labelled == records:
        return ""
    has_other_terms = config.loss.lesion or config.loss.reconstruction or config.loss.kl_divergence
    effect = "teach no mask" if has_other_terms else "weigh nothing"
    return f", {records - num_labelled:,} of them without a label {effect}"
