"""A split of a lake -> batches, with tf.data on the host; all randomness from (seed, epoch,
record).

Nothing is decoded that is not drawn: which records an epoch takes is known beforehand
(trainer/data/order.py). Batches hold whole numbers as the lake stores them:

    image [B, S, S, 1] uint8 or uint16    mask [B, S, S, 1] uint8, 0 or 1     window [B, 2] float32
    label [B] float32, -1 unknown         has_mask [B] float32, 0 or 1
    weight [B] float32, 0 for padding     uniforms [B, P] float32, training only
"""

import dataclasses

import numpy as np
import tensorflow as tf

from trainer.config import run
from trainer.data import cache, order
from trainer.data import record as data_record
from trainer.data.order import Split
from trainer.devices.workers import ALONE, Worker


@tf.autograph.experimental.do_not_convert  # also what it maps: no Python branches in it
def training_batches(
    split: Split,
    data: run.Data,
    seed: int,
    epochs: int,
    first_step: int,
    num_draws: int,
    worker: Worker = ALONE,
    extra_fields: tuple[str, ...] = (),
    decoded: cache.DecodedImages | None = None,
) -> tf.data.Dataset:
    """A worker's part of each global batch, from `first_step` (counted over all epochs) to the end
    of the last epoch; `num_draws`: P, the numbers that an example's augmentation takes; `decoded`:
    the split's images, which are then not read again (it has no extra fields)."""
    streams = data.streams or worker.count
    own = range(streams)[worker.number * streams // worker.count :][: streams // worker.count]
    drawn = []
    for stream in own:
        rows = order.group_rows(split, data, seed, epochs, first_step, stream, streams)
        groups = tf.data.Dataset.from_tensor_slices(rows)
        load = _draw_group if decoded else _load_group
        groups = groups.map(lambda row, load=load: load(row, split, seed), num_parallel_calls=1)
        drawn.append(groups.prefetch(1).unbatch())

    def item_of(drawn: dict) -> dict:
        if decoded:
            pixels_of = {"number": drawn["number"]}
        else:
            pixels_of = data_record.decode_record(
                drawn["record"], split.dtype, data.side, data.fit, extra_fields
            )
        return {**pixels_of, "uniforms": _uniforms(drawn, seed, num_draws)}

    items = _in_turn(drawn, data.batch_size // streams)
    items = items.map(item_of, tf.data.AUTOTUNE, deterministic=True)
    return _batched(items, data.batch_size // worker.count, decoded)


def _in_turn(datasets: list[tf.data.Dataset], count: int) -> tf.data.Dataset:
    """So many of the first, so many of the second …, and again, until one ends."""
    if len(datasets) == 1:
        return datasets[0]
    turns = tf.data.Dataset.from_tensor_slices(np.repeat(np.arange(len(datasets)), count))
    return tf.data.Dataset.choose_from_datasets(datasets, turns.repeat())


def evaluation_batches(
    split: Split, data: run.Data, extra_fields: tuple[str, ...] = (), worker: Worker = ALONE
) -> tf.data.Dataset:
    """A worker's part of every record once, in the order of the shards; what is missing from its
    last batches is filled up with items of weight 0, the same number of batches for all workers."""
    part, batch_size = _part_of(split, worker), data.batch_size // worker.count
    dataset = stored_records(part).map(
        lambda record: data_record.decode_record(
            record, split.dtype, data.side, data.fit, extra_fields
        ),
        tf.data.AUTOTUNE,
        deterministic=True,
    )
    largest = -(-split.num_records // worker.count)
    num_missing = -(-largest // batch_size) * batch_size - part.num_records
    empty = {name: tf.zeros(spec.shape, spec.dtype) for name, spec in dataset.element_spec.items()}
    empty["window"] = tf.constant([0.0, 1.0])  # its width divides
    dataset = dataset.concatenate(tf.data.Dataset.from_tensors(empty).repeat(num_missing))
    return _batched(dataset, batch_size)


def _part_of(split: Split, worker: Worker) -> Split:
    """A worker's equal share of the split's records; shards without any are not read."""
    if worker.count == 1:
        return split
    members = np.flatnonzero(split.kinds != order.OUTSIDE)
    kinds = np.full_like(split.kinds, order.OUTSIDE)
    own = np.array_split(members, worker.count)[worker.number]
    kinds[own] = split.kinds[own]
    return dataclasses.replace(split, kinds=kinds)


def stored_records(split: Split) -> tf.data.Dataset:
    """The split's records as they are stored, in the order of the shards."""
    is_needed = split.kinds_per_shard.any(axis=1)
    paths = [path for path, needed in zip(split.paths, is_needed, strict=True) if needed]
    records = tf.data.TFRecordDataset(paths, num_parallel_reads=None)
    # A shard that lost its end would go unnoticed here.
    num_stored = np.array(split.records_per_shard)[is_needed].sum()
    records = records.apply(tf.data.experimental.assert_cardinality(num_stored))
    if split.is_whole:
        return records
    is_member = (split.kinds != order.OUTSIDE)[np.repeat(is_needed, split.records_per_shard)]
    records = tf.data.Dataset.zip(records, tf.data.Dataset.from_tensor_slices(is_member))
    return records.filter(lambda _, is_member: is_member).map(lambda record, _: record)


def _batched(
    dataset: tf.data.Dataset, batch_size: int, decoded: cache.DecodedImages | None = None
) -> tf.data.Dataset:
    # A worker reads its own records; tf.distribute only cuts each batch into the replicas' parts.
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    batches = dataset.batch(batch_size, drop_remainder=True)
    if decoded:
        batches = batches.map(decoded.look_up, tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)


def _load_group(row: dict, split: Split, seed: int) -> dict:
    """_draw_group with the records themselves, "record": [N] strings."""
    shards = tf.boolean_mask(row["shards"], row["shards"] >= 0)
    records = tf.data.TFRecordDataset(tf.gather(tf.constant(split.paths), shards))
    records = records.batch(len(split.kinds)).get_single_element()  # [stored in the group]
    num_stored = tf.reduce_sum(tf.gather(tf.constant(split.records_per_shard), shards))
    tf.debugging.assert_equal(tf.size(records), num_stored, "records in a group of shards")
    drawn = _draw_group(row, split, seed)
    return {"record": tf.gather(records, drawn.pop("place")), **drawn}


def _draw_group(row: dict, split: Split, seed: int) -> dict:
    """The wanted draws of one group, shuffled, int64 [N] each: "place" in the group, "number" in
    the split, "epoch", "repeat"."""
    places, numbers, repeats = order.draw_group(row, split, seed)
    epochs = tf.fill(tf.shape(places), row["epoch"])
    return {"place": places, "number": numbers, "epoch": epochs, "repeat": repeats}


def _uniforms(drawn: dict, seed: int, num_draws: int) -> tf.Tensor:
    which = drawn["number"] + drawn["repeat"] % 256 * 2**32
    seeds = order.stateless_seed(seed, order.DRAWS, drawn["epoch"], which)
    return tf.random.stateless_uniform([num_draws], seed=seeds, alg="philox")
