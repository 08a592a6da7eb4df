"""The loop: N steps in one call of a tf.function around strategy.run; validation, checkpoints,
curves each epoch.

Gradients of a replica -> all-reduce -> finite check -> clipping -> optimizer. Losses are sums over
the batch divided by the global batch, so that one replica and many take the same step.
"""

from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from lake import InputError
from trainer import (
    augment,
    checkpoint,
    config,
    data,
    distribute,
    models,
    objective,
    progress,
    schedules,
    summaries,
    validate,
)


def train(run: config.Config, workdir: Path) -> None:
    """Trains to the last epoch, from where the newest checkpoint in the workdir stands."""
    lake = data.open_lake(run.lake)
    split = data.split_of(lake, run.lake, run.data.train_split)
    val_split = data.split_of(lake, run.lake, run.data.val_split)
    _check_labels(run, lake["counts"]["splits"])
    per_epoch = data.steps_per_epoch(split, run.data.batch_size)
    strategy = distribute.strategy(run.train.device, run.train.replicas, run.data.batch_size)
    image_losses = objective.image_losses(
        run, lake["statistics"]["positive_pixel_share_of_positives"], distribute.total(strategy)
    )
    keras.utils.set_random_seed(run.train.seed)
    if run.train.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.mixed_precision.set_dtype_policy(distribute.precision(run.train.precision, strategy))
    with strategy.scope():
        network = models.build(run.model, run.data.side)
        optimizer = schedules.build_optimizer(run.optimizer, run.train.epochs, per_epoch)
        optimizer.build(network.trainable_variables)
        checkpoint.claim(workdir, run, lake)
        state = checkpoint.State(workdir, network, optimizer)
    step, last_step = state.restore(), per_epoch * run.train.epochs
    if step >= last_step:
        print(f"{workdir}: all {run.train.epochs} epochs are done")
        return
    several_steps = steps_in_one_call(
        strategy,
        training_step(network, optimizer, run, strategy, image_losses),
        averages_of_replicas(network),
    )
    num_draws = augment.num_draws(run.augment, run.data.side)
    batches = data.training_batches(
        split, run.data, run.train.seed, run.train.epochs, step, num_draws
    )
    iterator = iter(strategy.experimental_distribute_dataset(batches))
    validation = validate.Validation(strategy, network, run, val_split, image_losses)
    board = summaries.Board(workdir)
    line = progress.Progress(per_epoch, run, step)
    _introduce(run, workdir, network, lake["counts"]["splits"], per_epoch)
    while step < last_step:
        epoch_end = (step // per_epoch + 1) * per_epoch
        sums = {}
        while step < epoch_end:
            count = min(run.train.steps_per_call, epoch_end - step)
            call = several_steps(iterator, tf.constant(count))
            # An epoch has more pixels than float32 can count.
            call = {name: value.numpy().astype("float64") for name, value in call.items()}
            call["steps"] = count
            step += count
            if call["nonfinite_steps"]:
                raise FloatingPointError(
                    f"the loss or a gradient is not a number between steps {step - count + 1} and "
                    f"{step}; lower optimizer.learning_rate in a new workdir"
                )
            sums = {name: sums.get(name, 0) + value for name, value in call.items()}
            line.show(step, sums)
            means = {name: float(call[name]) / count for name in ("loss", "gradient_norm")}
            board.scalars("train", step, {**means, **line.rates(optimizer)})
            if step < epoch_end:
                state.save_if_due(step, run.train.checkpoint_minutes)
        curves = {"train": validate.scores(sums), "val": validate.scores(validation(board, step))}
        for curve, values in curves.items():
            board.scalars(curve, step, {_tag(name): value for name, value in values.items()})
        board.flush()
        is_best = state.keep_if_best(curves["val"][run.score])
        state.save(step)
        last = {"epoch": step // per_epoch, "step": step, **curves}
        best = {"score": run.score, "value": float(state.best_score.numpy())}
        checkpoint.write_metrics(workdir, {"last": last, "best": best})
        line.epoch(step // per_epoch, curves, is_best)


def training_step(
    network, optimizer, run: config.Config, strategy, image_losses: Callable
) -> Callable:
    """One replica's step: batch -> {name: sum over its examples}; the weights of all replicas move
    alike."""
    forward = objective.outputs(network, run.loss)

    def gradients(batch: dict):
        images, masks = augment.of_batch(batch, run.augment)
        with tf.GradientTape() as tape:
            outputs = forward(
                images, training=True
            )  # logits [B / replicas, S, S, L] or [B / replicas, 1], …
            loss = tf.reduce_sum(image_losses(masks, outputs, batch)) / run.data.batch_size
        return tape.gradient(loss, network.trainable_variables), loss, masks, outputs[0]

    if distribute.compiles_gradients(run.train.jit, strategy):
        for name, joins in (
            ("model.norm=sync_batch", getattr(run.model, "norm", None) == "sync_batch"),
            ("loss.reduction=batch", run.loss.reduction == "batch"),
        ):
            if joins and strategy.num_replicas_in_sync > 1:
                raise InputError(
                    f"{name} sums over the replicas before the gradient is known; with "
                    f"{strategy.num_replicas_in_sync} replicas it needs train.jit=off"
                )
        gradients = tf.function(gradients, jit_compile=True)

    def step(batch: dict) -> dict:
        grads, loss, masks, logits = gradients(batch)
        grads = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, grads)
        norm = tf.linalg.global_norm(grads)  # finite only where every gradient is
        is_finite = tf.math.is_finite(norm)
        grads = [tf.where(is_finite, grad, tf.zeros_like(grad)) for grad in grads]
        optimizer.apply(grads, network.trainable_variables)
        return {
            "loss": loss,
            "gradient_norm": norm / strategy.num_replicas_in_sync,  # the same on each
            "nonfinite_steps": 1.0 - tf.cast(is_finite, tf.float32),
            **validate.example_sums(run.model.kind, masks, logits, batch, None),
        }

    return step


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


def averages_of_replicas(network: keras.Model) -> list:
    """Moving statistics of plain BatchNormalization: each replica has its own, a checkpoint would
    keep the first's."""
    return [
        variable.value
        for variable in network.non_trainable_variables
        if variable.name in ("moving_mean", "moving_variance")
    ]


def _average(variables: list) -> None:
    context = tf.distribute.get_replica_context()
    for variable in variables:
        variable.assign(context.all_reduce(tf.distribute.ReduceOp.MEAN, variable.read_value()))


def _check_labels(run: config.Config, splits: dict) -> None:
    """A run must have something to learn and something to be scored on."""
    for name in (run.data.train_split, run.data.val_split):
        split = splits[name]
        if run.model.kind == "classifier" and not (split["positives"] and split["negatives"]):
            raise InputError(f"{run.lake}: split {name!r} needs positive and negative images")
        if run.model.kind != "classifier" and not split["lesion_pixels"]:
            raise InputError(f"{run.lake}: split {name!r} has no mask with a lesion to learn from")


def _introduce(run: config.Config, workdir: Path, network, splits: dict, per_epoch: int) -> None:
    known = "with_mask" if run.model.kind != "classifier" else "labelled"
    used = []
    for name in (run.data.train_split, run.data.val_split):
        split = splits[name]
        counts = {"with_mask": split["with_mask"], "labelled": split["records"] - split["unknown"]}
        left_out = split["records"] - counts[known]
        said = f", {left_out:,} of them without a label weigh nothing" if left_out else ""
        used.append(
            f"{split['records']:,} images to {'train' if not used else 'validate'} on{said}"
        )
    print(
        f"{run.model.kind} with {network.count_params():,} parameters at {run.data.side} px, "
        f"{keras.mixed_precision.dtype_policy().name}; {'; '.join(used)}; "
        f"{per_epoch} steps of {run.data.batch_size} an epoch\n"
        f"curves: tensorboard --logdir {workdir}",
        flush=True,
    )


def _tag(name: str) -> str:
    return name.replace("dice_", "dice/")
