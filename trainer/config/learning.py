"""The sections `loss:` and `optimizer:` of a config, with every default."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from trainer.config.section import Section, Share, Weight

# The terms of a segmenter that learn from masks; a new term of this kind is added here.
PIXEL_TERMS = ("dice", "bce", "weighted_bce", "focal", "tversky", "jaccard", "lovasz")
# The loss fields that a classifier's config may set. Classifiers ignore dice, bce and weighted_bce.
CLASSIFIER_FIELDS = ("dice", "bce", "weighted_bce", "lesion_map", "label_smoothing")
# The terms that need a certain part of a network: an empty_head, or a VAE branch.
BRANCH_TERMS = ("lesion", "reconstruction", "kl_divergence")


class Loss(Section):
    """Weights of the terms (trainer/scoring/losses.py); 0 leaves a term out.

    A classifier learns from the image's cross-entropy (binary, softmax for more than two classes,
    or the mean of the findings' binary ones), which always weighs 1, and from lesion_map; of the
    other fields it uses label_smoothing alone.
    """

    dice: Weight = 1.0
    bce: Weight = 1.0
    # BCE in which positive pixels weigh 1/β; β is the share of positive pixels in positive images,
    # from the lake's manifest.
    weighted_bce: Weight = 0.0
    focal: Weight = 0.0
    tversky: Weight = 0.0
    jaccard: Weight = 0.0
    # The Lovász hinge of each image: a bound of 1 − IoU of the mask p > 0.5.
    lovasz: Weight = 0.0
    # For a classifier with pooling=lesion_map: weighted BCE between its map and the mask, on images
    # whose mask is known.
    lesion_map: Weight = 0.0
    # For a segmenter with empty_head: BCE of "there is a lesion" against the mask, or against the
    # label of an image without a mask.
    lesion: Weight = 0.0
    # For model.kind=vae, on every image: mean squared difference between the image and its
    # reconstruction by the VAE branch.
    reconstruction: Weight = 0.0
    # For model.kind=vae, on every image: divergence of the latent distribution from N(0, 1).
    kl_divergence: Weight = 0.0

    dice_form: Literal["1-dice", "-dice", "-log"] = "1-dice"  # -log means −log(dice)
    dice_squared: bool = False  # divide by Σy² + Σp² instead of Σy + Σp
    # Pixels added to numerator and denominator of dice, tversky and jaccard.
    smooth: Weight = 1.0
    focal_gamma: Weight = 2.0
    tversky_alpha: Weight = 0.3  # the weight of false positives
    tversky_beta: Weight = 0.7  # the weight of false negatives
    # Whether dice, tversky and jaccard are a fraction per image, or one for the batch of all
    # replicas.
    reduction: Literal["image", "batch"] = "image"
    # ε: the target of focal and the cross-entropies is y·(1 − ε) + ε/2, with C classes
    # y·(1 − ε) + ε/C. The target of dice, tversky, jaccard and lovasz stays y.
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    # Weights of the heads of deep supervision, the shallowest first; they are divided by their sum.
    # None: all heads weigh the same.
    head_weights: tuple[Weight, ...] | None = None

    def clashes(self) -> Iterator[str]:
        """Yield a message for each choice that lets the loss teach nothing or be infinite."""
        if not any(getattr(self, name) for name in PIXEL_TERMS):
            yield f"no term learns from masks; give at least one of {', '.join(PIXEL_TERMS)}"
        if self.dice and self.dice_form == "-log" and not self.smooth:
            yield "dice_form=-log with smooth=0 is infinite where a prediction misses the mask"
        if self.tversky and not (self.tversky_alpha or self.tversky_beta):
            yield "tversky_alpha=0 and tversky_beta=0 punish nothing; give at least one of them"
        if self.head_weights is not None and not any(self.head_weights):
            yield f"head_weights={list(self.head_weights)} leaves no head to learn from"


class Optimizer(Section):
    """The optimizer, the schedule of its learning rate (trainer/training/optimizer.py) and averages
    of the weights. Epochs count from the start of the run."""

    kind: Literal["adamw", "adam", "sgd"] = "adamw"
    momentum: float = Field(0.9, ge=0, lt=1)  # Nesterov momentum, for sgd alone
    learning_rate: float = Field(1e-3, gt=0)  # the highest rate of the schedule
    schedule: Literal["constant", "cosine", "cyclic", "polynomial", "plateau"] = "cosine"
    # Epochs in which the rate rises linearly from 0, at most half of the run; then the schedule
    # starts.
    warmup_epochs: float = Field(1.0, ge=0)
    # cosine, cyclic and polynomial end at this share of learning_rate.
    final_share: Share = 0.0
    # Length of a cycle of cyclic (up and down), or of a cosine that restarts.
    cycle_epochs: float | None = Field(None, gt=0)
    # Each cycle of a restarted cosine is this many times as long as the one before.
    cycle_growth: float = Field(1.0, ge=1)
    # Each cycle of a restarted cosine starts at the first rate of the one before, times this.
    cycle_decay: float = Field(1.0, gt=0, le=1)
    power: float = Field(0.9, gt=0)  # the exponent of polynomial
    # plateau lowers the rate after this many epochs without a better validation score.
    plateau_epochs: int = Field(5, ge=1)
    plateau_factor: float = Field(0.5, gt=0, lt=1)  # what plateau multiplies the rate by
    weight_decay: float | None = Field(None, ge=0)  # None: 1e-4 with adamw, else 0
    # For an encoder of keras.applications: its rate as a share of the others', so that weights from
    # ImageNet change less than a new decoder; weight decay goes with it.
    encoder_rate: float = Field(1.0, gt=0, le=10)
    # Epochs at the start in which this encoder is frozen: no gradient, no decay, batch norm with
    # its statistics as they are. model.freeze keeps it so to the end.
    frozen_epochs: int = Field(0, ge=0)
    # The largest norm of the gradient over all replicas; None: it is not clipped.
    clip_norm: float | None = Field(1.0, gt=0)
    # Parts into which a replica divides its share of the batch to save memory; the gradients are
    # summed before the update.
    accumulate: int = Field(1, ge=1)
    ema: float = Field(0.0, ge=0, lt=1)  # decay of the moving average of the weights; 0: none
    # The weights are averaged over so many last epochs; 0: they are not.
    swa_epochs: int = Field(0, ge=0)

    def clashes(self) -> Iterator[str]:
        """Yield a message where cycle_epochs and the schedule do not fit, and where both ema and
        swa_epochs are set."""
        if self.cycle_epochs and self.schedule not in ("cosine", "cyclic"):
            yield f"cycle_epochs={self.cycle_epochs:g} needs schedule=cosine or cyclic"
        if self.schedule == "cyclic" and not self.cycle_epochs:
            yield "schedule=cyclic needs cycle_epochs, the length of one rise and fall"
        if self.ema and self.swa_epochs:
            yield "ema and swa_epochs are two averages of the weights; give one of them"
