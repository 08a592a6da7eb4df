"""Losses of images: unknown truth weighs 0, every option of config.Loss counts, the dice of a batch
is the same on any number of replicas, and a classifier's map learns where the mask is."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from makers.marks import exhaustive

from lake import InputError
from trainer.config import learning
from trainer.config.network import Classifier, UnetPlusPlus
from trainer.config.run import Config
from trainer.config.section import Weight
from trainer.models.build import build
from trainer.scoring import losses, objective


def run_of(**fields) -> Config:
    return Config.model_validate(fields)


@pytest.fixture
def truth() -> tuple[np.ndarray, dict]:
    """Two images of 16 px: a lesion in the upper left quarter; mask and label unknown."""
    masks = np.zeros((2, 16, 16, 1), np.float32)
    masks[0, :8, :8] = 1
    return masks, {"label": np.array([1, -1], np.float32), "has_mask": np.array([1, 0], np.float32)}


def test_a_segmenter_sums_its_terms_and_leaves_unknown_masks_out(truth):
    masks, batch = truth
    config = run_of(model={"kind": "unetpp"}, loss={"dice": 2, "bce": 1, "weighted_bce": 0.5})
    logits = np.random.default_rng(0).normal(size=masks.shape).astype(np.float32)
    actual = np.asarray(objective.image_losses(config, 0.1)(masks, [logits], batch))
    terms = (
        losses.dice(masks, logits),
        losses.bce(masks, logits),
        losses.weighted_bce(masks, logits, 0.1),
    )
    dice, bce, weighted_bce = (np.asarray(term) for term in terms)
    assert np.allclose(actual, [2 * dice[0] + bce[0] + 0.5 * weighted_bce[0], 0])


def loss_of(masks, logits, **terms):
    """The first image's loss by these terms alone."""
    settings = learning.Loss(**{"dice": 0, "bce": 0, **terms})
    return float(np.asarray(objective.segmenter_loss(masks, logits, settings, 0.1))[0])


def test_every_option_of_the_loss_counts(truth):
    masks, _ = truth
    logits = np.random.default_rng(1).normal(size=masks.shape).astype(np.float32)
    for options, expected in (
        ({"dice": 2}, 2 * losses.dice(masks, logits)),
        ({"dice": 1, "smooth": 9}, losses.dice(masks, logits, 9)),
        ({"dice": 1, "dice_squared": True}, losses.dice(masks, logits, is_squared=True)),
        ({"dice": 1, "dice_form": "-dice"}, losses.dice(masks, logits) - 1),
        ({"bce": 1, "dice": 1, "dice_form": "-log"},
         losses.bce(masks, logits) + losses.log_dice(masks, logits)),
        ({"bce": 3, "dice": 1, "focal": 4},
         3 * losses.bce(masks, logits) + losses.dice(masks, logits)
         + 4 * losses.focal(masks, logits, 2)),
        ({"focal": 1, "focal_gamma": 0.5}, losses.focal(masks, logits, 0.5)),
        ({"tversky": 2}, 2 * losses.tversky(masks, logits, 0.3, 0.7)),
        ({"tversky": 1, "tversky_alpha": 0.9, "tversky_beta": 0.2, "smooth": 5},
         losses.tversky(masks, logits, 0.9, 0.2, 5)),
        ({"jaccard": 1, "smooth": 0}, losses.jaccard(masks, logits, 0)),
        ({"lovasz": 2}, 2 * losses.lovasz(masks, logits)),
        ({"weighted_bce": 2}, 2 * losses.weighted_bce(masks, logits, 0.1)),
        ({"bce": 1, "label_smoothing": 0.2}, losses.bce(masks, logits, 0.2)),
        ({"weighted_bce": 1, "label_smoothing": 0.2}, losses.weighted_bce(masks, logits, 0.1, 0.2)),
        ({"focal": 1, "label_smoothing": 0.2}, losses.focal(masks, logits, 2, 0.2)),
        ({"dice": 1, "label_smoothing": 0.2}, losses.dice(masks, logits)),  # overlaps keep y
    ):  # fmt: skip
        assert loss_of(masks, logits, **options) == pytest.approx(float(expected[0])), options


def test_a_new_term_needs_its_weight_and_its_line_in_the_table_of_terms(truth, monkeypatch):
    """What CONTRIBUTING tells a newcomer: two files, scoring/losses.py and config/learning.py."""

    class LossWithHinge(learning.Loss):
        hinge: Weight = 0.0

    def hinge(masks, logits, margin):
        return losses.image_mean(ops.relu(margin - (2 * masks - 1) * logits))

    term = lambda y, z, settings, share, pool: hinge(y, z, 1.0)  # noqa: E731
    monkeypatch.setitem(losses.TERMS, "hinge", term)
    masks, batch = truth
    logits = np.random.default_rng(4).normal(size=masks.shape).astype(np.float32)
    config = run_of(model={"kind": "unetpp"})
    for weight in (0, 3):
        config = config.model_copy(update={"loss": LossWithHinge(dice=0, bce=2, hinge=weight)})
        actual = np.asarray(objective.image_losses(config, 0.1)(masks, [logits], batch))
        slack = np.maximum(0, 1 - (2 * masks[0] - 1) * logits[0]).mean()
        expected = 2 * float(losses.bce(masks, logits)[0]) + weight * slack
        assert actual == pytest.approx([expected, 0], rel=1e-5)


