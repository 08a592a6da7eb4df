"""Lesions of which nothing is left at the network's side, and images thinner than its pixels:
counted once, before a run takes its first step.

In: the splits of a run. Out: a line for each side, or an InputError where no lesion is left. Only
masks are decoded, and of a large lake only some: counting takes seconds.
"""

import dataclasses
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from lake import InputError, storage
from lake.records.identity import shards_sha256
from lake.scan import stable_hash
from trainer.config.run import Config, Data
from trainer.data import record, splits
from trainer.data.batches import stored_records
from trainer.data.order import Split

NAME = "vanishing.json"  # in a workdir: the counts of earlier starts
# So many lesions of a split are looked at, which takes some seconds.
MOST_LESIONS = 2000
CHUNK = 64  # records at a time
KINDS = {"train": "training", "val": "validation"}


class Counts(NamedTuple):
    """How many lesions and images of a split get lost at a side."""

    num_lesions: int = 0  # masks with a lesion, of those that were looked at
    num_empty: int = 0  # of which nothing is left
    num_images: int = 0  # that were looked at
    num_thin: int = 0  # of less than a pixel along one side
    is_sample: bool = False  # there are more than were looked at


def check(configs: Sequence[Config], folder: Path) -> dict:
    """Print what gets lost in the stages of a run; return the counts by stage, for `save`. Raises
    InputError where a segmenter would have no lesion to learn from, or to be scored on.

    `folder`: a workdir, whose counts of an earlier start are not made again.
    """
    path = folder / NAME
    earlier = json.loads(path.read_text()) if path.exists() else {}
    results = {}
    for config in configs:
        if config.is_classifier and not config.loss.lesion_map:
            continue  # the labels stay
        lakes = splits.open_lakes(config.lake, config.data)
        key = _key(config.data, lakes)
        if key in results:
            continue
        if key not in earlier:
            named_splits = _splits(config, lakes)
            earlier[key] = {name: count(split, config.data) for name, split in named_splits}
        results[key] = earlier[key]
        counts = {name: Counts(*values) for name, values in results[key].items()}
        _raise_if_none(config, counts)
        for line in lines(counts, config.data.side):
            print(line, flush=True)
    return results


def save(folder: Path, results: dict) -> None:
    """Write the counts of `check` into the workdir."""
    storage.write(folder / NAME, json.dumps(results).encode() + b"\n")


def _key(data: Data, lakes: list[dict]) -> str:
    """Return the text of everything that the counts depend on."""
    fields = data.side, data.fit, data.train_split, data.val_split, data.fold
    return json.dumps([shards_sha256(lakes), *fields])


def _splits(config: Config, lakes: list[dict]) -> Iterator[tuple[str, Split]]:
    """Yield (name, split) of the training and the validation split, with every image, even those
    that positives_only or positive_share leaves out: the counts are of the lake's images."""
    every_image = {"positives_only": False, "positive_share": None}
    data_of_all_images = config.data.model_copy(update=every_image)
    is_classifier = config.is_classifier
    yield "train", splits.training_split(lakes, config.lake, data_of_all_images, is_classifier)
    yield "val", splits.validation_split(lakes[0], config.lake, data_of_all_images)


def _raise_if_none(config: Config, counts: dict[str, Counts]) -> None:
    """Raise InputError where a split of a segmenter has no lesion any more."""
    if config.is_classifier:
        return
    names = [name for name, part in counts.items() if 0 < part.num_lesions == part.num_empty]
    if names:
        raise InputError(
            f"{config.lake}: {_lesions(counts, names, config.data.side)}, so there is nothing to "
            f"{'learn' if 'train' in names else 'be scored on'}; give a larger data.side, or "
            f"images that were cut out around the lesions"
        )


def lines(counts: dict[str, Counts], side: int) -> Iterator[str]:
    """Yield a line about each kind of loss, of which there may be none."""
    if any(part.num_empty for part in counts.values()):
        yield (
            f"{_lesions(counts, list(counts), side)}: the network sees no lesion there. A larger "
            f"data.side keeps more of them"
        )
    if any(part.num_thin for part in counts.values()):
        numbers = {name: f"{n.num_thin:,} of {n.num_images:,}" for name, n in counts.items()}
        texts = [f"{text} {KINDS[name]} images" for name, text in numbers.items()]
        yield f"{' and '.join(texts)} are thinner than a pixel at {side} px (data.side)"


def _lesions(counts: dict[str, Counts], names: Sequence[str], side: int) -> str:
    """Return a sentence on the number of lesions that are lost in these splits."""
    texts = []
    for name in names:
        part = counts[name]
        first = "the first " if part.is_sample else ""
        texts.append(f"{part.num_empty:,} of {first}{part.num_lesions:,} {KINDS[name]} masks")
    return f"{' and '.join(texts)} with a lesion are empty at {side} px (data.side)"


