"""A calibration has the lowest cross-entropy of all, keeps the order of the images, and is applied
by evaluate, predict and the export alike."""

import json

import numpy as np
import pytest
import tensorflow as tf
from makers import trained
from makers.members import CLASSIFIER, UNET, member
from makers.predictions import example, scores_at

from lake import InputError
from trainer.config.run import Config
from trainer.inference import calibration, images
from trainer.inference.calibration import Calibration
from trainer.inference.decision import Decision, Triplet
from trainer.inference.ensemble import Ensemble


def images_of(number: int, slope: float, offset: float, seed: int = 0):
    """Return logits, and labels that are drawn with p = sigmoid(slope · logit + offset)."""
    generator = np.random.default_rng(seed)
    logits = np.float32(generator.normal(3, 4, number))
    p = 1 / (1 + np.exp(-(slope * logits.astype(float) + offset)))
    return logits, np.float32(generator.random(number) < p)


def cross_entropy(logits, labels, slope: float, offset: float) -> float:
    """Return Platt's, image by image."""
    positives, negatives, total = (labels == 1).sum(), (labels == 0).sum(), 0.0
    for z, label in zip(logits.tolist(), labels.tolist(), strict=True):
        if label < 0:
            continue
        target = (positives + 1) / (positives + 2) if label else 1 / (negatives + 2)
        logit = slope * z + offset
        total += np.log1p(np.exp(-logit)) * target + np.log1p(np.exp(logit)) * (1 - target)
    return total


@pytest.mark.parametrize("kind", ["platt", "temperature"])
def test_no_other_numbers_have_a_lower_cross_entropy(kind):
    logits, labels = images_of(200, 0.4, -2 if kind == "platt" else 0)
    labels[:20] = -1
    fitted = calibration.fit(kind, logits, labels)
    lowest = cross_entropy(logits, labels, fitted.slope, fitted.offset)
    assert (fitted.offset == 0) == (kind == "temperature")
    for slope_step in (-0.01, 0, 0.01):
        for offset_step in (-0.05, 0, 0.05) if kind == "platt" else (0,):
            if slope_step or offset_step:
                numbers = fitted.slope + slope_step, fitted.offset + offset_step
                assert cross_entropy(logits, labels, *numbers) > lowest


def test_the_numbers_that_made_the_labels_come_back():
    fitted = calibration.fit("platt", *images_of(50_000, 0.4, -2))
    assert fitted.slope == pytest.approx(0.4, abs=0.02)
    assert fitted.offset == pytest.approx(-2, abs=0.1)
    assert str(fitted).endswith("its logit becomes 0.398 · logit − 1.98")
    temperature = calibration.fit("temperature", *images_of(50_000, 0.5, 0))
    assert 1 / temperature.slope == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("kind", ["platt", "temperature"])
def test_images_told_apart_without_a_mistake_do_not_become_certain(kind):
    """And those ranked the wrong way round keep their order."""
    logits, labels = np.float32([-3, -2, 2, 3]), np.float32([0, 0, 1, 1])
    for truth in (labels, 1 - labels):
        fitted = calibration.fit(kind, logits, truth)
        p = 1 / (1 + np.exp(-fitted.apply(logits)))
        assert (np.diff(p) > 0).all() and 0.05 < p[0] < p[-1] < 0.95
    alike = calibration.fit(kind, np.zeros(9, np.float32), np.float32([0] * 6 + [1] * 3))
    assert np.isfinite(alike.apply(logits)).all()


def test_without_both_kinds_there_is_nothing_to_fit():
    with pytest.raises(InputError, match="--calibrate platt: .* 0 images with a lesion and 4 with"):
        calibration.fit("platt", np.zeros(6, np.float32), np.float32([0, 0, 0, 0, -1, -1]))
    with pytest.raises(ValueError, match="evaluate.calibrate=platt: of two classes alone"):
        Config.model_validate(
            {"model": {"kind": "classifier", "classes": 3}, "evaluate": {"calibrate": "platt"}}
        )


