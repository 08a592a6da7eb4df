"""Losses, metrics and augmentation are keras.ops alone: the same numbers from TensorFlow and from
JAX, and augmentation also from two replicas."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from makers.marks import exhaustive

ROOT = Path(__file__).parents[3]


def augmented(batch_size: int = 4, side: int = 32):
    """A batch as tf.data makes it, and settings with every transform, each as likely as not."""
    from trainer.augmentation import augment
    from trainer.config import augmentation

    sections = {name: {"probability": 0.5} for name in augmentation.TRANSFORMS}
    settings = augmentation.Augment.model_validate(sections)
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:side, :side] / side
    waves = np.sin(7 * rows + rng.random((batch_size, 1, 1))) * np.cos(5 * columns)
    batch = {
        "image": np.uint16(30_000 + 20_000 * waves)[..., None],
        "mask": np.uint8(waves > 0.3)[..., None],
        "window": np.float32([[10_000, 50_000]] * batch_size),
        "uniforms": rng.random((batch_size, augment.num_draws(settings, side)), np.float32),
    }
    return batch, settings


def compiled(call):
    """The same call; under JAX, which compiles each operation by itself else, as one."""
    import keras

    if keras.backend.backend() != "jax":
        return call
    import jax

    return jax.jit(call)


def numbers() -> dict[str, list]:
    """Every loss and metric of the same eight images, by the backend of this process."""
    from trainer.config import learning
    from trainer.scoring import losses, metrics, objective
    from trainer.training import step

    rng = np.random.default_rng(5)
    masks = np.float32(rng.random((8, 16, 16, 1)) < 0.3)
    masks[[0, 1]], masks[2] = 0, 1
    logits = rng.normal(scale=3, size=masks.shape).astype(np.float32)
    logits[[0, 2]], logits[3] = -1e4, 1e4
    labels, probabilities = masks.max(axis=(1, 2, 3)), 1 / (1 + np.exp(-logits.clip(-80, 80)))
    terms = learning.Loss(
        **dict.fromkeys(
            ("dice", "bce", "weighted_bce", "focal", "tversky", "jaccard", "lovasz"), 1.0
        ),
        head_weights=[1, 3],
        label_smoothing=0.1,
    )
    heads = np.concatenate([logits, -logits], axis=-1)
    ranks = metrics.lesion_score(logits)
    histogram = metrics.score_histogram(ranks, labels, np.ones(8, np.float32))
    counts = metrics.pixel_counts(masks, probabilities > 0.5)
    numbers = np.array([0, 1, 2, 2, 1, -1, 0, 1])
    classes = rng.normal(size=(8, 3)).astype(np.float32)
    batch, settings = augmented()
    images, augmented_images = compiled(lambda: step.prepare_batch(batch, settings))()
    tensors = {
        "augmented images": images,
        "augmented masks": augmented_images,
        "dice": losses.dice(masks, logits),
        "squared dice": losses.dice(masks, logits, 0.0, is_squared=True),
        "log dice": losses.log_dice(masks, logits),
        "tversky": losses.tversky(masks, logits, 0.3, 0.7),
        "jaccard": losses.jaccard(masks, logits),
        "lovasz": losses.lovasz(masks, logits),
        "weighted bce": losses.weighted_bce(masks, logits, 0.1, 0.1),
        "focal": losses.focal(masks, logits, 2.0),
        "lesion": losses.lesion_bce(masks, ranks[:, None]),
        "l2": losses.reconstruction(masks, probabilities),
        "kl": losses.kl_divergence(masks[:, 0, :, 0], probabilities[:, 0, :, 0], 256),
        "all terms": objective.segmenter_loss(masks, heads, terms, positive_share=0.1),
        "hard dice": metrics.hard_dice(masks, probabilities > 0.5),
        "kept masks": metrics.keep_by_triplet(probabilities, 0.99, 99, 0.3),
        "iou": metrics.iou(counts),
        "sensitivity": metrics.sensitivity(counts),
        "specificity": metrics.specificity(counts),
        "ppv": metrics.ppv(counts),
        "softmax": losses.softmax_cross_entropy(numbers, classes, 0.1),
        "class histograms": metrics.class_histograms(classes, numbers, np.ones(8, np.float32), 64),
        "correct": metrics.correct(classes, numbers),
        "auc, ap": [metrics.auc(histogram), metrics.average_precision(histogram)],
    }
    return {
        name: np.asarray(values, np.float64).ravel().tolist() for name, values in tensors.items()
    }


@exhaustive
@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="jax is not installed")
def test_jax_gives_the_same_losses_metrics_and_augmentation():
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)])
    code = (
        "import json, keras, test_backends\n"
        "assert keras.backend.backend() == 'jax'\n"
        "print(json.dumps(test_backends.numbers()))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    of_jax = json.loads(process.stdout.splitlines()[-1])
    for name, values in numbers().items():
        assert of_jax[name] == pytest.approx(values, rel=1e-4, abs=1e-4, nan_ok=True), name


ON_ONE_AND_TWO_REPLICAS = """
import numpy as np, tensorflow as tf, test_backends
from trainer.devices.strategy import create_strategy
from trainer.training.step import prepare_batch

strategies = [create_strategy("cpu", count, 4) for count in (2, 1)]
batch, settings = test_backends.augmented()
expected = prepare_batch(batch, settings)
change = tf.function(lambda part: prepare_batch(part, settings), jit_compile=True)
dataset = tf.data.Dataset.from_tensors(batch).unbatch().batch(4)
for strategy in strategies:
    part = next(iter(strategy.experimental_distribute_dataset(dataset)))
    parts = [strategy.experimental_local_results(x) for x in strategy.run(change, args=(part,))]
    images, masks = (np.concatenate(x) for x in parts)
    np.testing.assert_allclose(images, expected[0], atol=1e-3)
    np.testing.assert_array_equal(masks, expected[1])
    print(len(parts[0]))
"""


@exhaustive
def test_two_replicas_augment_a_batch_as_one_does():
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)])
    process = subprocess.run(
        [sys.executable, "-c", ON_ONE_AND_TWO_REPLICAS],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.split()[-2:] == ["2", "1"]
