"""What a run minimises: which outputs of the network, and one loss an image from them."""

from collections.abc import Callable

import keras
from keras import ops

from lake import InputError
from trainer.config import learning
from trainer.config.run import Config
from trainer.models import blocks, classifier, vae, weight_files
from trainer.scoring import losses


def beside_logits(terms: learning.Loss) -> list[str]:
    """The layers whose outputs the loss looks at beside the logits."""
    names = [classifier.LESION_MAP] if terms.lesion_map else []
    if terms.lesion:
        names += [blocks.LESION]
    if terms.reconstruction or terms.kl_divergence:
        names += [weight_files.INPUT, vae.RECONSTRUCTION, vae.MEAN, vae.LOG_VARIANCE]
    return names


def itself(network: keras.Model) -> Callable:
    """The network, called as it is."""
    return network


def with_layers(network: keras.Model, names: list[str], called: Callable = itself) -> Callable:
    """(images, training=…) -> [logits, the output of each of these layers of the network]."""
    if not names:
        forward = called(network)
        return lambda images, training: [forward(images, training=training)]
    layers = [network.get_layer(name).output for name in names]
    return called(keras.Model(network.input, [network.output, *layers]))


def outputs(network: keras.Model, terms: learning.Loss, called: Callable = itself) -> Callable:
    """(images, training=…) -> what the loss looks at: [logits, *beside_logits].

    `called`: a network -> what is called in its place (trainer/training/rematerialise.py).
    """
    heads = network.outputs[0].shape[-1]
    if terms.head_weights and len(terms.head_weights) != heads:
        raise InputError(
            f"loss.head_weights={list(terms.head_weights)} has {len(terms.head_weights)} values, "
            f"but the network has {heads} head{'s' * (heads > 1)}; give one for each, the "
            f"shallowest first"
        )
    return with_layers(network, beside_logits(terms), called)


def lowest_loss(terms: learning.Loss) -> float:
    """What no batch's loss is below: -dice alone goes below 0."""
    return -terms.dice if terms.dice_form == "-dice" else 0.0


def lesion_logits(outputs: list, terms: learning.Loss):
    """What a segmenter's empty_head says in the outputs, [B, 1]; None without one."""
    return _beside(outputs, terms).get(blocks.LESION)


def _beside(outputs: list, terms: learning.Loss) -> dict:
    return dict(zip(beside_logits(terms), outputs[1:], strict=True))


def alone(value):
    """The sum over the replicas of a value, where there is one replica."""
    return value


def image_losses(run: Config, positive_share: float, total: Callable = alone) -> Callable:
    """(masks, outputs, batch) -> [B]; a term whose truth is unknown for an image weighs 0.

    `total` sums a value over the replicas, with a gradient; loss.reduction=batch needs it.
    """
    terms = run.loss
    weighted = terms.lesion_map if run.is_classifier else terms.weighted_bce
    if weighted and not positive_share > 0:
        raise InputError("the weighted BCE needs positive pixels; the lake's manifest counts none")

    def of_segmenter(masks, outputs, batch: dict):
        known = batch["has_mask"]
        pool = losses.each
        if terms.reduction == "batch":
            counted = known * batch["weight"]  # nothing of the padding either
            pool = joined(counted, total)
        loss = known * segmenter_loss(masks, outputs[0], terms, positive_share, pool)
        return loss + without_masks(masks, _beside(outputs, terms), batch, terms)

    def of_classifier(masks, outputs, batch: dict):
        known = ops.cast(batch["label"] >= 0, "float32")
        loss = known * image_loss(batch["label"], outputs[0], terms.label_smoothing)
        if terms.lesion_map:
            cell = masks.shape[1] // outputs[1].shape[1]
            shares = ops.average_pool(masks, cell, strides=cell)  # [B, h, w, 1]
            taught = losses.weighted_bce(shares, outputs[1], positive_share, terms.label_smoothing)
            loss += terms.lesion_map * batch["has_mask"] * taught
        return loss

    return of_classifier if run.is_classifier else of_segmenter


