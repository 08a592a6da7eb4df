"""A batch in parts: the gradients of the whole, from a graph that holds the network once."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from makers import replica_steps
from makers.marks import exhaustive

from lake import InputError
from trainer.training import step


@pytest.mark.parametrize(
    ("is_compiled", "rematerialise"), [(False, False), pytest.param(True, True, marks=exhaustive)]
)
def test_parts_of_a_batch_are_traced_once_and_add_up_to_it(is_compiled, rematerialise):
    def gradients_and_sums(accumulate: int, factor: float):
        config = replica_steps.config_with("group", accumulate, momentum=0.0)
        train = config.train.model_copy(update={"rematerialise": rematerialise})
        config = config.model_copy(update={"train": train})
        run, traces = replica_steps.build(config, tf.distribute.get_strategy()), []

        def counted_losses(*arguments):
            traces.append(None)
            return run.image_losses(*arguments)

        gradients = step.replica_gradients(run._replace(image_losses=counted_losses))
        batch = next(iter(replica_steps.batches(config, 1)))
        call = tf.function(gradients, jit_compile=is_compiled, autograph=False)
        return *call(batch, tf.constant(factor)), len(traces)

    whole, whole_sums, _ = gradients_and_sums(1, 1.0)
    parts, sums, num_traces = gradients_and_sums(4, 3.0)
    assert num_traces == 1
    for expected, gradient in zip(whole, parts, strict=True):
        np.testing.assert_allclose(gradient, 3 * expected, rtol=1e-4, atol=1e-6)
    for name, expected in whole_sums.items():
        assert float(tf.reduce_sum(sums[name])) == pytest.approx(
            float(tf.reduce_sum(expected)), rel=1e-5
        )


def test_norms_of_all_replicas_are_refused_in_parts():
    config = replica_steps.config_with("sync_batch", 2, momentum=0.0)
    run = replica_steps.build(config, tf.distribute.get_strategy())
    devices = SimpleNamespace(worker_devices=("CPU:0", "CPU:1"))
    two = SimpleNamespace(num_replicas_in_sync=2, extended=devices)
    with pytest.raises(InputError, match="sync_batch takes its statistics from all 2 replicas"):
        step.training_step(run._replace(strategy=two))
