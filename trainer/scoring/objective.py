"""What a run minimises: which outputs of the network, and one loss per image from them."""

from collections.abc import Callable

import keras
from keras import ops

from lake import InputError
from trainer.config.learning import Loss
from trainer.config.run import Config
from trainer.models import blocks, classifier, vae, weight_files
from trainer.scoring import losses
from trainer.scoring.losses import identity


def extra_layers(terms: Loss) -> list[str]:
    """Return the names of the layers whose outputs the loss needs beside the logits."""
    names = [classifier.LESION_MAP] if terms.lesion_map else []
    if terms.lesion:
        names += [blocks.LESION]
    if terms.reconstruction or terms.kl_divergence:
        names += [weight_files.INPUT, vae.RECONSTRUCTION, vae.MEAN, vae.LOG_VARIANCE]
    return names


def with_layers(network: keras.Model, names: list[str], wrap: Callable = identity) -> Callable:
    """Return (images, training=…) -> [logits, the output of each of these layers of the network].

    `wrap` takes a network and returns what is called in its place, such as
    trainer/training/rematerialise.py's.
    """
    if not names:
        forward = wrap(network)
        return lambda images, training: [forward(images, training=training)]
    layers = [network.get_layer(name).output for name in names]
    return wrap(keras.Model(network.input, [network.output, *layers]))


def outputs(network: keras.Model, terms: Loss, wrap: Callable = identity) -> Callable:
    """Return (images, training=…) -> the outputs that the loss needs: [logits, *extra_layers].
    Raises InputError where loss.head_weights is for another number of heads."""
    num_heads = network.outputs[0].shape[-1]
    if terms.head_weights and len(terms.head_weights) != num_heads:
        heads = "1 head" if num_heads == 1 else f"{num_heads} heads"
        raise InputError(
            f"loss.head_weights={list(terms.head_weights)} has {len(terms.head_weights)} values, "
            f"but the network has {heads}; give one for each, the shallowest first"
        )
    return with_layers(network, extra_layers(terms), wrap)


def lowest_loss(terms: Loss) -> float:
    """Return the lowest loss that a batch can have: -dice alone goes below 0."""
    return -terms.dice if terms.dice_form == "-dice" else 0.0


def lesion_logits(outputs: list, terms: Loss):
    """Return the logits [B, 1] of a segmenter's empty_head among the outputs; None without one."""
    return _by_layer(outputs, terms).get(blocks.LESION)


def _by_layer(outputs: list, terms: Loss) -> dict:
    return dict(zip(extra_layers(terms), outputs[1:], strict=True))


def image_losses(config: Config, positive_share: float, total: Callable = identity) -> Callable:
    """Return (masks, outputs, batch) -> losses [B]; a term whose truth is unknown for an image
    weighs 0.

    `total` sums a value over the replicas, with a gradient; loss.reduction=batch needs it. Raises
    InputError for a weighted BCE of a lake without positive pixels.
    """
    terms = config.loss
    bce_weight = terms.lesion_map if config.is_classifier else terms.weighted_bce
    if bce_weight and not positive_share > 0:
        raise InputError("the weighted BCE needs positive pixels; the lake's manifest counts none")

    def segmenter_losses(masks, outputs, batch: dict):
        """Return the losses [B] of masks [B, H, W, 1] and the segmenter's outputs."""
        has_mask, pool = batch["has_mask"], identity
        if terms.reduction == "batch":
            pool = batch_pool(has_mask * batch["weight"], total)  # padding has no part in it
        loss = has_mask * segmenter_loss(masks, outputs[0], terms, positive_share, pool)
        return loss + loss_without_masks(masks, _by_layer(outputs, terms), batch, terms)

    def classifier_losses(masks, outputs, batch: dict):
        """Return the losses [B] of the batch's labels, and of masks [B, H, W, 1] where the network
        has a lesion map."""
        has_label = ops.cast(batch["label"] >= 0, "float32")
        loss = has_label * label_loss(batch["label"], outputs[0], terms.label_smoothing)
        if terms.lesion_map:
            cell = masks.shape[1] // outputs[1].shape[1]
            shares = ops.average_pool(masks, cell, strides=cell)  # [B, h, w, 1]
            map_bce = losses.weighted_bce(shares, outputs[1], positive_share, terms.label_smoothing)
            loss += terms.lesion_map * batch["has_mask"] * map_bce
        return loss

    def finding_losses(masks, outputs, batch: dict):
        """Return the losses [B] of the batch's findings."""
        return losses.findings_bce(batch["findings"], outputs[0], terms.label_smoothing)

    if config.findings:
        return finding_losses
    return classifier_losses if config.is_classifier else segmenter_losses


def batch_pool(counts, total: Callable) -> Callable:
    """Return a pool (trainer/scoring/losses.py) that joins a whole batch: [3, B] of images ->
    [3, 1] over all replicas' images that count ([B], 0 or 1)."""
    return lambda sums: total(ops.sum(counts * sums, axis=-1, keepdims=True))


def label_loss(labels, logits, smoothing: float):
    """Return the cross-entropy [B] of labels [B] and a classifier's logits [B, 1], or [B, C] for C
    classes."""
    if logits.shape[-1] > 1:
        return losses.softmax_cross_entropy(labels, logits, smoothing)
    return losses.bce(labels[:, None], logits, smoothing)


def loss_without_masks(masks, layers: dict, batch: dict, terms: Loss):
    """Return the sum of a segmenter's terms that need no mask of the image, [B] or 0; `layers`: the
    outputs of layers by name."""
    loss = 0.0
    if terms.lesion:
        # The truth is the augmented mask, or the label of an image without one; where both are
        # unknown the term is 0.
        logits, labels = layers[blocks.LESION], batch["label"]
        label_losses = losses.bce(labels[:, None], logits, terms.label_smoothing)
        label_losses = ops.where(labels < 0, 0.0, label_losses)
        mask_losses = losses.lesion_bce(masks, logits, terms.label_smoothing)
        loss += terms.lesion * ops.where(batch["has_mask"] > 0, mask_losses, label_losses)
    if terms.reconstruction:
        images = layers[weight_files.INPUT]
        squared_errors = losses.reconstruction(images, layers[vae.RECONSTRUCTION])
        loss += terms.reconstruction * squared_errors
    if terms.kl_divergence:
        code = layers[vae.MEAN], layers[vae.LOG_VARIANCE]
        loss += terms.kl_divergence * losses.kl_divergence(*code, losses.num_pixels(masks))
    return loss


def segmenter_loss(masks, logits, terms: Loss, positive_share: float, pool: Callable = identity):
    """Return the weighted sum of losses.TERMS, [B] (or [1], one for the batch), for logits
    [B, H, W, heads]: the heads' mean by head_weights."""
    weights = terms.head_weights or (1.0,) * logits.shape[-1]
    loss = 0.0
    for head, weight in enumerate(weights):
        if weight:
            head_logits = logits[..., head : head + 1]  # [B, H, W, 1]
            loss += weight * _head_loss(masks, head_logits, terms, positive_share, pool)
    return loss / sum(weights)


def _head_loss(masks, logits, terms: Loss, positive_share: float, pool: Callable):
    loss = 0.0
    for name, term in losses.TERMS.items():
        if weight := getattr(terms, name):
            loss += weight * term(masks, logits, terms, positive_share, pool)
    return loss
