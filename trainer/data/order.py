"""Which records when: the order of an epoch, a function of (seed, epoch) alone, and the part of it
behind a step.

An epoch permutes the shards and takes them in groups of data.group_shards. Of each group some
records are drawn and shuffled in memory; the groups follow one another. So a run that resumes at
step k skips whole groups without reading them.

- Several streams (data.streams, else one per worker): each takes an equal stretch of the groups.
  Where a stretch ends inside a group, both streams read it, but each takes draws of its own.
- Kinds (of which lake; with a lesion or not) are drawn apart, so that each group gives its share of
  each kind. The shards of several lakes are spread evenly among each other.
"""

import functools
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from lake import InputError
from trainer.config.run import Data
from trainer.data.record import Findings

# The kind of a stored record: OUTSIDE does not belong to the split; the others are drawn from
# apart. The kinds of a further lake are the next two numbers.
OUTSIDE, OTHER, POSITIVE = -1, 0, 1
KINDS_PER_LAKE = 2
DRAWS, SHUFFLE, KINDS = range(1, 4)  # keep the streams of random numbers apart


@dataclass(frozen=True)
class Split:
    """Shards, and which of their records belong to the split."""

    name: str
    paths: tuple[str, ...]
    records_per_shard: tuple[int, ...]
    dtype: str
    counts: dict  # as a manifest counts a split: records, positives, with_mask, …
    kinds: np.ndarray  # int8, per stored record in the order of the shards
    # With several lakes: each shard's lake, and each lake's draws per draw from the first.
    lakes: tuple[int, ...] = ()
    weights: tuple[float, ...] = (1.0,)
    findings: Findings | None = None  # those that batches have; None: none

    @property
    def num_records(self) -> int:
        return int(self.kinds_per_shard.sum())

    @property
    def num_kinds(self) -> int:
        return KINDS_PER_LAKE * len(self.weights)

    @property
    def is_whole(self) -> bool:
        """Whether every stored record belongs to the split."""
        return self.num_records == len(self.kinds)

    @property
    def first_records(self) -> np.ndarray:
        """The number of each shard's first record among all stored ones."""
        return np.cumsum([0, *self.records_per_shard[:-1]])

    @functools.cached_property
    def kinds_per_shard(self) -> np.ndarray:
        """The number of records of each kind in each shard, [shards, kinds]."""
        counts = np.zeros((len(self.paths), self.num_kinds), np.int64)
        shards = np.repeat(np.arange(len(self.paths)), self.records_per_shard)
        members = self.kinds != OUTSIDE
        np.add.at(counts, (shards[members], self.kinds[members]), 1)
        return counts


def steps_per_epoch(split: Split, data: Data) -> int:
    """Return the number of whole batches in an epoch. Raises InputError where there is none.

    The few records that do not fill a batch are left out, others in each epoch.
    """
    count = int(draws_per_lake(split, data).sum())
    if count < data.batch_size:
        records = f"{count} record" + "s" * (count != 1)
        advice = f"; give a --data.batch_size of {count} or less" * (count > 0)
        raise InputError(
            f"batch_size={data.batch_size}, but the training split has {records}{advice}"
        )
    return count // data.batch_size


def draws_per_lake(split: Split, data: Data) -> np.ndarray:
    """Return the number of records that an epoch draws from each lake, [lakes].

    It draws every record of the first lake once. The others' weights are relative to that number;
    a lake with fewer records gives some of them several times.
    """
    first = _drawable_records(split, data)[:, :KINDS_PER_LAKE].sum()
    return np.rint(first * np.array(split.weights)).astype(np.int64)


def positive_share(data: Data, epoch: int, epochs: int) -> float | None:
    """Return the share of positives among an epoch's draws; None: each record is drawn once."""
    if data.positives_only:
        return 1.0
    if data.positive_share is None:
        return None
    first, last = data.positive_share
    return first - (first - last) * epoch / epochs


