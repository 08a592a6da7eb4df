"""A lake -> its splits -> batches, with tf.data on the host; all randomness from (seed, epoch,
record).

Nothing is decoded that is not drawn: which records an epoch takes is known beforehand
(trainer/order.py). Batches hold whole numbers as the lake stores them:

    image [B, S, S, 1] uint8 or uint16    mask [B, S, S, 1] uint8, 0 or 1     window [B, 2] float32
    label [B] float32, -1 unknown         has_mask [B] float32, 0 or 1
    weight [B] float32, 0 for padding     uniforms [B, P] float32, training only
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow
import pyarrow.parquet
import tensorflow as tf

from lake import InputError, manifest
from trainer import cache, config, order, pixels
from trainer.order import Split
from trainer.workers import ALONE, Worker


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
    return _all_of(name, shards, content, folder, content["counts"]["splits"][name])


def open_lakes(folder: str, data: config.Data) -> list[dict]:
    """The manifests of the run's own lake and of its more_lakes."""
    return [open_lake(name) for name in (folder, *data.more_lakes)]


def positive_pixel_share(lakes: list[dict], data: config.Data) -> float:
    """Share of positive pixels in positive images: of more lakes the mean by their weights."""
    weights = [1.0, *data.more_lakes.values()]
    shares = [lake["statistics"]["positive_pixel_share_of_positives"] for lake in lakes]
    return float(np.average(shares, weights=weights))


def training_split(lakes: list[dict], folder: str, data: config.Data, is_classifier: bool) -> Split:
    """What a run trains on, of all its lakes; `folder` is the first's. A fold is held out of that
    one alone."""
    content, *others = lakes
    split = _training_split(content, folder, data, is_classifier)
    if not others:
        return split
    of_others, splits = data.model_copy(update={"fold": None}), [split]
    for other_folder, other in zip(data.more_lakes, others, strict=True):
        _check_alike(content, folder, other, other_folder)
        splits.append(_training_split(other, other_folder, of_others, is_classifier))
    return _joined(splits, (1.0, *data.more_lakes.values()))


def _check_alike(content: dict, folder: str, other: dict, other_folder: str) -> None:
    """Raises InputError where two lakes have images or classes that do not go together."""
    if content["dtype"] != other["dtype"]:
        raise InputError(
            f"data.more_lakes: {other_folder} has {other['dtype']} images, {folder} "
            f"{content['dtype']}; convert one of them again with --bits"
        )
    classes = [lake.get("classes", ["0", "1"]) for lake in (content, other)]
    both_named = "classes" in content and "classes" in other
    if len(classes[0]) != len(classes[1]) or (both_named and classes[0] != classes[1]):
        raise InputError(
            f"data.more_lakes: {other_folder} has the classes {', '.join(classes[1])}, {folder} "
            f"{', '.join(classes[0])}; expected the same"
        )


def _joined(splits: list[Split], weights: tuple[float, ...]) -> Split:
    """One split of several lakes, to draw from by the weights."""
    kinds, lakes = [], []
    for lake, split in enumerate(splits):
        is_member = split.kinds != order.OUTSIDE
        kinds.append(split.kinds + order.KINDS_OF_LAKE * lake * is_member.astype(np.int8))
        lakes += [lake] * len(split.paths)
    return Split(
        name=f"{splits[0].name}, {len(splits)} lakes",
        paths=tuple(path for split in splits for path in split.paths),
        stored=tuple(stored for split in splits for stored in split.stored),
        dtype=splits[0].dtype,
        counts=_summed([split.counts for split in splits]),
        kinds=np.concatenate(kinds),
        lakes=tuple(lakes),
        weights=weights,
    )


def _summed(counts: list[dict]) -> dict:
    names = ("records", "positives", "negatives", "unknown", "with_mask", "lesion_pixels")
    summed = {name: sum(own[name] for own in counts) for name in names}
    of_classes = [own.get("classes", [own["negatives"], own["positives"]]) for own in counts]
    return summed | {"classes": [sum(numbers) for numbers in zip(*of_classes, strict=True)]}


