"""The share of time that a loop waits for its input: known naps of the input and of the step."""

import time

import pytest
import tensorflow as tf
from tensorflow.python.data.experimental.ops.testing import sleep

from trainer.training.step import steps_in_one_call

CALL = 12  # steps


def input_wait_share(fetch_ms: float, step_ms: float) -> float:
    """Return the share of a call, after one that fills the input's buffer."""
    batches = tf.data.Dataset.range(4 * CALL).map(lambda number: tf.cast(number, tf.float32))
    if fetch_ms:
        batches = batches.apply(sleep(int(1000 * fetch_ms)))
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")

    def nap(value):
        time.sleep(step_ms / 1000)
        return value

    def step(batch) -> dict:
        loss = tf.numpy_function(nap, [batch], tf.float32) if step_ms else batch
        return {"loss": tf.reshape(loss, [])}

    call = steps_in_one_call(strategy, step, [])
    iterator = iter(strategy.experimental_distribute_dataset(batches.prefetch(2)))
    call(iterator, tf.constant(CALL))
    return float(call(iterator, tf.constant(CALL))["input_wait_share"])


@pytest.mark.parametrize(
    ("fetch_ms", "step_ms", "lowest", "highest"),
    [
        # Wide bounds: on a busy machine a nap is longer than asked for.
        (20, 0, 0.8, 1.0),  # nothing else takes time
        (0, 20, 0.0, 0.2),
        (10, 40, 0.0, 0.2),  # fetched while the step before computes: nobody waits
        (60, 20, 0.3, 0.85),  # 40 of 60 ms: a fetch's own time would be all of it
    ],
)
def test_the_loop_waits_for_what_the_step_does_not_cover(fetch_ms, step_ms, lowest, highest):
    assert lowest <= input_wait_share(fetch_ms, step_ms) <= highest
