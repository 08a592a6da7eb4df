"""A training step of a replica, and several of them in one call of a compiled loop.

Gradients of a replica -> all-reduce -> finite check -> clipping -> optimizer. Losses are sums over
the batch divided by the global batch, so that one replica and many take the same step.
"""

from collections.abc import Callable

import tensorflow as tf
from keras import ops

from lake import InputError
from trainer.augmentation import augment
from trainer.config.augmentation import Augment
from trainer.config.run import Config
from trainer.devices.strategy import compiles_gradients, has_several_workers, sum_over_replicas
from trainer.models.window import to_unit
from trainer.scoring import losses, objective
from trainer.scoring.sums import example_sums
from trainer.training import averaging, rematerialise
from trainer.training.optimizer import LossScale, kept_if_finite


def training_step(
    network,
    optimizer,
    run: Config,
    strategy,
    image_losses: Callable,
    averages: averaging.Averages | None = None,
    scale: LossScale | None = None,
) -> Callable:
    """One replica's step: batch -> {name: sum over its examples}; the weights of all replicas move
    alike. With a `scale`, a step that is not finite is skipped by all, and sums nothing."""
    _refuse_joined_parts(run, strategy.num_replicas_in_sync)
    gradients = gradients_in_parts(network, run, image_losses)
    if compiles_gradients(run.train.jit, strategy):
        _refuse_joined_losses(run, strategy.num_replicas_in_sync)
        gradients = tf.function(gradients, jit_compile=True, autograph=False)

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
            kept_if_finite(is_finite, moved, before)
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


