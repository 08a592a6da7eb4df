"""A batch in parts: the gradients of the whole, from a graph that holds the network once."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from makers import replica_steps

from lake import InputError
from trainer.scoring import objective
from trainer.training import step


@pytest.mark.parametrize(("is_compiled", "rematerialise"), [(False, False), (True, True)])
def test_parts_of_a_batch_are_traced_once_and_add_up_to_it(is_compiled, rematerialise):
    def found(accumulate: int, factor: float):
        run = replica_steps.run_of("group", accumulate, momentum=0.0)
        saving = run.train.model_copy(update={"rematerialise": rematerialise})
        run = run.model_copy(update={"train": saving})
        network, _ = replica_steps.built(run, tf.distribute.get_strategy())
        losses, traces = objective.image_losses(run, 0.1, 1), []

        def counted(*arguments):
            traces.append(None)
            return losses(*arguments)

        in_parts = step.gradients_in_parts(network, run, counted)
        call = tf.function(in_parts, jit_compile=is_compiled)
        batch = next(iter(replica_steps.batches(run, 1)))
        gradients, sums = call(batch, tf.constant(factor))
        return gradients, sums, len(traces)

    whole, whole_sums, _ = found(1, 1.0)
    parts, sums, traced = found(4, 3.0)
    assert traced == 1
    for expected, gradient in zip(whole, parts, strict=True):
        np.testing.assert_allclose(gradient, 3 * expected, rtol=1e-4, atol=1e-6)
    for name, expected in whole_sums.items():
        assert float(tf.reduce_sum(sums[name])) == pytest.approx(
            float(tf.reduce_sum(expected)), rel=1e-5
        )


def test_norms_of_all_replicas_are_refused_in_parts():
    run = replica_steps.run_of("sync_batch", 2, momentum=0.0)
    network, optimizer = replica_steps.built(run, tf.distribute.get_strategy())
    two = SimpleNamespace(num_replicas_in_sync=2)
    with pytest.raises(InputError, match="sync_batch takes its statistics from all 2 replicas"):
        step.training_step(network, optimizer, run, two, None)
