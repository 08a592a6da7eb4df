"""Predictions with known truth, their scores, and slow loops that decide and score them."""

import numpy as np

from trainer.evaluation import surfaces
from trainer.evaluation.outcomes import decide
from trainer.evaluation.predictions import BOTTOMS, THRESHOLDS, Predictions
from trainer.evaluation.scores import score_values
from trainer.inference import counts
from trainer.inference.decision import Decision


def blob(generator, size: int) -> np.ndarray:
    """Return probabilities [size, size + 3], smooth and of very different height."""
    rows, columns = np.ogrid[:size, : size + 3]
    row, column, width = generator.uniform(0, size, 3)
    hill = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (1 + width))
    noise = 0.02 * generator.random((size, size + 3))
    return np.float32(generator.random() ** 0.3 * hill * 0.98 + noise)


def example(images: int = 40, with_lesion: bool = True, seed: int = 0) -> tuple[Predictions, list]:
    """Return predictions of maps, and the pairs of map and mask that they were computed from."""
    generator = np.random.default_rng(seed)
    pairs = []
    for number in range(images):
        p = blob(generator, 20 + number % 7)
        height = p.max() * generator.uniform(0.2, 0.8)
        mask = p > height if number % 3 == 0 else np.zeros_like(p, bool)
        pairs.append((p, np.roll(mask, 2, axis=1)))
    labels = np.float32([mask.any() for _, mask in pairs])
    lesion = np.float32(np.clip(0.3 * labels + generator.random(images) * 0.7, 0, 1))
    predictions = Predictions(
        ids=np.array([f"i{n}" for n in range(images)]),
        groups=np.array([f"patient/p{n // 2}" for n in range(images)]),
        labels=labels,
        scores=np.log(lesion + 1e-6) - np.log1p(1e-6 - lesion),
        lesion=lesion if with_lesion else None,
        views=np.array(["PA", "AP", ""] * (images // 3) + ["PA"] * (images % 3)),
        sexes=np.array(["F", "M"] * (images // 2) + ["F"] * (images % 2)),
        ages=np.array([(7 * n) % 100 - 1 if n % 5 else -1 for n in range(images)]),
        spacing_mm=np.array([(0.2, 0.3) if n % 2 else (0, 0) for n in range(images)]),
        maps=surfaces.column(
            [surfaces.pack(p, mask, BOTTOMS) if mask.any() else None for p, mask in pairs]
        ),
        has_mask=np.ones(images, bool),
        counts=counts.stack([counts.from_image(*pair, THRESHOLDS) for pair in pairs], THRESHOLDS),
    )
    return predictions, pairs


def scores_at(predictions: Predictions, decision: Decision | None, prevalence=None) -> dict:
    """Return the scores at these thresholds, without intervals."""
    return score_values(decide(predictions, decision), prevalence)


def slow_mask(p: np.ndarray, lesion, decision: Decision) -> np.ndarray:
    top, area_share, bottom = decision.triplet
    is_sure = sum(bool(x > np.float32(top)) for x in p.ravel())
    if is_sure < area_share * p.size:
        return np.zeros(p.shape, bool)
    gate = decision.lesion_threshold
    if gate is not None and lesion < np.float32(gate):
        return np.zeros(p.shape, bool)
    return p > np.float32(bottom)


def slow_dice(truth: np.ndarray, predicted: np.ndarray) -> float:
    a, b = set(np.flatnonzero(truth).tolist()), set(np.flatnonzero(predicted).tolist())
    return 2 * len(a & b) / (len(a) + len(b)) if a or b else 1.0
