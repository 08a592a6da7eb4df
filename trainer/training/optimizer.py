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
    clip first and sum later. And gives the encoder's weights a rate of their own."""

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
        # That of the encoder is in update_step, at its own rate.
        super()._apply_weight_decay(
            [variable for variable in variables if self._var_key(variable) not in self.encoder_keys]
        )

    def update_step(self, gradient, variable, learning_rate):
        if self._var_key(variable) in self.encoder_keys:
            learning_rate = self.encoder_share * learning_rate
            if self.weight_decay and self._use_weight_decay(variable):
                variable.assign_sub(variable * (self.weight_decay * learning_rate))
            learning_rate = learning_rate * self._late_start_factor()
        super().update_step(gradient, variable, learning_rate)

    def _late_start_factor(self):
        """Return the factor on the rate of weights that were frozen at first. Adam corrects its
        moving means for their start at 0, and counts all steps; those of the encoder are 0 until
        it is unfrozen, and its first steps would be three times too long."""
        if not self.frozen_steps or not hasattr(self, "beta_1"):
            return 1.0
        step = tf.cast(self.iterations + 1, tf.float32)
        # Steps that float16 skipped are not in iterations, hence the maximum.
        shares = [
            tf.sqrt(1 - tf.pow(self.beta_2, count)) / (1 - tf.pow(self.beta_1, count))
            for count in (tf.maximum(step - self.frozen_steps, 1.0), step)
        ]
        return shares[0] / shares[1]


class ReducedAdamW(_ReducedGradients, keras.optimizers.AdamW):
    pass


class ReducedAdam(_ReducedGradients, keras.optimizers.Adam):
    pass


class ReducedSGD(_ReducedGradients, keras.optimizers.SGD):
    pass


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
