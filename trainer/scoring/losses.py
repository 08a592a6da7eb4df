"""Losses of each image: masks and logits [B, H, W, 1] (or [B, 1] of a classifier) -> [B] float32.

They know nothing of replicas; the caller sums over the batch and divides by the global batch size.
In the formulas y is a pixel of the mask, z its logit, p = sigmoid(z), and Σ runs over an image.

To add a term to a segmenter's loss, write its formula here with a line in TERMS, and its weight
and its name in PIXEL_TERMS in trainer/config/learning.py.
"""

import math
from collections.abc import Callable

from keras import ops

from trainer.config.learning import Loss
from trainer.scoring.ratios import tensor_ratio

# A mean that counts as 0: compiled, the gradient of a / x has 1 / x² in it, which float32 cannot
# hold below x = 1e-19. No mask or `smooth` is that small, but the mean p of a confident network
# can be.
NOTHING = 1e-18


def identity(value):
    """Return the value: what a `pool`, `total` or `wrap` is where there is nothing to do."""
    return value


# --- overlap of mask and prediction ---
#
# The sums of an overlap loss are divided by the number of pixels: float32 keeps the digits of a
# mean. `pool` takes these means, [3, B], before the division; it may join those of several images
# into [3, 1], for one loss of the whole batch.


def overlap(masks, logits, is_squared: bool = False):
    """Return the means of y·p, y and p (or y·p, y² and p²) over each image's pixels, [3, B]."""
    masks, probabilities = ops.cast(masks, "float32"), ops.sigmoid(ops.cast(logits, "float32"))
    power = 2 if is_squared else 1
    parts = masks * probabilities, masks**power, probabilities**power
    return ops.stack([image_mean(part) for part in parts])


def dice_score(masks, logits, smooth: float = 1.0, is_squared: bool = False, pool=identity):
    """Return (2Σyp + smooth) / (Σy + Σp + smooth), or with Σy² + Σp² in the divisor; 1 where mask,
    prediction and `smooth` are all 0. `pool` may join the images' sums (see above). V-Net's dice
    (Milletari et al. 2016, arXiv:1606.04797) is the squared one."""
    overlap_mean, mask_mean, prediction_mean = ops.unstack(
        pool(overlap(masks, logits, is_squared)), 3
    )
    smooth_share = smooth / num_pixels(masks)
    whole = mask_mean + prediction_mean + smooth_share
    return tensor_ratio(2 * overlap_mean + smooth_share, whole, 1.0, NOTHING)


def dice(masks, logits, smooth: float = 1.0, is_squared: bool = False, pool=identity):
    """Return 1 − dice_score."""
    return 1.0 - dice_score(masks, logits, smooth, is_squared, pool)


def log_dice(masks, logits, smooth: float = 1.0, is_squared: bool = False, pool=identity):
    """Return −log dice_score: infinite if `smooth` is 0 and mask and prediction do not overlap."""
    return -ops.log(dice_score(masks, logits, smooth, is_squared, pool))


def tversky(masks, logits, alpha: float, beta: float, smooth: float = 1.0, pool=identity):
    """Return 1 − (TP + smooth) / (TP + α·FP + β·FN + smooth), with TP = Σyp, FP = Σ(1−y)p and
    FN = Σy(1−p).

    α and β are those of Salehi et al. 2017 (arXiv:1706.05721); keras.losses.Tversky exchanges them.
    """
    overlap_mean, mask_mean, prediction_mean = ops.unstack(pool(overlap(masks, logits)), 3)
    smooth_share = smooth / num_pixels(masks)
    error_mean = alpha * (prediction_mean - overlap_mean) + beta * (mask_mean - overlap_mean)
    whole = overlap_mean + error_mean + smooth_share
    return 1.0 - tensor_ratio(overlap_mean + smooth_share, whole, 1.0, NOTHING)


def jaccard(masks, logits, smooth: float = 1.0, pool=identity):
    """Return the IoU loss, 1 − (Σyp + smooth) / (Σy + Σp − Σyp + smooth)."""
    return tversky(masks, logits, 1.0, 1.0, smooth, pool)


