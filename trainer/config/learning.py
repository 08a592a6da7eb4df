"""Sections of the loss and the optimizer."""

from typing import Literal

from pydantic import Field, model_validator

from trainer.config.network import Section, Share, Weight


class Loss(Section):
    """Weights of the terms (trainer/scoring/losses.py); 0 leaves a term out.

    A classifier's terms are the image's cross-entropy (BCE, or softmax for more than two classes),
    which weighs 1, and lesion_map; of the rest it has label_smoothing alone.
    """

    dice: Weight = 1.0
    bce: Weight = 1.0
    # Positive pixels weigh 1/β; β is the manifest's share of positive pixels in positive images.
    weighted_bce: Weight = 0.0
    focal: Weight = 0.0
    tversky: Weight = 0.0
    jaccard: Weight = 0.0
    # Weighted BCE between a classifier's lesion map and the masks, where they are known.
    lesion_map: Weight = 0.0
    # BCE of a segmenter's empty_head; on an image without a mask its truth is the label.
    lesion: Weight = 0.0
    # Of a vae, on every image: mean squared difference between the image and what its VAE branch
    # makes of it, and the divergence of what the branch draws from N(0, 1).
    reconstruction: Weight = 0.0
    kl_divergence: Weight = 0.0

    dice_form: Literal["1-dice", "-dice", "-log"] = "1-dice"  # -log: −log(dice)
    dice_squared: bool = False  # Σy² + Σp² instead of Σy + Σp
    smooth: Weight = 1.0  # pixels, on both sides of the fraction of dice, tversky and jaccard
    focal_gamma: Weight = 2.0
    tversky_alpha: Weight = 0.3  # of false positives
    tversky_beta: Weight = 0.7  # of false negatives
    # Where dice, tversky and jaccard divide: for each image, or once for the batch of all replicas.
    reduction: Literal["image", "batch"] = "image"
    # The target of the BCE terms and focal is y·(1 − this) + this/2, of C classes + this/C; that of
    # an overlap stays y.
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    # Of deep supervision's heads, the shallowest first; divided by their sum. None: all alike.
    head_weights: tuple[Weight, ...] | None = None

    @model_validator(mode="after")
    def _some_term(self) -> "Loss":
        terms = ("dice", "bce", "weighted_bce", "focal", "tversky", "jaccard")
        if not any(getattr(self, name) for name in terms):
            raise ValueError(f"every weight is 0; give at least one of {', '.join(terms)}")
        return self

    @model_validator(mode="after")
    def _finite_terms(self) -> "Loss":
        if self.dice and self.dice_form == "-log" and not self.smooth:
            raise ValueError(
                "dice_form=-log with smooth=0 is infinite where a prediction misses the mask; "
                "give smooth=1"
            )
        if self.tversky and not (self.tversky_alpha or self.tversky_beta):
            raise ValueError(
                "tversky_alpha=0 and tversky_beta=0 punish nothing; give at least one of them"
            )
        if self.head_weights is not None and not any(self.head_weights):
            raise ValueError(
                f"head_weights={list(self.head_weights)} leaves no head to learn from; give at "
                f"least one that is not 0"
            )
        return self


# What a classifier would ignore; dice, bce and weighted_bce it may carry, a config's defaults do.
SEGMENTER_TERMS = (
    *("focal", "tversky", "jaccard", "dice_form", "dice_squared", "smooth", "focal_gamma"),
    *("tversky_alpha", "tversky_beta", "reduction", "head_weights"),
)


class Optimizer(Section):
    """Epochs count from the start of the run; the schedules are in
    trainer/training/optimizer.py."""

    kind: Literal["adamw", "adam", "sgd"] = "adamw"
    momentum: float = Field(0.9, ge=0, lt=1)  # of sgd, Nesterov's
    learning_rate: float = Field(1e-3, gt=0)  # the highest
    schedule: Literal["constant", "cosine", "cyclic", "polynomial", "plateau"] = "cosine"
    # In a line from 0, for at most half of the run; the schedule starts behind it.
    warmup_epochs: float = Field(1.0, ge=0)
    final_share: Share = 0.0  # cosine, cyclic and polynomial go down to this share of learning_rate
    cycle_epochs: float | None = Field(None, gt=0)  # of cyclic, and of a cosine that restarts
    cycle_growth: float = Field(1.0, ge=1)  # a restarted cosine is this much longer than the last
    cycle_decay: float = Field(1.0, gt=0, le=1)  # and starts from this share of its rate
    power: float = Field(0.9, gt=0)  # of polynomial
    plateau_epochs: int = Field(5, ge=1)  # without a better score, and the rate is lowered
    plateau_factor: float = Field(0.5, gt=0, lt=1)
    weight_decay: float | None = Field(None, ge=0)  # None: 1e-4 with adamw, else 0
    clip_norm: float | None = Field(1.0, gt=0)  # of the gradient over all replicas
    # Parts that a replica's share of the batch goes through one after the other, for less memory.
    accumulate: int = Field(1, ge=1)
    ema: float = Field(0.0, ge=0, lt=1)  # decay of the moving average of the weights; 0: none
    swa_epochs: int = Field(0, ge=0)  # the last epochs whose weights are averaged at the end

    @model_validator(mode="after")
    def _settings_of_the_schedule(self) -> "Optimizer":
        if self.cycle_epochs and self.schedule not in ("cosine", "cyclic"):
            raise ValueError(f"cycle_epochs={self.cycle_epochs:g} needs schedule=cosine or cyclic")
        if self.schedule == "cyclic" and not self.cycle_epochs:
            raise ValueError("schedule=cyclic needs cycle_epochs, of one way up and down")
        if self.ema and self.swa_epochs:
            raise ValueError("ema and swa_epochs are two averages of the weights; give one of them")
        return self