def image_loss(labels, logits, smoothing: float):
    """Cross-entropy [B] of labels [B] and a classifier's logits [B, 1], or [B, C] of C classes."""
    if logits.shape[-1] > 1:
        return losses.softmax_cross_entropy(labels, logits, smoothing)
    return losses.bce(labels[:, None], logits, smoothing)


def without_masks(masks, beside: dict, batch: dict, terms: learning.Loss):
    """The terms of a segmenter that an image needs no mask for, [B] or 0; `beside`: the layers'
    outputs by name."""
    loss = 0.0
    if terms.lesion:
        loss += terms.lesion * _lesion(masks, beside[blocks.LESION], batch, terms.label_smoothing)
    if terms.reconstruction:
        images, painted = beside[weight_files.INPUT], beside[vae.RECONSTRUCTION]
        loss += terms.reconstruction * losses.reconstruction(images, painted)
    if terms.kl_divergence:
        code = beside[vae.MEAN], beside[vae.LOG_VARIANCE]
        loss += terms.kl_divergence * losses.kl_divergence(*code, losses.pixels(masks))
    return loss


def _lesion(masks, logits, batch: dict, smoothing: float):
    """BCE of an empty_head, [B]: the truth is the augmented mask, the label of an image without
    one; 0 where both are unknown."""
    labels = batch["label"]
    of_labels = losses.bce(labels[:, None], logits, smoothing)
    of_labels = ops.where(labels < 0, 0.0, of_labels)
    return ops.where(batch["has_mask"] > 0, losses.lesion_bce(masks, logits, smoothing), of_labels)


def joined(counted, total: Callable) -> Callable:
    """The pool of a whole batch: sums [3, B] of images -> [3, 1] over all replicas' images that
    count ([B], 0 or 1)."""
    return lambda sums: total(ops.sum(counted * sums, axis=-1, keepdims=True))


def segmenter_loss(
    masks, logits, terms: learning.Loss, positive_share: float, pool: Callable = losses.each
):
    """Weighted sum of the terms, [B] (or [1], one for the batch), of logits [B, H, W, heads]: the
    heads' mean by head_weights."""
    weights = terms.head_weights or (1.0,) * logits.shape[-1]
    loss = 0.0
    for head, weight in enumerate(weights):
        if weight:
            head_logits = logits[..., head : head + 1]  # [B, H, W, 1]
            loss += weight * _head_loss(masks, head_logits, terms, positive_share, pool)
    return loss / sum(weights)


def _head_loss(masks, logits, terms: learning.Loss, positive_share: float, pool: Callable):
    loss, smooth, smoothing = 0.0, terms.smooth, terms.label_smoothing
    if terms.dice:
        loss += terms.dice * _dice(masks, logits, terms, pool)
    if terms.tversky:
        alpha, beta = terms.tversky_alpha, terms.tversky_beta
        loss += terms.tversky * losses.tversky(masks, logits, alpha, beta, smooth, pool)
    if terms.jaccard:
        loss += terms.jaccard * losses.jaccard(masks, logits, smooth, pool)
    if terms.bce:
        loss += terms.bce * losses.bce(masks, logits, smoothing)
    if terms.weighted_bce:
        taught = losses.weighted_bce(masks, logits, positive_share, smoothing)
        loss += terms.weighted_bce * taught
    if terms.focal:
        loss += terms.focal * losses.focal(masks, logits, terms.focal_gamma, smoothing)
    return loss


def _dice(masks, logits, terms: learning.Loss, pool: Callable):
    settings = terms.smooth, terms.dice_squared, pool
    # No match statement: AutoGraph cannot read one, and says so in every run.
    if terms.dice_form == "-dice":
        return -losses.dice_score(masks, logits, *settings)
    if terms.dice_form == "-log":
        return losses.log_dice(masks, logits, *settings)
    return losses.dice(masks, logits, *settings)
