import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from trainer.inference import counts
from trainer.scoring import metrics

TOPS, AREAS, BOTTOMS = [0.5, 0.7, 0.95], [0, 3, 12, 1000], [0.1, 0.3, 0.5, 0.99]


def dice(mask, prediction):
    total = mask.sum() + prediction.sum()
    return 2 * (mask & prediction).sum() / total if total else 1.0


@pytest.fixture
def cases():
    """Masks and probabilities [8, 6, 5, 1]; pairs 0-3 are every combination of empty and not."""
    rng = np.random.default_rng(1)
    masks = rng.random((8, 6, 5, 1)) < 0.3
    probabilities = rng.random((8, 6, 5, 1), np.float32)
    masks[[0, 1]] = False
    probabilities[[0, 2]] = 0
    return masks, probabilities


def test_hard_dice_scores_two_empty_masks_as_one(cases):
    masks, predictions = cases[0], cases[1] > 0.6
    scores = metrics.hard_dice(masks, predictions).numpy()
    expected = [dice(*pair) for pair in zip(masks, predictions, strict=True)]
    assert scores.dtype == np.float32
    assert scores == pytest.approx(expected)
    assert scores[:3].tolist() == [1, 0, 0]


def mask_by_rule(p, triplet):
    """Return the mask of probabilities [H, W, 1] at (top, area, bottom), written out."""
    top, area, bottom = triplet
    is_kept = (p > np.float32(top)).sum() >= area
    return (p > np.float32(bottom)) & is_kept


TRIPLETS = list(itertools.product(TOPS, AREAS, BOTTOMS))


@pytest.mark.parametrize("jit", [False, True])
def test_masks_are_kept_by_the_rule(cases, jit):
    _, probabilities = cases

    def keep(probabilities):
        return [metrics.keep_by_triplet(probabilities, *triplet) for triplet in TRIPLETS]

    masks = (tf.function(keep, jit_compile=True, autograph=False) if jit else keep)(
        tf.constant(probabilities)
    )
    for triplet, mask in zip(TRIPLETS, masks, strict=True):
        expected = [mask_by_rule(p, triplet) for p in probabilities]
        assert np.array_equal(mask, expected)


def test_the_dice_of_any_triplet_follows_from_pixel_counts(cases):
    thresholds = np.unique(np.float32([*TOPS, *BOTTOMS]))
    rows = [counts.from_image(p, mask, thresholds) for mask, p in zip(*cases, strict=True)]
    image_counts = counts.stack(rows, thresholds)
    shares = [area / 30 for area in AREAS]  # of 6 x 5 pixels
    is_kept = image_counts.is_kept(TOPS, shares)  # [8, T, A]
    dice_kept, dice_emptied = image_counts.dice_at(BOTTOMS), image_counts.dice_emptied()
    for number, (mask, p) in enumerate(zip(*cases, strict=True)):
        for (t, top), (a, area), (k, bottom) in itertools.product(
            enumerate(TOPS), enumerate(AREAS), enumerate(BOTTOMS)
        ):
            actual = dice_kept[number, k] if is_kept[number, t, a] else dice_emptied[number]
            assert actual == pytest.approx(dice(mask, mask_by_rule(p, (top, area, bottom))))


def numpy_scores(mask, prediction):
    """iou, sensitivity, specificity, ppv of boolean arrays; None where it is not defined."""
    both, either = (mask & prediction).sum(), (mask | prediction).sum()
    return [
        both / either if either else 1.0,
        both / mask.sum() if mask.any() else None,
        (~mask & ~prediction).sum() / (~mask).sum() if not mask.all() else None,
        both / prediction.sum() if prediction.any() else None,
    ]


SCORES = metrics.iou, metrics.sensitivity, metrics.specificity, metrics.ppv