def gradients_in_parts(network, run: Config, image_losses: Callable) -> Callable:
    """A replica's batch, and a factor of its loss -> its gradients, times the factor, and {name:
    sum over its examples}, in optimizer.accumulate parts one after the other."""
    called = rematerialise.blockwise if run.train.rematerialise else losses.identity
    forward, count = objective.outputs(network, run.loss, called), run.optimizer.accumulate

    def of_part(part: dict, factor) -> tuple[list, dict]:
        images, masks = prepare_batch(part, run.augment)
        with tf.GradientTape() as tape:
            outputs = forward(images, training=True)  # logits [B, S, S, L] or [B, 1], …
            loss = tf.reduce_sum(image_losses(masks, outputs, part)) / run.data.batch_size
            scaled = factor * loss
        lesion = objective.lesion_logits(outputs, run.loss)
        sums = example_sums(run.is_classifier, masks, outputs[0], part, None, lesion)
        return tape.gradient(scaled, network.trainable_variables), {"loss": loss, **sums}

    if count == 1:
        return of_part
    traced = tf.function(of_part, autograph=False)

    @tf.function  # with AutoGraph, for the loop
    def gradients(batch: dict, factor) -> tuple[list, dict]:
        parts = {
            name: tf.reshape(values, (count, values.shape[0] // count, *values.shape[1:]))
            for name, values in batch.items()
        }
        first = {name: values[0] for name, values in parts.items()}
        found = zeros_like_result(traced, first, factor)
        for number in tf.range(count):  # a loop in the graph, so that one part is in memory
            more = traced({name: values[number] for name, values in parts.items()}, factor)
            found = tf.nest.map_structure(tf.add, found, more)
        return found

    return gradients


def _refuse_joined_parts(run: Config, replicas: int) -> None:
    """TensorFlow has no reduction over replicas within a loop."""
    accumulate = run.optimizer.accumulate
    if _joins_norms(run) and accumulate > 1 and replicas > 1:
        raise InputError(
            f"model.norm=sync_batch takes its statistics from all {replicas} replicas at once, and "
            f"optimizer.accumulate={accumulate} works in a loop, where they cannot; use "
            f"model.norm=batch, or optimizer.accumulate=1"
        )


def _refuse_joined_losses(run: Config, replicas: int) -> None:
    for name, joins in (
        ("model.norm=sync_batch", _joins_norms(run)),
        ("loss.reduction=batch", run.loss.reduction == "batch"),
    ):
        if joins and replicas > 1:
            raise InputError(
                f"{name} sums over the replicas before the gradient is known; with {replicas} "
                f"replicas it needs train.jit=off"
            )


def _joins_norms(run: Config) -> bool:
    return getattr(run.model, "norm", None) == "sync_batch"


def steps_in_one_call(
    strategy, replica_step: Callable, averages: list, is_timed: bool = True
) -> Callable:
    """(iterator, number of steps) -> sums over steps and replicas, and the share of their time in
    which the step waited for its batch, nan unless `is_timed`; as one compiled loop."""

    clock = Clock(is_timed)

    @tf.function
    def several_steps(iterator, count):
        # Only the loop below needs AutoGraph, which took seconds of a start for the step.
        @tf.autograph.experimental.do_not_convert
        def one_step(done):
            batch = next(iterator)
            waited = tf.maximum(clock.when_fetched(batch) - done, 0.0)
            sums = sum_over_replicas(strategy, strategy.run(replica_step, args=(batch,)))
            return (sums, waited), clock.when_done(sums)

        traced = tf.function(one_step, autograph=False)
        sums, _ = zeros_like_result(traced, tf.TensorSpec([], tf.float64))
        # Several workers' collectives stay out of a nested function: in one, the loss of a worker
        # was now and then noticed after a minute instead of ten seconds.
        step = one_step if has_several_workers(strategy) else traced
        start = done = clock.now()
        for _ in tf.range(count):
            more, done = step(done)
            sums = tf.nest.map_structure(tf.add, sums, more)
        if averages and strategy.num_replicas_in_sync > 1:
            strategy.run(_average, args=(averages,))
        sums, waited = sums
        return {**sums, "input_wait_share": waited / (done - start)}

    return several_steps


def zeros_like_result(function, *arguments):
    """Zeros like what a tf.function gives for arguments such as these, which may be tf.TensorSpec:
    where a loop that adds up starts, so that its body, seconds of a large network, is traced and in
    the graph once."""
    result = function.get_concrete_function(*arguments).structured_outputs
    return tf.nest.map_structure(lambda one: tf.zeros(one.shape, one.dtype), result)


def _average(variables: list) -> None:
    context = tf.distribute.get_replica_context()
    for variable in variables:
        variable.assign(context.all_reduce(tf.distribute.ReduceOp.MEAN, variable.read_value()))


def prepare_batch(batch: dict, settings: Augment):
    """Images [B, S, S, 1] in [0, 1] and masks of a batch as tf.data makes it (data.py), changed."""
    window = augment.jitter_window(
        batch["window"], batch["uniforms"], settings, batch["image"].shape[1]
    )
    masks = ops.cast(batch["mask"], "float32")
    return augment.apply(to_unit(batch["image"], window), masks, batch["uniforms"], settings)


class Clock:
    """Seconds since the epoch, float64, read when values are there; stands still unless
    `is_running`: TensorFlow reads no clock where operations must be deterministic."""

    def __init__(self, is_running: bool = True):
        self.is_running = is_running
        with tf.device("CPU:0"):
            self.seen = tf.Variable(0.0, dtype=tf.float64, trainable=False)

    def now(self) -> tf.Tensor:
        with tf.device("CPU:0"):
            return tf.timestamp() if self.is_running else tf.zeros([], tf.float64)

    def when_fetched(self, batch) -> tf.Tensor:
        tensors = tf.nest.flatten(batch, expand_composites=True)
        with tf.control_dependencies(tensors):
            return self.now()

    def when_done(self, sums: dict) -> tf.Tensor:
        """A GPU's operations end on the host before they are computed: a value that arrives on the
        host, in an assignment that no optimiser of graphs removes, was computed."""
        with tf.device("CPU:0"):
            values = [tf.reduce_sum(tf.cast(value, tf.float64)) for value in sums.values()]
            assigned = self.seen.assign(tf.add_n(values))
        with tf.control_dependencies([assigned]):
            return self.now()