def test_a_decision_keeps_its_calibration():
    decision = Decision(Triplet(0.5, 0.0, 0.3), 0.2, Calibration("temperature", 0.5, 0.0))
    assert Decision.from_json(json.loads(json.dumps(decision.to_json()))) == decision
    assert str(decision).endswith("; p of a lesion is calibrated: its logit is divided by 2")
    assert Decision.from_json({"triplet": None, "lesion_threshold": 0.5}) == Decision(None, 0.5)


def test_scores_say_both_errors_and_ranks_stay():
    outputs, _ = example()
    scale = Calibration("platt", 0.5, 1.0)
    decision = Decision(Triplet(0.5, 0.0, 0.3), 0.3, scale)
    before, after = (
        scores_at(outputs, decision),
        scores_at(outputs.with_calibration(scale), decision),
    )
    for name in ("ece", "brier"):
        assert after[f"{name}_uncalibrated"] == pytest.approx(before[name], abs=1e-6)
        assert after[name] != pytest.approx(before[name], abs=1e-3)
        assert f"{name}_uncalibrated" not in before
    assert (after["auc"], after["ap"]) == (before["auc"], before["ap"])
    part = outputs.with_calibration(scale).take(np.arange(5, 12))
    np.testing.assert_array_equal(
        part.uncalibrated, outputs.with_calibration(scale).uncalibrated[5:12]
    )


@pytest.mark.parametrize("segmenters, classifiers", [(1, 0), (1, 1), (0, 2)])
def test_an_ensemble_gives_calibrated_p(segmenters, classifiers):
    """A segmenter without a p of a lesion has one by its calibration."""
    groups = (
        [member("s", UNET, seed) for seed in range(segmenters)],
        [member("c", CLASSIFIER, seed) for seed in range(classifiers)],
    )
    system, scale = Ensemble(*groups), Calibration("platt", 0.5, 1.0)
    batch = {"image": tf.random.stateless_uniform([3, 32, 32, 1], seed=[1, 2])}
    batch |= {"window": tf.constant([[0.0, 1.0]] * 3)}
    plain, calibrated = system(batch), system.with_calibration(scale)(batch)
    np.testing.assert_allclose(calibrated.scores, 0.5 * plain.scores + 1, rtol=1e-6)
    np.testing.assert_allclose(calibrated.lesion, tf.sigmoid(calibrated.scores), rtol=1e-6)
    assert (plain.lesion is None) == (classifiers == 0)
    if segmenters:
        np.testing.assert_array_equal(calibrated.probabilities, plain.probabilities)
    np.testing.assert_array_equal(system(batch).scores, plain.scores)
    np.testing.assert_array_equal(system.with_calibration(None)(batch).scores, plain.scores)


def test_predict_and_the_export_give_calibrated_p(systems, exported, lake, tmp_path):
    """The cascade of `systems` is calibrated; its logits come from the networks themselves."""
    from trainer.inference import ensemble

    folders = systems["cascade"][1], systems["cascade"][3]
    plain = ensemble.load([folders[0]], [folders[1]], ("flip",))
    inputs = images.from_lake(str(lake), "test")
    p = {}
    for batch in images.batches(inputs, plain, ("image_id",), with_image=False):
        logits = trained.CALIBRATION.apply(plain(batch).scores.numpy().astype(np.float64))
        ids = [name.decode() for name in batch["image_id"].numpy()]
        p |= dict(zip(ids, 1 / (1 + np.exp(-logits)), strict=True))
    p.pop("", None)
    trained.run_task("predict", *systems["cascade"], "--output", tmp_path / "out")
    rows = trained.read_predictions(tmp_path / "out")
    assert rows.keys() == p.keys() and len(p) == 8
    for name, (_, probability, _) in rows.items():
        assert probability == pytest.approx(p[name], abs=1e-5)
    signature = tf.saved_model.load(str(exported)).signatures["records"]
    records = list(inputs.records())
    answers = signature(records=tf.constant(records))["probability"].numpy()
    np.testing.assert_allclose(sorted(answers), sorted(p.values()), atol=1e-5)
    description = json.loads((exported / "export.json").read_text())
    assert description["decision"]["calibration"] == trained.CALIBRATION._asdict()
