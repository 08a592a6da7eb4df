"""What a run minimises: which outputs of the network, and one loss an image from them."""

from collections.abc import Callable

import keras
from keras import ops

from lake import InputError
from trainer import config, losses
from trainer.models import classifier


def outputs(network: keras.Model, terms: config.Loss) -> Callable:
    """(images, training=…) -> what the loss looks at: [logits] or [logits, lesion map]."""
    if terms.lesion_map:
        return classifier.with_lesion_map(network)
    return lambda images, training: [network(images, training=training)]


def image_losses(run: config.Config, positive_share: float) -> Callable:
    """(masks, outputs, batch) -> [B]; a term whose truth is unknown for an image weighs 0."""
    terms = run.loss
    if (terms.weighted_bce or terms.lesion_map) and not positive_share > 0:
        raise InputError("the weighted BCE needs positive pixels; the lake's manifest counts none")

    def of_segmenter(masks, outputs, batch: dict):
        return batch["has_mask"] * losses.combined(
            masks, outputs[0], terms.dice, terms.bce, terms.weighted_bce, positive_share
        )

    def of_classifier(masks, outputs, batch: dict):
        known = ops.cast(batch["label"] >= 0, "float32")
        total = known * losses.bce(batch["label"][:, None], outputs[0])
        if terms.lesion_map:
            cell = masks.shape[1] // outputs[1].shape[1]
            shares = ops.average_pool(masks, cell, strides=cell)  # [B, h, w, 1]
            taught = losses.weighted_bce(shares, outputs[1], positive_share)
            total += terms.lesion_map * batch["has_mask"] * taught
        return total

    return of_classifier if run.model.kind == "classifier" else of_segmenter
