"""Thresholds are what a slow search finds, by either rule."""

import itertools

import numpy as np
import pytest
from makers.predictions import example, scores_at, slow_dice, slow_mask

from lake import InputError
from trainer.evaluation import choice
from trainer.evaluation.outcomes import decide
from trainer.inference.decision import BOTTOMS, TOPS, Decision, Triplet


@pytest.mark.parametrize("has_lesion", [True, False])
def test_the_chosen_thresholds_are_the_best_of_all(has_lesion, monkeypatch):
    monkeypatch.setattr(choice, "TOPS", (0.3, 0.8))
    monkeypatch.setattr(choice, "BOTTOMS", (0.2, 0.5, 0.7))
    monkeypatch.setattr(choice, "AREAS_SHARE", (0.0, 0.004, 0.016))
    monkeypatch.setattr(choice, "LESIONS", (0.0, 0.3, 0.6))
    outputs, pairs = example(images=15, with_lesion=has_lesion)
    lesion = outputs.lesion if has_lesion else [None] * 15
    best = {}
    grid = itertools.product((0.3, 0.8), (0.0, 0.004, 0.016), (0.2, 0.5, 0.7))
    for triplet, gate in itertools.product(grid, (0.0, 0.3, 0.6) if has_lesion else (None,)):
        candidate = Decision(Triplet(*triplet), gate)
        masks = [
            slow_mask(p, p_lesion, candidate)
            for (p, _), p_lesion in zip(pairs, lesion, strict=True)
        ]
        best[candidate] = np.mean([slow_dice(t, m) for (_, t), m in zip(pairs, masks, strict=True)])
    chosen = choice.choose(outputs.counts, outputs.lesion_of_masks)
    for_lesions = {
        bottom: np.mean([slow_dice(t, p > np.float32(bottom)) for p, t in pairs if t.any()])
        for bottom in (0.2, 0.5, 0.7)
    }
    assert chosen.positives_bottom == max(for_lesions, key=for_lesions.get)
    chosen = chosen._replace(positives_bottom=None)
    assert best[chosen] == pytest.approx(max(best.values()), abs=1e-12)
    assert scores_at(outputs, chosen)["dice_mean"] == pytest.approx(best[chosen], abs=1e-12)


@pytest.mark.parametrize(
    "lesion, threshold",
    [
        ([0.01, 0.15, 0.9, 0.3], 0.2),
        ([0.01, 0.5, 0.9, 0.3], 0.6),  # better than keeping the second lesion
        ([0.95, 0.95, 0.6, 0.4], 0.0),  # what is wrong about every image is not asked
    ],
)
def test_the_threshold_on_p_of_a_lesion_is_chosen_with_the_triplet(lesion, threshold):
    """Two images without a lesion, predicted wrongly everywhere; two with, of dice 0.8 and 0.6."""
    outputs, _ = example(images=4)
    counts = outputs.counts._replace(
        truth=np.array([0, 0, 100, 100]),
        hits=np.repeat([[0], [0], [80], [60]], len(outputs.counts.thresholds), axis=1),
        above=np.full_like(outputs.counts.above, 100),
    )
    chosen = choice.choose(counts, np.float32(lesion))
    assert chosen.lesion_threshold == threshold
    end = f" or the image's own p of a lesion is < {threshold}"
    assert str(chosen).endswith(end if threshold else "; the image's own p empties none")


def test_a_classifiers_threshold_has_the_highest_sensitivity_and_specificity():
    generator = np.random.default_rng(0)
    labels = np.float32(generator.random(60) < 0.3)
    lesion = np.float32(np.round(generator.random(60) * 0.7 + 0.2 * labels, 2))
    labels[:5] = -1
    chosen = choice.choose_for_classifier(lesion, labels)

    def youden(threshold):
        is_positive = lesion >= np.float32(threshold)
        return is_positive[labels == 1].mean() + (~is_positive)[labels == 0].mean()

    best = max(youden(threshold) for threshold in lesion)
    assert youden(chosen.lesion_threshold) == pytest.approx(best)
    assert chosen.triplet is None and str(chosen).startswith("a lesion where p >= ")
    with pytest.raises(InputError, match="images of one class alone"):
        choice.choose_for_classifier(lesion, np.zeros(60))


def test_without_a_mask_nothing_can_be_chosen():
    outputs, _ = example(images=3)
    with pytest.raises(InputError, match="no image with a mask"):
        choice.choose(outputs.take(np.array([], int)).counts, None)


# --- the rule of one standard error ---


