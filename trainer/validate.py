"""Scores of a split: sums that add up over batches and replicas, every image counted once, and a
panel to look at."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from scipy import special

from trainer import (
    augment,
    config,
    data,
    distribute,
    distributions,
    metrics,
    objective,
    panel,
    summaries,
    workers,
)

THRESHOLD = 0.5  # of the curves; evaluate chooses its own on the validation split
PANEL_POSITIVES, PANEL_NEGATIVES = 6, 2


def example_sums(is_classifier: bool, masks, logits, batch: dict, weights, lesion=None) -> dict:
    """What the scores are made of, as sums that add up over steps and replicas; `weights` None:
    every example. A segmenter's score of an image is what its empty_head says, `lesion` [B, 1];
    None: the lesion score of its map."""
    weights = tf.ones_like(batch["label"]) if weights is None else weights
    if is_classifier and logits.shape[-1] > 1:
        return class_sums(logits, batch["label"], weights)
    if is_classifier:
        return {"histogram": metrics.score_histogram(logits, batch["label"], weights)}
    logits = tf.cast(logits[..., -1:], tf.float32)  # the deepest head
    known = weights * batch["has_mask"]  # [B]
    counts = metrics.pixel_counts(masks, tf.nn.sigmoid(logits) > THRESHOLD)  # [4, B]
    hits, truth, predicted, _ = tf.unstack(counts)
    dices = metrics.dice_of_counts(hits, truth + predicted)
    positive = known * tf.cast(truth > 0, tf.float32)
    ranks = metrics.lesion_score(logits) if lesion is None else lesion
    return {
        "images": tf.reduce_sum(known),
        "dice": tf.reduce_sum(known * dices),
        "positives": tf.reduce_sum(positive),
        "dice_of_positives": tf.reduce_sum(positive * dices),
        "pixels": tf.reduce_sum(known * counts, axis=1),  # [4]
        "histogram": metrics.score_histogram(ranks, batch["label"], weights),
    }


def class_sums(logits, labels, weights) -> dict:
    """Of a classifier of more than two classes, logits [B, C]."""
    known = weights * tf.cast(labels >= 0, tf.float32)
    return {
        "images": tf.reduce_sum(known),
        "correct": tf.reduce_sum(known * metrics.correct(logits, labels)),
        "histograms": metrics.class_histograms(logits, labels, weights),  # [C, 2, bins]
    }


def class_scores(sums: dict) -> dict[str, float]:
    """`auc` is the mean over the classes, each against all others."""
    return {
        "accuracy": _ratio(sums["correct"], sums["images"]),
        "auc": metrics.macro_auc(sums["histograms"]),
    }


def scores(sums: dict) -> dict[str, float]:
    """Readable scores of summed example_sums."""
    if "histograms" in sums:
        result = class_scores(sums)
    else:
        result = {
            "auc": metrics.auc(sums["histogram"]),
            "ap": metrics.average_precision(sums["histogram"]),
        }
    if "dice" in sums:
        result["dice_mean"] = _ratio(sums["dice"], sums["images"])
        result["dice_positives"] = _ratio(sums["dice_of_positives"], sums["positives"])
        result["dice_all_empty"] = _ratio(sums["images"] - sums["positives"], sums["images"])
        # Of all the split's pixels together, so that an image without a lesion is no special case.
        result["iou"] = float(metrics.iou(sums["pixels"]))
        result["sensitivity"] = float(metrics.sensitivity(sums["pixels"]))
        result["specificity"] = float(metrics.specificity(sums["pixels"]))
        result["ppv"] = float(metrics.ppv(sums["pixels"]))
    if "weight" in sums:
        result["loss"] = _ratio(sums["loss"], sums["weight"])
    return result


class Validation:
    """Scores of the validation split, every image once, and a panel of the same few images each
    time."""

    def __init__(
        self, strategy, network, run: config.Config, split: data.Split, image_losses: Callable
    ):
        self.run = run
        batches = data.evaluation_batches(split, run.data, worker=workers.of_environment())
        self.batches = distribute.distributed(strategy, batches)
        self.panel_batch = panel_examples(split, run.data)

        forward = objective.outputs(network, run.loss)

        def replica_step(batch: dict) -> dict:
            images = augment.to_unit(batch["image"], batch["window"])
            masks = tf.cast(batch["mask"], tf.float32)
            outputs = forward(images, training=False)
            loss = tf.reduce_sum(batch["weight"] * image_losses(masks, outputs, batch))
            scored = masks, outputs[0], batch, batch["weight"]
            lesion = objective.lesion_logits(outputs, run.loss)
            sums = example_sums(run.is_classifier, *scored, lesion)
            if not run.is_classifier:
                probabilities = tf.nn.sigmoid(tf.cast(outputs[0][..., -1:], tf.float32))
                known = batch["weight"] * batch["has_mask"]
                sums |= distributions.map_sums(masks, probabilities, known, THRESHOLD)
            return {"loss": loss, "weight": tf.reduce_sum(batch["weight"]), **sums}

        def step(batch):
            return distribute.summed(strategy, strategy.run(replica_step, args=(batch,)))

        self.step = tf.function(step, autograph=False)
        self.predict = tf.function(lambda images: network(images, training=False), autograph=False)

    def __call__(self, board: summaries.Board, global_step: int) -> dict:
        """Sums over the whole split; draws the panel."""
        sums = {}
        for batch in self.batches:
            sums = {
                name: sums.get(name, 0) + value.numpy().astype(np.float64)  # pixels beyond 2^24
                for name, value in self.step(batch).items()
            }
        board.image("val", global_step, "truth and prediction", self.panel())
        return sums

    def panel(self) -> np.ndarray:
        batch = self.panel_batch
        images = augment.to_unit(batch["image"], batch["window"])
        probabilities = of_logits(np.asarray(self.predict(images), np.float32))
        if self.run.is_classifier:
            return picture(batch, probabilities, None)
        probabilities = probabilities[..., -1:]
        return picture(batch, probabilities, (probabilities > THRESHOLD).astype(np.float32))


def of_logits(logits: np.ndarray) -> np.ndarray:
    """Probabilities: of pixels [B, H, W, heads], of lesions [B, 1] or of classes [B, C]."""
    if logits.ndim == 2 and logits.shape[-1] > 1:
        return special.softmax(logits, axis=-1)
    return special.expit(logits)


def picture(batch: dict, probabilities: np.ndarray, predictions) -> np.ndarray:
    """RGB uint8 [H, W, 3] of N images, their truth, and the predicted masks [N, S, S, 1] or, for a
    classifier, None and its probabilities [N, 1] or [N, C]."""
    images = np.asarray(augment.to_unit(batch["image"], batch["window"]))[..., 0]
    if predictions is None:
        captions = [_said(*pair) for pair in zip(batch["label"], probabilities, strict=True)]
        return panel.side_by_side(images, None, None, captions, pairs_a_row=4)
    masks = batch["mask"][..., 0]
    dices = np.asarray(metrics.hard_dice(batch["mask"], predictions))
    captions = [f"dice {dice:.2f}" for dice in dices]
    return panel.side_by_side(images, masks, np.asarray(predictions)[..., 0], captions)


def _said(label: float, probabilities: np.ndarray) -> str:
    best, highest = probabilities.argmax(), probabilities.max()
    said = f"{best}: " if len(probabilities) > 1 else ""
    return f"label {label:.0f}, {said}p = {highest:.2f}"


def panel_examples(split: data.Split, settings: config.Data) -> dict[str, np.ndarray]:
    """The first few positives and negatives of a split as one batch."""
    examples = (
        data.evaluation_batches(split, settings).unbatch().filter(lambda item: item["weight"] > 0)
    )
    positives = examples.filter(lambda item: item["label"] > 0).take(PANEL_POSITIVES)
    others = examples.filter(lambda item: item["label"] <= 0).take(PANEL_NEGATIVES)
    items = list(itertools.chain(positives.as_numpy_iterator(), others.as_numpy_iterator()))
    return {name: np.stack([item[name] for item in items]) for name in items[0]}


def _ratio(a, b) -> float:
    return float(a) / float(b) if b else math.nan
