"""The splits of a lake that a run trains on, is validated on and is scored on: which records of
which shards.

No image is read here: the manifest has the counts, the index has folds and patients. `content` is a
lake's manifest, `folder` the lake.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow
import tensorflow as tf

from lake import InputError, storage
from lake.records import index, manifest
from lake.records.example import FINDINGS
from lake.terminal import cli, console
from trainer.config import required
from trainer.config.run import Config, Data
from trainer.data import order, seen
from trainer.data.order import Split
from trainer.data.record import Findings


def named_split(content: dict, folder: str, name: str, findings: Sequence[str] = ()) -> Split:
    """Return a split by its name, with these findings; raise InputError when the lake has no record
    of it."""
    shards = required.shards_of(content, folder, name)
    split = _whole_split(name, shards, content, folder, content["counts"]["splits"][name])
    return _with_findings(split, content, folder, [name], findings)


def open_lakes(folder: str, data: Data) -> list[dict]:
    """Return the manifests of a run's lake and of its data.more_lakes."""
    return [manifest.load(name) for name in (folder, *data.more_lakes)]


def positive_pixel_share(lakes: list[dict], data: Data) -> float:
    """Return the share of positive pixels in positive images: the lakes' mean by their weights."""
    weights = [1.0, *data.more_lakes.values()]
    shares = [lake["statistics"]["positive_pixel_share_of_positives"] for lake in lakes]
    return float(np.average(shares, weights=weights))


def training_split(
    lakes: list[dict], folder: str, data: Data, is_classifier: bool, findings: Sequence[str] = ()
) -> Split:
    """Return the records that a run trains on, from all its lakes; `folder` is the first one's, and
    a fold is held out of that one alone. Raises InputError for lakes that do not go together."""
    content, *others = lakes
    splits = [_lake_split(content, folder, data, is_classifier, findings)]
    if not others:
        return splits[0]
    data_without_fold = data.model_copy(update={"fold": None})
    for other_folder, other in zip(data.more_lakes, others, strict=True):
        _check_alike(content, folder, other, other_folder)
        splits.append(_lake_split(other, other_folder, data_without_fold, is_classifier, findings))
    return _join(splits, (1.0, *data.more_lakes.values()))


def _check_alike(content: dict, folder: str, other: dict, other_folder: str) -> None:
    """Raise InputError where two lakes have images or classes that do not go together."""
    if content["dtype"] != other["dtype"]:
        raise InputError(
            f"data.more_lakes: {other_folder} has {other['dtype']} images, {folder} "
            f"{content['dtype']}; convert one of them again with --bits"
        )
    classes = [lake.get("classes", ["0", "1"]) for lake in (content, other)]
    have_names = "classes" in content and "classes" in other
    if len(classes[0]) != len(classes[1]) or (have_names and classes[0] != classes[1]):
        raise InputError(
            f"data.more_lakes: {other_folder} has the classes {', '.join(classes[1])}, {folder} "
            f"{', '.join(classes[0])}; expected the same"
        )
    # In the same order, too: the records of all lakes are read alike.
    findings = [manifest.findings(lake) for lake in (content, other)]
    if findings[0] != findings[1]:
        texts = [", ".join(names) or "none" for names in findings]
        raise InputError(
            f"data.more_lakes: {other_folder} has the findings {texts[1]}, {folder} {texts[0]}; "
            f"expected the same in the same order, such as by --findings of both conversions"
        )


def _join(splits: list[Split], weights: tuple[float, ...]) -> Split:
    """Return one split of several lakes, to draw from by the weights."""
    kinds, lakes = [], []
    for lake, split in enumerate(splits):
        is_member = split.kinds != order.OUTSIDE
        kinds.append(split.kinds + order.KINDS_PER_LAKE * lake * is_member.astype(np.int8))
        lakes += [lake] * len(split.paths)
    return Split(
        name=f"{splits[0].name}, {len(splits)} lakes",
        paths=tuple(path for split in splits for path in split.paths),
        records_per_shard=tuple(n for split in splits for n in split.records_per_shard),
        dtype=splits[0].dtype,
        counts=_sum_counts([split.counts for split in splits]),
        kinds=np.concatenate(kinds),
        lakes=tuple(lakes),
        weights=weights,
        findings=splits[0].findings,
    )


