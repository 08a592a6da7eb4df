"""How well scores rank images: scores, labels and weights [R, N] -> AUC and average precision, [R].

A weight is how often an image counts, as in trainer/evaluation/scores.py.
"""

import numpy as np

from trainer.scoring.ratios import ratio


def auc(scores: np.ndarray, is_positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve, [R]: ties count half; weights [R, N]."""
    positives, negatives = _by_score(scores, is_positive, weights)
    below = negatives.cumsum(axis=1) - negatives
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    return ratio((positives * (below + negatives / 2)).sum(axis=1), pairs)


def average_precision(scores, is_positive, weights) -> np.ndarray:
    """Return Σ (Rₙ − Rₙ₋₁)·Pₙ from the highest score down, [R], as scikit-learn defines it."""
    positives, negatives = (part[:, ::-1] for part in _by_score(scores, is_positive, weights))
    hits, alarms = positives.cumsum(axis=1), negatives.cumsum(axis=1)
    precision = hits / np.maximum(hits + alarms, np.finfo(float).tiny)
    return ratio((positives * precision).sum(axis=1), positives.sum(axis=1))


def _by_score(scores, is_positive, weights) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of positives and of negatives at each of the U different scores,
    ascending, [R, U] each."""
    if not len(scores):
        return np.zeros((len(weights), 1)), np.zeros((len(weights), 1))
    order = np.argsort(scores, kind="stable")
    starts = np.unique(scores[order], return_index=True)[1]
    weights, is_positive = weights[:, order], is_positive[order]
    return tuple(
        np.add.reduceat(weights * kind, starts, axis=1) for kind in (is_positive, ~is_positive)
    )
