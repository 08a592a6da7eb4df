"""How long the step stood still because its batch was not there yet: the input's part of the time.

The steps of a call run inside one compiled loop, so the host cannot look at a clock between them,
and the next batch is fetched while the step before still computes: how long a fetch takes says
nothing. What counts is how much later a batch came than the step before it was done. Both moments
are read in the graph, by two operations a step; no step waits for them.
"""

import tensorflow as tf


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
