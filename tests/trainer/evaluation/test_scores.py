"""Scores equal slow loops over one image at a time, or what others define."""

import numpy as np
import pytest
from makers import predictions

from trainer.evaluation import curves, scores, subgroups
from trainer.evaluation.outcomes import decide, with_outlines
from trainer.evaluation.predictions import CURVE, THRESHOLDS
from trainer.inference import counts
from trainer.inference.decision import Decision, Triplet, mask_of
from trainer.scoring import metrics

DECISIONS = [
    Decision(Triplet(0.5, 0.004, 0.3), 0.3),
    Decision(Triplet(0.95, 0.016, 0.1), None),
    Decision(Triplet(0.3, 0.0, 0.9), 0.0),
]


@pytest.mark.parametrize("decision", DECISIONS)
def test_scores_equal_a_loop_over_images(decision):
    outputs, pairs = predictions.example(with_lesion=decision.lesion_threshold is not None)
    lesion = [None] * len(pairs) if outputs.lesion is None else outputs.lesion
    masks = [
        predictions.slow_mask(p, p_lesion, decision)
        for (p, _), p_lesion in zip(pairs, lesion, strict=True)
    ]
    dices = np.array(
        [predictions.slow_dice(truth, m) for (_, truth), m in zip(pairs, masks, strict=True)]
    )
    decision = decision._replace(positives_bottom=0.2)
    actual = predictions.scores_at(outputs, decision, prevalence=0.1)
    has_lesion, is_called = outputs.labels > 0, np.array([mask.any() for mask in masks])
    ious = [
        (t & m).sum() / (t | m).sum() if (t | m).any() else 1.0
        for (_, t), m in zip(pairs, masks, strict=True)
    ]
    half, best = (
        [predictions.slow_dice(truth, p > np.float32(bottom)) for p, truth in pairs]
        for bottom in (0.5, 0.2)
    )
    sensitivity, specificity = is_called[has_lesion].mean(), 1 - is_called[~has_lesion].mean()
    expected = {
        "dice_mean": dices.mean(),
        "dice_all_empty": 1 - has_lesion.mean(),
        "dice_positives": dices[has_lesion].mean(),
        "dice_positives_at_half": np.mean(np.array(half)[has_lesion]),
        "dice_positives_at_own": np.mean(np.array(best)[has_lesion]),
        "iou_mean": np.mean(ious),
        "iou_positives": np.mean(np.array(ious)[has_lesion]),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "npv": 0.9 * specificity / (0.9 * specificity + 0.1 * (1 - sensitivity)),
    }
    for name, value in expected.items():
        assert actual[name] == pytest.approx(value, abs=1e-9), name
    positive = 0.1 * sensitivity
    if is_called.any():
        assert actual["ppv"] == pytest.approx(positive / (positive + 0.9 * (1 - specificity)))


def test_the_all_empty_prediction_scores_the_share_of_negatives():
    outputs, _ = predictions.example(images=36)
    actual = predictions.scores_at(outputs, Decision(Triplet(0.99, 0.016, 0.9), 1.5))
    assert actual["dice_mean"] == actual["dice_all_empty"] == 24 / 36
    assert actual["dice_positives"] == actual["sensitivity"] == 0 and np.isnan(actual["ppv"])


