"""Losses of each image: masks, logits [B, H, W, 1] (or [B, 1] of a classifier) -> [B] float32.

They know nothing of replicas; the caller sums over the batch and divides by the global batch size.
The overlap losses take `pool`, which may join the sums of several images before they are divided.
"""

import math

from keras import ops

# A mean that counts as 0: compiled, the gradient of a / x has 1 / x² in it, which float32 cannot
# hold below x = 1e-19. No mask or `smooth` is near it; the p of a sure network are.
NOTHING = 1e-18


def each(sums):
    """The pool of images that keep to themselves: [3, B] -> [3, B]."""
    return sums


def overlap(masks, logits, squared: bool = False):
    """Means of y·p, y and p (or y·p, y² and p²) over each image's pixels, [3, B]."""
    masks, probabilities = ops.cast(masks, "float32"), ops.sigmoid(ops.cast(logits, "float32"))
    power = 2 if squared else 1
    parts = masks * probabilities, masks**power, probabilities**power
    return ops.stack([image_mean(part) for part in parts])


def dice_score(masks, logits, smooth: float = 1.0, squared: bool = False, pool=each):
    """(2Σyp + smooth) / (Σy + Σp + smooth), or with Σy² + Σp²; 1 where all of it is 0."""
    hits, truth, predicted = ops.unstack(pool(overlap(masks, logits, squared)), 3)
    smooth = smooth / pixels(masks)
    return _quotient(2 * hits + smooth, truth + predicted + smooth)


def dice(masks, logits, smooth: float = 1.0, squared: bool = False, pool=each):
    """1 − dice_score."""
    return 1.0 - dice_score(masks, logits, smooth, squared, pool)


def log_dice(masks, logits, smooth: float = 1.0, squared: bool = False, pool=each):
    """−log dice_score; infinite without `smooth` where nothing of a mask or prediction is right."""
    return -ops.log(dice_score(masks, logits, smooth, squared, pool))


def tversky(masks, logits, alpha: float, beta: float, smooth: float = 1.0, pool=each):
    """1 − (TP + smooth) / (TP + α·FP + β·FN + smooth), TP = Σyp, FP = Σ(1−y)p, FN = Σy(1−p).

    As Salehi et al. 2017 (arXiv:1706.05721) have it; keras.losses.Tversky has α and β exchanged.
    """
    hits, truth, predicted = ops.unstack(pool(overlap(masks, logits)), 3)
    smooth = smooth / pixels(masks)
    wrong = alpha * (predicted - hits) + beta * (truth - hits)
    return 1.0 - _quotient(hits + smooth, hits + wrong + smooth)


def jaccard(masks, logits, smooth: float = 1.0, pool=each):
    """1 − (Σyp + smooth) / (Σy + Σp − Σyp + smooth), the IoU loss."""
    return tversky(masks, logits, 1.0, 1.0, smooth, pool)


def bce(masks, logits, smoothing: float = 0.0):
    """Binary cross-entropy, mean over the pixels; the target is y·(1−smoothing) + smoothing/2."""
    return weighted_bce(masks, logits, 1.0, smoothing)


def weighted_bce(masks, logits, positive_share: float, smoothing: float = 0.0):
    """Mean of −(1/β)·y·log p − (1−y)·log(1−p), β the training set's share of positive pixels.

    Smoothing moves the target of a pixel and leaves its weight, 1/β or 1: weighed after the
    smoothing, a β of 0.01 would draw the background to p > 0.5.
    """
    logits = ops.cast(logits, "float32")
    to_one, to_zero = _targets(masks, positive_share, smoothing)
    # softplus(−z) = −log p, without a log of 0
    return image_mean(to_one * ops.softplus(-logits) + to_zero * ops.softplus(logits))


def focal(masks, logits, gamma: float, smoothing: float = 0.0):
    """Mean of −y·(1−p)^γ·log p − (1−y)·p^γ·log(1−p) (Lin et al. 2017, without their α)."""
    logits = ops.cast(logits, "float32")
    to_one, to_zero = _targets(masks, 1.0, smoothing)
    surprise, relief = ops.softplus(-logits), ops.softplus(logits)  # −log p, −log(1−p)
    # (1−p)^γ as an exponential: its slope is finite at p = 1 for any γ.
    positive = to_one * ops.exp(-gamma * relief) * surprise
    return image_mean(positive + to_zero * ops.exp(-gamma * surprise) * relief)


def softmax_cross_entropy(labels, logits, smoothing: float = 0.0):
    """−Σ t·log softmax(z) of class numbers [B] and logits z [B, C]; the target t of the class is
    1 − smoothing·(C−1)/C, of each other smoothing/C. A label of −1 has no target but smoothing."""
    logits = ops.cast(logits, "float32")
    classes = logits.shape[-1]
    one_hot = ops.cast(ops.cast(labels, "int32")[:, None] == ops.arange(classes), "float32")
    targets = one_hot * (1 - smoothing) + smoothing / classes
    return -ops.sum(targets * ops.log_softmax(logits, axis=-1), axis=-1)


def lesion_bce(masks, logits, smoothing: float = 0.0):
    """BCE of a head [B, 1] that says whether there is any lesion; the truth is the mask as it is
    after augmentation, which can push a lesion out of the image."""
    has_lesion = ops.any(ops.cast(masks, "float32") > 0, axis=(1, 2, 3))
    return bce(has_lesion[:, None], logits, smoothing)


def reconstruction(images, reconstructions):
    """Mean squared difference over the pixels: the L2 term of Myronenko 2018 (arXiv:1810.11654)."""
    return image_mean(
        ops.square(ops.cast(images, "float32") - ops.cast(reconstructions, "float32"))
    )


def kl_divergence(means, log_variances, pixels: int):
    """Σ(μ² + σ² − log σ² − 1) / pixels of means and log σ² [B, Z] against N(0, 1), [B].

    As Myronenko 2018 has it: without the ½, and by the image's pixels, not by Z.
    """
    means, log_variances = ops.cast(means, "float32"), ops.cast(log_variances, "float32")
    terms = ops.square(means) + ops.exp(log_variances) - log_variances - 1.0
    return ops.sum(terms, axis=-1) / pixels


def image_mean(values):
    """Mean of each image, [B], one axis at a time.

    Compiled for a CPU, one float32 sum over a megapixel can be off by 1%, and XLA joins sums over
    one axis after the other into that one sum; means it does not join.
    """
    while len(values.shape) > 1:
        values = ops.mean(values, axis=-1)
    return values


def pixels(masks) -> int:
    """Of an image. A `smooth` is stated in pixels; beside means instead of sums it is divided."""
    return math.prod(masks.shape[1:])


def _quotient(part, whole):
    """part / whole, 1 where both are 0; no 0/0, which would spoil the gradient as well."""
    divisor = ops.where(whole > NOTHING, whole, 1.0)
    return ops.where(whole > NOTHING, part / divisor, 1.0)


def _targets(masks, positive_share: float, smoothing: float):
    """What −log p and −log(1−p) of each pixel weigh; together 1/β on a mask and 1 beside it."""
    masks = ops.cast(masks, "float32")
    positive, negative = masks / positive_share, 1.0 - masks
    moved = smoothing / 2
    return (
        positive * (1 - moved) + negative * moved,
        negative * (1 - moved) + positive * moved,
    )