@pytest.mark.parametrize("jit", [False, True])
def test_pixel_scores_equal_numpys_and_are_nan_where_not_defined(cases, jit):
    masks, predictions = cases[0], cases[1] > 0.6
    masks[[4, 5]], predictions[[5, 6]] = True, True

    def scores(masks, predictions):
        return [score(metrics.pixel_counts(masks, predictions)) for score in SCORES]

    actual = (tf.function(scores, jit_compile=True, autograph=False) if jit else scores)(
        masks, predictions
    )
    pairs = zip(masks, predictions, strict=True)
    expected = np.array([numpy_scores(*pair) for pair in pairs], np.float64).T  # None -> nan
    assert np.isnan(expected).sum(axis=1).tolist() == [0, 2, 2, 2]
    assert np.array(actual) == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_pixel_counts_of_batches_add_up_to_the_scores_of_all_pixels(cases):
    masks, predictions = cases[0], cases[1] > 0.6
    parts = [slice(0, 3), slice(3, 8)]
    counts = [metrics.pixel_counts(masks[p], predictions[p]).numpy() for p in parts]
    # An image without a lesion adds nothing to the sensitivity; 10^10 pixels are an epoch's.
    all_counts = sum(count.astype(np.float64).sum(axis=1) for count in counts) * 4e7
    actual = [float(score(all_counts)) for score in SCORES]
    assert actual == pytest.approx(numpy_scores(masks, predictions), abs=1e-6)


def rank_statistic(scores, labels):
    """Mann-Whitney: the share of (positive, negative) pairs in the right order, ties half."""
    difference = scores[labels == 1][:, None] - scores[labels == 0]
    return ((difference > 0) + (difference == 0) / 2).mean()


def test_auc_equals_the_rank_statistic():
    rng = np.random.default_rng(2)
    labels = (rng.random(300) < 0.3).astype(np.int64)
    # Whole steps of ten bins, so that scores share a bin only where they tie.
    scores = np.round(rng.normal(loc=labels, scale=2), 1) + 0.05
    histogram = metrics.score_histogram(scores, labels, np.ones(300), bins=4000)
    assert metrics.auc(histogram) == pytest.approx(rank_statistic(scores, labels), abs=1e-12)
    fine = rng.normal(loc=labels, scale=2)
    histogram = metrics.score_histogram(fine, labels, np.ones(300))
    assert metrics.auc(histogram) == pytest.approx(rank_statistic(fine, labels), abs=1e-3)


def test_histograms_add_up_over_batches():
    rng = np.random.default_rng(3)
    scores, labels = rng.normal(scale=9, size=(40, 1)), rng.integers(0, 2, (40, 1))
    compiled = tf.function(metrics.score_histogram, jit_compile=True, autograph=False)
    weights = np.ones((40, 1))
    whole = compiled(scores, labels, weights).numpy()
    parts = [compiled(scores[i:], labels[i:], weights[i:]) for i in (20,)]
    parts += [compiled(scores[:20], labels[:20], weights[:20])]
    np.testing.assert_array_equal(sum(parts), whole)
    assert whole.sum(axis=1).tolist() == [(labels == 0).sum(), (labels == 1).sum()]


def test_padding_and_unknown_labels_do_not_count():
    logits, labels, weights = [9.0, -9.0, -500.0, 500.0, 0.0], [1, 0, 0, 1, -1], [0, 0, 1, 1, 1]
    histogram = metrics.score_histogram(np.float32(logits), np.int64(labels), np.float32(weights))
    assert np.argwhere(histogram).tolist() == [[0, 0], [1, metrics.BINS - 1]]
    assert metrics.auc(histogram) == 1


def test_auc_needs_both_classes():
    histogram = metrics.score_histogram(np.zeros(4), np.zeros(4), np.ones(4))
    assert math.isnan(metrics.auc(histogram))
    assert math.isnan(metrics.auc(np.zeros((2, 8))))
    assert metrics.auc(np.ones((2, 1))) == 0.5


