"""A mask is what the rule says."""

import numpy as np
import pytest
import tensorflow as tf
from makers.predictions import example, slow_dice, slow_mask

from trainer.config import run
from trainer.inference import decision
from trainer.inference.decision import Decision, Sizes, Triplet


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_a_mask_at_the_sources_size_lies_where_the_image_lay(fit):
    """A wide image: a block in the network's square comes back to its place."""
    settings = run.Data(side=32, fit=fit)
    sizes = Sizes(height=64, width=128, original_height=100, original_width=200)
    truth = np.zeros((100, 200), np.float32)
    truth[50:75, 25:75] = 1
    inner = tf.image.resize(
        truth[..., None], (16, 32) if fit == "pad" else (32, 32), antialias=True
    )
    square = tf.pad(inner, [[8, 8], [0, 0], [0, 0]]) if fit == "pad" else inner
    chosen = Decision(Triplet(0.5, 0.0, 0.5))
    mask = decision.source_mask(square, sizes, settings, chosen)
    assert mask.shape == (100, 200) and slow_dice(truth, np.asarray(mask)) > 0.95


def test_one_mask_follows_the_rule():
    outputs, pairs = example(images=9)
    for (p, _), lesion in zip(pairs, outputs.lesion, strict=True):
        for chosen in (Decision(Triplet(0.5, 0.016, 0.3), 0.5), Decision(Triplet(0.9, 0.0, 0.2))):
            mask = decision.mask_of(p[..., None], chosen, lesion)
            assert np.array_equal(mask, slow_mask(p, lesion, chosen))
