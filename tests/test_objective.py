"""Losses of images: unknown truth weighs 0, and a classifier's map learns where the mask is."""

import keras
import numpy as np
import pytest

from lake import InputError
from trainer import config, losses, models, objective


def run_of(**fields) -> config.Config:
    return config.Config.model_validate(fields)


@pytest.fixture
def truth() -> tuple[np.ndarray, dict]:
    """Two images of 16 px: a lesion in the upper left quarter; mask and label unknown."""
    masks = np.zeros((2, 16, 16, 1), np.float32)
    masks[0, :8, :8] = 1
    return masks, {
        "label": np.array([1, -1], np.float32),
        "has_mask": np.array([1, 0], np.float32),
    }


def test_a_segmenter_sums_its_terms_and_leaves_unknown_masks_out(truth):
    masks, batch = truth
    run = run_of(model={"kind": "unetpp"}, loss={"dice": 2, "bce": 1, "weighted_bce": 0.5})
    logits = np.random.default_rng(0).normal(size=masks.shape).astype(np.float32)
    found = np.asarray(objective.image_losses(run, 0.1)(masks, [logits], batch))
    terms = (
        losses.dice(masks, logits),
        losses.bce(masks, logits),
        losses.weighted_bce(masks, logits, 0.1),
    )
    dice, bce, weighted = (np.asarray(term) for term in terms)
    assert np.allclose(found, [2 * dice[0] + bce[0] + 0.5 * weighted[0], 0])


def test_a_classifier_leaves_unknown_labels_out(truth):
    masks, batch = truth
    run = run_of(model={"kind": "classifier", "encoder": "plain"})
    logits = np.array([[0.3], [5.0]], np.float32)
    found = np.asarray(objective.image_losses(run, 0.1)(masks, [logits], batch))
    assert np.allclose(found, [np.log1p(np.exp(-0.3)), 0])


def test_the_lesion_map_is_rewarded_where_the_mask_is(truth):
    masks, batch = truth
    run = run_of(
        model={"kind": "classifier", "encoder": "plain", "pooling": "lesion_map"},
        loss={"lesion_map": 1.0},
    )
    loss = objective.image_losses(run, 0.25)
    right, wrong = np.full((2, 2, 2, 2, 1), -3, np.float32)
    right[:, 0, 0], wrong[:, 1, 1] = 3, 3
    logits = np.zeros((2, 1), np.float32)
    of_right, of_wrong = (np.asarray(loss(masks, [logits, m], batch)) for m in (right, wrong))
    assert of_right[0] < of_wrong[0] and of_right[1] == of_wrong[1] == 0


def test_the_map_model_has_the_networks_own_logit_and_weights():
    settings = config.Classifier(
        kind="classifier", encoder="plain", filters=4, depth=2, pooling="lesion_map"
    )
    network = models.build(settings, 16)
    forward = objective.outputs(network, config.Loss(lesion_map=1.0))
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
    run = run_of(model={"kind": "unetpp"}, loss={"weighted_bce": 1.0})
    with pytest.raises(InputError, match="counts none"):
        objective.image_losses(run, 0.0)


def test_loss_of_a_map_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="pooling=lesion_map"):
        run_of(model={"kind": "unetpp"}, loss={"lesion_map": 1.0})
    keras.backend.clear_session()