def _sum_counts(counts: list[dict]) -> dict:
    """Return the sums of the counts of splits, each with its classes."""
    names = ("records", "positives", "negatives", "unknown", "with_mask", "lesion_pixels")
    names += (FINDINGS,) if FINDINGS in counts[0] else ()
    return index.total(
        [
            {name: split[name] for name in names}
            | {"classes": split.get("classes", [split["negatives"], split["positives"]])}
            for split in counts
        ]
    )


def _lake_split(
    content: dict, folder: str, data: Data, is_classifier: bool, findings: Sequence[str]
) -> Split:
    """Return the records that a run trains on from one lake; where positives are drawn apart, the
    lake's index says which records they are. Raises InputError where there is only one kind."""
    if data.fold is None:
        names = [data.train_split]
        split = named_split(content, folder, data.train_split, findings)
    else:
        names = manifest.FOLDED
        split = fold_split(content, folder, data.fold, is_held_out=False, findings=findings)
    if not (data.positives_only or data.positive_share):
        return split
    if split.findings:
        is_positive = (_findings_of_records(split, folder, names) > 0).any(axis=1)
    else:
        column = "label" if is_classifier else "lesion_px"
        is_positive = _read_index(folder, names, split, [column])[column].to_numpy() > 0
    num_positives = int((is_positive & (split.kinds != order.OUTSIDE)).sum())
    if num_positives in (0, split.num_records):
        sign = "one of the findings" if split.findings else "a lesion"
        raise InputError(
            f"{folder}: {num_positives} of the {split.num_records} images to train on have "
            f"{sign}; data.positive_share and data.positives_only need both kinds"
        )
    member_kinds = np.where(is_positive, order.POSITIVE, order.OTHER).astype(np.int8)
    kinds = np.where(split.kinds == order.OUTSIDE, split.kinds, member_kinds)
    return dataclasses.replace(split, kinds=kinds)


def _with_findings(
    split: Split, content: dict, folder: str, names: Sequence[str], findings: Sequence[str]
) -> Split:
    """Return a split whose batches have these findings, found in the lake by their names, and whose
    counts have [F, 3] numbers of its records: with each finding, without it, and not known. `names`
    are those of the lake's splits that hold the records."""
    if not findings:
        return split
    stored_names = manifest.findings(content)
    places = tuple(stored_names.index(name) for name in findings)
    split = dataclasses.replace(split, findings=Findings(len(stored_names), places))
    values = _findings_of_records(split, folder, names)[split.kinds != order.OUTSIDE]
    counts = [(values == state).sum(axis=0) for state in manifest.FINDING_STATES.values()]
    counts = {FINDINGS: np.stack(counts, axis=1).tolist()}
    return dataclasses.replace(split, counts=split.counts | counts)


def _findings_of_records(split: Split, folder: str, names: Sequence[str]) -> np.ndarray:
    """Return the split's findings of every stored record, int8 [N, F], from the lake's index."""
    rows = _read_index(folder, names, split, [FINDINGS])
    return index.findings(rows, split.findings.num_stored)[:, split.findings.places]


def validation_split(content: dict, folder: str, data: Data, findings: Sequence[str] = ()) -> Split:
    """Return the records on which a run is scored while it trains, and thresholds are chosen."""
    if data.fold is None:
        return named_split(content, folder, data.val_split, findings)
    return fold_split(content, folder, data.fold, is_held_out=True, findings=findings)


def validation_names(data: Data) -> tuple[str, ...]:
    """Return the names of the lake's splits that hold validation_split's records."""
    return (data.val_split,) if data.fold is None else tuple(manifest.FOLDED)


def names_in_use(data: Data) -> tuple[str, ...]:
    """Return the names of the lake's splits that a run reads."""
    return (data.train_split, data.val_split) if data.fold is None else tuple(manifest.FOLDED)


def hashes_of_column(folder: str, split: Split, names: Sequence[str], column: str) -> np.ndarray:
    """Return the hash of a column of the index, image_id or patient, for every stored record of a
    split [N]; its records lie in these splits of the lake."""
    return seen.hashes(_read_index(folder, names, split, [column])[column].to_pylist())


def without(split: Split, is_left_out: np.ndarray) -> Split:
    """Return a split without the stored records [N] that are left out."""
    return dataclasses.replace(split, kinds=np.where(is_left_out, order.OUTSIDE, split.kinds))


def patients(folder: str, split: Split, names: Sequence[str]) -> set[str]:
    """Return the patients of a split whose records lie in these splits of the lake; without the
    empty id."""
    ids = np.array(_read_index(folder, names, split, ["patient"])["patient"].to_pylist())
    return set(ids[split.kinds != order.OUTSIDE]) - {""}


