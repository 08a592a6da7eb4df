"""Shards -> batches, with tf.data on the host; all randomness from (seed, epoch, record).

An epoch's order: the shards permuted, taken in groups; the records of a group shuffled in memory;
groups in turn. So a run that resumes at step k skips whole groups unread. With a share of positives
each group gives that share of its draws: nothing is decoded that is not drawn. Batches hold whole
numbers as the lake stores them:

    image [B, S, S, 1] uint8 or uint16    mask [B, S, S, 1] uint8, 0 or 1     window [B, 2] float32
    label [B] float32, -1 unknown         has_mask [B] float32, 0 or 1
    weight [B] float32, 0 for padding     uniforms [B, P] float32, training only
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pyarrow
import pyarrow.parquet
import tensorflow as tf

from lake import InputError, example, manifest
from trainer import config

RECORD_FIELDS = ("image", "mask", "has_mask", "label", "lesion_px", "encoding", "window")
SIZE_FIELDS = ("height", "width")  # of the stored image
# libjpeg decodes at a half, a quarter and an eighth for less than a whole image.
JPEG_RATIOS = (8, 4, 2)
DRAWS, SHUFFLE, POSITIVES, OTHERS = range(1, 5)  # keep the streams of random numbers apart


@dataclass(frozen=True)
class Split:
    """The shards of one split and how many records each holds."""

    paths: tuple[str, ...]
    records: tuple[int, ...]
    dtype: str
    # Of each record, in the order of the shards: whether it has a lesion. None: nobody asked.
    is_positive: np.ndarray | None = None

    @property
    def num_records(self) -> int:
        return sum(self.records)

    @property
    def firsts(self) -> np.ndarray:
        """Of each shard: the number of its first record in the split."""
        return np.cumsum([0, *self.records[:-1]])


def open_lake(folder: str) -> dict:
    """The manifest of a lake; raises InputError where there is none."""
    path = tf.io.gfile.join(folder, manifest.MANIFEST)
    if not tf.io.gfile.exists(path):
        raise manifest.missing(folder)
    with tf.io.gfile.GFile(path) as file:
        return manifest.parse(file.read(), folder)


def check_classes(content: dict, folder: str, run: config.Config) -> None:
    """Raises InputError where a classifier knows another number of classes than the lake has."""
    classes = manifest.num_classes(content)
    if run.is_classifier and run.model.classes != classes:
        named = f": {', '.join(manifest.numbered(content['classes']))}" if classes > 2 else ""
        raise InputError(
            f"{folder} has {classes} classes{named}; model.classes={run.model.classes} should be "
            f"{classes}"
        )


def split_of(content: dict, folder: str, name: str) -> Split:
    """A split by its name; raises InputError when the lake has no record of it."""
    shards = [shard for shard in content["shards"] if shard["split"] == name and shard["records"]]
    if not shards:
        known = ", ".join(sorted(content["counts"]["splits"]))
        raise InputError(f"{folder}: no records in split {name!r}; it has {known}")
    return Split(
        paths=tuple(tf.io.gfile.join(folder, shard["name"]) for shard in shards),
        records=tuple(shard["records"] for shard in shards),
        dtype=content["dtype"],
    )


def training_split(content: dict, folder: str, data: config.Data, is_classifier: bool) -> Split:
    """The training split; where positives are drawn apart, it knows them from the lake's index."""
    split = split_of(content, folder, data.train_split)
    if not (data.positives_only or data.positive_share):
        return split
    column = "label" if is_classifier else "lesion_px"
    with tf.io.gfile.GFile(tf.io.gfile.join(folder, manifest.INDEX), "rb") as file:
        stored = pyarrow.BufferReader(file.read())  # pyarrow takes no GFile
    index = pyarrow.parquet.read_table(
        stored,
        columns=["shard", "position", column],
        filters=[("split", "==", data.train_split)],
    ).sort_by([("shard", "ascending"), ("position", "ascending")])
    is_positive = index[column].to_numpy() > 0
    if is_positive.all() or not is_positive.any():
        raise InputError(
            f"{folder}: {is_positive.sum()} of the {len(is_positive)} images to train on have a "
            f"lesion; data.positive_share and data.positives_only need both kinds"
        )
    return dataclasses.replace(split, is_positive=is_positive)


def steps_per_epoch(split: Split, data: config.Data) -> int:
    """Whole batches in an epoch; the few records that do not fill one are others in each epoch."""
    count = split.is_positive.sum() if data.positives_only else split.num_records
    if count < data.batch_size:
        raise InputError(
            f"batch_size={data.batch_size}, but the training split has {count} records"
        )
    return int(count) // data.batch_size


def positive_share(data: config.Data, epoch: int, epochs: int) -> float | None:
    """Of an epoch's draws; None where every record is drawn once."""
    if data.positives_only:
        return 1.0
    if data.positive_share is None:
        return None
    first, last = data.positive_share
    return first - (first - last) * epoch / epochs


