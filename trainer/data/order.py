"""Which records when: an epoch's order, from (seed, epoch) alone, and the part of it behind a step.

An epoch's order: the shards permuted, taken in groups; the records drawn of a group shuffled in
memory; groups in turn. So a run that resumes at step k skips whole groups unread. Of several
workers each takes an equal stretch of the groups; where one ends inside a group, both read it, but
each draws records of its own. Records of
different kinds (lake, with a lesion or not) are drawn apart, each group giving its share of each
kind; the shards of several lakes stand evenly between each other.
"""

import functools
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from lake import InputError
from trainer.config import run

# What a stored record is to a split: none of it, or of a kind, which is drawn from apart. The kinds
# of a further lake are the next two numbers.
OUTSIDE, OTHER, POSITIVE = -1, 0, 1
KINDS_OF_LAKE = 2
DRAWS, SHUFFLE, KINDS = range(1, 4)  # keep the streams of random numbers apart


@dataclass(frozen=True)
class Split:
    """Shards, and which of their records belong to the split."""

    name: str
    paths: tuple[str, ...]
    records_per_shard: tuple[int, ...]
    dtype: str
    counts: dict  # as a manifest counts a split: records, positives, with_mask, …
    # Of each stored record, in the order of the shards: int8. All OTHER where nobody asked.
    kinds: np.ndarray
    # Of several lakes: the number of each shard's, and how many draws for each draw of the first.
    lakes: tuple[int, ...] = ()
    weights: tuple[float, ...] = (1.0,)

    @property
    def num_records(self) -> int:
        return int(self.kinds_per_shard.sum())

    @property
    def num_kinds(self) -> int:
        return KINDS_OF_LAKE * len(self.weights)

    @property
    def is_whole(self) -> bool:
        """Whether every stored record belongs to it."""
        return self.num_records == len(self.kinds)

    @property
    def first_records(self) -> np.ndarray:
        """Of each shard: the number of its first record among all stored ones."""
        return np.cumsum([0, *self.records_per_shard[:-1]])

    @functools.cached_property
    def kinds_per_shard(self) -> np.ndarray:
        """How many records of each kind each shard has, [shards, kinds]."""
        counts = np.zeros((len(self.paths), self.num_kinds), np.int64)
        shards = np.repeat(np.arange(len(self.paths)), self.records_per_shard)
        members = self.kinds != OUTSIDE
        np.add.at(counts, (shards[members], self.kinds[members]), 1)
        return counts


def steps_per_epoch(split: Split, data: run.Data) -> int:
    """Whole batches in an epoch; the few records that do not fill one are others in each epoch."""
    count = int(draws_per_lake(split, data).sum())
    if count < data.batch_size:
        raise InputError(
            f"batch_size={data.batch_size}, but the training split has {count} records"
        )
    return count // data.batch_size


def draws_per_lake(split: Split, data: run.Data) -> np.ndarray:
    """How many records an epoch draws of each lake, [lakes]: all of the first, and of another one
    so many by its weight, some twice where they are too few."""
    first = _drawable(split, data)[:, :KINDS_OF_LAKE].sum()
    return np.rint(first * np.array(split.weights)).astype(np.int64)


def positive_share(data: run.Data, epoch: int, epochs: int) -> float | None:
    """Of an epoch's draws; None where every record is drawn once."""
    if data.positives_only:
        return 1.0
    if data.positive_share is None:
        return None
    first, last = data.positive_share
    return first - (first - last) * epoch / epochs