def _training_split(content: dict, folder: str, data: config.Data, is_classifier: bool) -> Split:
    """Of one lake; where positives are drawn apart, it knows them from the lake's index."""
    if data.fold is None:
        split, names = split_of(content, folder, data.train_split), [data.train_split]
    else:
        split, names = fold_of(content, folder, data.fold, is_held_out=False), manifest.FOLDED
    if not (data.positives_only or data.positive_share):
        return split
    column = "label" if is_classifier else "lesion_px"
    is_positive = _index(folder, names, split, [column])[column].to_numpy() > 0
    positives = int((is_positive & (split.kinds != order.OUTSIDE)).sum())
    if positives in (0, split.num_records):
        raise InputError(
            f"{folder}: {positives} of the {split.num_records} images to train on have a "
            f"lesion; data.positive_share and data.positives_only need both kinds"
        )
    asked = np.where(is_positive, order.POSITIVE, order.OTHER).astype(np.int8)
    kinds = np.where(split.kinds == order.OUTSIDE, split.kinds, asked)
    return dataclasses.replace(split, kinds=kinds)


def validation_split(content: dict, folder: str, data: config.Data) -> Split:
    """What a run is scored on while it trains, and where thresholds are chosen."""
    if data.fold is None:
        return split_of(content, folder, data.val_split)
    return fold_of(content, folder, data.fold, is_held_out=True)


def validation_names(data: config.Data) -> tuple[str, ...]:
    """The splits of the lake that validation_split's records are stored in."""
    return (data.val_split,) if data.fold is None else tuple(manifest.FOLDED)


def patients(folder: str, split: Split, names: Sequence[str]) -> set[str]:
    """The patients of a split that lies in these splits of the lake; without the empty id."""
    of_records = np.array(_index(folder, names, split, ["patient"])["patient"].to_pylist())
    return set(of_records[split.kinds != order.OUTSIDE]) - {""}


def fold_of(content: dict, folder: str, fold: int, is_held_out: bool) -> Split:
    """Of the splits that folds divide: a fold's records, or all others. Their shards hold both."""
    num_folds = content["options"]["folds"]
    if not num_folds:
        raise InputError(
            f"{folder} has no folds, data.fold={fold} asks for one; convert it again with --folds 5"
        )
    if fold >= num_folds:
        raise InputError(
            f"data.fold={fold}: {folder} has the folds 0 to {num_folds - 1}; give one of them"
        )
    shards = [s for s in content["shards"] if s["split"] in manifest.FOLDED and s["records"]]
    shards.sort(key=lambda shard: shard["split"])  # as the index's rows
    name = f"fold {fold}" if is_held_out else f"all folds but {fold}"
    split = _all_of(name, shards, content, folder, {})
    rows = _index(folder, manifest.FOLDED, split, ["fold", "label", "has_mask", "lesion_px"])
    is_member = (rows["fold"].to_numpy() == fold) == is_held_out
    if not is_member.any():
        raise InputError(f"{folder}: no records in {name}; convert it again with fewer --folds")
    kinds = np.where(is_member, order.OTHER, order.OUTSIDE).astype(np.int8)
    counts = _counts(rows.filter(pyarrow.array(is_member)), content)
    return dataclasses.replace(split, kinds=kinds, counts=counts)


def _all_of(name: str, shards: list[dict], content: dict, folder: str, counts: dict) -> Split:
    return Split(
        name=name,
        paths=tuple(tf.io.gfile.join(folder, shard["name"]) for shard in shards),
        stored=tuple(shard["records"] for shard in shards),
        dtype=content["dtype"],
        counts=counts,
        kinds=np.full(sum(shard["records"] for shard in shards), order.OTHER, np.int8),
    )


def _index(folder: str, names: Sequence[str], split: Split, columns: list[str]) -> pyarrow.Table:
    """The rows of a lake's index for the stored records of these splits, in their order."""
    with tf.io.gfile.GFile(tf.io.gfile.join(folder, manifest.INDEX), "rb") as file:
        stored = pyarrow.BufferReader(file.read())  # pyarrow takes no GFile
    place = ["split", "shard", "position"]
    rows = pyarrow.parquet.read_table(
        stored, columns=[*place, *columns], filters=[("split", "in", list(names))]
    )
    if len(rows) != len(split.kinds):
        raise InputError(
            f"{folder}/{manifest.INDEX} lists {len(rows)} records of {', '.join(names)}, "
            f"{manifest.MANIFEST} {len(split.kinds)}; look with python -m lake verify {folder}"
        )
    return rows.sort_by([(column, "ascending") for column in place])


