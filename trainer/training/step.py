"""One training step of a replica, from its batch to its weights, and the compiled loop of several.

    batch ─ window, augmentation ─> images, masks ─ network ─> outputs ─ losses ─> gradients
    gradients ─ all-reduce over the replicas ─> finite? ─ clipping, optimizer ─> weights, averages

Shapes: B images of a replica, or of one of its optimizer.accumulate parts; S their side.
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
from trainer.scoring import objective
from trainer.scoring.losses import identity
from trainer.scoring.sums import example_sums
from trainer.training import averaging, rematerialise
from trainer.training.profiling import Clock
from trainer.training.run import Run


def training_step(run: Run) -> Callable[[dict], dict]:
    """Return one step of a replica: batch -> {name: sum over its examples}.

    All replicas take it together, each on its part of the batch, and move their weights alike.
    """
    network, optimizer, averages, scale = run.network, run.optimizer, run.averages, run.scale
    config, num_replicas = run.config, run.strategy.num_replicas_in_sync
    is_compiled = compiles_gradients(config.train.jit, run.strategy)
    _check_reductions(config, num_replicas, is_compiled)
    gradients_and_sums = replica_gradients(run)
    if is_compiled:
        gradients_and_sums = tf.function(gradients_and_sums, jit_compile=True, autograph=False)
    step_variables = _variables_of_step(run) if scale else []

    def step(batch: dict) -> dict:
        """Take a step on a replica's batch and return its sums."""
        old_values = [tf.identity(variable) for variable in step_variables]

        # --- gradients of this replica ---
        # In float16 small gradients would be rounded to 0, so that the loss is multiplied by a
        # scale first, and the gradients are divided by it as soon as they are float32 sums.
        loss_scale = scale.value.read_value() if scale else tf.constant(1.0)
        gradients, sums = gradients_and_sums(batch, loss_scale)

        # --- gradient of the global batch ---
        # A replica's loss is the sum over its own images divided by the number of images on ALL
        # replicas. So gradients add up, not average: their sum is the gradient of the global
        # batch's mean loss, and one replica and many take the same step.
        replica = tf.distribute.get_replica_context()
        gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        if scale:
            gradients = [gradient / loss_scale for gradient in gradients]

        # --- finite? ---
        # The norm is finite only where every gradient is. It is the same on every replica, because
        # it is taken after the reduction: either all of them take the step, or none does.
        norm = tf.linalg.global_norm(gradients)  # []
        is_finite = tf.math.is_finite(norm)
        gradients = [tf.where(is_finite, value, tf.zeros_like(value)) for value in gradients]

        # --- weights and their moving average ---
        steps_before = tf.identity(optimizer.iterations)
        optimizer.apply(gradients, network.trainable_variables)  # clips by the global norm first
        if averages and config.optimizer.ema:
            averages.move(averaging.ema_share(config.optimizer.ema, steps_before))

        # --- sums: the caller adds them up over the replicas, so what all share is divided ---
        sums |= {"gradient_norm": norm / num_replicas}
        if scale:
            # A step that is not finite leaves no trace. `tf.cond` around the step would need no
            # copies, but replicas cannot meet inside one.
            for variable, value in zip(step_variables, old_values, strict=True):
                variable.assign(tf.where(is_finite, variable, value))
            scale.update(is_finite)
            sums = {
                k: tf.where(is_finite, value, tf.zeros_like(value)) for k, value in sums.items()
            }
        return {**sums, "nonfinite_steps": (1.0 - tf.cast(is_finite, tf.float32)) / num_replicas}

    return step


def replica_gradients(run: Run) -> Callable[[dict, tf.Tensor], tuple[list, dict]]:
    """Return (batch of a replica, loss scale) -> the pair of the gradients, times the scale, and
    {name: sum over the examples}, among them the loss, which is not scaled."""
    config, network = run.config, run.network
    wrap = rematerialise.rematerialise if config.train.rematerialise else identity
    forward = objective.outputs(network, config.loss, wrap)

    def gradients(batch: dict, loss_scale: tf.Tensor) -> tuple[list, dict]:
        """Return the pair of replica_gradients for a batch, or a part of one."""
        images, masks = prepare_batch(batch, config.augment)  # [B, S, S, 1] float32 each
        with tf.GradientTape() as tape:
            outputs = forward(images, training=True)  # [logits [B, S, S, heads] or [B, classes], …]
            losses = run.image_losses(masks, outputs, batch)  # [B]
            # This replica's part of the mean over the batch of all replicas.
            loss = tf.reduce_sum(losses) / config.data.batch_size
            scaled_loss = loss_scale * loss
        lesion_logits = objective.lesion_logits(outputs, config.loss)  # [B, 1] or None
        sums = example_sums(
            config.is_classifier,
            masks,
            outputs[0],
            batch,
            weights=None,
            lesion_logits=lesion_logits,
        )
        return tape.gradient(scaled_loss, network.trainable_variables), {"loss": loss, **sums}

    num_parts = config.optimizer.accumulate
    return gradients if num_parts == 1 else _in_parts(gradients, num_parts)


def prepare_batch(batch: dict, settings: Augment) -> tuple:
    """Return images in [0, 1] and masks of 0 and 1, [B, S, S, 1] float32, augmented by the batch's
    own draws; `batch` as trainer/data/batches.py describes it."""
    side = batch["image"].shape[1]
    window = augment.jitter_window(batch["window"], batch["uniforms"], settings, side)
    masks = ops.cast(batch["mask"], "float32")
    return augment.apply(to_unit(batch["image"], window), masks, batch["uniforms"], settings)


