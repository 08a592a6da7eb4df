"""The images of a prediction as records, from a split of a lake or from files that lie in none
(trainer/prediction/input_files.py) -> batches for an ensemble.

Batches are those of trainer/data/batches.py without the masks, and with the fields that the caller
names; items of weight 0 are padding, or files that turned out to be unreadable.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from lake import InputError
from lake.records import example, manifest
from lake.scan import Header, Storage
from lake.sources.pixels import to_png
from lake.sources.reader import METAIMAGE, ReaderSettings
from trainer.data import batches as data_batches
from trainer.data import splits
from trainer.data.record import decode_record, parse_record
from trainer.inference.ensemble import CLASSIFIER_IMAGE, Ensemble
from trainer.workdir import LAKE, read_json

STORED_IMAGE = "stored_image"  # in a batch: the record's image as the lake stores it, coded
BATCHES_AHEAD = 2
PIXEL_OPTIONS = ("max_side", "window", "clahe", "lung_roi")  # of a lake's conversion


class ImagesToPredict(NamedTuple):
    """Serialised records, in a fixed order, and what is known about them beforehand."""

    records: Callable[[], tf.data.Dataset]  # a record without an id stands for a rejected file
    count: int
    dtype: str  # uint8 | uint16
    headers: dict[str, Header]  # by image id; empty for a lake
    rejects: list[dict]  # rows of rejects.csv; grows while the records are read


def from_lake(folder: str, split: str) -> ImagesToPredict:
    """Return the images of a split; raise InputError where the lake has none of this name."""
    subset = splits.named_split(manifest.load(folder), folder, split)
    return ImagesToPredict(
        lambda: data_batches.stored_records(subset), subset.num_records, subset.dtype, {}, []
    )


def batches(
    inputs: ImagesToPredict, ensemble: Ensemble, fields: tuple[str, ...], with_image: bool
) -> tf.data.Dataset:
    """Return batches of all images in their order, [B, …] of item_for's tensors; `with_image` adds
    STORED_IMAGE, [B] strings. Records without an id, which stand for no image, have weight 0."""

    def load_item(record) -> dict:
        tensors = item_for(ensemble, record, inputs.dtype, fields)
        if with_image:
            tensors[STORED_IMAGE] = parse_record(record, ["image"])["image"]
        return tensors | {"weight": tf.cast(tf.strings.length(tensors["image_id"]) > 0, tf.float32)}

    batch_size = ensemble.settings.batch_size
    # Blank records fill the last batch, so that all batches have one shape.
    blank = tf.data.Dataset.from_tensors(blank_record(8 if inputs.dtype == "uint8" else 16))
    records = inputs.records().concatenate(blank.repeat(-inputs.count % batch_size))
    items = records.map(load_item, tf.data.AUTOTUNE, deterministic=True)
    return items.batch(batch_size, drop_remainder=True).prefetch(BATCHES_AHEAD)


def item_for(ensemble: Ensemble, record, dtype: str, fields: tuple[str, ...]) -> dict:
    """Return the tensors of trainer.data.record.decode_record for a record, without its mask, and
    CLASSIFIER_IMAGE where the classifiers take images of another side or fit."""
    settings, other = ensemble.settings, ensemble.classifier_settings
    tensors = decode_record(record, dtype, settings.side, settings.fit, fields, with_mask=False)
    if other is not None:
        classifier_tensors = decode_record(record, dtype, other.side, other.fit, with_mask=False)
        tensors[CLASSIFIER_IMAGE] = classifier_tensors["image"]
    return tensors


def blank_record(bits: int) -> bytes:
    """Return a record of one black pixel and without an id: it fills a batch."""
    black = to_png(np.zeros((1, 1), np.uint8 if bits == 8 else np.uint16))
    sizes = dict.fromkeys(("height", "width", "original_height", "original_width"), 1)
    image = {"image": black, "encoding": b"png", "window": (0.0, 1.0)}
    return example.encode(example.UNKNOWN | sizes | image)


def reader_settings(ensemble: Ensemble) -> ReaderSettings:
    """Return how the lakes of all members were made of files; raise InputError where they
    differ."""
    members = ensemble.everyone
    expected, *others = [_read_settings(member.workdir, member.config.lake) for member in members]
    for member, actual in zip(members[1:], others, strict=True):
        if (expected.is_ct, expected.storage) != (actual.is_ct, actual.storage):
            raise InputError(
                f"{members[0].workdir} learnt from a lake of {expected}, {member.workdir} from one "
                f"of {actual}; files are read one way, so expected lakes that were converted alike"
            )
    return expected


def _read_settings(workdir: Path, lake: str) -> ReaderSettings:
    """Return how the lake of a run was made of files, as the run's lake.json states it."""
    content = read_json(workdir / LAKE)
    if "options" not in content:  # the run started before lake.json had options
        content = manifest.load(lake)
    options, bits = content["options"], 8 if content["dtype"] == "uint8" else 16
    storage = Storage(bits, **{name: options[name] for name in PIXEL_OPTIONS})
    return ReaderSettings(options["source"] == METAIMAGE, options["image_id_from"], storage)
