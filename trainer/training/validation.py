"""Scores of a split: sums that add up over batches and replicas, every image counted once, and a
panel to look at."""

import itertools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from trainer.config.run import Config, Data
from trainer.data.batches import Split, evaluation_batches
from trainer.devices import workers
from trainer.devices.strategy import distribute, sum_over_replicas
from trainer.display import panel
from trainer.display.board import Board
from trainer.models import window
from trainer.scoring import metrics, objective
from trainer.scoring.sums import THRESHOLD, example_sums, map_sums

PANEL_POSITIVES, PANEL_NEGATIVES = 6, 2


class Validation:
    """Scores of the validation split, every image once, and a panel of the same few images each
    time."""

    def __init__(self, strategy, network, run: Config, split: Split, image_losses: Callable):
        self.run = run
        batches = evaluation_batches(split, run.data, worker=workers.from_environment())
        self.batches = distribute(strategy, batches)
        self.panel_batch = panel_examples(split, run.data)

        forward = objective.outputs(network, run.loss)

        def replica_step(batch: dict) -> dict:
            images = window.to_unit(batch["image"], batch["window"])
            masks = tf.cast(batch["mask"], tf.float32)
            outputs = forward(images, training=False)
            loss = tf.reduce_sum(batch["weight"] * image_losses(masks, outputs, batch))
            scored = masks, outputs[0], batch, batch["weight"]
            lesion = objective.lesion_logits(outputs, run.loss)
            sums = example_sums(run.is_classifier, *scored, lesion)
            if not run.is_classifier:
                probabilities = tf.nn.sigmoid(tf.cast(outputs[0][..., -1:], tf.float32))
                known = batch["weight"] * batch["has_mask"]
                sums |= map_sums(masks, probabilities, known, THRESHOLD)
            return {"loss": loss, "weight": tf.reduce_sum(batch["weight"]), **sums}

        def step(batch):
            return sum_over_replicas(strategy, strategy.run(replica_step, args=(batch,)))

        self.step = tf.function(step, autograph=False)
        self.predict = tf.function(lambda images: network(images, training=False), autograph=False)

    def __call__(self, board: Board, global_step: int) -> dict:
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
        images = window.to_unit(batch["image"], batch["window"])
        probabilities = metrics.to_probabilities(np.asarray(self.predict(images), np.float32))
        if self.run.is_classifier:
            return picture(batch, probabilities, None)
        probabilities = probabilities[..., -1:]
        return picture(batch, probabilities, (probabilities > THRESHOLD).astype(np.float32))


def picture(batch: dict, probabilities: np.ndarray, predictions) -> np.ndarray:
    """RGB uint8 [H, W, 3] of N images, their truth, and the predicted masks [N, S, S, 1] or, for a
    classifier, None and its probabilities [N, 1] or [N, C]."""
    images = np.asarray(window.to_unit(batch["image"], batch["window"]))[..., 0]
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


def panel_examples(split: Split, settings: Data) -> dict[str, np.ndarray]:
    """The first few positives and negatives of a split as one batch."""
    examples = evaluation_batches(split, settings).unbatch().filter(lambda item: item["weight"] > 0)
    positives = examples.filter(lambda item: item["label"] > 0).take(PANEL_POSITIVES)
    others = examples.filter(lambda item: item["label"] <= 0).take(PANEL_NEGATIVES)
    items = list(itertools.chain(positives.as_numpy_iterator(), others.as_numpy_iterator()))
    return {name: np.stack([item[name] for item in items]) for name in items[0]}
