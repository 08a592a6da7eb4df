"""Which images stopped a run whose loss or gradient is no number. In: the batches of the last
steps, with image_id; out: a sentence.

No id travels with a step: the order is a function of (seed, epoch), so the batches are made again.
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from trainer.config.run import Config
from trainer.scoring import objective
from trainer.training import step

NAMED = 20  # ids in the sentence


def sentence(
    network: keras.Model, run: Config, image_losses: Callable, batches: tf.data.Dataset
) -> str:
    """Names the images whose own loss or gradient is not finite with these weights; all where none
    is."""
    is_good = _is_good(network, run, image_losses)
    seen, bad = [], []
    for batch in batches.as_numpy_iterator():
        for number, image_id in enumerate(batch.pop("image_id")):
            seen.append(image_id.decode())
            if not is_good({name: values[number : number + 1] for name, values in batch.items()}):
                bad.append(seen[-1])
    if bad:
        return f"these images alone make it so: {_listed(bad)}"
    return f"no image does by itself; the steps' images: {_listed(seen)}"


def _is_good(network: keras.Model, run: Config, image_losses: Callable) -> Callable:
    """A batch of one -> whether its loss and its gradient are finite."""
    forward = objective.outputs(network, run.loss)

    def is_good(batch: dict):
        images, masks = step.prepare_batch(batch, run.augment)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(image_losses(masks, forward(images, training=True), batch))
        norm = tf.linalg.global_norm(tape.gradient(loss, network.trainable_variables))
        return tf.math.is_finite(loss) & tf.math.is_finite(norm)

    compiled = tf.function(is_good, autograph=False)
    return lambda batch: bool(np.asarray(compiled(batch)))


def _listed(ids: list[str]) -> str:
    ids = list(dict.fromkeys(ids))
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return ", ".join(ids[:NAMED]) + more