def test_the_config_and_the_table_have_the_same_terms():
    assert set(losses.TERMS) == set(learning.PIXEL_TERMS) <= learning.Loss.model_fields.keys()


def test_a_weight_of_zero_leaves_its_term_out(truth):
    masks, _ = truth
    only_bce = learning.Loss(dice=0, bce=3)
    loss = objective.segmenter_loss(masks, masks, only_bce, positive_share=0.0)  # 1/β: inf
    assert np.allclose(loss, 3 * losses.bce(masks, masks))


def test_heads_of_deep_supervision_are_averaged_by_their_weights(truth):
    masks, _ = truth
    heads = list(np.random.default_rng(2).normal(size=(3, *masks.shape)).astype(np.float32))
    of_each = [loss_of(masks, head, dice=2, bce=1) for head in heads]
    together = np.concatenate(heads, axis=-1)
    assert loss_of(masks, together, dice=2, bce=1) == pytest.approx(np.mean(of_each))
    mean_loss = loss_of(masks, together, dice=2, bce=1, head_weights=[1, 0, 3])
    assert mean_loss == pytest.approx((of_each[0] + 3 * of_each[2]) / 4)


def test_weights_of_other_heads_than_the_networks_are_refused():
    settings = UnetPlusPlus(kind="unetpp", depth=2, filters=2, deep_supervision=True)
    network = build(settings, 16)
    objective.outputs(network, learning.Loss(head_weights=[1, 2]))
    with pytest.raises(InputError, match=r"\[1.0, 2.0, 3.0\] has 3 values.* has 2 heads"):
        objective.outputs(network, learning.Loss(head_weights=[1, 2, 3]))


def test_a_batch_divides_once_and_leaves_padding_and_unknown_masks_out():
    rng = np.random.default_rng(3)
    masks = np.float32(rng.random((4, 16, 16, 1)) < 0.3)
    logits = rng.normal(size=masks.shape).astype(np.float32)
    masks[1] = 0  # its false positives count against the others' hits
    batch = {
        "label": np.ones(4, np.float32),
        "has_mask": np.float32([1, 1, 0, 1]),
        "weight": np.float32([1, 1, 1, 0]),
    }
    terms = {"dice": 2, "bce": 0, "reduction": "batch"}
    config = run_of(model={"kind": "unetpp"}, loss=terms)
    actual = np.asarray(objective.image_losses(config, 0.1)(masks, [logits], batch))
    y, p = masks[:2].astype(np.float64), 1 / (1 + np.exp(-logits[:2].astype(np.float64)))
    dice = 1 - (2 * (y * p).sum() + 1) / (y.sum() + p.sum() + 1)
    assert actual == pytest.approx([2 * dice, 2 * dice, 0, 2 * dice], rel=1e-5)


ONE_STEP_ON_ONE_AND_TWO_REPLICAS = """
import json, numpy as np, tensorflow as tf
from lake import InputError
from trainer.augmentation import augment
from trainer.config.run import Config, Train
from trainer.devices.strategy import create_strategy
from trainer.training.step import compile_steps, training_step
from tests.makers import replica_steps

strategies = [create_strategy("cpu", count, 4) for count in (2, 1)]
config = Config.model_validate({
    "model": {"kind": "unetpp", "depth": 1, "filters": 2},
    "data": {"side": 16, "batch_size": 4},
    "loss": {"dice": 1, "bce": 0, "tversky": 1, "reduction": "batch"},
})
rng = np.random.default_rng(0)
masks = (rng.random((4, 16, 16, 1)) < [[[[0.0]]], [[[0.1]]], [[[0.3]]], [[[0.6]]]])
batch = {
    "image": rng.integers(0, 256, masks.shape).astype("uint8"), "mask": masks.astype("uint8"),
    "window": np.float32([[0, 255]] * 4), "label": np.float32([0, 1, 1, 1]),
    "has_mask": np.float32([1, 1, 0, 1]), "weight": np.ones(4, "float32"),
    "uniforms": np.full((4, augment.num_draws(config.augment, 16)), 0.5, "float32"),
}
dataset = tf.data.Dataset.from_tensors(batch).unbatch().batch(4)
for strategy in strategies:
    run = replica_steps.build(config, strategy)
    iterator = iter(strategy.experimental_distribute_dataset(dataset))
    sums = compile_steps(run)(iterator, tf.constant(1))
    print(json.dumps([float(sums["loss"]), float(sums["gradient_norm"])]))
try:
    compiled = config.model_copy(update={"train": Train(jit=True)})
    training_step(run._replace(config=compiled, strategy=strategies[0]))
except InputError as error:
    print(error)
"""