def test_calibration_equals_a_loop_over_pixels_and_images():
    outputs, pairs = predictions.example(images=12)

    def slow(p: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
        gap = 0.0
        for bin in range(15):
            low, high = np.float32(bin / 15), np.float32((bin + 1) / 15)
            is_in = (p <= high) & ((p > low) | (bin == 0))
            gap += abs((np.float64(p[is_in]) - truth[is_in]).sum())
        return gap / len(p), np.mean((np.float64(p) - truth) ** 2)

    actual = predictions.scores_at(outputs, DECISIONS[0])
    pixels = [np.concatenate([pair[part].ravel() for pair in pairs]) for part in (0, 1)]
    expected_pixels, expected_images = slow(*pixels), slow(outputs.lesion, outputs.labels)
    pixels, images = ([actual[f"{kind}ece"], actual[f"{kind}brier"]] for kind in ("pixel_", ""))
    assert pixels == pytest.approx(expected_pixels, abs=1e-9)
    assert images == pytest.approx(expected_images, abs=1e-9)
    curve = curves.from_outcomes(decide(outputs, DECISIONS[0]))["calibration"]
    assert sum(curve["number"]) == 12


def slow_auc(values, is_positive) -> float:
    pairs = [(p > n) + (p == n) / 2 for p in values[is_positive] for n in values[~is_positive]]
    return float(np.mean(pairs))


def test_ranking_equals_a_loop_over_pairs_and_repeated_images():
    generator = np.random.default_rng(1)
    values, is_positive = generator.integers(0, 12, 40) / 4.0, generator.random(40) < 0.4
    weights = generator.integers(0, 4, (6, 40)).astype(float)
    auc = scores.auc(values, is_positive, weights)
    precision = scores.average_precision(values, is_positive, weights)
    for row in range(6):
        times = weights[row].astype(int)
        copies, truth = np.repeat(values, times), np.repeat(is_positive, times)
        assert auc[row] == pytest.approx(slow_auc(copies, truth))
        histogram = metrics.score_histogram(copies, truth, np.ones(len(truth)))
        assert precision[row] == pytest.approx(metrics.average_precision(histogram))
    assert np.isnan(scores.auc(values, np.ones(40, bool), weights)).all()


def test_weights_are_as_good_as_repeating_images():
    """What the bootstrap relies on, of every score."""
    outputs, _ = predictions.example(images=12)
    times = np.array([0, 2, 1, 3, 1, 1, 2, 0, 1, 1, 4, 1])
    places = np.repeat(np.arange(12), times)
    for decision in DECISIONS:
        outcomes = with_outlines(decide(outputs, decision), 1.0, 2.0)
        by_weights = scores.measures(outcomes, None)(times[None].astype(float))
        by_copies = scores.score_values(outcomes.take(places), None)
        anew = with_outlines(decide(outputs.take(places), decision), 1.0, 2.0)
        expected = scores.score_values(anew, None)
        assert {"hd95_mm", "hd95_px", "surface_dice_mm"} <= expected.keys()
        assert by_copies == pytest.approx(expected, rel=0, abs=0, nan_ok=True)
        for name, value in by_weights.items():
            assert value[0] == pytest.approx(by_copies[name], nan_ok=True), name


def test_medians_of_repeated_images():
    generator = np.random.default_rng(2)
    values = np.array([3.0, np.inf, 1.0, 2.0, 5.0, 2.0, np.inf])
    weights = generator.integers(0, 4, (50, 7)).astype(float)
    weights[0] = 0
    actual = scores.median(values, weights)
    assert np.isnan(actual[0]) and np.isinf(actual).any() and np.isfinite(actual).any()
    for row in range(1, 50):
        copies = sorted(np.repeat(values, weights[row].astype(int)))
        low, high = copies[(len(copies) - 1) // 2], copies[len(copies) // 2]
        assert actual[row] == (low + high) / 2


def test_more_than_two_classes():
    logits = np.float32([[2, 1, 0], [0, 3, 1], [0, 1, 0.5], [1, 0, 2], [5, 1, 1]])
    outputs, _ = predictions.example(images=6)
    outputs = outputs.take(np.arange(5))
    outputs.labels[:] = [0, 1, 2, 2, -1]
    actual = predictions.scores_at(outputs._replace(scores=logits), None)
    odds = np.exp(logits[:4]) / np.exp(logits[:4]).sum(axis=1, keepdims=True)
    aucs = [slow_auc(odds[:, c], np.array([0, 1, 2, 2]) == c) for c in range(3)]
    assert actual["accuracy"] == 0.75 and actual["auc"] == pytest.approx(np.mean(aucs))


def test_curves_have_31_thresholds():
    outputs, pairs = predictions.example()
    outcomes = decide(outputs, Decision(Triplet(0.5, 0.0, 0.3), 0.4))
    actual = curves.from_outcomes(outcomes)
    assert np.allclose(CURVE, np.arange(31) / 30)
    for place in (0, 7, 21, 30):
        threshold = np.float32(CURVE[place])
        masks = [
            (p > threshold) & (p_lesion >= np.float32(0.4))
            for (p, _), p_lesion in zip(pairs, outputs.lesion, strict=True)
        ]
        dices = [
            predictions.slow_dice(truth, m) for (_, truth), m in zip(pairs, masks, strict=True)
        ]
        assert actual["masks"]["dice_mean"][place] == pytest.approx(np.mean(dices))
        hits = sum(((p > threshold) & truth).sum() for p, truth in pairs)
        recall = hits / sum(truth.sum() for _, truth in pairs)
        assert actual["pixels"]["recall"][place] == pytest.approx(recall)
        is_called = outputs.lesion >= threshold
        recall = is_called[outputs.labels > 0].mean()
        assert actual["images"]["recall"][place] == pytest.approx(recall)
    assert actual["images"]["precision"][30] is None  # nobody is called positive at p >= 1
    roc = actual["roc"]
    area = np.trapezoid(roc["sensitivity"], roc["false_positive_rate"])
    assert area == pytest.approx(slow_auc(outputs.scores, outputs.labels > 0))


def test_subgroups():
    outputs, _ = predictions.example(images=42)
    groups = subgroups.by_field(outputs)
    assert list(groups) == ["view", "sex", "age", "lesion size"]
    assert list(groups["view"]) == ["AP", "PA", "unknown"]
    assert list(groups["age"]) == ["0-17", "18-39", "40-59", "60-79", "80+", "unknown"]
    for field in ("view", "sex", "age"):
        places = np.concatenate(list(groups[field].values()))
        assert sorted(places) == list(range(42))
    assert all(40 <= outputs.ages[place] <= 59 for place in groups["age"]["40-59"])
    sizes = list(groups["lesion size"].values())
    assert [len(places) for places in sizes] == [7, 7]  # one image says nothing about its size
    many = subgroups.by_field(outputs.take(np.tile(np.arange(42), 5)))["lesion size"]
    assert [len(places) for places in many.values()] == [7] * 10
    one = subgroups.by_field(outputs.take(np.flatnonzero(outputs.labels > 0)[:1]))
    assert [len(places) for places in one["lesion size"].values()] == [1]
    share = outputs.counts.truth / outputs.counts.pixels
    assert all(share[a].max() <= share[b].min() for a, b in zip(sizes, sizes[1:], strict=False))
    unknown = outputs.take(np.flatnonzero(outputs.ages < 0))
    assert "age" not in subgroups.by_field(unknown)


def test_a_mask_of_exactly_the_area_is_kept():
    """The rule is "fewer than", at areas that float64 would put on either side."""
    p = np.zeros((100, 100), np.float32)
    p.ravel()[:40] = 0.99  # 0.004 of the image exactly
    rows = counts.stack([counts.from_image(p, p > 1, THRESHOLDS)], THRESHOLDS)
    assert rows.is_kept([0.5], [0.004]).item() and not rows.is_kept([0.5], [0.008]).item()
    mask = mask_of(p[..., None], Decision(Triplet(0.5, 0.004, 0.3)))
    assert int(np.sum(mask)) == 40
