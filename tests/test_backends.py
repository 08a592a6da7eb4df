"""Losses and metrics are keras.ops alone: the same numbers from TensorFlow and from JAX."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent


def numbers() -> dict[str, list]:
    """Every loss and metric of the same eight images, by the backend of this process."""
    from trainer import config, losses, metrics, objective

    rng = np.random.default_rng(5)
    masks = np.float32(rng.random((8, 16, 16, 1)) < 0.3)
    masks[[0, 1]], masks[2] = 0, 1
    logits = rng.normal(scale=3, size=masks.shape).astype(np.float32)
    logits[[0, 2]], logits[3] = -1e4, 1e4
    labels, probabilities = masks.max(axis=(1, 2, 3)), 1 / (1 + np.exp(-logits.clip(-80, 80)))
    terms = config.Loss(
        **dict.fromkeys(("dice", "bce", "weighted_bce", "focal", "tversky", "jaccard"), 1.0),
        head_weights=[1, 3],
        label_smoothing=0.1,
    )
    heads = np.concatenate([logits, -logits], axis=-1)
    ranks = metrics.lesion_score(logits)
    histogram = metrics.score_histogram(ranks, labels, np.ones(8, np.float32))
    counts = metrics.pixel_counts(masks, probabilities > 0.5)
    numbers = np.array([0, 1, 2, 2, 1, -1, 0, 1])
    classes = rng.normal(size=(8, 3)).astype(np.float32)
    found = {
        "dice": losses.dice(masks, logits),
        "squared dice": losses.dice(masks, logits, 0.0, squared=True),
        "log dice": losses.log_dice(masks, logits),
        "tversky": losses.tversky(masks, logits, 0.3, 0.7),
        "jaccard": losses.jaccard(masks, logits),
        "weighted bce": losses.weighted_bce(masks, logits, 0.1, 0.1),
        "focal": losses.focal(masks, logits, 2.0),
        "lesion": losses.lesion_bce(masks, ranks[:, None]),
        "l2": losses.reconstruction(masks, probabilities),
        "kl": losses.kl_divergence(masks[:, 0, :, 0], probabilities[:, 0, :, 0], 256),
        "all terms": objective.segmenter_loss(masks, heads, terms, positive_share=0.1),
        "hard dice": metrics.hard_dice(masks, probabilities > 0.5),
        "soft dice": metrics.soft_dice(masks, probabilities),
        "triplets": metrics.triplet_dice(masks, probabilities, [0.9, 0.99], [0, 99], [0.3, 0.5]),
        "iou": metrics.iou(counts),
        "sensitivity": metrics.sensitivity(counts),
        "specificity": metrics.specificity(counts),
        "ppv": metrics.ppv(counts),
        "softmax": losses.softmax_cross_entropy(numbers, classes, 0.1),
        "class histograms": metrics.class_histograms(classes, numbers, np.ones(8, np.float32), 64),
        "correct": metrics.correct(classes, numbers),
        "auc, ap": [metrics.auc(histogram), metrics.average_precision(histogram)],
    }
    return {name: np.asarray(values, np.float64).ravel().tolist() for name, values in found.items()}


@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="jax is not installed")
def test_jax_gives_the_same_losses_and_metrics():
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    code = (
        "import json, keras, test_backends\n"
        "assert keras.backend.backend() == 'jax'\n"
        "print(json.dumps(test_backends.numbers()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    of_jax = json.loads(done.stdout.splitlines()[-1])
    for name, values in numbers().items():
        assert of_jax[name] == pytest.approx(values, rel=1e-4, abs=1e-4, nan_ok=True), name
