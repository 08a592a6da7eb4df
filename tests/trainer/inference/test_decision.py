"""Thresholds are what a slow search finds, and a mask is what the rule says."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from makers.predictions import example, scores_at, slow_dice, slow_mask

from lake import InputError
from trainer.config import run
from trainer.inference import decision
from trainer.inference.decision import Decision, Sizes, Triplet


@pytest.mark.parametrize("has_lesion", [True, False])
def test_the_chosen_thresholds_are_the_best_of_all(has_lesion, monkeypatch):
    monkeypatch.setattr(decision, "TOPS", (0.3, 0.8))
    monkeypatch.setattr(decision, "BOTTOMS", (0.2, 0.5, 0.7))
    monkeypatch.setattr(decision, "AREAS_SHARE", (0.0, 0.004, 0.016))
    monkeypatch.setattr(decision, "LESIONS", (0.0, 0.3, 0.6))
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
    chosen = decision.choose(outputs.counts, outputs.lesion_of_masks)
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
    chosen = decision.choose(counts, np.float32(lesion))
    assert chosen.lesion_threshold == threshold
    end = f" or the image's own p of a lesion is < {threshold}"
    assert str(chosen).endswith(end if threshold else "; the image's own p empties none")


def test_a_classifiers_threshold_has_the_highest_sensitivity_and_specificity():
    generator = np.random.default_rng(0)
    labels = np.float32(generator.random(60) < 0.3)
    lesion = np.float32(np.round(generator.random(60) * 0.7 + 0.2 * labels, 2))
    labels[:5] = -1
    chosen = decision.choose_for_classifier(lesion, labels)

    def youden(threshold):
        is_positive = lesion >= np.float32(threshold)
        return is_positive[labels == 1].mean() + (~is_positive)[labels == 0].mean()

    best = max(youden(threshold) for threshold in lesion)
    assert youden(chosen.lesion_threshold) == pytest.approx(best)
    assert chosen.triplet is None and str(chosen).startswith("a lesion where p >= ")
    with pytest.raises(InputError, match="images of one class alone"):
        decision.choose_for_classifier(lesion, np.zeros(60))


def test_without_a_mask_nothing_can_be_chosen():
    outputs, _ = example(images=3)
    with pytest.raises(InputError, match="no image with a mask"):
        decision.choose(outputs.take(np.array([], int)).counts, None)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_a_mask_at_the_sources_size_lies_where_the_image_lay(fit):
    """A wide image: a block in the network's square comes back to its place."""
    settings = run.Data(side=32, fit=fit)
    sizes = Sizes(height=64, width=128, original_height=100, original_width=200)
    truth = np.zeros((100, 200), np.float32)
    truth[50:75, 25:75] = 1
    inner = tf.image.resize(
        truth[..., None], (16, 32) if fit == "pad" else (32, 32), antialias=True
    )
    square = tf.pad(inner, [[8, 8], [0, 0], [0, 0]]) if fit == "pad" else inner
    chosen = Decision(Triplet(0.5, 0.0, 0.5))
    mask = decision.source_mask(square, sizes, settings, chosen)
    assert mask.shape == (100, 200) and slow_dice(truth, np.asarray(mask)) > 0.95


def test_one_mask_follows_the_rule():
    outputs, pairs = example(images=9)
    for (p, _), lesion in zip(pairs, outputs.lesion, strict=True):
        for chosen in (Decision(Triplet(0.5, 0.016, 0.3), 0.5), Decision(Triplet(0.9, 0.0, 0.2))):
            mask = decision.mask_of(p[..., None], chosen, lesion)
            assert np.array_equal(mask, slow_mask(p, lesion, chosen))
