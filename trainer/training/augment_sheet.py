"""A sheet of what a config's augmentation makes of a lake's images: before, and several draws."""

from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from lake import InputError, storage
from trainer.augmentation import augment
from trainer.config.augmentation import Augment
from trainer.config.run import Config, Data
from trainer.data import batches, splits
from trainer.display import panel
from trainer.models import window
from trainer.training import step

DRAWS = 5  # of each example


def write(run: Config, output: Path, examples: int, seed: int, each: bool) -> str:
    """Writes the sheet of the first examples of the training split, those with a lesion first; with
    `each` one row a transform, by itself, of the first. Returns a line to print."""
    storage.check_writable(output.parent)
    lakes = splits.open_lakes(run.lake, run.data)
    split = splits.training_split(lakes, run.lake, run.data, run.is_classifier)
    items = first_examples(split, run.data, 1 if each else examples)
    settings = {"": run.augment}
    if each:
        settings = {name: run.augment.only(name) for name in run.augment.possible()}
    if not run.augment.possible():
        raise InputError("augment: no transform has a probability above 0; there is nothing to see")
    rows, captions = [], []
    for name, transforms in settings.items():
        for number, item in enumerate(items):
            rows.append(row(item, transforms, seed + number))
            captions.append(name or "before, then each draw" * (number == 0))
    sheet = Image.fromarray(panel.table(*map(np.stack, zip(*rows, strict=True)), captions))
    storage.make_folder(output.parent)
    with storage.written(output) as unfinished:
        sheet.save(unfinished)
    what = f"{len(items)} images" if not each else f"{len(rows)} transforms"
    return f"{output}: {what}, before and {DRAWS} draws, at {run.data.side} px"


def first_examples(split: batches.Split, settings: Data, count: int) -> list[dict]:
    """The first few examples of a split with a lesion; where those are too few, others too."""
    items = batches.evaluation_batches(split, settings).unbatch()
    items = items.filter(lambda item: item["weight"] > 0)
    with_lesion = items.filter(lambda item: item["label"] > 0)
    others = items.filter(lambda item: item["label"] <= 0)
    return list(with_lesion.concatenate(others).take(count).as_numpy_iterator())


def row(item: dict, settings: Augment, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks [1 + DRAWS, S, S]: as the lake has it, then changed by each draw."""
    num_draws = augment.num_draws(settings, item["image"].shape[0])
    uniforms = np.random.default_rng(seed).random((DRAWS, num_draws), np.float32)
    batch = {name: np.repeat(item[name][None], DRAWS, 0) for name in ("image", "mask", "window")}
    images, masks = step.prepare_batch({**batch, "uniforms": tf.constant(uniforms)}, settings)
    image = window.to_unit(batch["image"][:1], tf.constant(batch["window"][:1]))
    images = np.concatenate([image, images])[..., 0]
    return images, np.concatenate([batch["mask"][:1], masks])[..., 0]
