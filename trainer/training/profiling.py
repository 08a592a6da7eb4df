"""Where a step's time goes: a clock inside the compiled loop, and traces for TensorBoard's profile
plugin (tensorboard-plugin-profile)."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf


class Clock:
    """Seconds since 1970, float64, read in a graph once certain values are there.

    It stands still unless `is_running`: where operations must be deterministic, TensorFlow reads
    no clock.
    """

    def __init__(self, is_running: bool = True):
        self.is_running = is_running
        with tf.device("CPU:0"):
            self.arrivals = tf.Variable(0.0, dtype=tf.float64, trainable=False)

    def now(self) -> tf.Tensor:
        with tf.device("CPU:0"):
            return tf.timestamp() if self.is_running else tf.zeros([], tf.float64)

    def when_fetched(self, batch) -> tf.Tensor:
        """Return the time at which a batch is there."""
        tensors = tf.nest.flatten(batch, expand_composites=True)
        with tf.control_dependencies(tensors):
            return self.now()

    def when_computed(self, sums: dict) -> tf.Tensor:
        """Return the time at which the sums are computed.

        On the host, a GPU's operation counts as ended before its result is computed. A value that
        has arrived on the host was computed; an assignment keeps graph optimisers from removing
        the transfer.
        """
        with tf.device("CPU:0"):
            values = [tf.reduce_sum(tf.cast(value, tf.float64)) for value in sums.values()]
            assignment = self.arrivals.assign(tf.add_n(values))
        with tf.control_dependencies([assignment]):
            return self.now()


class Profile:
    """Traces at least `num_steps` steps into <workdir>/plugins/profile; 0: none.

    It begins with the second call after a start, because the first one compiles, and ends with the
    epoch at the latest.
    """

    def __init__(self, workdir: Path, num_steps: int):
        self.workdir, self.steps_left = workdir, num_steps
        self.is_first, self.is_running = True, False

    @contextlib.contextmanager
    def call(self, step: int, count: int) -> Iterator[None]:
        """Trace a call of `count` steps from `step` on, if it is one to trace."""
        if self.steps_left > 0 and not self.is_first and not self.is_running:
            tf.profiler.experimental.start(str(self.workdir))
            self.is_running = True
        # TensorFlow's guide calls a step "train"; a step of the plugin is a call of ours.
        with tf.profiler.experimental.Trace("train", step_num=step, _r=1):
            yield
        if self.is_running:
            self.steps_left -= count
        self.is_first = False
        if self.steps_left <= 0:
            self.stop()

    def stop(self) -> None:
        if self.is_running:
            tf.profiler.experimental.stop()
            self.is_running, self.steps_left = False, 0
            print(f"profiled: tensorboard --logdir {self.workdir}, Profile")
