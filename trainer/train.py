"""The loop: N steps in one call of a tf.function around strategy.run; validation, checkpoints,
curves each epoch.

Gradients of a replica -> all-reduce -> finite check -> clipping -> optimizer. Losses are sums over
the batch divided by the global batch, so that one replica and many take the same step.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf

from lake import InputError
from trainer import (
    augment,
    averaging,
    checkpoint,
    config,
    culprits,
    damage,
    data,
    distribute,
    interruption,
    loss_scale,
    models,
    objective,
    order,
    progress,
    provenance,
    rematerialise,
    schedules,
    summaries,
    validate,
    workers,
)


def train(run: config.Config, workdir: Path) -> None:
    """The run, or each of its stages in a folder of its own but the last; each to its last epoch
    from where the newest checkpoint stands; raises Interrupted when it was asked to stop."""
    with interruption.Watch() as watch:
        train_stages(run, workdir, watch)


def train_stages(run: config.Config, workdir: Path, watch: interruption.Watch) -> None:
    worker, stages, weights = workers.of_environment(), run.as_stages(), None
    for number, stage in enumerate(stages, 1):
        stage = _dealt(stage, worker)
        folder = workdir if number == len(stages) else workdir / f"stage_{number}"
        if len(stages) > 1 and worker.is_chief:
            print(f"stage {number} of {len(stages)}, in {folder}")
        if weights is not None:
            keras.backend.clear_session()  # of the stage before
            model = stage.model.model_copy(update={"weights": str(weights)})
            stage = stage.model_copy(update={"model": model})
        with (
            workers.losing_one(worker, folder),
            damage.explained(stage, stage.lake),
            workers.own_folder(worker, folder) as own,
        ):
            train_stage(stage, folder, own, watch)
        weights = folder / checkpoint.BEST


def _dealt(run: config.Config, worker: workers.Worker) -> config.Config:
    """The run with the number of streams that its order has with so many workers, which a run that
    goes on must keep."""
    streams = run.data.streams or worker.count
    if streams % worker.count:
        raise InputError(
            f"data.streams={streams}: the {worker.count} workers cannot share them; give a "
            f"multiple of {worker.count}, or this number of workers"
        )
    if streams == 1:
        return run
    return run.model_copy(update={"data": run.data.model_copy(update={"streams": streams})})


class Setup(NamedTuple):
    """What a run has before its first step."""

    lake: dict
    split: data.Split
    val_split: data.Split
    per_epoch: int  # steps
    strategy: tf.distribute.Strategy
    image_losses: Callable
    network: keras.Model
    worker: workers.Worker


def set_up(run: config.Config) -> Setup:
    """The lake's splits, the strategy and a fresh network; seeds and precision are set."""
    lake = data.open_lake(run.lake)
    split = data.training_split(lake, run.lake, run.data, run.is_classifier)
    val_split = data.validation_split(lake, run.lake, run.data)
    data.check_classes(lake, run.lake, run)
    _check_labels(run, split, val_split)
    per_epoch = order.steps_per_epoch(split, run.data)
    worker = workers.of_environment()
    strategy = distribute.strategy(
        run.train.device,
        run.train.replicas,
        run.data.batch_size,
        run.optimizer.accumulate,
        worker,
        run.train.worker_minutes,
    )
    image_losses = objective.image_losses(
        run, data.positive_pixel_share(lake, run.data), distribute.total(strategy)
    )
    keras.utils.set_random_seed(run.train.seed)
    if run.train.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.mixed_precision.set_dtype_policy(distribute.precision(run.train.precision, strategy))
    with strategy.scope():
        network = models.build(run.model, run.data.side)
    return Setup(lake, split, val_split, per_epoch, strategy, image_losses, network, worker)