def lovasz(masks, logits):
    """Return the Lovász hinge of Berman et al. 2018 (arXiv:1705.08790), [B]: a convex bound of
    1 − IoU of the masks z > 0. With m = 1 − (2y − 1)·z, sorted downwards, it is Σ max(m, 0)·ΔJ,
    where ΔJ is what 1 − IoU grows by when that pixel is wrong, too. An empty mask costs its worst
    pixel."""
    logits = ops.cast(logits, "float32")
    masks, logits = (
        ops.reshape(part, (-1, num_pixels(masks))) for part in (ops.cast(masks, "float32"), logits)
    )
    errors = 1.0 - (2.0 * masks - 1.0) * logits
    order = ops.argsort(-errors, axis=1)
    is_lesion = ops.take_along_axis(masks, order, axis=1)  # [B, N]
    area = ops.sum(is_lesion, axis=1, keepdims=True)
    # Pixels up to and with each one: sums of zeros and ones are exact in float32.
    overlap_px = area - ops.cumsum(is_lesion, axis=1)
    union_px = area + ops.cumsum(1.0 - is_lesion, axis=1)
    # ΔJ of neighbours in the order, without their difference: among a million pixels, two values
    # of J are too close for float32.
    before_px = ops.maximum(union_px - 1.0, 1.0)
    growth = ops.where(is_lesion > 0, 1.0 / union_px, overlap_px / (before_px * union_px))
    is_worst = ops.arange(errors.shape[1])[None] == 0
    growth = growth + ops.cast(ops.logical_and(area == 0, is_worst), "float32")
    hinges = ops.relu(ops.take_along_axis(errors, order, axis=1))
    return errors.shape[1] * image_mean(hinges * ops.stop_gradient(growth))


# --- cross-entropies ---


def bce(masks, logits, smoothing: float = 0.0):
    """Return the binary cross-entropy, the mean of −t·log p − (1−t)·log(1−p) over the pixels; the
    target t is y·(1−smoothing) + smoothing/2."""
    return weighted_bce(masks, logits, 1.0, smoothing)


def weighted_bce(masks, logits, positive_share: float, smoothing: float = 0.0):
    """Return the mean of −(1/β)·y·log p − (1−y)·log(1−p), where β = positive_share is the training
    set's share of positive pixels.

    Smoothing changes a pixel's target but not its weight (1/β or 1). Were the weights applied to
    the smoothed target, a β of 0.01 would push the background above p = 0.5.
    """
    logits = ops.cast(logits, "float32")
    positive_weights, negative_weights = _target_weights(masks, positive_share, smoothing)
    # softplus(−z) = −log p, without a log of 0
    positive = positive_weights * ops.softplus(-logits)
    return image_mean(positive + negative_weights * ops.softplus(logits))


def focal(masks, logits, gamma: float, smoothing: float = 0.0):
    """Return the mean of −y·(1−p)^γ·log p − (1−y)·p^γ·log(1−p): the focal loss of Lin et al. 2017
    (arXiv:1708.02002), without their α."""
    logits = ops.cast(logits, "float32")
    positive_weights, negative_weights = _target_weights(masks, 1.0, smoothing)
    positive_bce, negative_bce = ops.softplus(-logits), ops.softplus(logits)  # −log p, −log(1−p)
    # (1−p)^γ as an exponential: its slope is finite at p = 1 for any γ.
    positive = positive_weights * ops.exp(-gamma * negative_bce) * positive_bce
    negative = negative_weights * ops.exp(-gamma * positive_bce) * negative_bce
    return image_mean(positive + negative)


def softmax_cross_entropy(labels, logits, smoothing: float = 0.0):
    """Return −Σ t·log softmax(z) of class numbers [B] and logits z [B, C], [B].

    The target t is 1 − smoothing·(C−1)/C for the label's class and smoothing/C for each other; for
    a label of −1, which is not a class, only the smoothing is left.
    """
    logits = ops.cast(logits, "float32")
    classes = logits.shape[-1]
    one_hot = ops.cast(ops.cast(labels, "int32")[:, None] == ops.arange(classes), "float32")
    targets = one_hot * (1 - smoothing) + smoothing / classes
    return -ops.sum(targets * ops.log_softmax(logits, axis=-1), axis=-1)