def training_batches(
    split: Split, data: config.Data, seed: int, epochs: int, first_step: int, num_draws: int
) -> tf.data.Dataset:
    """Global batches from `first_step` (counted over all epochs) to the end of the last epoch;
    `num_draws`: P, the numbers that an example's augmentation takes."""
    rows = group_rows(split, data, seed, epochs, first_step)
    dataset = tf.data.Dataset.from_tensor_slices(rows)
    dataset = (
        dataset.map(lambda row: _load_group(row, split, seed), num_parallel_calls=1)
        .prefetch(1)
        .unbatch()
    )
    dataset = dataset.map(
        lambda item: _training_item(item, split, data, seed, num_draws),
        tf.data.AUTOTUNE,
        deterministic=True,
    )
    return _batched(dataset, data.batch_size)


def evaluation_batches(
    split: Split, data: config.Data, extra_fields: tuple[str, ...] = ()
) -> tf.data.Dataset:
    """Every record once, in the order of the shards; the last batch is filled up with items of
    weight 0."""
    dataset = tf.data.TFRecordDataset(split.paths, num_parallel_reads=None)
    dataset = dataset.map(
        lambda record: _item(record, split.dtype, data.side, data.fit, extra_fields),
        tf.data.AUTOTUNE,
        deterministic=True,
    )
    num_missing = -split.num_records % data.batch_size
    empty = {name: tf.zeros(spec.shape, spec.dtype) for name, spec in dataset.element_spec.items()}
    empty["window"] = tf.constant([0.0, 1.0])  # its width divides
    dataset = dataset.concatenate(tf.data.Dataset.from_tensors(empty).repeat(num_missing))
    return _batched(dataset, data.batch_size)


def group_rows(
    split: Split, data: config.Data, seed: int, epochs: int, first_step: int
) -> dict[str, np.ndarray]:
    """One row a group of shards still to be read: epoch, group, shards [G] (-1: none), how many
    positives and others are drawn, and from which to which of the shuffled draws are wanted."""
    per_epoch = steps_per_epoch(split, data)
    first_epoch = first_step // per_epoch
    rows = []
    for epoch in range(first_epoch, epochs):
        skipped = first_step - first_epoch * per_epoch if epoch == first_epoch else 0
        wanted = (skipped * data.batch_size, per_epoch * data.batch_size)
        rows += _rows_of_epoch(split, data, seed, epoch, epochs, wanted)
    return {name: np.array([row[name] for row in rows], np.int64) for name in ROW_FIELDS}


ROW_FIELDS = ("epoch", "group", "shards", "positives", "others", "begin", "end")


def _rows_of_epoch(split: Split, data: config.Data, seed: int, epoch: int, epochs: int, wanted):
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(len(split.paths))
    share = positive_share(data, epoch, epochs)
    rows, before = [], 0
    for group, start in enumerate(range(0, len(order), data.group_shards)):
        shards = order[start : start + data.group_shards]
        positives, others = _draws_of_group(split, shards, share, data.positives_only)
        after = before + positives + others
        begin, end = max(wanted[0], before), min(wanted[1], after)
        if begin < end:
            padded = np.pad(shards, (0, data.group_shards - len(shards)), constant_values=-1)
            row = (epoch, group, padded, positives, others, begin - before, end - before)
            rows.append(dict(zip(ROW_FIELDS, row, strict=True)))
        before = after
    return rows


def _draws_of_group(split: Split, shards, share: float | None, positives_only: bool) -> tuple:
    """How many positives and how many others: the group's own, or as many by the share."""
    records = np.array(split.records)
    count = int(records[shards].sum())
    if share is None:
        return 0, count  # which is which is not asked
    flags = [split.is_positive[f : f + n] for f, n in zip(split.firsts, records, strict=True)]
    available = int(sum(flags[shard].sum() for shard in shards))
    if positives_only:
        return available, 0
    # A group of one kind gives that kind alone.
    positives = 0 if available == 0 else count if available == count else round(count * share)
    return positives, count - positives


