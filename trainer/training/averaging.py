"""Averages of a network's weights, which validation sees and the best weights are taken from.

    EMA     moves a small share of the way to the weights at each step
    SWA     the mean over the last epochs (Izmailov et al. 2018, arXiv:1803.05407); the statistics
            of batch normalisation are not averaged but estimated again, as the paper says

Every replica updates its own copies. Moving statistics differ between replicas until they are
averaged, and so do their shadows.
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from trainer.devices.strategy import distribute
from trainer.models import weight_files


class Averages:
    """Holds a shadow of each trainable weight and of each moving statistic; build it in the
    strategy's scope."""

    def __init__(self, network: keras.Model, strategy: tf.distribute.Strategy):
        weights = [variable.value for variable in network.trainable_variables]
        self.variables = weights + moving_statistics(network)
        self.shadows = [tf.Variable(variable, trainable=False) for variable in self.variables]
        self.statistics_shadows = self.shadows[len(weights) :]
        self.epochs = tf.Variable(0, trainable=False)  # in the mean of the last ones
        self.swap = tf.function(lambda: strategy.run(self._swap), autograph=False)
        self._move_all = tf.function(
            lambda share: strategy.run(self.move, args=(share,)), autograph=False
        )

    def move(self, share) -> None:
        """Move each shadow this share of the way to its weight; called within a replica."""
        for shadow, variable in zip(self.shadows, self.variables, strict=True):
            shadow.assign_add(tf.cast(share, shadow.dtype) * (variable - shadow))

    def add_epoch(self) -> None:
        """Make the shadows the mean of the weights at the calls so far."""
        self.epochs.assign_add(1)
        self._move_all(1 / tf.cast(self.epochs, tf.float32))

    def _swap(self) -> None:
        """Exchange weights and shadows."""
        for shadow, variable in zip(self.shadows, self.variables, strict=True):
            weights, average = tf.identity(variable), tf.identity(shadow)
            variable.assign(average)
            shadow.assign(weights)


def ema_share(decay: float, step):
    """Return the share of the way to its weight that a shadow moves at a step counted from 0:
    1 - decay, and more at the start, where a long memory would hold the initial weights."""
    step = tf.cast(step, tf.float32)
    return 1 - tf.minimum(decay, (1 + step) / (10 + step))


def per_replica_variables(network: keras.Model, averages: Averages | None = None) -> list:
    """Return the variables that differ between replicas; a checkpoint would save only replica 0's:
    moving statistics, and their shadows."""
    return moving_statistics(network) + (averages.statistics_shadows if averages else [])


def moving_statistics(network: keras.Model) -> list:
    """Return the moving means and variances of all BatchNormalization layers."""
    return [
        variable.value
        for variable in network.non_trainable_variables
        if variable.name in ("moving_mean", "moving_variance")
    ]


def layers_with_statistics(network: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Return the layers whose moving statistics follow the batches: not those that are frozen."""
    return [
        layer
        for layer in weight_files.layers_with_weights(network).values()
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]


def estimate_statistics(network: keras.Model, strategy, forward: Callable, batches) -> None:
    """Make each moving statistic its mean over the batches; `forward(batch)` calls the network in
    training mode, within a replica."""
    layers = layers_with_statistics(network)
    if not layers:
        return
    with strategy.scope():
        statistics = [  # (statistic, its sum over the batches, the layer's momentum)
            (statistic.value, tf.Variable(tf.zeros_like(statistic)), layer.momentum)
            for layer in layers
            for statistic in (layer.moving_mean, layer.moving_variance)
        ]

    def add_batch(batch):
        """Add the batch's own statistics to the totals, on each replica."""
        # A layer sets m = momentum · m + (1 - momentum) · (the batch's statistic). Started from 0,
        # m / (1 - momentum) is the batch's statistic itself.
        for statistic, _, _ in statistics:
            statistic.assign(tf.zeros_like(statistic))
        forward(batch)
        replica = tf.distribute.get_replica_context()
        for statistic, total, momentum in statistics:
            value = statistic / (1 - momentum)
            total.assign_add(replica.all_reduce(tf.distribute.ReduceOp.MEAN, value))

    step = tf.function(lambda batch: strategy.run(add_batch, args=(batch,)), autograph=False)
    count = 0
    for batch in distribute(strategy, batches):
        step(batch)
        count += 1
    for statistic, total, _ in statistics:
        statistic.assign(total / count)