def test_lesion_score_is_the_highest_block():
    logits = np.full((2, 64, 64, 1), -3, np.float32)
    logits[0, 10:12, 20:22] = 2  # one whole block of 2 x 2
    logits[1, 10, 20] = 9  # one pixel: (9 - 3 * 3) / 4
    for score in (
        metrics.lesion_score,
        tf.function(metrics.lesion_score, jit_compile=True, autograph=False),
    ):
        assert score(logits).numpy() == pytest.approx([2, 0])
    assert metrics.lesion_score(logits[:, :16, :16]).numpy() == pytest.approx([-3, -3])
    uneven = metrics.lesion_score(np.full((1, 80, 80, 1), -3, np.float32), blocks=3)
    assert uneven.numpy() == pytest.approx([-3])  # borders count only the pixels they have


def average_precision(scores, labels):
    """Σ (Rₙ − Rₙ₋₁)·Pₙ over the distinct scores, the highest first."""
    total, last_recall = 0.0, 0.0
    for threshold in np.unique(scores)[::-1]:
        above = labels[scores >= threshold]
        recall = above.sum() / labels.sum()
        total += (recall - last_recall) * above.mean()
        last_recall = recall
    return total


def test_average_precision_equals_its_definition():
    rng = np.random.default_rng(4)
    labels = (rng.random(300) < 0.2).astype(np.int64)
    scores = np.round(rng.normal(loc=labels, scale=2), 1) + 0.05  # ties, as for the AUC
    histogram = metrics.score_histogram(scores, labels, np.ones(300), bins=4000)
    expected = average_precision(scores, labels)
    assert metrics.average_precision(histogram) == pytest.approx(expected, abs=1e-12)
    fine = rng.normal(loc=labels, scale=2)
    histogram = metrics.score_histogram(fine, labels, np.ones(300))
    expected = average_precision(fine, labels)
    assert metrics.average_precision(histogram) == pytest.approx(expected, abs=5e-3)
    assert abs(metrics.average_precision(histogram) - labels.mean()) > 0.02


def test_average_precision_needs_positives():
    assert math.isnan(metrics.average_precision(np.zeros((2, 8))))
    assert math.isnan(metrics.average_precision(np.stack([np.ones(8), np.zeros(8)])))
    assert metrics.average_precision(np.stack([np.zeros(8), np.ones(8)])) == 1
    assert metrics.average_precision(np.ones((2, 1))) == 0.5


def test_each_class_against_all_others():
    """The AUC of a class is the share of pairs, one of it and one of another, that its probability
    puts in order."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, 90)
    logits = rng.normal(size=(90, 3)) + 1.5 * np.eye(3)[labels]
    labels[:10] = -1  # unknown
    weights = np.r_[np.ones(80), np.zeros(10)]  # padding
    compiled = tf.function(metrics.class_histograms, jit_compile=True, autograph=False)
    whole = compiled(np.float32(logits), np.float32(labels), np.float32(weights)).numpy()
    halves = [
        metrics.class_histograms(np.float32(logits[part]), labels[part], weights[part]).numpy()
        for part in (slice(40), slice(40, 90))
    ]
    np.testing.assert_array_equal(sum(halves), whole)
    rows = slice(10, 80)
    shares = np.exp(logits[rows]) / np.exp(logits[rows]).sum(axis=1, keepdims=True)
    expected = []
    for number in range(3):
        ours = shares[labels[rows] == number, number]
        others = shares[labels[rows] != number, number]
        expected.append((ours[:, None] > others).mean())
        assert metrics.auc(whole[number]) == pytest.approx(expected[-1], abs=2e-3)
    assert metrics.macro_auc(whole) == pytest.approx(np.mean(expected), abs=2e-3)
    right = metrics.correct(np.float32(logits), np.float32(labels)).numpy()
    assert right.tolist() == (logits.argmax(axis=1) == labels).tolist()


def test_a_sure_class_keeps_its_rank_and_a_missing_one_has_no_score():
    logits = np.float32([[12, 0, 0], [14, 0, 0], [0, 9, 0], [0, 0, 9]])  # p of the first: 1 - 1e-5
    histograms = metrics.class_histograms(logits, [1, 0, 1, 2], np.ones(4))
    assert metrics.auc(histograms[0]) == 1
    assert math.isnan(metrics.macro_auc(metrics.class_histograms(logits, [0, 0, 1, 1], np.ones(4))))
