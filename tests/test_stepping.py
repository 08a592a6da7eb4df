"""A batch in parts: the gradients of the whole, from a graph that holds the network once."""

import numpy as np
import pytest
import replica_steps
import tensorflow as tf

from trainer import objective, stepping


def test_parts_of_a_batch_are_traced_once_and_add_up_to_it():
    def found(accumulate: int):
        run = replica_steps.run_of("group", accumulate, momentum=0.0)
        network, _ = replica_steps.built(run, tf.distribute.get_strategy())
        losses, traces = objective.image_losses(run, 0.1, 1), []

        def counted(*arguments):
            traces.append(None)
            return losses(*arguments)

        call = tf.function(stepping.gradients_in_parts(network, run, counted))
        batch = next(iter(replica_steps.batches(run, 1)))
        gradients, sums = call(batch, tf.constant(3.0))
        return gradients, sums, len(traces)

    whole, whole_sums, _ = found(1)
    parts, sums, traced = found(4)
    assert traced == 1
    for expected, gradient in zip(whole, parts, strict=True):
        np.testing.assert_allclose(gradient, expected, atol=1e-5)
    for name, expected in whole_sums.items():
        assert float(tf.reduce_sum(sums[name])) == pytest.approx(
            float(tf.reduce_sum(expected)), rel=1e-5
        )