def fitted_box(height, width, side: int, fit: str):
    """(top, left, height, width) of an image within [side, side]; whole numbers or integer
    tensors."""
    if fit == "stretch":
        return 0, 0, side, side
    longest = tf.maximum(height, width) if tf.is_tensor(height) else max(height, width)
    inner_height = (height * side + longest // 2) // longest
    inner_width = (width * side + longest // 2) // longest
    return (side - inner_height) // 2, (side - inner_width) // 2, inner_height, inner_width


def _batched(dataset: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
    # One worker reads all files; tf.distribute only cuts each batch into the replicas' parts.
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return (
        dataset.batch(batch_size, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
        .with_options(options)
    )


def _load_group(row: dict, split: Split, seed: int) -> dict:
    """The wanted draws of one group, shuffled: {"record": [N] strings, "number": [N], "epoch": [N],
    "repeat": [N], how often the record was drawn before in this epoch}."""
    shards = tf.boolean_mask(row["shards"], row["shards"] >= 0)
    counts = tf.gather(tf.constant(split.records, tf.int64), shards)
    firsts = tf.gather(tf.constant(split.firsts, tf.int64), shards)
    records = tf.data.TFRecordDataset(tf.gather(tf.constant(split.paths), shards))
    records = records.batch(split.num_records).get_single_element()  # [N]
    numbers = tf.ragged.range(firsts, firsts + counts).flat_values  # [N]: which record of the split

    def shuffled(values, stream: int):
        seeds = _seed(seed, stream, row["epoch"], row["group"])
        return tf.random.experimental.stateless_shuffle(values, seed=seeds, alg="philox")

    def drawn(places, count, stream: int):
        """`count` of the places in a random order, again and again where they are too few."""
        times = tf.range(count) // tf.maximum(tf.size(places, tf.int64), 1)
        places = tf.gather(
            shuffled(places, stream), tf.range(count) - times * tf.size(places, tf.int64)
        )
        return tf.stack([places, times], axis=1)  # [count, 2]

    places = tf.range(tf.size(records, tf.int64))
    if split.is_positive is None:
        draws = drawn(places, row["others"], OTHERS)
    else:
        is_positive = tf.gather(tf.constant(split.is_positive), numbers)
        positives = drawn(tf.boolean_mask(places, is_positive), row["positives"], POSITIVES)
        others = drawn(tf.boolean_mask(places, ~is_positive), row["others"], OTHERS)
        draws = shuffled(tf.concat([positives, others], axis=0), SHUFFLE)
    order, repeats = tf.unstack(draws[row["begin"] : row["end"]], axis=1)
    return {
        "record": tf.gather(records, order),
        "number": tf.gather(numbers, order),
        "epoch": tf.fill(tf.shape(order), row["epoch"]),
        "repeat": repeats,
    }


def _training_item(item: dict, split: Split, data: config.Data, seed: int, num_draws: int) -> dict:
    which = item["number"] + item["repeat"] % 256 * 2**32
    draws = tf.random.stateless_uniform(
        [num_draws], seed=_seed(seed, DRAWS, item["epoch"], which), alg="philox"
    )
    return {**_item(item["record"], split.dtype, data.side, data.fit), "uniforms": draws}


def _seed(seed: int, stream: int, epoch, number):
    """Two 64-bit words, different for every (seed, stream, epoch, number below 2^40)."""
    return tf.stack([tf.constant(seed * 8 + stream, tf.int64), epoch * 2**40 + number])


def _item(record, dtype: str, side: int, fit: str, extra_fields: tuple[str, ...] = ()) -> dict:
    """One serialised record, decoded straight to [side, side]."""
    fields = example.parse(record, (*RECORD_FIELDS, *SIZE_FIELDS, *extra_fields))
    height, width = tf.cast(fields["height"], tf.int32), tf.cast(fields["width"], tf.int32)
    box = fitted_box(height, width, side, fit)
    is_jpeg = fields["encoding"] == "jpeg-kept"
    image = tf.cond(
        is_jpeg,
        lambda: _decode_jpeg(fields["image"], box, height, width, dtype),
        lambda: tf.io.decode_png(fields["image"], channels=1, dtype=tf.as_dtype(dtype)),
    )
    image = _fit(image, box, side)
    image = tf.cast(tf.round(image), dtype)
    # An empty mask is not worth decoding: its PNG takes longer than the image's JPEG.
    mask = tf.cond(
        fields["lesion_px"] > 0,
        lambda: tf.cast(
            _fit(tf.io.decode_png(fields["mask"], channels=1), box, side) >= 127.5,
            tf.uint8,
        ),
        lambda: tf.zeros([side, side, 1], tf.uint8),
    )
    return {
        "image": tf.ensure_shape(image, [side, side, 1]),
        "mask": tf.ensure_shape(mask, [side, side, 1]),
        "window": fields["window"],
        "label": tf.cast(fields["label"], tf.float32),
        "has_mask": tf.cast(fields["has_mask"], tf.float32),
        "weight": tf.ones([]),
        **{name: fields[name] for name in extra_fields},
    }


def _decode_jpeg(data, box, height, width, dtype: str):
    """Pixels at the smallest of libjpeg's scales that is not below what is wanted."""
    *_, wanted_height, wanted_width = box

    def decode(ratio: int):
        return lambda: tf.cast(
            tf.io.decode_jpeg(data, channels=1, ratio=ratio, dct_method="INTEGER_ACCURATE"), dtype
        )

    cases = [
        (
            tf.logical_and(height >= wanted_height * ratio, width >= wanted_width * ratio),
            decode(ratio),
        )
        for ratio in JPEG_RATIOS
    ]
    return tf.case(cases, default=decode(1))


def _fit(pixels, box, side: int):
    """Pixels [h, w, 1] as float32 [side, side, 1], resized into the box, 0 around it."""
    top, left, inner_height, inner_width = box
    size = tf.stack([inner_height, inner_width])
    is_right = tf.reduce_all(tf.shape(pixels)[:2] == size)
    pixels = tf.cond(
        is_right,
        lambda: tf.cast(pixels, tf.float32),
        lambda: tf.image.resize(tf.cast(pixels, tf.float32), size, antialias=True),
    )
    return tf.image.pad_to_bounding_box(pixels, top, left, side, side)