def fold_split(
    content: dict, folder: str, fold: int, is_held_out: bool, findings: Sequence[str] = ()
) -> Split:
    """Return the records of one fold, or of all other folds; every shard of the splits that folds
    divide has records of both. Raises InputError where there is no such fold or record."""
    required.check_fold(content, folder, fold)
    shards = [s for s in content["shards"] if s["split"] in manifest.FOLDED and s["records"]]
    shards.sort(key=lambda shard: shard["split"])  # as the index's rows
    name = f"fold {fold}" if is_held_out else f"all folds but {fold}"
    split = _whole_split(name, shards, content, folder, {})
    rows = _read_index(folder, manifest.FOLDED, split, ["fold", "label", "has_mask", "lesion_px"])
    is_member = (rows["fold"].to_numpy() == fold) == is_held_out
    if not is_member.any():
        raise InputError(f"{folder}: no records in {name}; convert it again with fewer --folds")
    kinds = np.where(is_member, order.OTHER, order.OUTSIDE).astype(np.int8)
    counts = index.count(rows.filter(pyarrow.array(is_member)), len(content.get("classes", ())))
    split = dataclasses.replace(split, kinds=kinds, counts=counts)
    return _with_findings(split, content, folder, manifest.FOLDED, findings)


def _whole_split(name: str, shards: list[dict], content: dict, folder: str, counts: dict) -> Split:
    """Return a split to which every record of these shards belongs, each of the kind OTHER."""
    return Split(
        name=name,
        paths=tuple(tf.io.gfile.join(folder, shard["name"]) for shard in shards),
        records_per_shard=tuple(shard["records"] for shard in shards),
        dtype=content["dtype"],
        counts=counts,
        kinds=np.full(sum(shard["records"] for shard in shards), order.OTHER, np.int8),
    )


def _read_index(
    folder: str, names: Sequence[str], split: Split, columns: list[str]
) -> pyarrow.Table:
    """Return the index's rows for all records that are stored in these splits, in their order;
    raise InputError where they are not as many as the manifest says."""
    rows = index.read(storage.path_of(folder), [*index.PLACE, *columns], names)
    if len(rows) != len(split.kinds):
        raise InputError(
            f"{folder}/{manifest.INDEX} lists {len(rows)} records of {', '.join(names)}, "
            f"{manifest.MANIFEST} {len(split.kinds)}; look with "
            f"{cli.typed_command('lake verify')} {folder}"
        )
    return index.in_order(rows)


def check_labels(config: Config, split: Split, val_split: Split) -> None:
    """Raise InputError where there is nothing to learn from, or to be scored on; say which scores
    have no value where no image is without a lesion."""
    for part, use in ((split, "learn from"), (val_split, "choose epochs and thresholds on")):
        counts = part.counts
        if FINDINGS in counts:
            _check_findings(config, part)
            continue
        classes = counts.get("classes", [counts["negatives"], counts["positives"]])
        if config.is_classifier and not all(classes):
            raise InputError(
                f"{config.lake}: split {part.name!r} needs images of each class, 0 to "
                f"{len(classes) - 1}; it has {', '.join(map(str, classes))}"
            )
        if not config.is_classifier and not counts["lesion_pixels"]:
            raise InputError(
                f"{config.lake}: split {part.name!r} has no mask with a lesion to {use}; convert "
                f"to a version where it has some"
            )
        is_wanted = config.data.positives_only and part is split
        if counts["positives"] and not counts["negatives"] and not is_wanted:
            console.note(
                f"every image of {part.name} shows a lesion: its AUC has no value, and it cannot "
                f"say how often other images are marked"
            )


def _check_findings(config: Config, split: Split) -> None:
    """Raise InputError where no finding of a split has images with it and without it; say which
    findings lack one of the two."""
    has_both = [
        min(num_with, num_without) > 0 for num_with, num_without, _ in split.counts[FINDINGS]
    ]
    if not any(has_both):
        raise InputError(
            f"{config.lake}: split {split.name!r} has no finding of which some images are known to "
            f"have it and some not to; convert to a version where it has one"
        )
    names = [name for name, has in zip(config.findings, has_both, strict=True) if not has]
    if names:
        console.note(
            f"{split.name}: all images whose {' or '.join(names)} is known are alike in it, so "
            f"there is nothing to tell apart, and no AUC"
        )
