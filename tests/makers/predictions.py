"""Predictions with known truth, and slow loops that decide and score them."""

import numpy as np

from trainer.evaluation.predictions import THRESHOLDS, Predictions
from trainer.inference import counts
from trainer.inference.decision import Decision


def blob(generator, size: int) -> np.ndarray:
    """Probabilities [size, size + 3], smooth and of very different height."""
    rows, columns = np.ogrid[:size, : size + 3]
    row, column, width = generator.uniform(0, size, 3)
    hill = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (1 + width))
    noise = 0.02 * generator.random((size, size + 3))
    return np.float32(generator.random() ** 0.3 * hill * 0.98 + noise)


def example(images: int = 40, with_lesion: bool = True, seed: int = 0) -> tuple[Predictions, list]:
    """Predictions of maps and masks that are given beside them."""
    generator = np.random.default_rng(seed)
    pairs = []
    for number in range(images):
        p = blob(generator, 20 + number % 7)
        height = p.max() * generator.uniform(0.2, 0.8)
        mask = p > height if number % 3 == 0 else np.zeros_like(p, bool)
        pairs.append((p, np.roll(mask, 2, axis=1)))
    labels = np.float32([mask.any() for _, mask in pairs])
    lesion = np.float32(np.clip(0.3 * labels + generator.random(images) * 0.7, 0, 1))
    found = Predictions(
        ids=[f"i{n}" for n in range(images)],
        groups=[f"p{n // 2}" for n in range(images)],
        labels=labels,
        scores=np.log(lesion + 1e-6) - np.log1p(1e-6 - lesion),
        lesion=lesion if with_lesion else None,
        views=["PA", "AP", ""] * (images // 3) + ["PA"] * (images % 3),
        sexes=["F", "M"] * (images // 2),
        ages=np.array([(7 * n) % 100 - 1 if n % 5 else -1 for n in range(images)]),
        masked=np.arange(images),
        counted=counts.stack([counts.from_image(*pair, THRESHOLDS) for pair in pairs], THRESHOLDS),
    )
    return found, pairs


def slow_mask(p: np.ndarray, lesion, chosen: Decision) -> np.ndarray:
    top, area_share, bottom = chosen.triplet
    is_sure = sum(bool(x > np.float32(top)) for x in p.ravel())
    if is_sure < area_share * p.size:
        return np.zeros(p.shape, bool)
    if chosen.lesion_threshold is not None and lesion < np.float32(chosen.lesion_threshold):
        return np.zeros(p.shape, bool)
    return p > np.float32(bottom)


def slow_dice(truth: np.ndarray, predicted: np.ndarray) -> float:
    a, b = set(np.flatnonzero(truth).tolist()), set(np.flatnonzero(predicted).tolist())
    return 2 * len(a & b) / (len(a) + len(b)) if a or b else 1.0
