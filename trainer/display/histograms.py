"""An epoch's sums -> the curves and histograms of TensorBoard: precision and recall, dice over
thresholds, sizes of lesions.

    sums.map_sums of a segmenter, at T thresholds and in N bars of sizes:
        dice_at, dice_of_positives_at [T]     summed dice of the images
        pixels_at [2, T]                      pixels in both mask and prediction, in the latter
        sizes [2, N]                          images by the size of their truth, their prediction
        dice_by_size [N]                      summed dice of the images by the size of their truth
"""

import itertools
from collections.abc import Sequence

import numpy as np

from trainer.scoring import metrics
from trainer.scoring.ratios import ratio
from trainer.scoring.sums import BARS, SMALLEST, THRESHOLDS

IMAGE_THRESHOLDS = np.linspace(0, 1, 201)

Bars = tuple[np.ndarray, np.ndarray]  # edges [N + 1], heights [N]


def bars(sums: dict, findings: Sequence[str] = ()) -> dict[str, Bars]:
    """Return histograms by tag: of the images' scores, and those of map_sums where the sums are a
    segmenter's."""
    histograms, sign = {}, "finding" if findings else "lesion"
    for name, histogram in score_histograms(sums, findings).items():
        for label, counts in zip(("without", "with"), histogram, strict=True):
            histograms[f"probability {label} {sign}{name}"] = THRESHOLDS, sum_bars(counts)
    if "dice_at" not in sums:
        return histograms
    sizes, (truth, prediction) = np.linspace(SMALLEST, 0, BARS + 1), sums["sizes"]
    histograms["lesion size, log10 of its share/truth"] = sizes, truth
    histograms["lesion size, log10 of its share/prediction"] = sizes, prediction
    histograms["dice at 0.5 by lesion size, network size"] = (
        sizes,
        ratio(sums["dice_by_size"], truth, 0.0),
    )
    for tag, dice, images in (
        ("all images", sums["dice_at"], sums["images"]),
        ("with a lesion", sums["dice_of_positives_at"], sums["positives"]),
    ):
        mean_dice = ratio(dice, images, 0.0)  # [T]
        # A bar lies between two thresholds, so its height is the mean of both.
        heights = (mean_dice[1:] + mean_dice[:-1]) / 2
        histograms[f"dice over thresholds, network size/{tag}"] = THRESHOLDS, heights
    return histograms


def pr_counts(sums: dict, findings: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Return, by tag, true and false positives, true and false negatives [4, thresholds] of images
    and, if the sums hold map_sums, of pixels. A score equal to the threshold is positive."""
    counts_by_tag = {}
    starts = bin_of_probability(IMAGE_THRESHOLDS)
    for name, histogram in score_histograms(sums, findings).items():
        above = np.array([histogram[:, start:].sum(axis=1) for start in starts]).T
        negatives, positives = histogram.sum(axis=1)
        counts_by_tag[f"images{name}"] = _confusion(above[1], above[0], positives, negatives)
    if "pixels_at" in sums:
        hits, prediction = sums["pixels_at"]
        _, truth, _, pixels = sums["pixels"]
        counts_by_tag["pixels"] = _confusion(hits, prediction - hits, truth, pixels - truth)
    return counts_by_tag


def score_histograms(sums: dict, findings: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Return score histograms [2, bins] by the suffix of their tag: one, or one per class or
    finding."""
    if findings:
        names = (f", {name}" for name in findings)
        return dict(zip(names, sums["finding_histograms"], strict=True))
    if "histogram" in sums:
        return {"": sums["histogram"]}
    return {f", class {c}": histogram for c, histogram in enumerate(sums["histograms"])}


def bin_of_probability(probabilities: np.ndarray) -> np.ndarray:
    """Return the first bin of a score_histogram at or above each probability; the histogram's
    scores are logits. All bins are at or above 0, none at 1."""
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities) - np.log1p(-probabilities)
    share = logits / (2 * metrics.SCORE_LIMIT) + 0.5
    return np.clip(np.ceil(share * metrics.BINS), 0, metrics.BINS).astype(int)


def sum_bars(counts: np.ndarray) -> np.ndarray:
    """Return the counts of a score histogram, [bins], as N bars that are equally wide in p."""
    edges = bin_of_probability(THRESHOLDS)
    return np.array([counts[a:b].sum() for a, b in itertools.pairwise(edges)])


def _confusion(hits, alarms, positives: float, negatives: float) -> np.ndarray:
    return np.array([hits, alarms, negatives - alarms, positives - hits])