def findings_bce(findings, logits, smoothing: float = 0.0):
    """Return the sum of the binary cross-entropies of the known findings over the number of all
    findings, [B], of findings y and logits z [B, F]; the target is y·(1−smoothing) + smoothing/2.

    A finding of −1 is unknown: it adds nothing to loss and gradient, and as an image without a mask
    it stays in the divisor, so that each known one weighs the same in every batch and replica.
    """
    logits, findings = ops.cast(logits, "float32"), ops.cast(findings, "float32")
    is_known = findings >= 0
    targets = ops.where(is_known, findings, 0.0) * (1 - smoothing) + smoothing / 2
    terms = targets * ops.softplus(-logits) + (1 - targets) * ops.softplus(logits)
    return image_mean(ops.where(is_known, terms, 0.0))


def lesion_bce(masks, logits, smoothing: float = 0.0):
    """Return the BCE of an empty_head's logits [B, 1], which rate whether there is any lesion. The
    truth is the augmented mask: augmentation can push a lesion out of the image."""
    has_lesion = ops.any(ops.cast(masks, "float32") > 0, axis=(1, 2, 3))
    return bce(has_lesion[:, None], logits, smoothing)


# --- the branch of a VAE ---


def reconstruction(images, reconstructions):
    """Return the mean squared difference over the pixels, the L2 term of Myronenko 2018
    (arXiv:1810.11654)."""
    images, reconstructions = ops.cast(images, "float32"), ops.cast(reconstructions, "float32")
    return image_mean(ops.square(images - reconstructions))


def kl_divergence(means, log_variances, image_px: int):
    """Return Σ(μ² + σ² − log σ² − 1) / image_px of means and log σ² [B, Z] against N(0, 1), [B].

    Myronenko 2018 has it so: without the ½, and divided by the image's pixels, not by Z.
    """
    means, log_variances = ops.cast(means, "float32"), ops.cast(log_variances, "float32")
    terms = ops.square(means) + ops.exp(log_variances) - log_variances - 1.0
    return ops.sum(terms, axis=-1) / image_px


# --- the terms of a segmenter ---


def _dice_term(masks, logits, settings: Loss, positive_share: float, pool: Callable):
    """Return the dice loss [B] in the form that the settings name."""
    arguments = masks, logits, settings.smooth, settings.dice_squared, pool
    match settings.dice_form:
        case "-dice":
            return -dice_score(*arguments)
        case "-log":
            return log_dice(*arguments)
        case _:
            return dice(*arguments)


# {weight in trainer/config/learning.py's Loss: the loss [B] that it weighs}, in the order in which
# they are summed. All take: masks y and logits z [B, H, W, 1], the settings s of the loss, the
# share β of positive pixels, and the pool of the overlap losses.
TERMS: dict[str, Callable] = {
    "dice": _dice_term,
    "tversky": lambda y, z, s, share, pool: tversky(
        y, z, s.tversky_alpha, s.tversky_beta, s.smooth, pool
    ),
    "jaccard": lambda y, z, s, share, pool: jaccard(y, z, s.smooth, pool),
    "lovasz": lambda y, z, s, share, pool: lovasz(y, z),
    "bce": lambda y, z, s, share, pool: bce(y, z, s.label_smoothing),
    "weighted_bce": lambda y, z, s, share, pool: weighted_bce(y, z, share, s.label_smoothing),
    "focal": lambda y, z, s, share, pool: focal(y, z, s.focal_gamma, s.label_smoothing),
}


# --- what they share ---


def image_mean(values):
    """Return the mean of each image, [B], of values [B, …].

    One axis at a time: compiled for a CPU, one float32 sum over a megapixel can be off by 1%, and
    XLA would join sums over one axis after the other into that one sum. It does not join means.
    """
    while len(values.shape) > 1:
        values = ops.mean(values, axis=-1)
    return values


def num_pixels(masks) -> int:
    """Return the number of pixels per image: a `smooth` is stated in pixels, so it is divided by
    this number before it is added to means."""
    return math.prod(masks.shape[1:])


def _target_weights(masks, positive_share: float, smoothing: float):
    """Return the weights of −log p and −log(1−p) of each pixel; together they are 1/β on the mask
    and 1 beside it."""
    masks = ops.cast(masks, "float32")
    positive, negative = masks / positive_share, 1.0 - masks
    half = smoothing / 2
    return positive * (1 - half) + negative * half, negative * (1 - half) + positive * half
