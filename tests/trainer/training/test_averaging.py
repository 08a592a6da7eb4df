"""EMA and SWA against plain loops, on two replicas; batch normalisation's statistics afterwards."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from makers.marks import exhaustive

ROOT = Path(__file__).parents[3]

TWO_REPLICAS = """
import json, keras, numpy as np, tensorflow as tf
from trainer.devices.strategy import create_strategy
from trainer.training import averaging

strategy = create_strategy("cpu", 2, 8)
with strategy.scope():
    norm = keras.layers.BatchNormalization(momentum=0.9, epsilon=0)
    dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
    network = keras.Sequential([keras.Input((2,)), norm, dense])
    ema, mean = (averaging.Averages(network, strategy) for _ in range(2))
kernel = dense.kernel.value

def replica_step(value, step):
    kernel.assign(tf.fill(kernel.shape, value))
    ema.move(averaging.ema_share(0.5, step))

step = tf.function(lambda *inputs: strategy.run(replica_step, args=inputs))
found = {"ema": []}
place = [variable is kernel for variable in ema.variables].index(True)
for number, value in enumerate([3.0, 5.0, -1.0, 2.0]):
    step(tf.constant(value), tf.constant(number))
    copies = strategy.experimental_local_results(ema.shadows[place])
    found["ema"].append([float(copy[0, 0]) for copy in copies])
    if number >= 2:
        mean.add_epoch()
found["mean"] = float(mean.shadows[place][0, 0])
mean.swap()
found["swapped"] = [float(kernel[0, 0]), float(mean.shadows[place][0, 0])]
mean.swap()
found["back"] = float(kernel[0, 0])

values = (np.arange(48, dtype="float32").reshape(24, 2) / 10) ** 2
batches = tf.data.Dataset.from_tensor_slices(values).batch(8)
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
batches = batches.with_options(options)
forward = lambda batch: network(batch, training=True)
averaging.estimate_statistics(network, strategy, forward, batches)
found["statistics"] = [
    [copy.numpy().tolist() for copy in strategy.experimental_local_results(variable.value)]
    for variable in (norm.moving_mean, norm.moving_variance)
]
print(json.dumps(found))
"""


@exhaustive
def test_averages_on_two_replicas_are_those_of_a_plain_loop():
    process = subprocess.run(
        [sys.executable, "-c", TWO_REPLICAS], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    results = json.loads(process.stdout.splitlines()[-1])
    average, expected = 1.0, []
    for step, value in enumerate([3.0, 5.0, -1.0, 2.0]):
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * value
        expected.append([average, average])
    assert np.allclose(results["ema"], expected)
    assert results["mean"] == pytest.approx((-1 + 2) / 2)  # of the last two
    assert results["swapped"] == pytest.approx([0.5, 2.0]) and results["back"] == 2.0
    # Of each half of each batch, as each replica sees it in training.
    halves = ((np.arange(48).reshape(24, 2) / 10) ** 2).reshape(6, 4, 2)
    means, variances = halves.mean(axis=1).mean(axis=0), halves.var(axis=1).mean(axis=0)
    assert np.allclose(results["statistics"], [[means] * 2, [variances] * 2], rtol=1e-4)
