"""The optimizer, its learning rate by step, and float16's loss scale. The rate rises in a line at
first (warm-up), then follows one of the schedules:

constant     the rate
cosine       half a cosine down to final_share (Loshchilov & Hutter 2016, arXiv:1608.03983), over
             the whole run, or from the top again after cycle_epochs
cyclic       up and down in lines between final_share and the rate (Smith 2015, arXiv:1506.01186)
polynomial   (1 - t)^power down to final_share
plateau      the rate, times plateau_factor after each plateau_epochs without a better score
"""

import keras
import tensorflow as tf
from keras.optimizers import schedules

from trainer.config import learning

DECAY_OF_ADAMW = 1e-4


class _ReducedGradients:
    """Makes an optimizer take gradients that the caller has summed over the replicas: Keras would
    clip first and sum later. And gives the encoder's weights a rate of their own.

    The numbers of a step are Keras's. What weights share is computed once: Keras has schedule and
    bias correction in the graph again for each weight, a quarter of the time to the first step.
    """

    encoder_keys = frozenset()
    encoder_share = 1.0  # of the rate
    frozen_steps = 0

    def pace(self, encoder_weights: list, share: float, frozen_steps: int) -> None:
        """Multiply the rate of these weights by `share`, weight decay included. In the first
        `frozen_steps` steps they do not move. Call it when the optimizer is built."""
        self.encoder_keys = frozenset(self._var_key(weight) for weight in encoder_weights)
        self.encoder_share, self.frozen_steps = share, frozen_steps

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars

    def _apply_weight_decay(self, variables):
        pass  # where a weight is updated

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        rate = tf.convert_to_tensor(learning_rate, tf.float32)
        factors = {"others": self._factors(rate, 0)}
        if self.encoder_keys:
            factors["encoder"] = self._factors(self.encoder_share * rate, self.frozen_steps)
        super()._backend_update_step(grads, trainable_variables, factors)

    def _factors(self, rate, frozen_steps: int) -> dict:
        """Return what the updates of weights share that have this rate, and did not move in the
        first `frozen_steps` steps."""
        return {"rate": rate, "decay": tf.constant(self.weight_decay or 0.0)}

    def update_step(self, gradient, variable, learning_rate):
        """Take a weight's step; `learning_rate`: the factors of _backend_update_step."""
        is_encoders = self._var_key(variable) in self.encoder_keys
        factors = learning_rate["encoder" if is_encoders else "others"]
        if self.weight_decay is not None and self._use_weight_decay(variable):
            variable.assign_sub(variable * factors["decay"] * factors["rate"])
        self._move(gradient, variable, factors)


class _ReducedAdam(_ReducedGradients):
    def _factors(self, rate, frozen_steps: int) -> dict:
        step = tf.cast(self.iterations.value + 1, tf.float32)
        if frozen_steps:
            # Adam corrects its moving means for their start at 0. Those of the encoder are 0 until
            # it is unfrozen, and by the number of all steps its first ones would be three times
            # too long. (Steps that float16 skipped are not in iterations, hence the maximum.)
            step = tf.maximum(step - frozen_steps, 1.0)
        corrections = [1 - tf.pow(beta, step) for beta in (self.beta_1, self.beta_2)]
        return {
            **super()._factors(rate, frozen_steps),
            "alpha": rate * tf.sqrt(corrections[1]) / corrections[0],
            "share_1": tf.constant(1 - self.beta_1),
            "share_2": tf.constant(1 - self.beta_2),
            "epsilon": tf.constant(self.epsilon),
        }

    def _move(self, gradient, variable, factors: dict) -> None:
        index = self._get_variable_index(variable)
        momentum, velocity = self._momentums[index].value, self._velocities[index].value
        momentum.assign_add((gradient - momentum) * factors["share_1"])
        velocity.assign_add((tf.square(gradient) - velocity) * factors["share_2"])
        step = momentum * factors["alpha"] / (tf.sqrt(velocity) + factors["epsilon"])
        variable.assign_sub(step)


class ReducedAdamW(_ReducedAdam, keras.optimizers.AdamW):
    pass


class ReducedAdam(_ReducedAdam, keras.optimizers.Adam):
    pass


class ReducedSGD(_ReducedGradients, keras.optimizers.SGD):
    def _move(self, gradient, variable, factors: dict) -> None:
        keras.optimizers.SGD.update_step(self, gradient, variable, factors["rate"])