def train_stage(run: config.Config, shared: Path, workdir: Path, watch: interruption.Watch) -> None:
    """One stage; `shared`: the workdir of all workers, `workdir`: where this one writes, the same
    with the chief."""
    lake, split, val_split, per_epoch, strategy, image_losses, network, worker = set_up(run)
    agreement = workers.Agreement(strategy, worker)
    is_averaged = run.optimizer.ema or run.optimizer.swa_epochs
    with strategy.scope():
        rate = schedules.learning_rate(run.optimizer, run.train.epochs, per_epoch)
        optimizer = schedules.build_optimizer(run.optimizer, rate)
        optimizer.build(network.trainable_variables)
        averages = averaging.Averages(network, strategy) if is_averaged else None
        scale = None
        if keras.mixed_precision.dtype_policy().compute_dtype == "float16":
            scale = loss_scale.LossScale(run.train.loss_scale, run.train.loss_scale_steps)
        checkpoint.claim(workdir, run, data.all_lakes(lake, run.data))
        tracked = {"optimizer": optimizer, "rate_factor": rate.factor}
        if averages:
            tracked |= {"shadows": averages.shadows, "averaged_epochs": averages.epochs}
        if scale:
            tracked |= {"loss_scale": scale.value, "good_steps": scale.good}
        state = checkpoint.State(workdir, network, agreement, **tracked)
    step, last_step = state.restore(shared), per_epoch * run.train.epochs
    if step >= last_step:
        print(f"{shared}: all {run.train.epochs} epochs are done")
        return
    # Before minutes of tracing; max_hours waits for a step, or restarts would never end.
    _stop_for(_reason(watch, None, agreement), state, step)
    several_steps = steps_in_one_call(
        strategy,
        training_step(network, optimizer, run, strategy, image_losses, averages, scale),
        averaging.moving_statistics(network),
    )
    batches = batches_of(run, split, run.train.epochs, step, worker)
    iterator = iter(distribute.distributed(strategy, batches))
    validation = validate.Validation(strategy, network, run, val_split, image_losses)
    board = summaries.Board(workdir, step)
    if not step:
        board.introduce(config.hyperparameters(run), (workdir / checkpoint.CONFIG).read_text())
    provenance.add_start(workdir, data.all_lakes(lake, run.data), strategy, step)
    line = progress.Progress(per_epoch, run, step)
    _introduce(run, workdir, network, (split, val_split), per_epoch)
    while step < last_step:
        epoch_end = (step // per_epoch + 1) * per_epoch
        sums = {}
        while step < epoch_end:
            count = min(run.train.steps_per_call, epoch_end - step)
            call = several_steps(iterator, tf.constant(count))
            # An epoch has more pixels than float32 can count.
            call = {name: value.numpy().astype("float64") for name, value in call.items()}
            step += count
            if call["nonfinite_steps"] and (scale is None or scale.is_spent):
                again = batches_of(
                    run, split, run.train.epochs, step - count, worker, ("image_id",)
                )
                found = culprits.sentence(network, run, image_losses, again.take(count))
                raise FloatingPointError(
                    f"the loss or a gradient is not a number between steps {step - count + 1} and "
                    f"{step}: {found}; look at them, or lower optimizer.learning_rate in a new "
                    f"workdir"
                )
            taken = call["steps"] = count - round(float(call["nonfinite_steps"]))
            sums = {name: sums.get(name, 0) + value for name, value in call.items()}
            line.show(step, sums)
            if taken:
                means = {name: float(call[name]) / taken for name in ("loss", "gradient_norm")}
                board.scalars("train", step, {**means, **line.rates(optimizer)})
            if scale:
                scaled = {"loss_scale": float(scale.value.numpy())}
                board.scalars("train", step, {**scaled, "skipped_steps": count - taken})
            board.flush()  # no checkpoint is ahead of its curves
            if step < epoch_end:  # behind its last step an epoch is validated first, then saved
                _stop_for(_reason(watch, run.train.max_hours, agreement), state, step)
                state.save_if_due(step, run.train.checkpoint_minutes)
        epoch = step // per_epoch
        if run.optimizer.swa_epochs and epoch > run.train.epochs - run.optimizer.swa_epochs:
            averages.add_epoch()
        with averages_in_place(run, epoch, averages, network, strategy, split, worker):
            val = validate.scores(validation(board, step))
            is_best = state.keep_if_best(val[run.score])
        curves = {"train": validate.scores(sums), "val": val}
        for curve, values in curves.items():
            board.scalars(curve, step, {_tag(name): value for name, value in values.items()})
        board.scalars(summaries.RUN, step, {f"best/{run.score}": float(state.best_score.numpy())})
        board.flush()
        schedules.after_epoch(run.optimizer, rate, int(state.stale_epochs.numpy()))
        state.save(step)
        last = {"epoch": epoch, "step": step, **curves}
        best = {"score": run.score, "value": float(state.best_score.numpy())}
        checkpoint.write_metrics(workdir, {"last": last, "best": best})
        line.epoch(epoch, curves, is_best)
        if step < last_step:
            _stop_for(_reason(watch, run.train.max_hours, agreement), state, step)
    agreement.of_chief(step)  # behind it, the chief has written the weights of the next stage


def batches_of(
    run: config.Config,
    split: data.Split,
    epochs: int,
    first_step: int,
    worker: workers.Worker = workers.ALONE,
    extra_fields: tuple[str, ...] = (),
) -> tf.data.Dataset:
    """A worker's part of the run's batches from a step to the end of an epoch, with draws to
    augment them."""
    numbers = run.train.seed, epochs, first_step, augment.num_draws(run.augment, run.data.side)
    return data.training_batches(split, run.data, *numbers, worker, extra_fields)


def _reason(watch: interruption.Watch, max_hours, agreement: workers.Agreement) -> str | None:
    """Why all workers stop now; None: all go on."""
    own = watch.reason(max_hours)
    return (own or "another worker stops") if agreement.any(own is not None) else None


def _stop_for(reason: str | None, state: checkpoint.State, step: int) -> None:
    """Saves what is not saved yet and raises Interrupted, if there is a reason to stop."""
    if reason is None:
        return
    if step != int(state.step.numpy()):
        state.save(step)
    state.agreement.of_chief(step)  # all have saved
    raise interruption.Interrupted(
        f"{reason}: stopped at step {step:,} and saved; the same command goes on from here"
    )


@contextlib.contextmanager
def averages_in_place(run: config.Config, epoch: int, averages, network, strategy, split, worker):
    """Validation sees the moving average after every epoch, and the mean of the last epochs after
    the last one."""
    is_end = bool(run.optimizer.swa_epochs) and epoch == run.train.epochs
    if not (run.optimizer.ema or is_end):
        yield
        return
    averages.swap()
    if is_end:

        def forward(batch: dict):
            network(augment.of_batch(batch, run.augment)[0], training=True)

        batches = batches_of(run, split, 1, 0, worker)
        averaging.estimate_statistics(network, strategy, forward, batches)
    yield
    averages.swap()


def training_step(
    network,
    optimizer,
    run: config.Config,
    strategy,
    image_losses: Callable,
    averages: averaging.Averages | None = None,
    scale: loss_scale.LossScale | None = None,
) -> Callable:
    """One replica's step: batch -> {name: sum over its examples}; the weights of all replicas move
    alike. With a `scale`, a step that is not finite is skipped by all, and sums nothing."""
    gradients = gradients_in_parts(network, run, image_losses)
    if distribute.compiles_gradients(run.train.jit, strategy):
        _refuse_joined_losses(run, strategy.num_replicas_in_sync)
        gradients = tf.function(gradients, jit_compile=True)

    moved = _moved(network, optimizer, averages) if scale else []

    def step(batch: dict) -> dict:
        before = [tf.identity(variable) for variable in moved]
        factor = scale.value.read_value() if scale else tf.constant(1.0)
        grads, sums = gradients(batch, factor)
        grads = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, grads)
        if scale:
            grads = [grad / factor for grad in grads]
        norm = tf.linalg.global_norm(grads)  # finite only where every gradient is
        is_finite = tf.math.is_finite(norm)
        grads = [tf.where(is_finite, grad, tf.zeros_like(grad)) for grad in grads]
        done = tf.identity(optimizer.iterations)
        optimizer.apply(grads, network.trainable_variables)
        if averages and run.optimizer.ema:
            averages.move(averaging.ema_share(run.optimizer.ema, done))
        sums |= {"gradient_norm": norm / strategy.num_replicas_in_sync}  # the same on each
        if scale:
            loss_scale.kept_if_finite(is_finite, moved, before)
            scale.move(is_finite)
            sums = {
                name: tf.where(is_finite, value, tf.zeros_like(value))
                for name, value in sums.items()
            }
        nonfinite = (1.0 - tf.cast(is_finite, tf.float32)) / strategy.num_replicas_in_sync
        return {**sums, "nonfinite_steps": nonfinite}

    return step


