"""What TensorBoard shows of an epoch beside single numbers: precision and recall, dice over
thresholds, sizes of lesions. Sums that add up over batches and replicas -> curves and bars.

    map_sums of a segmenter, at the thresholds [T] and in the bars [N] of the sizes:
        dice_at, dice_of_positives_at [T]     pixels_at [2, T] in both, predicted
        sizes [2, N] images by the size of truth, prediction      dice_by_size [N]
"""

import numpy as np

from trainer.scoring import metrics
from trainer.scoring.sums import BARS, SMALLEST, THRESHOLDS

IMAGE_THRESHOLDS = np.linspace(0, 1, 201)

Bars = tuple[np.ndarray, np.ndarray]  # edges [N + 1], heights [N]


def bars(sums: dict) -> dict[str, Bars]:
    """Histograms by tag: of a segmenter, whose sums hold map_sums, and of scores of images."""
    found = {}
    for name, histogram in score_histograms(sums).items():
        for label, counts in zip(("without", "with"), histogram, strict=True):
            found[f"probability {label} lesion{name}"] = THRESHOLDS, binned(counts)
    if "dice_at" not in sums:
        return found
    sizes, (truth, predicted) = np.linspace(SMALLEST, 0, BARS + 1), sums["sizes"]
    found["lesion size, log10 of its share/truth"] = sizes, truth
    found["lesion size, log10 of its share/prediction"] = sizes, predicted
    found["dice by lesion size"] = sizes, _quotient(sums["dice_by_size"], truth)
    for tag, dice, images in (
        ("all images", sums["dice_at"], sums["images"]),
        ("with a lesion", sums["dice_of_positives_at"], sums["positives"]),
    ):
        of_thresholds = _quotient(dice, images)
        # A bar lies between two thresholds: the mean of both.
        heights = (of_thresholds[1:] + of_thresholds[:-1]) / 2
        found[f"dice over thresholds/{tag}"] = THRESHOLDS, heights
    return found


def pr_counts(sums: dict) -> dict[str, np.ndarray]:
    """By tag, true and false positives, true and false negatives [4, thresholds] of images and, of
    a segmenter whose sums hold map_sums, of pixels; a score at the threshold is positive."""
    found = {}
    for name, histogram in score_histograms(sums).items():
        starts = bin_of_probability(IMAGE_THRESHOLDS)
        above = np.array([histogram[:, start:].sum(axis=1) for start in starts]).T
        negatives, positives = histogram.sum(axis=1)
        found[f"images{name}"] = _confusion(above[1], above[0], positives, negatives)
    if "pixels_at" in sums:
        hits, predicted = sums["pixels_at"]
        _, truth, _, all_there_are = sums["pixels"]
        counts = _confusion(hits, predicted - hits, truth, all_there_are - truth)
        found["pixels"] = counts
    return found


def score_histograms(sums: dict) -> dict[str, np.ndarray]:
    """[2, bins] by the end of its tag: one, or one a class."""
    if "histogram" in sums:
        return {"": sums["histogram"]}
    return {f", class {number}": one for number, one in enumerate(sums["histograms"])}


def bin_of_probability(probabilities: np.ndarray) -> np.ndarray:
    """The first bin of a score_histogram at or above each, as its scores are logits; all bins are
    at or above 0, none at 1."""
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities) - np.log1p(-probabilities)
    share = logits / (2 * metrics.SCORE_LIMIT) + 0.5
    return np.clip(np.ceil(share * metrics.BINS), 0, metrics.BINS).astype(int)


def binned(counts: np.ndarray) -> np.ndarray:
    """Scores [bins] in bars of even probability [N]."""
    places = bin_of_probability(THRESHOLDS)
    return np.array([counts[a:b].sum() for a, b in zip(places, places[1:], strict=False)])


def _confusion(hits, alarms, positives: float, negatives: float) -> np.ndarray:
    return np.array([hits, alarms, negatives - alarms, positives - hits])


def _quotient(part, whole) -> np.ndarray:
    """part / whole, 0 where the whole is."""
    return np.asarray(part) / np.where(np.asarray(whole) > 0, whole, 1.0)
