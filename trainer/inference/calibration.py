"""An image's logit of a lesion -> the logit of a probability, by two numbers that were fitted on
the validation split and lie beside the thresholds in metrics.json.

In: logits that rank the images, and labels. Out: a Calibration; evaluate, predict and export apply
it before any threshold. Pixels stay as they are: the triplet's thresholds are of the network's p.
"""

from typing import NamedTuple

import numpy as np

from lake import InputError

NONE, TEMPERATURE, PLATT = "none", "temperature", "platt"
# A slope below would make all images alike, and one above would trust a few images too much; both
# keep the order of the images.
SLOPES = 0.01, 100.0


class Calibration(NamedTuple):
    """The calibrated logit is slope · logit + offset."""

    kind: str  # temperature (the offset is 0, the slope 1 / T) or platt
    slope: float
    offset: float

    def apply(self, logits):
        """Return calibrated float32 logits, an array's or a tensor's."""
        return np.float32(self.slope) * logits + np.float32(self.offset)

    def __str__(self) -> str:
        """Return the calibration in words."""
        if self.kind == TEMPERATURE:
            return f"p of a lesion is calibrated: its logit is divided by {1 / self.slope:.3g}"
        sign = "−" if self.offset < 0 else "+"
        return (
            f"p of a lesion is calibrated: its logit becomes {self.slope:.3g} · logit {sign} "
            f"{abs(self.offset):.3g}"
        )


def fit(kind: str, logits: np.ndarray, labels: np.ndarray) -> Calibration:
    """Return the temperature (Guo et al. 2017, arXiv:1706.04599) or Platt's scale (Platt 1999) with
    the lowest cross-entropy; logits [N], labels [N] are -1 where unknown. Raises InputError for
    images of one kind alone.

    The targets are Platt's, (N₊ + 1) / (N₊ + 2) and 1 / (N₋ + 2), not 1 and 0: images that are told
    apart without a mistake would have an endless slope.
    """
    from scipy import optimize, special  # an environment that only exports lacks it

    is_labelled = labels >= 0
    z, is_positive = logits[is_labelled].astype(np.float64), labels[is_labelled] > 0
    num_positives, num_negatives = int(is_positive.sum()), int((~is_positive).sum())
    if not num_positives or not num_negatives:
        raise InputError(
            f"--calibrate {kind}: the validation split has {num_positives} images with a lesion "
            f"and {num_negatives} without; a calibration needs both"
        )
    targets = np.where(
        is_positive, (num_positives + 1) / (num_positives + 2), 1 / (num_negatives + 2)
    )
    # Around its mean and in its own width, so that both numbers are of a size with each other.
    centre, width = (z.mean(), z.std() or 1.0) if kind == PLATT else (0.0, np.abs(z).max() or 1.0)
    x = (z - centre) / width

    def loss_and_slopes(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the mean cross-entropy of (slope, offset) of x, and its gradient."""
        logit = numbers[0] * x + numbers[1]
        loss = np.logaddexp(0, logit) - targets * logit
        error = special.expit(logit) - targets
        return loss.mean(), np.array([(error * x).mean(), error.mean()])

    offsets = (None, None) if kind == PLATT else (0, 0)
    bounds = [tuple(width * slope for slope in SLOPES), offsets]
    options = {"ftol": 1e-14, "gtol": 1e-10, "maxiter": 1000}
    best = optimize.minimize(
        loss_and_slopes, (width, 0.0), jac=True, bounds=bounds, method="L-BFGS-B", options=options
    )
    slope = best.x[0] / width
    return Calibration(kind, float(slope), float(best.x[1] - slope * centre))
