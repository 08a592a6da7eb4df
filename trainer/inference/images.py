"""What predict is asked about, a split of a lake or files that lie in none
(trainer/prediction/input_files.py), as records -> batches for an ensemble.

Batches are as trainer/data/batches.py's, without the masks and with the fields that the caller
names; items of weight 0 are padding, or files that turned out to be unreadable."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from lake import InputError
from lake.records import example
from lake.scan import Header, Storage
from lake.sources.pixels import to_png
from lake.sources.reader import METAIMAGE, ReaderSettings
from trainer.data import batches as data_batches
from trainer.data import splits
from trainer.data.record import decode_record
from trainer.inference.ensemble import CLASSIFIER_IMAGE, Ensemble
from trainer.workdir import LAKE, read_json

STORED_IMAGE = "stored_image"  # in a batch: the record's own coded image, where it is asked for
BATCHES_AHEAD = 2


class ImagesToPredict(NamedTuple):
    """Serialised records, in a fixed order, and what is known of them beforehand."""

    records: Callable[[], tf.data.Dataset]  # a record without an id stands for a rejected file
    count: int
    dtype: str
    headers: dict[str, Header]  # by image id; empty of a lake
    rejects: list[dict]  # grows while the records are read


def from_lake(folder: str, split: str) -> ImagesToPredict:
    found = splits.named_split(splits.open_lake(folder), folder, split)
    return ImagesToPredict(
        lambda: data_batches.stored_records(found), found.num_records, found.dtype, {}, []
    )


def batches(
    asked: ImagesToPredict, ensemble: Ensemble, fields: tuple[str, ...], with_image: bool
) -> tf.data.Dataset:
    """`with_image`: with STORED_IMAGE, [B] strings."""
    settings, own = ensemble.settings, ensemble.classifier_settings

    def item(record) -> dict:
        made = decode_record(record, asked.dtype, settings.side, settings.fit, fields, False)
        if own is not None:
            other = decode_record(record, asked.dtype, own.side, own.fit, with_mask=False)
            made[CLASSIFIER_IMAGE] = other["image"]
        if with_image:
            made[STORED_IMAGE] = example.parse(record, ["image"])["image"]
        return made | {"weight": tf.cast(tf.strings.length(made["image_id"]) > 0, tf.float32)}

    blank = tf.data.Dataset.from_tensors(blank_record(8 if asked.dtype == "uint8" else 16))
    records = asked.records().concatenate(blank.repeat(-asked.count % settings.batch_size))
    items = records.map(item, tf.data.AUTOTUNE, deterministic=True)
    return items.batch(settings.batch_size, drop_remainder=True).prefetch(BATCHES_AHEAD)


def blank_record(bits: int) -> bytes:
    """A record of one black pixel and without an id: it fills a batch."""
    black = to_png(np.zeros((1, 1), np.uint8 if bits == 8 else np.uint16))
    sizes = dict.fromkeys(("height", "width", "original_height", "original_width"), 1)
    shown = {"image": black, "encoding": b"png", "window": (0.0, 1.0)}
    return example.encode(example.UNKNOWN | sizes | shown)


PIXEL_OPTIONS = ("max_side", "window", "clahe", "lung_roi")


def reader_settings(ensemble: Ensemble) -> ReaderSettings:
    """As the lakes of all members were made; raises InputError where they differ."""
    members = ensemble.everyone
    first, *others = [_how_stored(member.workdir, member.run.lake) for member in members]
    for member, other in zip(members[1:], others, strict=True):
        if (first.is_ct, first.storage) != (other.is_ct, other.storage):
            raise InputError(
                f"{members[0].workdir} learnt from a lake of {first}, {member.workdir} from one of "
                f"{other}; files are read one way, so expected lakes that were converted alike"
            )
    return first


def _how_stored(workdir, lake: str) -> ReaderSettings:
    known = read_json(workdir / LAKE)
    if "options" not in known:  # a run from before lake.json said it
        known = splits.open_lake(lake)
    options, bits = known["options"], 8 if known["dtype"] == "uint8" else 16
    storage = Storage(bits, **{name: options[name] for name in PIXEL_OPTIONS})
    return ReaderSettings(options["source"] == METAIMAGE, options["image_id_from"], storage)
