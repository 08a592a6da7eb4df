"""Findings of which some are unknown: the loss, its gradient, and the AUC of each finding."""

import math

import numpy as np
import pytest
import tensorflow as tf

from trainer.config.run import Config
from trainer.scoring import metrics, objective, sums
from trainer.scoring.losses import findings_bce

FINDINGS = np.float32([[1, 0, -1], [0, -1, -1], [-1, -1, -1], [1, 1, 0]])
LOGITS = np.float32([[0.3, -1.2, 4.0], [2.0, 0.1, -3.0], [5.0, 5.0, 5.0], [-0.7, 9.0, 0.0]])
NAMES = ["Edema", "Mass", "Nodule"]


def slow_loss(findings, logits, smoothing: float) -> float:
    """Return the loss of one image, a finding after the other."""
    total = 0.0
    for y, z in zip(findings, logits, strict=True):
        if y >= 0:
            target, p = y * (1 - smoothing) + smoothing / 2, 1 / (1 + math.exp(-float(z)))
            total -= target * math.log(p) + (1 - target) * math.log(1 - p)
    return total / len(findings)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_the_known_findings(smoothing):
    actual = findings_bce(FINDINGS, LOGITS, smoothing)
    expected = [slow_loss(*pair, smoothing) for pair in zip(FINDINGS, LOGITS, strict=True)]
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    assert expected[2] == 0


def test_an_unknown_finding_gives_no_gradient_and_its_value_does_not_matter():
    terms = {"label_smoothing": 0.2}
    model = {"kind": "classifier", "findings": NAMES}
    losses = objective.image_losses(Config.model_validate({"model": model, "loss": terms}), 0.0)
    logits = tf.Variable(LOGITS)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(losses(None, [logits], {"findings": tf.constant(FINDINGS)}))
    gradient = tape.gradient(loss, logits).numpy()
    assert (gradient[FINDINGS < 0] == 0).all()
    assert (np.abs(gradient[FINDINGS >= 0]) > 1e-3).all()
    # The sum's gradient of a known one: (p - target) / F.
    assert gradient[0, 0] == pytest.approx((1 / (1 + math.exp(-0.3)) - 0.9) / 3, rel=1e-5)


def pairwise_auc(findings, logits) -> float:
    """Return the share of pairs of a positive and a negative that are ranked right, ties half."""
    positives, negatives = logits[findings == 1], logits[findings == 0]
    differences = positives[:, None] - negatives[None]
    return float(np.mean((differences > 0) + 0.5 * (differences == 0)))


def test_the_auc_of_each_finding_equals_that_of_all_pairs():
    generator = np.random.default_rng(0)
    findings = generator.integers(-1, 2, (90, 3)).astype(np.float32)
    findings[:, 2] = np.minimum(findings[:, 2], 0)  # nobody has it
    logits = np.round(generator.normal(size=(90, 3)) + 0.7 * findings, 1).astype(np.float32)
    weights = (np.arange(90) < 80).astype(np.float32)  # the rest is padding
    total = {}
    for start in range(0, 90, 30):  # sums of batches add up
        rows = slice(start, start + 30)
        batch = {"label": np.ones(30, np.float32), "findings": findings[rows]}
        part = sums.example_sums(True, None, logits[rows], batch, weights[rows])
        total = {name: total.get(name, 0) + np.asarray(part[name]) for name in part}
    scores = sums.scores(total, NAMES)
    expected = [pairwise_auc(findings[:80, f], logits[:80, f]) for f in (0, 1)]
    assert list(scores) == ["auc", "auc/Edema", "auc/Mass", "auc/Nodule"]
    # Scores are rounded to bins of 0.01, in which no two of these differ.
    assert [scores["auc/Edema"], scores["auc/Mass"]] == pytest.approx(expected, abs=1e-6)
    assert math.isnan(scores["auc/Nodule"])  # a dash, and no part of the mean
    assert scores["auc"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert np.abs(np.array(expected) - 0.5).min() > 0.05


def test_p_of_a_finding_is_its_own():
    p = metrics.to_probabilities(LOGITS, are_findings=True)
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-LOGITS)), rtol=1e-6)