def _in_parts(gradients: Callable, num_parts: int) -> Callable:
    """Return a function that computes the same gradients and sums of a batch in equal parts, one
    after the other, and adds them up: only one part's activations are in memory at a time."""
    traced_gradients = tf.function(gradients, autograph=False)

    @tf.function  # with AutoGraph, for the loop
    def gradients_in_parts(batch: dict, loss_scale: tf.Tensor) -> tuple[list, dict]:
        """Return the sums of `gradients` over the equal parts of a batch."""
        parts = {
            name: tf.reshape(values, (num_parts, values.shape[0] // num_parts, *values.shape[1:]))
            for name, values in batch.items()
        }
        first = {name: values[0] for name, values in parts.items()}
        total = zeros_like_result(traced_gradients, first, loss_scale)
        for number in tf.range(num_parts):  # a loop in the graph, so that one part is in memory
            part = {name: values[number] for name, values in parts.items()}
            total = tf.nest.map_structure(tf.add, total, traced_gradients(part, loss_scale))
        return total

    return gradients_in_parts


def _variables_of_step(run: Run) -> list:
    """Return all variables that a step changes, but the states of random generators."""
    variables = [v.value for v in (*run.network.trainable_variables, *run.optimizer.variables)]
    shadows = run.averages.shadows if run.averages else []
    return [*variables, *averaging.moving_statistics(run.network), *shadows]


def _check_reductions(config: Config, num_replicas: int, is_compiled: bool) -> None:
    """Raise InputError where the replicas would have to meet inside a loop or inside XLA."""
    if num_replicas == 1:
        return
    num_parts = config.optimizer.accumulate
    has_joint_norms = getattr(config.model, "norm", None) == "sync_batch"
    if has_joint_norms and num_parts > 1:
        raise InputError(
            f"model.norm=sync_batch takes its statistics from all {num_replicas} replicas at "
            f"once, and optimizer.accumulate={num_parts} works in a loop, where they cannot; use "
            f"model.norm=batch, or optimizer.accumulate=1"
        )
    for name, is_joint in (
        ("model.norm=sync_batch", has_joint_norms),
        ("loss.reduction=batch", config.loss.reduction == "batch"),
    ):
        if is_joint and is_compiled:
            raise InputError(
                f"{name} sums over the replicas before the gradient is known; with {num_replicas} "
                f"replicas it needs train.jit=off"
            )


# --- several steps in one call ---


def compile_steps(run: Run) -> Callable:
    """Return steps_in_one_call of the run's training step."""
    statistics = averaging.per_replica_variables(run.network, run.averages)
    is_timed = not run.config.train.deterministic
    return steps_in_one_call(run.strategy, training_step(run), statistics, is_timed)


def steps_in_one_call(
    strategy: tf.distribute.Strategy,
    replica_step: Callable[[dict], dict],
    per_replica_variables: list,
    is_timed: bool = True,
) -> Callable:
    """Return (iterator, number of steps) -> sums over steps and replicas, as one compiled loop.

    Among them is input_wait_share, the part of the time in which the steps waited for their
    batches; nan unless `is_timed`. Behind the last step the replicas' own variables are averaged.
    """
    clock = Clock(is_timed)

    @tf.function
    def several_steps(iterator, count):
        """Take `count` steps and return their sums."""

        # Only the loop below needs AutoGraph, which took seconds of a start for the step.
        @tf.autograph.experimental.do_not_convert
        def one_step(end_before):
            batch = next(iterator)
            wait_seconds = tf.maximum(clock.when_fetched(batch) - end_before, 0.0)
            sums = sum_over_replicas(strategy, strategy.run(replica_step, args=(batch,)))
            return (sums, wait_seconds), clock.when_computed(sums)

        traced_step = tf.function(one_step, autograph=False)
        total, _ = zeros_like_result(traced_step, tf.TensorSpec([], tf.float64))
        # Several workers' collectives stay out of a nested function: in one, the loss of a worker
        # was now and then noticed after a minute instead of ten seconds.
        step = one_step if has_several_workers(strategy) else traced_step
        start = end = clock.now()
        for _ in tf.range(count):
            step_sums, end = step(end)
            total = tf.nest.map_structure(tf.add, total, step_sums)
        if per_replica_variables and strategy.num_replicas_in_sync > 1:
            strategy.run(_average, args=(per_replica_variables,))
        sums, wait_seconds = total
        return {**sums, "input_wait_share": wait_seconds / (end - start)}

    return several_steps


def zeros_like_result(function, *arguments):
    """Return zeros in the structure of what a tf.function returns for such arguments (values or
    tf.TensorSpec).

    A loop that adds up starts from them. To start from its first result, it would need the body,
    which takes seconds of a large network, traced twice and twice in the graph.
    """
    result = function.get_concrete_function(*arguments).structured_outputs
    return tf.nest.map_structure(lambda tensor: tf.zeros(tensor.shape, tensor.dtype), result)


def _average(variables: list) -> None:
    """Set each replica's copies to their mean over the replicas; called within a replica."""
    replica = tf.distribute.get_replica_context()
    for variable in variables:
        mean = replica.all_reduce(tf.distribute.ReduceOp.MEAN, variable.read_value())
        variable.assign(mean)
