"""A split of a lake becomes batches, with tf.data on the host; all randomness comes from (seed,
epoch, record).

Only records that are drawn are decoded: which ones an epoch takes is known before
(trainer/data/order.py). Batches hold whole numbers as the lake stores them:

    image [B, S, S, 1] uint8 or uint16    mask [B, S, S, 1] uint8, 0 or 1     window [B, 2] float32
    label [B] float32, -1 unknown         has_mask [B] float32, 0 or 1
    weight [B] float32, 0 for padding     uniforms [B, P] float32, training only
    findings [B, F] float32, -1 unknown, where a network learns from findings
"""

import dataclasses
import itertools

import numpy as np
import tensorflow as tf

from trainer.config.run import Data
from trainer.data import cache, order
from trainer.data.order import Split
from trainer.data.record import decoder
from trainer.devices.workers import ALONE, Worker


@tf.autograph.experimental.do_not_convert  # no Python branch here depends on a tensor
def training_batches(
    split: Split,
    data: Data,
    seed: int,
    epochs: int,
    first_step: int,
    num_draws: int,
    worker: Worker = ALONE,
    extra_fields: tuple[str, ...] = (),
    images: cache.DecodedImages | None = None,
) -> tf.data.Dataset:
    """Return a worker's part of each global batch, from `first_step` (counted over all epochs) to
    the end of the last epoch.

    `num_draws`: P, the numbers that an example's augmentation takes; `images`: the split's images,
    decoded before, so that no record is read (extra fields are not in them).
    """
    num_streams = data.streams or worker.count
    streams_per_worker = num_streams // worker.count
    first_stream = worker.number * num_streams // worker.count

    def draws_of_stream(stream: int) -> tf.data.Dataset:
        rows = order.group_rows(split, data, seed, epochs, first_step, stream, num_streams)
        groups = tf.data.Dataset.from_tensor_slices(rows)
        load = _draw_group if images else _load_group
        groups = groups.map(lambda row: load(row, split, seed), num_parallel_calls=1)
        return groups.prefetch(1).unbatch()

    decode = decoder(split.dtype, data.side, data.fit, extra_fields, split.findings)

    def load_item(draw: dict) -> dict:
        # With a cache the pixels are looked up when the item is in a batch.
        item = {"number": draw["number"]} if images else decode(draw["record"])
        return {**item, "uniforms": _uniforms(draw, seed, num_draws)}

    draws = [draws_of_stream(first_stream + number) for number in range(streams_per_worker)]
    items = _interleave(draws, data.batch_size // num_streams)
    items = items.map(load_item, tf.data.AUTOTUNE, deterministic=True)
    return _to_batches(items, data.batch_size // worker.count, images)


@tf.autograph.experimental.do_not_convert
def evaluation_batches(
    split: Split, data: Data, extra_fields: tuple[str, ...] = (), worker: Worker = ALONE
) -> tf.data.Dataset:
    """Return a worker's part of every record once, in the order of the shards.

    Items of weight 0 fill up its last batches, so that all workers have the same number of them.
    """
    part, batch_size = _part_of_worker(split, worker), data.batch_size // worker.count
    decode = decoder(split.dtype, data.side, data.fit, extra_fields, split.findings)
    items = stored_records(part).map(decode, tf.data.AUTOTUNE, deterministic=True)
    largest_part = -(-split.num_records // worker.count)
    num_missing = -(-largest_part // batch_size) * batch_size - part.num_records
    padding = {name: tf.zeros(spec.shape, spec.dtype) for name, spec in items.element_spec.items()}
    padding["window"] = tf.constant([0.0, 1.0])  # its width is divided by
    items = items.concatenate(tf.data.Dataset.from_tensors(padding).repeat(num_missing))
    return _to_batches(items, batch_size)


@tf.autograph.experimental.do_not_convert
def first_items(split: Split, data: Data, num_positives: int, num_others: int) -> list[dict]:
    """Return the first positives of a split, or as many as it has, then the first others."""
    items = evaluation_batches(split, data).unbatch().filter(lambda item: item["weight"] > 0)
    positives = items.filter(lambda item: item["label"] > 0).take(num_positives)
    others = items.filter(lambda item: item["label"] <= 0).take(num_others)
    return list(positives.concatenate(others).as_numpy_iterator())


def stored_records(split: Split) -> tf.data.Dataset:
    """Yield the split's records as they are stored, in the order of the shards."""
    is_needed = split.kinds_per_shard.any(axis=1)
    paths = list(itertools.compress(split.paths, is_needed))
    records = tf.data.TFRecordDataset(paths, num_parallel_reads=None)
    # A shard that lost its end would go unnoticed here.
    num_stored = np.array(split.records_per_shard)[is_needed].sum()
    records = records.apply(tf.data.experimental.assert_cardinality(num_stored))
    if split.is_whole:
        return records
    is_member = (split.kinds != order.OUTSIDE)[np.repeat(is_needed, split.records_per_shard)]
    records = tf.data.Dataset.zip(records, tf.data.Dataset.from_tensor_slices(is_member))
    return records.filter(lambda _, is_member: is_member).map(lambda record, _: record)


# --- parts of both ---


def _interleave(datasets: list[tf.data.Dataset], count: int) -> tf.data.Dataset:
    """Return `count` elements of the first dataset, as many of the second …, and again, until one
    of them ends."""
    if len(datasets) == 1:
        return datasets[0]
    # The numbers of the datasets that give the next elements: 0, 0, …, 1, 1, …, again and again.
    turns = tf.data.Dataset.from_tensor_slices(np.repeat(np.arange(len(datasets)), count))
    return tf.data.Dataset.choose_from_datasets(datasets, turns.repeat())


def _part_of_worker(split: Split, worker: Worker) -> Split:
    """Return a worker's equal share of the split's records; it reads no shard without any."""
    if worker.count == 1:
        return split
    members = np.flatnonzero(split.kinds != order.OUTSIDE)
    part = np.array_split(members, worker.count)[worker.number]
    kinds = np.full_like(split.kinds, order.OUTSIDE)
    kinds[part] = split.kinds[part]
    return dataclasses.replace(split, kinds=kinds)


def _to_batches(
    items: tf.data.Dataset, batch_size: int, images: cache.DecodedImages | None = None
) -> tf.data.Dataset:
    """Return batches of `batch_size` items, read ahead; `images` looks their pixels up."""
    # A worker reads its own records; tf.distribute only cuts each batch into the replicas' parts.
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    batches = items.batch(batch_size, drop_remainder=True)
    if images:
        batches = batches.map(images.look_up, tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)


def _load_group(row: dict, split: Split, seed: int) -> dict:
    """Return _draw_group with the records themselves, "record": [N] strings."""
    shards = tf.boolean_mask(row["shards"], row["shards"] >= 0)
    records = tf.data.TFRecordDataset(tf.gather(tf.constant(split.paths), shards))
    records = records.batch(len(split.kinds)).get_single_element()  # [records in the group]
    num_stored = tf.reduce_sum(tf.gather(tf.constant(split.records_per_shard), shards))
    tf.debugging.assert_equal(tf.size(records), num_stored, "records in a group of shards")
    draws = _draw_group(row, split, seed)
    return {"record": tf.gather(records, draws.pop("position")), **draws}


def _draw_group(row: dict, split: Split, seed: int) -> dict:
    """Return the wanted draws of one group, shuffled, int64 [N] each: "position" in the group,
    "number" in the split, "epoch", "repeat"."""
    positions, numbers, repeats = order.draw_group(row, split, seed)
    epochs = tf.fill(tf.shape(positions), row["epoch"])
    return {"position": positions, "number": numbers, "epoch": epochs, "repeat": repeats}


def _uniforms(draw: dict, seed: int, num_draws: int) -> tf.Tensor:
    """Return the numbers [P] in [0, 1) that augment a draw; a repeated record gets others."""
    number = draw["number"] + draw["repeat"] % 256 * 2**32
    seeds = order.stateless_seed(seed, order.DRAWS, draw["epoch"], number)
    return tf.random.stateless_uniform([num_draws], seed=seeds, alg="philox")