class Rate(schedules.LearningRateSchedule):
    """Returns the rate by step: a warm-up from 0 to `peak`, then `schedule`(steps since the
    warm-up), times a factor that a plateau lowers. Build it in the strategy's scope."""

    def __init__(self, peak: float, warmup_steps: int, schedule):
        self.peak, self.warmup_steps, self.schedule = peak, warmup_steps, schedule
        self.factor = tf.Variable(1.0, trainable=False)

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        rate = tf.cast(self.schedule(tf.maximum(step - self.warmup_steps, 0.0)), tf.float32)
        if self.warmup_steps:
            warmup_rate = self.peak * step / self.warmup_steps
            rate = tf.where(step < self.warmup_steps, warmup_rate, rate)
        return self.factor * rate


def build_optimizer(settings: learning.Optimizer, rate: Rate) -> keras.optimizers.Optimizer:
    """Return the optimizer, which clips by the global norm and does not decay biases and norms."""
    decay = settings.weight_decay
    if decay is None:
        decay = DECAY_OF_ADAMW if settings.kind == "adamw" else 0.0
    options = {"global_clipnorm": settings.clip_norm, "weight_decay": decay or None}
    match settings.kind:
        case "adamw":
            optimizer = ReducedAdamW(rate, **options | {"weight_decay": decay})
        case "adam":
            optimizer = ReducedAdam(rate, **options)
        case "sgd":
            momentum = settings.momentum
            optimizer = ReducedSGD(rate, momentum=momentum, nesterov=momentum > 0, **options)
    if decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def learning_rate(settings: learning.Optimizer, epochs: int, steps_per_epoch: int) -> Rate:
    """Return the rate by step."""
    warmup = round(min(settings.warmup_epochs, epochs / 2) * steps_per_epoch)
    num_steps = max(1, epochs * steps_per_epoch - warmup)
    cycle = settings.cycle_epochs and max(1, round(settings.cycle_epochs * steps_per_epoch))
    return Rate(settings.learning_rate, warmup, _schedule(settings, num_steps, cycle))


def _schedule(settings: learning.Optimizer, num_steps: int, cycle_steps: int | None):
    """Return the schedule after the warm-up: steps since then -> rate. It has `num_steps` in all,
    and `cycle_steps` in a cycle."""
    peak, share = settings.learning_rate, settings.final_share
    match settings.schedule:
        case "constant" | "plateau":
            return lambda step: peak
        case "cosine" if cycle_steps:
            growth, decay = settings.cycle_growth, settings.cycle_decay
            return schedules.CosineDecayRestarts(peak, cycle_steps, growth, decay, alpha=share)
        case "cosine":
            return schedules.CosineDecay(peak, num_steps, alpha=share)
        case "polynomial":
            return schedules.PolynomialDecay(peak, num_steps, share * peak, settings.power)
        case "cyclic":
            return lambda step: peak * _triangle(tf.math.floormod(step / cycle_steps, 1.0), share)


def _triangle(position, low: float):
    """Return a value that goes from `low` up to 1 at the middle of the cycle and down again;
    position in [0, 1)."""
    return low + (1 - low) * (1 - tf.abs(2 * position - 1))


def lower_on_plateau(settings: learning.Optimizer, rate: Rate, stale_epochs: int) -> None:
    """Lower the rate when the score has not become better for plateau_epochs (again)."""
    is_due = stale_epochs and stale_epochs % settings.plateau_epochs == 0
    if settings.schedule == "plateau" and is_due:
        rate.factor.assign(rate.factor * settings.plateau_factor)


LOWEST_SCALE = 1.0


class LossScale:
    """float16's scale of the loss: halved at a step that is not finite, doubled after
    `doubling_steps` good ones in a row.

    Build it in the strategy's scope. Every replica sees the same steps, so that all copies of the
    scale move alike.
    """

    def __init__(self, start: float, doubling_steps: int):
        self.value = tf.Variable(start, trainable=False)
        self.good_steps = tf.Variable(0, trainable=False)  # since the value last changed
        self.doubling_steps = doubling_steps

    @property
    def is_exhausted(self) -> bool:
        """Whether it is so low that steps which are not finite have another cause than float16's
        range."""
        return float(self.value.numpy()) < LOWEST_SCALE

    def update(self, is_finite) -> None:
        """Count a step; called within a replica."""
        good_steps = tf.where(is_finite, self.good_steps + 1, 0)
        is_due = good_steps >= self.doubling_steps
        change = tf.where(is_finite, tf.where(is_due, 2.0, 1.0), 0.5)
        # An inf would never come back.
        self.value.assign(tf.minimum(self.value * change, tf.float32.max / 2))
        self.good_steps.assign(tf.where(is_due, 0, good_steps))