def _moved(network, optimizer, averages) -> list:
    """All variables that a step moves, but the states of random generators."""
    variables = [v.value for v in (*network.trainable_variables, *optimizer.variables)]
    variables += averaging.moving_statistics(network)
    return variables + (averages.shadows if averages else [])


def gradients_in_parts(network, run: config.Config, image_losses: Callable) -> Callable:
    """A replica's batch, and a factor of its loss -> its gradients, times the factor, and {name:
    sum over its examples}, in optimizer.accumulate parts one after the other."""
    called = rematerialise.blockwise if run.train.rematerialise else objective.itself
    forward, count = objective.outputs(network, run.loss, called), run.optimizer.accumulate

    def of_part(part: dict, factor) -> tuple[list, dict]:
        images, masks = augment.of_batch(part, run.augment)
        with tf.GradientTape() as tape:
            outputs = forward(images, training=True)  # logits [B, S, S, L] or [B, 1], …
            loss = tf.reduce_sum(image_losses(masks, outputs, part)) / run.data.batch_size
            scaled = factor * loss
        lesion = objective.lesion_logits(outputs, run.loss)
        sums = validate.example_sums(run.is_classifier, masks, outputs[0], part, None, lesion)
        return tape.gradient(scaled, network.trainable_variables), {"loss": loss, **sums}

    if count == 1:
        return of_part

    def gradients(batch: dict, factor) -> tuple[list, dict]:
        parts = {
            name: tf.reshape(values, (count, values.shape[0] // count, *values.shape[1:]))
            for name, values in batch.items()
        }
        found = of_part({name: values[0] for name, values in parts.items()}, factor)
        for number in tf.range(1, count):  # a loop in the graph, so that one part is in memory
            more = of_part({name: values[number] for name, values in parts.items()}, factor)
            found = tf.nest.map_structure(tf.add, found, more)
        return found

    return gradients


def _refuse_joined_losses(run: config.Config, replicas: int) -> None:
    for name, joins in (
        ("model.norm=sync_batch", getattr(run.model, "norm", None) == "sync_batch"),
        ("loss.reduction=batch", run.loss.reduction == "batch"),
    ):
        if joins and replicas > 1:
            raise InputError(
                f"{name} sums over the replicas before the gradient is known; with {replicas} "
                f"replicas it needs train.jit=off"
            )


def steps_in_one_call(strategy, replica_step: Callable, averages: list) -> Callable:
    """(iterator, number of steps) -> sums over steps and replicas, as one compiled loop."""

    @tf.function
    def several_steps(iterator, count):
        sums = distribute.summed(strategy, strategy.run(replica_step, args=(next(iterator),)))
        for _ in tf.range(count - 1):
            more = distribute.summed(strategy, strategy.run(replica_step, args=(next(iterator),)))
            sums = {name: sums[name] + more[name] for name in sums}
        if averages and strategy.num_replicas_in_sync > 1:
            strategy.run(_average, args=(averages,))
        return sums

    return several_steps


def _average(variables: list) -> None:
    context = tf.distribute.get_replica_context()
    for variable in variables:
        variable.assign(context.all_reduce(tf.distribute.ReduceOp.MEAN, variable.read_value()))


def _check_labels(run: config.Config, *splits: data.Split) -> None:
    """A run must have something to learn and something to be scored on."""
    for split in splits:
        counts = split.counts
        of_classes = counts.get("classes", [counts["negatives"], counts["positives"]])
        if run.is_classifier and not all(of_classes):
            raise InputError(
                f"{run.lake}: split {split.name!r} needs images of each class, 0 to "
                f"{len(of_classes) - 1}; it has {', '.join(map(str, of_classes))}"
            )
        if not run.is_classifier and not counts["lesion_pixels"]:
            raise InputError(
                f"{run.lake}: split {split.name!r} has no mask with a lesion to learn from"
            )


def _introduce(run: config.Config, workdir: Path, network, splits: tuple, per_epoch: int) -> None:
    known = "labelled" if run.is_classifier else "with_mask"
    further = run.loss.lesion or run.loss.reconstruction or run.loss.kl_divergence
    unlabelled = "teach no mask" if further else "weigh nothing"
    used = []
    for split in splits:
        records, counts = split.counts["records"], dict(split.counts)
        counts["labelled"] = records - counts["unknown"]
        left_out = records - counts[known]
        said = f", {left_out:,} of them without a label {unlabelled}" if left_out else ""
        used.append(f"{records:,} images to {'train' if not used else 'validate'} on{said}")
    title = run.model.kind
    if run.is_classifier:
        title += f" of {run.model.classes} classes"
    print(
        f"{title} with {network.count_params():,} parameters at {run.data.side} px, "
        f"{keras.mixed_precision.dtype_policy().name}; {'; '.join(used)}; "
        f"{per_epoch} steps of {run.data.batch_size} an epoch\n"
        f"curves: tensorboard --logdir {workdir}",
        flush=True,
    )


def _tag(name: str) -> str:
    return name.replace("dice_", "dice/")