def group_rows(
    split: Split,
    data: run.Data,
    seed: int,
    epochs: int,
    first_step: int,
    stream: int = 0,
    streams: int = 1,
) -> dict[str, np.ndarray]:
    """One row a group of shards still to be read: epoch, group, shards [G] (-1: none), how many are
    drawn of each kind, draws [kinds], and from which to which of the shuffled draws are wanted,
    begin and end. An epoch's draws are cut into equal streams, each a stretch of its groups."""
    per_epoch, of_step = steps_per_epoch(split, data), data.batch_size // streams
    data = data.model_copy(update={"group_shards": _group_shards(split, data, streams)})
    first_epoch = first_step // per_epoch
    rows = []
    for epoch in range(first_epoch, epochs):
        skipped = first_step - first_epoch * per_epoch if epoch == first_epoch else 0
        begin = stream * per_epoch * of_step
        wanted = (begin + skipped * of_step, begin + per_epoch * of_step)
        rows.append(_rows_of_epoch(split, data, seed, epoch, epochs, wanted))
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _group_shards(split: Split, data: run.Data, streams: int) -> int:
    """So few that every stream has a group of its own."""
    if len(split.paths) < streams:
        raise InputError(
            f"split {split.name!r} has {len(split.paths)} shards for {streams} workers "
            f"(data.streams), and each reads its own; convert the lake again with "
            f"--min_shards={streams}, or use fewer workers"
        )
    return min(data.group_shards, len(split.paths) // streams)


def _rows_of_epoch(
    split: Split, data: run.Data, seed: int, epoch: int, epochs: int, wanted: tuple[int, int]
) -> dict[str, np.ndarray]:
    order = _shard_order(split, seed, epoch)
    starts = np.arange(0, len(order), data.group_shards)
    available = np.add.reduceat(_drawable(split, data)[order], starts)  # [groups, kinds]
    share = positive_share(data, epoch, epochs)
    draws = _draws_of_groups(available, draws_per_lake(split, data), share)
    after = np.cumsum(draws.sum(axis=1))
    before = after - draws.sum(axis=1)
    begin, end = (np.clip(edge, before, after) - before for edge in wanted)
    padded = np.pad(order, (0, -len(order) % data.group_shards), constant_values=-1)
    rows = {
        "epoch": np.full(len(starts), epoch),
        "group": np.arange(len(starts)),
        "shards": padded.reshape(-1, data.group_shards),
        "draws": draws,
        "begin": begin,
        "end": end,
    }
    return {name: values[begin < end].astype(np.int64) for name, values in rows.items()}


def _shard_order(split: Split, seed: int, epoch: int) -> np.ndarray:
    """The shards permuted; those of each lake evenly along the epoch."""
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(len(split.paths))
    if not split.lakes:
        return order
    lakes, places = np.array(split.lakes)[order], np.empty(len(order))
    for lake in range(len(split.weights)):
        count = (lakes == lake).sum()
        places[lakes == lake] = (np.arange(count) + 0.5) / count
    return order[np.argsort(places, kind="stable")]


def _drawable(split: Split, data: run.Data) -> np.ndarray:
    """How many records of each kind of each shard an epoch may draw, [shards, kinds]."""
    return split.kinds_per_shard * np.tile([not data.positives_only, True], len(split.weights))


def _draws_of_groups(available: np.ndarray, draws: np.ndarray, share: float | None) -> np.ndarray:
    """How many each group draws of each kind, [groups, kinds]: its part of each lake's draws, as
    many of them positives as the share says."""
    available = available.reshape(len(available), -1, KINDS_OF_LAKE)  # [groups, lakes, 2]
    totals, positives = available.sum(axis=2), available[..., POSITIVE]
    # Rounded along the epoch, so that all groups together have the lake's draws exactly.
    drawn = np.diff(np.cumsum(totals, axis=0) * draws // totals.sum(axis=0), axis=0, prepend=0)
    wanted = np.rint(drawn * (share or 0)).astype(np.int64)
    # Of one kind, it gives that kind alone; without a share all are OTHER.
    wanted = np.where(positives == 0, 0, np.where(positives == totals, drawn, wanted))
    return np.stack([drawn - wanted, wanted], axis=2).reshape(len(available), -1)


def draw_group(row: dict, split: Split, seed: int) -> tuple:
    """The wanted draws of a group, shuffled, [N] each: which of the group's stored records, the
    number of that record in the split, how often it was drawn before in this epoch."""
    shards = tf.boolean_mask(row["shards"], row["shards"] >= 0)
    firsts = tf.gather(tf.constant(split.first_records, tf.int64), shards)
    stored = tf.gather(tf.constant(split.records_per_shard, tf.int64), shards)
    numbers = tf.ragged.range(firsts, firsts + stored).flat_values
    kinds = tf.gather(tf.constant(split.kinds), numbers)

    def shuffled(values, stream: int, kind: int = 0):
        seeds = stateless_seed(seed, stream, row["epoch"], row["group"] + kind * 2**32)
        return tf.random.experimental.stateless_shuffle(values, seed=seeds, alg="philox")

    def drawn(kind: int):
        """So many of a kind in a random order, again and again where they are too few, [D, 2]."""
        places = shuffled(tf.where(kinds == kind)[:, 0], KINDS, kind)
        counted = tf.range(row["draws"][kind])
        times = counted // tf.maximum(tf.size(places, tf.int64), 1)
        places = tf.gather(places, counted - times * tf.size(places, tf.int64))
        return tf.stack([places, times], axis=1)

    draws = shuffled(tf.concat([drawn(kind) for kind in range(split.num_kinds)], axis=0), SHUFFLE)
    places, repeats = tf.unstack(draws[row["begin"] : row["end"]], axis=1)
    return places, tf.gather(numbers, places), repeats


def stateless_seed(seed: int, stream: int, epoch, number):
    """Two 64-bit words, different for every (seed, stream, epoch, number below 2^40)."""
    return tf.stack([tf.constant(seed * 8 + stream, tf.int64), epoch * 2**40 + number])
