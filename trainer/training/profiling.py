"""A trace of a few steps, which TensorBoard's profile plugin shows (tensorboard-plugin-profile)."""

import contextlib
from pathlib import Path

import tensorflow as tf


class Profile:
    """Of the second call of a start on, as the first one compiles, for at least so many steps, but
    not beyond the epoch; in <workdir>/plugins/profile. 0 steps: none."""

    def __init__(self, workdir: Path, steps: int):
        self.workdir, self.steps_left = workdir, steps
        self.is_first, self.is_running = True, False

    @contextlib.contextmanager
    def call(self, step: int, count: int):
        """Around a call of `count` steps from `step` on."""
        if self.steps_left > 0 and not self.is_first and not self.is_running:
            tf.profiler.experimental.start(str(self.workdir))
            self.is_running = True
        # "train" is what TensorFlow's guide calls a step; one of the plugin's is a call of ours.
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