# --- counting ---


def count(split: Split, data: Data) -> Counts:
    """Return the counts of a split at data.side. Of a large one whole shards are counted, until
    there are MOST_LESIONS and one of them is left."""
    counts, num_records = Counts(), 0
    with ThreadPoolExecutor() as pool:
        for heights, widths, masks in _sizes_and_masks(_spread(split)):
            num_records += len(masks)
            sizes = list(zip(heights.tolist(), widths.tolist(), strict=True))
            lesions = [(*size, png) for size, png in zip(sizes, masks, strict=True) if png]
            is_empty = list(pool.map(lambda lesion: vanishes(*lesion, data), lesions))
            counts = Counts(
                counts.num_lesions + len(lesions),
                counts.num_empty + sum(is_empty),
                num_records,
                counts.num_thin + sum(is_thin(*size, data) for size in sizes),
            )
            if counts.num_lesions >= MOST_LESIONS and counts.num_empty < counts.num_lesions:
                break
    return counts._replace(is_sample=num_records < split.num_records)


def _spread(split: Split) -> Split:
    """Return a split with its shards in another order, that of the hashes of their names, so that
    the first ones stand for all."""
    numbers = np.argsort([stable_hash(path) for path in split.paths])
    kinds = np.split(split.kinds, split.first_records[1:])
    return dataclasses.replace(
        split,
        paths=tuple(split.paths[number] for number in numbers),
        records_per_shard=tuple(split.records_per_shard[number] for number in numbers),
        kinds=np.concatenate([kinds[number] for number in numbers]),
        lakes=tuple(split.lakes[number] for number in numbers) if split.lakes else (),
    )


def _sizes_and_masks(split: Split) -> Iterator[tuple]:
    """Yield (heights, widths, PNGs of the masks, empty without a lesion) of some records at a
    time."""

    @tf.autograph.experimental.do_not_convert
    def parse(serialised) -> tuple:
        fields = record.parse_record(serialised, ("height", "width", "lesion_px", "mask"))
        mask = tf.where(fields["lesion_px"] > 0, fields["mask"], "")
        return fields["height"], fields["width"], mask

    parsed = stored_records(split).map(parse, tf.data.AUTOTUNE, deterministic=True)
    yield from parsed.batch(CHUNK).prefetch(2).as_numpy_iterator()


def is_thin(height: int, width: int, data: Data) -> bool:
    """Return whether an image has less than a pixel along its shorter side."""
    return data.fit == "pad" and min(height, width) * data.side < max(height, width)


def vanishes(height: int, width: int, png: bytes, data: Data) -> bool:
    """Return whether nothing is left of a mask, which has a lesion, at data.side."""
    *_, box_height, box_width = record.box_within(height, width, data.side, data.fit)
    if (box_height, box_width) == (height, width):
        return False
    mask = _around_lesion(png)
    # A square of two of the network's pixels that is all lesion fills more than half of the one in
    # its middle, whatever the kernel rounds. Most lesions have one, and are resized no further.
    block = -(-2 * height // box_height), -(-2 * width // box_width)
    if _has_full_block(mask, max(block[0], 2), max(block[1], 2)):
        return False
    return not _is_left(png, height, width, data.side, data.fit)


def _around_lesion(png: bytes) -> np.ndarray:
    """Return the smallest part of a mask that has the whole lesion, bool [h, w]; nothing of a PNG
    that is damaged: TensorFlow's error will name its record."""
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            return np.asarray(image.crop(image.getbbox())) > 0
    except (OSError, SyntaxError, ValueError, zlib.error):
        return np.zeros((0, 0), bool)


def _has_full_block(mask: np.ndarray, height: int, width: int) -> bool:
    """Return whether a tile of this size, of those side by side from the corner, is all lesion."""
    num_rows, num_columns = mask.shape[0] // height, mask.shape[1] // width
    if not num_rows or not num_columns:
        return False
    full_rows = mask[: num_rows * height].reshape(num_rows, height, -1).all(axis=1)  # [rows, W]
    tiles = full_rows[:, : num_columns * width].reshape(num_rows, num_columns, width)
    return bool(tiles.all(axis=2).any())


def _is_left(png: bytes, height: int, width: int, side: int, fit: str) -> bool:
    """Return whether a mask has a pixel as a network is given it."""
    box = record.box_within(height, width, side, fit)
    return bool(tf.reduce_any(record.fit_mask(png, box, side) > 0))
