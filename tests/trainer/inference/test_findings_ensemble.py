"""Members and views that score findings: each finding has a probability of its own."""

import numpy as np
import pytest
import tensorflow as tf
from makers.members import CLASSIFIER, member

from trainer.inference.ensemble import Ensemble


@pytest.mark.parametrize("names", [("Edema",), ("Edema", "Mass", "Nodule")])
def test_the_mean_is_that_of_each_finding(names):
    members = [member(f"m{seed}", CLASSIFIER | {"findings": names}, seed) for seed in (1, 2)]
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1), np.uint8)
    batch = {"image": tf.constant(pixels), "window": tf.constant([[0.0, 255.0]] * 3)}
    outputs = Ensemble([], members, ("flip",))(batch)
    images = pixels / np.float32(255)
    logits = [
        np.asarray(one.network(view, training=False), np.float64)
        for one in members
        for view in (images, images[:, :, ::-1])
    ]
    expected = np.mean([1 / (1 + np.exp(-one)) for one in logits], axis=0)  # [3, F]
    assert outputs.scores.shape == (3, len(names)) and outputs.lesion is None
    np.testing.assert_allclose(1 / (1 + np.exp(-outputs.scores.numpy())), expected, atol=1e-6)
    assert outputs.probabilities is None and np.ptp(logits) > 1e-3
