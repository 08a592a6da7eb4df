"""A sheet of what a config's augmentation does to a lake's images: before, and several draws."""

from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from lake import InputError, picture, storage
from lake.records import manifest
from trainer.augmentation import augment
from trainer.config.augmentation import Augment
from trainer.config.run import Config
from trainer.data import splits
from trainer.data.batches import first_items
from trainer.display import panel
from trainer.models.window import to_unit
from trainer.training.step import prepare_batch

DRAWS = 5  # per example


def write(
    config: Config, config_name: str, output: Path, examples: int, seed: int, each: bool
) -> str:
    """Write the sheet of the training split's first examples, those with a lesion first; with
    `each`, one row per transform by itself, of the first example. Returns a line to print. Raises
    InputError where the config augments nothing."""
    storage.check_writable(output.parent)
    lakes = splits.open_lakes(config.lake, config.data)
    split = splits.training_split(lakes, config.lake, config.data, config.is_classifier)
    count = 1 if each else examples
    items = first_items(split, config.data, count, count)[:count]
    transform_names = list(config.augment.possible_transforms())
    settings = {"": config.augment}
    if each:
        settings = {name: config.augment.only(name) for name in transform_names}
    if not transform_names:
        raise InputError("augment: no transform has a probability above 0; there is nothing to see")
    rows, captions = [], []
    for name, transforms in settings.items():
        for number, item in enumerate(items):
            rows.append(row(item, transforms, seed + number))
            captions.append(name or ("before, then each draw" if number == 0 else ""))
    images, masks = map(np.stack, zip(*rows, strict=True))
    title = picture.title(
        f"augmentation of {config_name}",
        manifest.split_title(split.name, *lakes),
        f"first as the lake has it, then {DRAWS} draws of seed {seed}",
        "outlined: the true mask",
    )
    sheet = Image.fromarray(panel.table(title, images, masks, captions))
    storage.make_folder(output.parent)
    with storage.whole_file(output) as unfinished_path:
        sheet.save(unfinished_path)
    content = f"{len(rows)} transforms" if each else f"{len(items)} images"
    return f"{output}: {content}, before and {DRAWS} draws, at {config.data.side} px"


def row(item: dict, settings: Augment, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images and masks [1 + DRAWS, S, S]: as the lake has them, then after each draw."""
    num_draws = augment.num_draws(settings, item["image"].shape[0])
    uniforms = np.random.default_rng(seed).random((DRAWS, num_draws), np.float32)
    batch = {name: np.repeat(item[name][None], DRAWS, 0) for name in ("image", "mask", "window")}
    images, masks = prepare_batch({**batch, "uniforms": tf.constant(uniforms)}, settings)
    image = to_unit(batch["image"][:1], tf.constant(batch["window"][:1]))
    images = np.concatenate([image, images])[..., 0]
    return images, np.concatenate([batch["mask"][:1], masks])[..., 0]