def group_rows(
    split: Split,
    data: Data,
    seed: int,
    epochs: int,
    first_step: int,
    stream: int = 0,
    num_streams: int = 1,
) -> dict[str, np.ndarray]:
    """Return one row per group of shards that is still to be read, int64:

        epoch, group          numbers
        shards [G]            the group's shards, -1 where it has fewer
        draws [kinds]         how many records of each kind are drawn
        begin, end            which of the shuffled draws are wanted

    An epoch's draws are cut into equal streams, each a stretch of its groups.
    """
    per_epoch, stream_batch = steps_per_epoch(split, data), data.batch_size // num_streams
    group_size = _group_size(split, data, num_streams)
    first_epoch, step_in_epoch = divmod(first_step, per_epoch)
    # The stream's stretch of an epoch's draws, of which the first epoch's was used up to a step.
    start = stream * per_epoch * stream_batch
    end = start + per_epoch * stream_batch
    rows = []
    for epoch in range(first_epoch, epochs):
        begin = start + step_in_epoch * stream_batch if epoch == first_epoch else start
        rows.append(_epoch_rows(split, data, seed, epoch, epochs, (begin, end), group_size))
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _group_size(split: Split, data: Data, num_streams: int) -> int:
    """Return the number of shards per group: data.group_shards, or so few that every stream has a
    group of its own. Raises InputError where there are fewer shards than streams."""
    if len(split.paths) < num_streams:
        raise InputError(
            f"split {split.name!r} has {len(split.paths)} shards for {num_streams} streams "
            f"(data.streams; by default one per worker), and each reads its own; convert the lake "
            f"again with --min_shards={num_streams}, or use fewer workers"
        )
    return min(data.group_shards, len(split.paths) // num_streams)


def _epoch_rows(
    split: Split,
    data: Data,
    seed: int,
    epoch: int,
    epochs: int,
    stretch: tuple[int, int],
    group_size: int,
) -> dict[str, np.ndarray]:
    """Return the rows of an epoch's groups that hold draws of the stretch [begin, end)."""
    order = _shard_order(split, seed, epoch)
    starts = np.arange(0, len(order), group_size)
    available = np.add.reduceat(_drawable_records(split, data)[order], starts)  # [groups, kinds]
    share = positive_share(data, epoch, epochs)
    draws = _draws_per_group(available, draws_per_lake(split, data), share)  # [groups, kinds]
    # The draws of all groups in a row, numbered: a group's are the numbers before … after. The
    # stretch is clipped to them and counted from the group's first draw, so begin = end where the
    # group has no draw of the stretch.
    after = np.cumsum(draws.sum(axis=1))
    before = after - draws.sum(axis=1)
    begin, end = (np.clip(edge, before, after) - before for edge in stretch)
    padded = np.pad(order, (0, -len(order) % group_size), constant_values=-1)
    rows = {
        "epoch": np.full(len(starts), epoch),
        "group": np.arange(len(starts)),
        "shards": padded.reshape(-1, group_size),
        "draws": draws,
        "begin": begin,
        "end": end,
    }
    return {name: values[begin < end].astype(np.int64) for name, values in rows.items()}


def _shard_order(split: Split, seed: int, epoch: int) -> np.ndarray:
    """Return the shards permuted; those of each lake evenly along the epoch."""
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(len(split.paths))
    if not split.lakes:
        return order
    # A lake's n shards, as permuted, stand at the positions 0.5/n, 1.5/n, … of the epoch.
    lakes, positions = np.array(split.lakes)[order], np.empty(len(order))
    for lake in range(len(split.weights)):
        count = (lakes == lake).sum()
        positions[lakes == lake] = (np.arange(count) + 0.5) / count
    return order[np.argsort(positions, kind="stable")]


def _drawable_records(split: Split, data: Data) -> np.ndarray:
    """Return the number of records of each kind that an epoch may draw from each shard, [shards,
    kinds]."""
    return split.kinds_per_shard * np.tile([not data.positives_only, True], len(split.weights))


def _draws_per_group(available: np.ndarray, draws: np.ndarray, share: float | None) -> np.ndarray:
    """Return the number of records of each kind that each group gives, [groups, kinds].

    `available` [groups, kinds]; `draws` [lakes]: the epoch's draws; `share`: of positives.
    """
    available = available.reshape(len(available), -1, KINDS_PER_LAKE)  # [groups, lakes, 2]
    totals, positives = available.sum(axis=2), available[..., POSITIVE]  # [groups, lakes]
    # Each group gives in proportion to its records. The running total is rounded, not each group's
    # number, so that all groups together give a lake's draws exactly.
    running_totals = np.cumsum(totals, axis=0) * draws // totals.sum(axis=0)
    counts = np.diff(running_totals, axis=0, prepend=0)
    # A group with one kind gives that kind alone. Without a share all records are OTHER.
    num_positive = np.rint(counts * (share or 0)).astype(np.int64)
    num_positive = np.where(positives == totals, counts, num_positive)
    num_positive = np.where(positives == 0, 0, num_positive)
    return np.stack([counts - num_positive, num_positive], axis=2).reshape(len(available), -1)


def draw_group(row: dict, split: Split, seed: int) -> tuple:
    """Return three columns [N] of the wanted draws of a group, shuffled: the record's position in
    the group, its number in the split, and the number of times that the epoch drew it before.

    `row`: one of group_rows, as tensors.
    """
    # Records of a group are numbered twice: by position, in the order in which the group is read,
    # and by number, in the order of all the split's shards. The second does not depend on groups
    # and epochs: it seeds the augmentation, and it finds an image in the cache.
    shards = tf.boolean_mask(row["shards"], row["shards"] >= 0)
    firsts = tf.gather(tf.constant(split.first_records, tf.int64), shards)
    sizes = tf.gather(tf.constant(split.records_per_shard, tf.int64), shards)
    numbers = tf.ragged.range(firsts, firsts + sizes).flat_values  # [records in the group]
    kinds = tf.gather(tf.constant(split.kinds), numbers)

    def shuffle(values, stream: int, kind: int = 0):
        seeds = stateless_seed(seed, stream, row["epoch"], row["group"] + kind * 2**32)
        return tf.random.experimental.stateless_shuffle(values, seed=seeds, alg="philox")

    def draw_kind(kind: int):
        """Return (position, times drawn before) of so many records of a kind, [draws, 2]."""
        # Draw i is record i mod n of the shuffled n: where n are too few, all of them come again
        # in the same order, for the (i // n)th time. (At least 1, for a kind without records.)
        positions = shuffle(tf.where(kinds == kind)[:, 0], KINDS, kind)
        draws = tf.range(row["draws"][kind])
        times = draws // tf.maximum(tf.size(positions, tf.int64), 1)
        positions = tf.gather(positions, draws - times * tf.size(positions, tf.int64))
        return tf.stack([positions, times], axis=1)

    # The kinds one after the other, then shuffled together. Only then the stretch is cut out, so
    # that it is the same draws whether a run starts here or came through.
    by_kind = [draw_kind(kind) for kind in range(split.num_kinds)]
    draws = shuffle(tf.concat(by_kind, axis=0), SHUFFLE)  # [draws, 2]
    positions, repeats = tf.unstack(draws[row["begin"] : row["end"]], axis=1)
    return positions, tf.gather(numbers, positions), repeats


def stateless_seed(seed: int, stream: int, epoch, number):
    """Return two 64-bit words, different for every (seed, stream, epoch, number below 2^40)."""
    return tf.stack([tf.constant(seed * 8 + stream, tf.int64), epoch * 2**40 + number])
