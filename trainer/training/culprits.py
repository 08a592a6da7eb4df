"""Which images stopped a run whose loss or gradient is not a number.

No id travels with a step: the order is a function of (seed, epoch), so the batches are read again.
"""

import numpy as np
import tensorflow as tf

from trainer.scoring import objective
from trainer.training.run import Run, batches_from
from trainer.training.step import prepare_batch

MAX_IDS = 20  # in the sentence


def describe(run: Run, first_step: int, count: int) -> str:
    """Return a sentence that names those images of `count` steps whose loss or gradient alone is
    not finite with the present weights; where there is none, all images of the steps."""
    config, network = run.config, run.network
    forward = objective.outputs(network, config.loss)

    @tf.function(autograph=False)
    def is_finite(batch: dict):
        images, masks = prepare_batch(batch, config.augment)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(run.image_losses(masks, forward(images, training=True), batch))
        norm = tf.linalg.global_norm(tape.gradient(loss, network.trainable_variables))
        return tf.math.is_finite(loss) & tf.math.is_finite(norm)

    ids, bad_ids = [], []
    batches = batches_from(run, first_step, extra_fields=("image_id",)).take(count)
    for batch in batches.as_numpy_iterator():
        for number, image_id in enumerate(batch.pop("image_id")):
            ids.append(image_id.decode())
            example = {name: values[number : number + 1] for name, values in batch.items()}
            if not np.asarray(is_finite(example)):
                bad_ids.append(ids[-1])
    if bad_ids:
        return f"not finite by themselves: {_join_ids(bad_ids)}"
    return f"no image does by itself; the steps' images: {_join_ids(ids)}"


def _join_ids(ids: list[str]) -> str:
    ids = list(dict.fromkeys(ids))
    more = f" and {len(ids) - MAX_IDS} more" if len(ids) > MAX_IDS else ""
    return ", ".join(ids[:MAX_IDS]) + more
