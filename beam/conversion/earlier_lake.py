"""The lake of `--splits_from`, whose splits and folds a conversion keeps.

In: its folder, and headers of images. Out: the split and the fold that it has for an image.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from beam.conversion.deidentify import pseudonym
from beam.running import files, paths
from lake import InputError
from lake.labels.tables import MAX_SPLIT_NAME
from lake.records import manifest
from lake.scan import Header, stable_hash

SPLIT_TYPE, FOLD_TYPE = np.dtype(f"S{MAX_SPLIT_NAME}"), np.dtype(np.int8)


@dataclass(frozen=True)
class EarlierLake:
    """Holds the splits and folds of the lake that `--splits_from` names."""

    keys: np.ndarray  # uint64 [N], sorted: hashes of patients and of images
    split: np.ndarray  # SPLIT_TYPE [N]
    fold: np.ndarray  # FOLD_TYPE [N]

    def find(self, names: Iterable[str]) -> tuple[bytes, int]:
        """Return (split, fold) of the first name that the lake has; (b"", -1) when it has none."""
        for name in names:
            key = np.uint64(stable_hash(name))
            position = np.searchsorted(self.keys, key)
            if position < len(self.keys) and self.keys[position] == key:
                return bytes(self.split[position]), int(self.fold[position])
        return b"", -1


class Base(NamedTuple):
    """Holds what `--append` must know of the version that it continues, before a worker starts."""

    folder: str
    version: str
    bits: int  # of stored pixels
    classes: tuple[str, ...]  # of class folders
    num_shards: dict[str, int]  # of each split
    records: int
    # Groups, and those of them with each finding, class or lesion, int64 [splits or folds, 1 + F].
    by_split: np.ndarray
    by_fold: np.ndarray


def check(folder: str, splits: set[str], folds: int) -> dict:
    """Return the manifest of the lake in `folder`; raise InputError where it has a split that is
    not among `splits`, or another number of folds."""
    path = paths.join(folder, manifest.MANIFEST)
    if not paths.exists(path):
        raise manifest.no_manifest_error(folder)
    content = manifest.parse(files.read_text(path), folder)
    unknown = set(content["counts"]["splits"]) - splits
    if unknown:
        raise InputError(
            f"--splits_from={folder} has the splits {sorted(unknown)}, which --splits, "
            f"{', '.join(sorted(splits))}, lacks; name the same splits in both"
        )
    if content["options"]["folds"] != folds:
        raise InputError(
            f"--splits_from={folder} has {content['options']['folds']} folds, but --folds={folds}; "
            f"use the same number"
        )
    return content


def read(folder: str | None) -> EarlierLake | None:
    """Return the splits and folds in the index of the lake in `folder`; None without a folder."""
    if folder is None:
        return None
    from lake.records import index  # pyarrow takes 0.2 s to import

    with files.open_binary(paths.join(folder, manifest.INDEX)) as file:
        table = index.read_file(file, ("patient", "image_id", "split", "fold"))
    splits, folds = np.array(table["split"].to_pylist(), "S"), table["fold"].to_numpy()
    patients = [(f"patient/{name}", n) for n, name in enumerate(table["patient"].to_pylist())]
    images = [(f"image/{name}", n) for n, name in enumerate(table["image_id"].to_pylist())]
    pairs = [*(pair for pair in patients if pair[0] != "patient/"), *images]
    keys = np.array([stable_hash(name) for name, _ in pairs], np.uint64)
    keys, positions = np.unique(keys, return_index=True)
    rows = np.array([n for _, n in pairs], np.int64)[positions]
    return EarlierLake(keys, splits[rows].astype(SPLIT_TYPE), folds[rows].astype(FOLD_TYPE))


def names(header: Header, key_file: str | None) -> list[str]:
    """Return the names under which the lake may have an image: its patient, then the image itself,
    hashed or not."""
    patient = pseudonym("patient", header.patient, key_file)
    image_pseudonym = pseudonym("image", header.image_id, key_file)
    patient_names = [f"patient/{patient}"] if header.patient else []
    return [*patient_names, f"image/{header.image_id}", f"image/{image_pseudonym}"]
