"""What scores are called: in one spelling for configs, metrics.json and TensorBoard, and in words
for a reader. Numbers that are computed in another way have other names:

    while training   at p > 0.5, at the network's size: dice_mean_at_half_network_size
    evaluate         at the chosen thresholds, at the source's own size: dice_mean
    both             auc, ap, accuracy: they depend on neither
"""

from typing import NamedTuple


class ScoreName(NamedTuple):
    words: str  # at most WIDEST letters, for tables of 80 columns
    meaning: str = ""


WIDEST = 32
HALF_NETWORK = "_at_half_network_size"
# What scores of training were called in earlier versions, and in configs still may: evaluate's have
# these names now.
EARLIER = {
    "dice_mean": f"dice_mean{HALF_NETWORK}",
    "dice_positives": f"dice_positives{HALF_NETWORK}",
}
# --- while a network trains ---
TRAINING = {
    "loss": ScoreName("loss"),
    "auc": ScoreName("AUC"),
    "ap": ScoreName("average precision"),
    "accuracy": ScoreName("accuracy"),
    f"dice_mean{HALF_NETWORK}": ScoreName("all images"),
    f"dice_positives{HALF_NETWORK}": ScoreName("with a lesion"),
    "dice_all_empty_network_size": ScoreName("if nothing is marked"),
    f"pixel_iou{HALF_NETWORK}": ScoreName("IoU of all pixels"),
    f"pixel_sensitivity{HALF_NETWORK}": ScoreName("sensitivity of pixels"),
    f"pixel_specificity{HALF_NETWORK}": ScoreName("specificity of pixels"),
    f"pixel_ppv{HALF_NETWORK}": ScoreName("PPV of pixels"),
}
DICE_WORDS = "dice at 0.5, network size"  # of the names above that begin with dice
# --- evaluate ---
EVALUATED = {
    "images": ScoreName("images"),
    "positives": ScoreName("images with a lesion"),
    "without_mask": ScoreName("images without a mask", "left out of the scores of masks"),
    "accuracy": ScoreName("accuracy", "share of images whose class is right"),
    "dice_mean": ScoreName(
        "mean dice", "the challenge's score, over all images; two empty masks score 1"
    ),
    "dice_all_empty": ScoreName(
        "mean dice if nothing is marked", "what a network that never marks anything would score"
    ),
    "dice_above_all_empty": ScoreName(
        "difference of these two", "its interval is paired: both are drawn on the same images"
    ),
    "dice_positives": ScoreName(
        "dice of images with a lesion", "the mean over the images with a lesion"
    ),
    "dice_positives_at_half": ScoreName(
        "the same at p > 0.5", "without the choice of thresholds, at the source's size"
    ),
    "dice_positives_at_own": ScoreName(
        "the same at its own threshold", "the p > t with the highest such dice on validation"
    ),
    "iou_mean": ScoreName("mean IoU", "overlap / union; 1 where both are empty"),
    "iou_positives": ScoreName(
        "IoU of images with a lesion", "the mean over the images with a lesion"
    ),
    "hd95_mm": ScoreName(
        "HD95 in mm, median",
        "between the outlines of images with a lesion; a missed lesion is infinitely far",
    ),
    "hd95_px": ScoreName(
        "HD95 in px, median",
        "the same in pixels of the source, of images that do not say how large these are",
    ),
    "surface_dice_mm": ScoreName(
        "surface dice in mm, median",
        "share of both outlines of images with a lesion that is near enough to the other",
    ),
    "surface_dice_px": ScoreName(
        "surface dice in px, median",
        "the same in pixels of the source, of images that do not say how large these are",
    ),
    "auc": ScoreName(
        "AUC", "area under the ROC curve of one score per image; of findings the mean of theirs"
    ),
    "ap": ScoreName("average precision", "by chance alone it is the share of images with a lesion"),
    "sensitivity": ScoreName(
        "sensitivity", "share of the images with a lesion that are called positive"
    ),
    "specificity": ScoreName(
        "specificity", "share of the images without a lesion that are called negative"
    ),
    "ppv": ScoreName(
        "PPV", "share with a lesion of the images called positive, at the stated prevalence"
    ),
    "npv": ScoreName(
        "NPV", "share without one of the images called negative, at the stated prevalence"
    ),
    "ece": ScoreName("calibration error", "ECE of p of a lesion in 15 even bins (Guo et al. 2017)"),
    "ece_uncalibrated": ScoreName("the same before calibration", "of the network's p as it is"),
    "brier": ScoreName("Brier score", "mean of (p - truth)², p of a lesion (Brier 1950)"),
    "brier_uncalibrated": ScoreName("Brier score before calibration", "of the same p"),
    "pixel_ece": ScoreName("calibration error of pixels", "ECE of p of each pixel in 15 bins"),
    "pixel_brier": ScoreName("Brier score of pixels", "mean of (p - truth)², p of each pixel"),
}
EVALUATED_WORDS = "chosen thresholds, source size"
# --- findings, which have the names that a lake gives them ---
AUC_OF = "auc/"


def auc_of(finding: str) -> str:
    """Return the name of the AUC of one finding."""
    return f"{AUC_OF}{finding}"


def evaluated(name: str) -> ScoreName:
    """Return the words of a score of `evaluate`, also of one finding."""
    if not name.startswith(AUC_OF):
        return EVALUATED[name]
    words = f"AUC, {name.removeprefix(AUC_OF)}"
    words = words if len(words) <= WIDEST else f"{words[: WIDEST - 1]}…"
    return ScoreName(words, "of the images in which this finding is known to be there, or not to")
