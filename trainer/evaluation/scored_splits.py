"""Which images are scored: the splits of a lake, without those that the runs have seen.

In: an ensemble and the lake in use. Out: a ScoredSplits, or an InputError where nothing is left.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lake import InputError
from trainer.config import required
from trainer.data import damage, order, splits
from trainer.data.batches import Split
from trainer.inference import kinship
from trainer.inference.ensemble import Ensemble
from trainer.inference.kinship import LakeInUse


class ScoredSplits(NamedTuple):
    """What is scored, and what thresholds are chosen on."""

    # One pair or one for each fold that members hold out; empty where thresholds are frozen.
    validation: list[tuple[Ensemble, Split]]
    test: Split | None  # None where the lake has no other split than that of validation
    notes: list[str]  # which images were left out, and why


def open_splits(ensemble: Ensemble, lake: LakeInUse, is_frozen: bool) -> ScoredSplits:
    """Return the splits of a lake that are scored; `is_frozen`: thresholds are there already, and
    every split of the lake can be a test."""
    content, folder = lake.manifest, lake.folder
    for member in ensemble.everyone:
        required.check_classes(content, folder, member.config)
    if is_frozen:
        name = _test_name(ensemble, lake)
        damage.check_shards(content, folder, [name], ensemble.settings)
        split = splits.named_split(content, folder, name, ensemble.findings)
        test, notes = _without_seen(ensemble, folder, split)
        return ScoredSplits([], test, notes)
    parts = [
        (part, splits.validation_split(content, folder, part.settings, part.findings))
        for part in ensemble.fold_ensembles()
    ]
    has_test = content["counts"]["splits"].get("test", {}).get("records")
    is_tested = has_test and parts[0][1].name != "test"
    names = {name for part, _ in parts for name in splits.validation_names(part.settings)}
    names |= {"test"} if is_tested else set()
    damage.check_shards(content, folder, names, ensemble.settings)
    notes = []
    for number, (part, split) in enumerate(parts):
        left, part_notes = _without_learnt(part, folder, split)
        parts[number] = part, left
        notes += part_notes
    if not is_tested:
        return ScoredSplits(parts, test=None, notes=notes)
    test = splits.named_split(content, folder, "test", ensemble.findings)
    for part, split in parts:
        _check_patients(folder, split, splits.validation_names(part.settings), test)
    test, test_notes = _without_seen(ensemble, folder, test)
    return ScoredSplits(parts, test, notes + test_notes)


def _test_name(ensemble: Ensemble, lake: LakeInUse) -> str:
    """Return the name of the split of another lake that is scored: test, else that of validation,
    else the only one. Raises InputError where there are others."""
    counts = lake.manifest["counts"]["splits"]
    names = [name for name, split in counts.items() if split["records"]]
    for name in ("test", ensemble.settings.val_split, *(names if len(names) == 1 else ())):
        if name in names:
            return name
    raise InputError(
        f"{lake.folder}: no split test or {ensemble.settings.val_split} to score; it has "
        f"{', '.join(names)}"
    )


def _without_learnt(part: Ensemble, folder: str, split: Split) -> tuple[Split, list[str]]:
    """Return a validation split without the images that its runs learnt from, and sentences about
    it; raise InputError where no image is left."""
    seen, _ = kinship.seen_by(part)
    ids = splits.hashes_of_column(folder, split, splits.validation_names(part.settings), "image_id")
    is_learnt = (split.kinds != order.OUTSIDE) & np.isin(ids, seen.trained)
    num_learnt = int(is_learnt.sum())
    if not num_learnt:
        return split, []
    if num_learnt < split.num_records:
        left_out = f"{num_learnt:,} of {split.num_records:,} images of {split.name} were left out"
        return splits.without(split, is_learnt), [f"{left_out}: a run learnt from them."]
    if part.settings.val_split == part.settings.train_split:  # as the config asks
        return split, [f"{split.name} is what the run learnt from: its scores are too high."]
    raise InputError(
        f"{folder}: a run learnt from all {num_learnt:,} images of {split.name}, so no thresholds "
        f"can be chosen on it; give a lake with other images"
    )


def _without_seen(ensemble: Ensemble, folder: str, test: Split) -> tuple[Split, list[str]]:
    """Return a test split without the images that the runs have seen, and sentences about it; raise
    InputError where no image is left."""
    seen, notes = kinship.seen_by(ensemble)
    ids = splits.hashes_of_column(folder, test, [test.name], "image_id")
    is_learnt = np.isin(ids, seen.trained)
    is_chosen = np.isin(ids, seen.chosen) & ~is_learnt
    reason = f"a run learnt from {is_learnt.sum():,} of them"
    if is_chosen.any():
        reason += f", and {is_chosen.sum():,} picked its epoch and thresholds"
    is_seen = is_learnt | is_chosen
    if is_seen.all():
        raise InputError(
            f"{folder}: no image of {test.name} is left to be scored: {reason}, all "
            f"{len(ids):,}; give a lake with other images"
        )
    if is_seen.any():
        left_out = f"{is_seen.sum():,} of {len(ids):,} images of {test.name} were left out"
        notes.append(f"{left_out}: {reason}.")
    patients = splits.hashes_of_column(folder, test, [test.name], "patient")
    is_known = np.isin(patients, seen.patients) & ~is_seen
    if is_known.any():
        notes.append(
            f"{is_known.sum():,} images of {test.name} are, by their patient ids, of patients that "
            f"a run learnt from: a test needs other patients."
        )
    return splits.without(test, is_seen), notes


def _check_patients(lake: str, split: Split, names: Sequence[str], test: Split) -> None:
    """Raise InputError where a patient of the splits `names` is in the test split, too."""
    patients = splits.patients(lake, split, names) & splits.patients(lake, test, ["test"])
    if patients:
        raise InputError(
            f"{lake}: {len(patients)} patient{'s are' * (len(patients) > 1) or ' is'} in "
            f"{split.name} and in test, such as {min(patients)}; thresholds would be tested on a "
            f"patient that they were chosen on. Give each patient one split in --split_column and "
            f"convert again"
        )
