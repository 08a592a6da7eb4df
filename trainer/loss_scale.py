"""A loss scale for float16, which looks at the gradients that all replicas have reduced.

Small gradients vanish in float16, so the loss is multiplied before they are taken and they are
divided behind the reduction. Keras's LossScaleOptimizer looks at the first replica's gradients
alone: another replica's inf would destroy the weights.
"""

import tensorflow as tf

LOWEST = 1.0  # below it a step that is not finite is no matter of float16's range


class LossScale:
    """Halved at a step that is not finite, doubled after so many good ones; build it in the
    strategy's scope. Every replica sees the same steps, so its own copy moves alike."""

    def __init__(self, start: float, good_steps: int):
        self.value = tf.Variable(start, trainable=False)
        self.good = tf.Variable(0, trainable=False)  # since it last moved
        self.good_steps = good_steps

    @property
    def is_spent(self) -> bool:
        return float(self.value.numpy()) < LOWEST

    def move(self, is_finite) -> None:
        """Within a replica."""
        good = tf.where(is_finite, self.good + 1, 0)
        is_due = good >= self.good_steps
        change = tf.where(is_finite, tf.where(is_due, 2.0, 1.0), 0.5)
        # An inf would never come back.
        self.value.assign(tf.minimum(self.value * change, tf.float32.max / 2))
        self.good.assign(tf.where(is_due, 0, good))


def kept_if_finite(is_finite, variables: list, before: list) -> None:
    """Within a replica: a step that was not finite leaves no trace in the variables.

    `tf.cond` around the step would cost no copy, but a replica may not meet the others in it.
    """
    for variable, value in zip(variables, before, strict=True):
        variable.assign(tf.where(is_finite, variable, value))
