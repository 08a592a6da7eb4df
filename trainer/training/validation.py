"""Validation: sums over a split that add up over batches and replicas, every image counted once,
and a panel to look at."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from lake import picture
from lake.records import manifest
from trainer.config.run import Data
from trainer.data.batches import Split, evaluation_batches, first_items
from trainer.devices.strategy import distribute, sum_over_replicas
from trainer.display import panel
from trainer.display.board import Board
from trainer.models.window import to_unit
from trainer.scoring import metrics, objective
from trainer.scoring.sums import THRESHOLD, example_sums, map_sums
from trainer.training.run import Run

PANEL_POSITIVES, PANEL_NEGATIVES = 6, 2
RULE = f"p > {THRESHOLD:g} at the network's size"  # of the masks in a panel


class Validation:
    """Computes the sums of the validation split, and draws a panel of the same few images each
    time."""

    def __init__(self, run: Run):
        self.config, self.workdir = run.config, run.state.workdir
        self.split_title = manifest.split_title(run.val_split.name, run.lakes[0])
        config = run.config
        batches = evaluation_batches(run.val_split, config.data, worker=run.worker)
        self.batches = distribute(run.strategy, batches)
        self.panel_batch = panel_examples(run.val_split, config.data)
        forward = objective.outputs(run.network, config.loss)

        def replica_step(batch: dict) -> dict:
            """Return the sums over a replica's part of a batch."""
            images = to_unit(batch["image"], batch["window"])  # [B, S, S, 1]
            masks = tf.cast(batch["mask"], tf.float32)
            # [logits [B, S, S, heads] or [B, classes], …]
            outputs = forward(images, training=False)
            weights = batch["weight"]  # [B], 0 for padding
            loss = tf.reduce_sum(weights * run.image_losses(masks, outputs, batch))
            lesion_logits = objective.lesion_logits(outputs, config.loss)
            sums = example_sums(
                config.is_classifier, masks, outputs[0], batch, weights, lesion_logits
            )
            if not config.is_classifier:
                probabilities = tf.nn.sigmoid(tf.cast(outputs[0][..., -1:], tf.float32))
                sums |= map_sums(masks, probabilities, weights * batch["has_mask"], THRESHOLD)
            return {"loss": loss, "weight": tf.reduce_sum(weights), **sums}

        def step(batch) -> dict:
            return sum_over_replicas(run.strategy, run.strategy.run(replica_step, args=(batch,)))

        def predict(images):
            return run.network(images, training=False)

        self.step = tf.function(step, autograph=False)
        self.predict = tf.function(predict, autograph=False)

    def __call__(self, board: Board, global_step: int) -> dict:
        """Return the sums over all workers' images, each counted once; draw the panel."""
        sums = {}
        for batch in self.batches:
            sums = {
                name: sums.get(name, 0) + value.numpy().astype(np.float64)  # pixels beyond 2^24
                for name, value in self.step(batch).items()
            }
        rule = "" if self.config.is_classifier else RULE
        title = picture.title(str(self.workdir), self.split_title, rule, f"step {global_step:,}")
        board.image("val", global_step, "truth and prediction", self.panel(title))
        return sums

    def panel(self, title: str) -> np.ndarray:
        """Return the panel of the network with its present weights, RGB uint8 [H, W, 3]."""
        batch = self.panel_batch
        images = to_unit(batch["image"], batch["window"])
        findings = self.config.findings
        logits = np.asarray(self.predict(images), np.float32)
        probabilities = metrics.to_probabilities(logits, bool(findings))
        if self.config.is_classifier:
            return draw_panel(title, batch, probabilities, predictions=None, findings=findings)
        probabilities = probabilities[..., -1:]
        predictions = (probabilities > THRESHOLD).astype(np.float32)
        return draw_panel(title, batch, probabilities, predictions)


def draw_panel(
    title: str, batch: dict, probabilities: np.ndarray, predictions, findings: Sequence[str] = ()
) -> np.ndarray:
    """Return a panel, RGB uint8 [H, W, 3], of N images with their truth and the predicted masks
    [N, S, S, 1]; for a classifier these are None and its probabilities [N, 1], [N, C], or [N, F] of
    its findings."""
    images = np.asarray(to_unit(batch["image"], batch["window"]))[..., 0]
    if predictions is None:
        captions = panel.captions(batch["label"], probabilities, findings, batch.get("findings"))
        return panel.side_by_side(
            title, images, masks=None, predictions=None, captions=captions, pairs_per_row=4
        )
    masks = batch["mask"][..., 0]
    dices = np.asarray(metrics.hard_dice(batch["mask"], predictions))
    captions = [f"dice {panel.share(dice)}" for dice in dices]
    return panel.side_by_side(title, images, masks, np.asarray(predictions)[..., 0], captions)


def panel_examples(split: Split, settings: Data) -> dict[str, np.ndarray]:
    """Return the first few positives and negatives of a split as one batch."""
    items = first_items(split, settings, PANEL_POSITIVES, PANEL_NEGATIVES)
    return {name: np.stack([item[name] for item in items]) for name in items[0]}