def _counts(rows: pyarrow.Table, content: dict) -> dict:
    """What the manifest counts of a split, but its patients, of these rows of the index."""
    labels, lesions = rows["label"].to_numpy(), rows["lesion_px"].to_numpy()
    counts = {
        "records": len(labels),
        "positives": int((labels > 0).sum()),
        "negatives": int((labels == 0).sum()),
        "unknown": int((labels < 0).sum()),
        "with_mask": int(rows["has_mask"].to_numpy().sum()),
        "lesion_pixels": int(lesions[lesions > 0].sum()),
    }
    if "classes" in content:
        numbers = range(manifest.num_classes(content))
        counts["classes"] = [int((labels == number).sum()) for number in numbers]
    return counts


def training_batches(
    split: Split,
    data: config.Data,
    seed: int,
    epochs: int,
    first_step: int,
    num_draws: int,
    worker: Worker = ALONE,
    extra_fields: tuple[str, ...] = (),
    decoded: cache.Decoded | None = None,
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
            pixels_of = pixels.item_of(
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
    split: Split, data: config.Data, extra_fields: tuple[str, ...] = (), worker: Worker = ALONE
) -> tf.data.Dataset:
    """A worker's part of every record once, in the order of the shards; what is missing from its
    last batches is filled up with items of weight 0, the same number of batches for all workers."""
    part, batch_size = _part_of(split, worker), data.batch_size // worker.count
    dataset = records(part).map(
        lambda record: pixels.item_of(record, split.dtype, data.side, data.fit, extra_fields),
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


def records(split: Split) -> tf.data.Dataset:
    """The split's records as they are stored, in the order of the shards."""
    is_needed = split.of_shards.any(axis=1)
    paths = [path for path, needed in zip(split.paths, is_needed, strict=True) if needed]
    records = tf.data.TFRecordDataset(paths, num_parallel_reads=None)
    # A shard that lost its end would go unnoticed here.
    num_stored = np.array(split.stored)[is_needed].sum()
    records = records.apply(tf.data.experimental.assert_cardinality(num_stored))
    if split.is_whole:
        return records
    is_member = (split.kinds != order.OUTSIDE)[np.repeat(is_needed, split.stored)]
    records = tf.data.Dataset.zip(records, tf.data.Dataset.from_tensor_slices(is_member))
    return records.filter(lambda _, is_member: is_member).map(lambda record, _: record)


def _batched(
    dataset: tf.data.Dataset, batch_size: int, decoded: cache.Decoded | None = None
) -> tf.data.Dataset:
    # A worker reads its own records; tf.distribute only cuts each batch into the replicas' parts.
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    batches = dataset.batch(batch_size, drop_remainder=True)
    if decoded:
        batches = batches.map(decoded.in_place_of_numbers, tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)


def _load_group(row: dict, split: Split, seed: int) -> dict:
    """_draw_group with the records themselves, "record": [N] strings."""
    shards = tf.boolean_mask(row["shards"], row["shards"] >= 0)
    records = tf.data.TFRecordDataset(tf.gather(tf.constant(split.paths), shards))
    records = records.batch(len(split.kinds)).get_single_element()  # [stored in the group]
    num_stored = tf.reduce_sum(tf.gather(tf.constant(split.stored), shards))
    tf.debugging.assert_equal(tf.size(records), num_stored, "records in a group of shards")
    drawn = _draw_group(row, split, seed)
    return {"record": tf.gather(records, drawn.pop("place")), **drawn}


def _draw_group(row: dict, split: Split, seed: int) -> dict:
    """The wanted draws of one group, shuffled, int64 [N] each: "place" in the group, "number" in
    the split, "epoch", "repeat"."""
    places, numbers, repeats = order.draws_of_group(row, split, seed)
    epochs = tf.fill(tf.shape(places), row["epoch"])
    return {"place": places, "number": numbers, "epoch": epochs, "repeat": repeats}


def _uniforms(drawn: dict, seed: int, num_draws: int) -> tf.Tensor:
    which = drawn["number"] + drawn["repeat"] % 256 * 2**32
    seeds = order.seed_of(seed, order.DRAWS, drawn["epoch"], which)
    return tf.random.stateless_uniform([num_draws], seed=seeds, alg="philox")