@exhaustive
def test_the_dice_of_a_batch_is_the_same_on_one_and_on_two_replicas():
    process = subprocess.run(
        [sys.executable, "-c", ONE_STEP_ON_ONE_AND_TWO_REPLICAS],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    rows = [line for line in process.stdout.splitlines() if line.startswith("[")]
    of_two, of_one = (json.loads(row) for row in rows)
    assert of_two == pytest.approx(of_one, rel=1e-5)
    # XLA compiles a replica's gradient alone, so it cannot sum over the others.
    assert "loss.reduction=batch sums over the replicas" in process.stdout


def test_smoothing_reaches_a_classifiers_labels_and_its_map(truth):
    masks, batch = truth
    logits, cells = np.array([[0.3], [5.0]], np.float32), np.full((2, 4, 4, 1), -1, np.float32)
    model = {"kind": "classifier", "encoder": "plain", "pooling": "lesion_map"}
    config = run_of(model=model, loss={"lesion_map": 2, "label_smoothing": 0.1})
    actual = np.asarray(objective.image_losses(config, 0.25)(masks, [logits, cells], batch))
    label = 0.95 * np.log1p(np.exp(-0.3)) + 0.05 * np.log1p(np.exp(0.3))
    shares = np.zeros((1, 4, 4, 1), np.float32)
    shares[:, :2, :2] = 1
    cell = float(losses.weighted_bce(shares, cells[:1], 0.25, 0.1)[0])
    assert actual == pytest.approx([label + 2 * cell, 0], rel=1e-6)


def test_a_classifier_leaves_unknown_labels_out(truth):
    masks, batch = truth
    config = run_of(model={"kind": "classifier", "encoder": "plain"})
    logits = np.array([[0.3], [5.0]], np.float32)
    actual = np.asarray(objective.image_losses(config, 0.1)(masks, [logits], batch))
    assert np.allclose(actual, [np.log1p(np.exp(-0.3)), 0])


def test_more_than_two_classes_have_a_softmax(truth):
    masks, batch = truth
    config = run_of(model={"kind": "unetpp", "classes": 3}, loss={"label_smoothing": 0.3})
    logits = np.log(np.float32([[0.2, 0.7, 0.1], [0.2, 0.7, 0.1]]))  # label 1, and unknown
    actual = np.asarray(objective.image_losses(config, 0.0)(masks, [logits], batch))
    expected = -0.8 * np.log(0.7) - 0.1 * np.log(0.2) - 0.1 * np.log(0.1)
    assert actual == pytest.approx([expected, 0], rel=1e-5)


def test_the_lesion_map_is_rewarded_where_the_mask_is(truth):
    masks, batch = truth
    config = run_of(
        model={"kind": "classifier", "encoder": "plain", "pooling": "lesion_map"},
        loss={"lesion_map": 1.0},
    )
    loss = objective.image_losses(config, 0.25)
    right, wrong = np.full((2, 2, 2, 2, 1), -3, np.float32)
    right[:, 0, 0], wrong[:, 1, 1] = 3, 3
    logits = np.zeros((2, 1), np.float32)
    of_right, of_wrong = (np.asarray(loss(masks, [logits, m], batch)) for m in (right, wrong))
    assert of_right[0] < of_wrong[0] and of_right[1] == of_wrong[1] == 0


def test_the_map_model_has_the_networks_own_logit_and_weights():
    settings = Classifier(
        kind="classifier", encoder="plain", filters=4, depth=2, pooling="lesion_map"
    )
    network = build(settings, 16)
    forward = objective.outputs(network, learning.Loss(lesion_map=1.0))
    images = np.random.default_rng(0).random((2, 16, 16, 1)).astype(np.float32)
    logits, lesion_map = forward(images, training=False)
    assert lesion_map.shape == (2, 4, 4, 1)
    assert np.array_equal(logits, network(images, training=False))
    # The pooled peak: log-sum-exp over the 16 cells, less what an even map of -4 gives.
    peak = np.log(np.exp(np.asarray(lesion_map, np.float64)).sum(axis=(1, 2))) - np.log(16) + 4
    weight, bias = (np.asarray(w) for w in network.get_layer("head").get_weights())
    assert np.allclose(logits, peak @ weight + bias, atol=1e-5)
    assert {w.path for w in forward.weights} == {w.path for w in network.weights}


def test_a_lake_without_positive_pixels_cannot_weigh_them():
    config = run_of(model={"kind": "unetpp"}, loss={"weighted_bce": 1.0})
    with pytest.raises(InputError, match="counts none"):
        objective.image_losses(config, 0.0)
    # A classifier that carries a segmenter's config weighs no pixels.
    pretraining = run_of(model={"kind": "unetpp", "classes": 2}, loss={"weighted_bce": 1.0})
    objective.image_losses(pretraining, 0.0)


def test_loss_of_a_map_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="pooling=lesion_map"):
        run_of(model={"kind": "unetpp"}, loss={"lesion_map": 1.0})
    keras.backend.clear_session()
