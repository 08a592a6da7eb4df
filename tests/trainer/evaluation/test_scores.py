"""Scores equal slow loops over one image at a time, or what others define."""

import numpy as np
import pytest
from makers import predictions

from trainer.evaluation import curves, scores, subgroups
from trainer.evaluation.predictions import CURVE, THRESHOLDS
from trainer.inference import counts, decision
from trainer.inference.decision import Decision, Triplet
from trainer.scoring import metrics

CHOSEN = [
    Decision(Triplet(0.5, 0.004, 0.3), 0.3),
    Decision(Triplet(0.95, 0.016, 0.1), None),
    Decision(Triplet(0.3, 0.0, 0.9), 0.0),
]


@pytest.mark.parametrize("chosen", CHOSEN)
def test_scores_equal_a_loop_over_images(chosen):
    predicted, pairs = predictions.example(with_lesion=chosen.lesion_threshold is not None)
    lesion = [None] * len(pairs) if predicted.lesion is None else predicted.lesion
    masks = [
        predictions.slow_mask(p, own, chosen) for (p, _), own in zip(pairs, lesion, strict=True)
    ]
    dices = np.array(
        [predictions.slow_dice(truth, m) for (_, truth), m in zip(pairs, masks, strict=True)]
    )
    found = scores.of(predicted, chosen, prevalence=0.1)
    has_lesion, called = predicted.labels > 0, np.array([mask.any() for mask in masks])
    ious = [
        (t & m).sum() / (t | m).sum() if (t | m).any() else 1.0
        for (_, t), m in zip(pairs, masks, strict=True)
    ]
    half = [predictions.slow_dice(truth, p > np.float32(0.5)) for p, truth in pairs]
    sensitivity, specificity = called[has_lesion].mean(), 1 - called[~has_lesion].mean()
    expected = {
        "dice_mean": dices.mean(),
        "dice_all_empty": 1 - has_lesion.mean(),
        "dice_positives": dices[has_lesion].mean(),
        "dice_positives_at_half": np.mean(np.array(half)[has_lesion]),
        "iou_mean": np.mean(ious),
        "iou_positives": np.mean(np.array(ious)[has_lesion]),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "npv": 0.9 * specificity / (0.9 * specificity + 0.1 * (1 - sensitivity)),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name
    positive = 0.1 * sensitivity
    if called.any():
        assert found["ppv"] == pytest.approx(positive / (positive + 0.9 * (1 - specificity)))


def test_the_all_empty_prediction_scores_the_share_of_negatives():
    predicted, _ = predictions.example(images=36)
    found = scores.of(predicted, Decision(Triplet(0.99, 0.016, 0.9), 1.5), None)
    assert found["dice_mean"] == found["dice_all_empty"] == 24 / 36
    assert found["dice_positives"] == found["sensitivity"] == 0 and np.isnan(found["ppv"])


def test_calibration_equals_a_loop_over_pixels_and_images():
    predicted, pairs = predictions.example(images=12)

    def slow(p: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
        gap = 0.0
        for bin in range(15):
            low, high = np.float32(bin / 15), np.float32((bin + 1) / 15)
            own = (p <= high) & ((p > low) | (bin == 0))
            gap += abs((np.float64(p[own]) - truth[own]).sum())
        return gap / len(p), np.mean((np.float64(p) - truth) ** 2)

    found = scores.of(predicted, CHOSEN[0], None)
    pixels = [np.concatenate([pair[part].ravel() for pair in pairs]) for part in (0, 1)]
    of_pixels, of_images = slow(*pixels), slow(predicted.lesion, predicted.labels)
    assert (found["pixel_ece"], found["pixel_brier"]) == pytest.approx(of_pixels, abs=1e-9)
    assert (found["ece"], found["brier"]) == pytest.approx(of_images, abs=1e-9)
    drawn = curves.of(predicted, CHOSEN[0])["calibration"]
    assert sum(drawn["number"]) == 12


def slow_auc(values, is_positive) -> float:
    pairs = [(p > n) + (p == n) / 2 for p in values[is_positive] for n in values[~is_positive]]
    return float(np.mean(pairs))


def test_ranking_equals_a_loop_over_pairs_and_repeated_images():
    generator = np.random.default_rng(1)
    values, is_positive = generator.integers(0, 12, 40) / 4.0, generator.random(40) < 0.4
    weights = generator.integers(0, 4, (6, 40)).astype(float)
    found = scores.auc(values, is_positive, weights)
    precision = scores.average_precision(values, is_positive, weights)
    for row in range(6):
        times = weights[row].astype(int)
        repeated, truth = np.repeat(values, times), np.repeat(is_positive, times)
        assert found[row] == pytest.approx(slow_auc(repeated, truth))
        histogram = metrics.score_histogram(repeated, truth, np.ones(len(truth)))
        assert precision[row] == pytest.approx(metrics.average_precision(histogram))
    assert np.isnan(scores.auc(values, np.ones(40, bool), weights)).all()


def test_weights_are_as_good_as_repeating_images():
    """What the bootstrap relies on, of every score."""
    predicted, _ = predictions.example(images=12)
    times = np.array([0, 2, 1, 3, 1, 1, 0, 2, 1, 1, 4, 1])
    places = np.repeat(np.arange(12), times)
    for chosen in CHOSEN:
        weighted = scores.measures(predicted, chosen, None)(times[None].astype(float))
        repeated = scores.of(predicted.take(places), chosen, None)
        for name, value in weighted.items():
            assert value[0] == pytest.approx(repeated[name], nan_ok=True), name


def test_more_than_two_classes():
    logits = np.float32([[2, 1, 0], [0, 3, 1], [0, 1, 0.5], [1, 0, 2], [5, 1, 1]])
    predicted, _ = predictions.example(images=6)
    predicted = predicted.take(np.arange(5))
    predicted.labels[:] = [0, 1, 2, 2, -1]
    object.__setattr__(predicted, "scores", logits)
    found = scores.of(predicted, None, None)
    odds = np.exp(logits[:4]) / np.exp(logits[:4]).sum(axis=1, keepdims=True)
    aucs = [slow_auc(odds[:, c], np.array([0, 1, 2, 2]) == c) for c in range(3)]
    assert found["accuracy"] == 0.75 and found["auc"] == pytest.approx(np.mean(aucs))


def test_curves_have_system_0s_31_thresholds():
    predicted, pairs = predictions.example()
    found = curves.of(predicted, Decision(Triplet(0.5, 0.0, 0.3), 0.4))
    assert np.allclose(CURVE, np.arange(31) / 30)
    for place in (0, 7, 21, 30):
        threshold = np.float32(CURVE[place])
        masks = [
            (p > threshold) & (own >= np.float32(0.4))
            for (p, _), own in zip(pairs, predicted.lesion, strict=True)
        ]
        dices = [
            predictions.slow_dice(truth, m) for (_, truth), m in zip(pairs, masks, strict=True)
        ]
        assert found["masks"]["dice_mean"][place] == pytest.approx(np.mean(dices))
        hits = sum(((p > threshold) & truth).sum() for p, truth in pairs)
        recall = hits / sum(truth.sum() for _, truth in pairs)
        assert found["pixels"]["recall"][place] == pytest.approx(recall)
        called = predicted.lesion >= threshold
        recall = called[predicted.labels > 0].mean()
        assert found["images"]["recall"][place] == pytest.approx(recall)
    assert found["images"]["precision"][30] is None  # nobody is called positive at p >= 1
    roc = found["roc"]
    area = np.trapezoid(roc["sensitivity"], roc["false_positive_rate"])
    assert area == pytest.approx(slow_auc(predicted.scores, predicted.labels > 0))


def test_subgroups():
    predicted, _ = predictions.example(images=42)
    found = subgroups.of(predicted)
    assert list(found) == ["view", "sex", "age", "lesion size"]
    assert list(found["view"]) == ["AP", "PA", "unknown"]
    assert list(found["age"]) == ["0-17", "18-39", "40-59", "60-79", "80+", "unknown"]
    for field in ("view", "sex", "age"):
        places = np.concatenate(list(found[field].values()))
        assert sorted(places) == list(range(42))
    assert all(40 <= predicted.ages[place] <= 59 for place in found["age"]["40-59"])
    sizes = list(found["lesion size"].values())
    assert len(sizes) == 10 and sum(map(len, sizes)) == 14
    counted = predicted.counted
    share = counted.truth / counted.pixels
    assert all(share[a].max() <= share[b].min() for a, b in zip(sizes, sizes[1:], strict=False))
    unknown = predicted.take(np.flatnonzero(predicted.ages < 0))
    assert "age" not in subgroups.of(unknown)


def test_of_an_area_the_boundary_is_kept():
    """The rule is "fewer than", at areas that float64 would put on either side."""
    p = np.zeros((100, 100), np.float32)
    p.ravel()[:40] = 0.99  # 0.004 of the image exactly
    counted = counts.stack([counts.from_image(p, p > 1, THRESHOLDS)], THRESHOLDS)
    assert counted.is_kept([0.5], [0.004]).item() and not counted.is_kept([0.5], [0.008]).item()
    kept = decision.mask_of(p[..., None], Decision(Triplet(0.5, 0.004, 0.3)))
    assert int(np.sum(kept)) == 40