@pytest.mark.parametrize("has_lesion", [True, False])
def test_one_standard_error_takes_what_a_slow_search_takes(has_lesion, monkeypatch):
    """Every threshold's dice from masks, image by image; every draw of patients counted by hand."""
    monkeypatch.setattr(choice, "TOPS", (0.3, 0.8))
    monkeypatch.setattr(choice, "BOTTOMS", (0.2, 0.5, 0.7))
    monkeypatch.setattr(choice, "AREAS_SHARE", (0.0, 0.004, 0.016))
    monkeypatch.setattr(choice, "LESIONS", (0.0, 0.3, 0.6))
    outputs, pairs = example(images=31, with_lesion=has_lesion, seed=3)
    lesion = outputs.lesion if has_lesion else [None] * 31
    dices = {}
    gates = (0.0, 0.3, 0.6) if has_lesion else (None,)
    for gate, top, area, bottom in itertools.product(
        gates, (0.3, 0.8), (0.0, 0.004, 0.016), (0.2, 0.5, 0.7)
    ):
        candidate = Decision(Triplet(top, area, bottom), gate)
        masks = [slow_mask(p, one, candidate) for (p, _), one in zip(pairs, lesion, strict=True)]
        dices[candidate] = np.array(
            [slow_dice(truth, mask) for (_, truth), mask in zip(pairs, masks, strict=True)]
        )
    best = max(dices, key=lambda one: round(dices[one].mean(), 12))
    generator, patients = np.random.default_rng(7), sorted(set(outputs.groups))
    draws = []
    for _ in range(2000):
        drawn = generator.choice(patients, len(patients))
        draws.append(np.concatenate([np.flatnonzero(outputs.groups == one) for one in drawn]))
    has_truth = outputs.labels > 0

    def is_as_good(candidate) -> bool:
        behind = dices[best] - dices[candidate]
        error = np.std([behind[places].mean() for places in draws])
        assert abs(behind.mean() - error) > 0.02 * error or error == 0  # no draw decides
        return behind.mean() <= error + 1e-12

    as_good = [candidate for candidate in dices if is_as_good(candidate)]
    expected = max(as_good, key=lambda one: (dices[one][has_truth].mean(), dices[one].mean()))
    chosen = choice.choose(outputs.counts, outputs.lesion_of_masks, "one_se", outputs.groups)
    chosen = chosen._replace(positives_bottom=None)
    assert chosen == expected
    assert dices[chosen][has_truth].mean() >= dices[best][has_truth].mean()


def few_positives():
    """Return 72 images, 20 of them with a lesion: 7 lesions are found with a dice of 0.4, and as
    sure of themselves are false alarms in 4 images, so that empty masks have the best mean."""
    outputs, _ = example(images=72)
    thresholds = outputs.counts.thresholds
    truth = np.where(np.arange(72) < 20, 100, 0)
    is_marked = np.isin(np.arange(72), [*range(7), *range(40, 44)])
    above = np.where(is_marked[:, None] & (thresholds < 0.85), 100, 0)
    hits = np.where((np.arange(72) < 7)[:, None] & (above > 0), 40, 0)
    counts = outputs.counts._replace(truth=truth, above=above, hits=hits, pixels=np.full(72, 1000))
    return outputs._replace(labels=np.float32(truth > 0), counts=counts, lesion=None)


def test_twenty_positives_do_not_choose_an_empty_mask():
    outputs = few_positives()
    best = choice.choose(outputs.counts, None)
    chosen = choice.choose(outputs.counts, None, "one_se", outputs.groups)
    assert not decide(outputs, best).is_called.any()
    called = decide(outputs, chosen)
    assert called.is_called.sum() == 11
    assert scores_at(outputs, chosen)["dice_positives"] == pytest.approx(7 * 0.4 / 20)


def test_many_images_that_say_the_same_are_no_reason_for_false_alarms():
    """The same, of 25 times as many patients: empty masks are now better beyond an error."""
    few = few_positives()
    many = few.take(np.tile(np.arange(72), 25))
    groups = np.array([f"patient/{n}" for n in range(len(many.ids))])
    chosen = choice.choose(many.counts, None, "one_se", groups)
    assert not decide(many, chosen).is_called.any()


def test_without_a_lesion_the_best_stays():
    outputs = few_positives()
    healthy = outputs.take(np.arange(20, 72))
    best = choice.choose(healthy.counts, None)
    assert choice.choose(healthy.counts, None, "one_se", healthy.groups) == best
    assert best.triplet.top in TOPS and best.triplet.bottom in BOTTOMS
