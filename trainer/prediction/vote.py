"""Several predictions of the same images -> one submission: by majority of their masks, or by the
mean of their probability maps."""

import collections
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from lake import InputError, storage
from lake.labels import rle
from lake.predictions import submission
from trainer.inference import decision
from trainer.inference.decision import Decision, Triplet
from trainer.prediction import output_folder

FULL = 255  # of a map: p = 1


def run(paths: Sequence[Path], output: Path, votes: int | None, triplet: str | None) -> str:
    """Submissions vote, folders of maps are averaged; returns a line to print."""
    if len(paths) < 2:
        raise InputError(f"one prediction, {paths[0]}; a vote takes two or more")
    storage.check_writable(output.parent)
    are_folders = {path.is_dir() for path in paths}
    if len(are_folders) > 1:
        raise InputError("expected submission CSVs, or folders of probability maps; not both")
    if are_folders == {False}:
        if triplet is not None:
            raise InputError("--triplet is for probability maps; submissions take --votes")
        return vote(paths, output, votes)
    if votes is not None:
        raise InputError("--votes is for submissions; probability maps take --triplet")
    return average(paths, output, _decision(triplet or "0.5,0,0.5"))


def vote(paths: Sequence[Path], output: Path, votes: int | None) -> str:
    """Keeps the pixels that at least `votes` of the submissions hold; None: more than half."""
    votes = len(paths) // 2 + 1 if votes is None else votes
    if not 1 <= votes <= len(paths):
        raise InputError(f"--votes={votes}: expected 1 to {len(paths)}, as there are submissions")
    first, *others = [submission.read(path) for path in paths]
    for path, other in zip(paths[1:], others, strict=True):
        submission.check_ids(path, other, first, str(paths[0]))
    with output_folder.Table(output, submission.HEADER) as table:
        for image_id, text in first.items():
            texts = [text, *(other[image_id] for other in others)]
            table.write(image_id, submission.majority(texts, votes))
    return f"{len(first):,} images, pixels that at least {votes} of {len(paths)} hold: {output}"


def average(folders: Sequence[Path], output: Path, chosen: Decision) -> str:
    """The mean of the maps that predict --probabilities wrote into each folder, then the triplet.

    A map has 256 levels, so p is known to 0.002.
    """
    maps = [_maps(folder) for folder in folders]
    for folder, other in zip(folders[1:], maps[1:], strict=True):
        submission.check_ids(folder, other, maps[0], str(folders[0]))
    with output_folder.Table(output, submission.HEADER) as table:
        for image_id in sorted(maps[0]):
            mask = decision.mask_of(_mean([of[image_id] for of in maps]), chosen).numpy()
            table.write(image_id, rle.encode(mask))
    return f"{len(maps[0]):,} images, the mean of {len(folders)} maps each, {chosen}: {output}"


def _decision(triplet: str) -> Decision:
    try:
        found = Triplet(*(float(number) for number in triplet.split(",")))
    except (TypeError, ValueError):  # not three, not numbers
        found = Triplet(-1, -1, -1)
    if not all(0 <= number <= 1 for number in found):
        raise InputError(f"--triplet={triplet}: expected TOP,AREA_SHARE,BOTTOM, each of 0 to 1")
    return Decision(found)


def _maps(folder: Path) -> dict[str, Path]:
    found = {output_folder.id_of(path): path for path in folder.glob("*.png")}
    if not found:
        raise InputError(f"{folder}: no .png; expected a folder that predict --probabilities wrote")
    return found


def _mean(paths: list[Path]) -> tf.Tensor:
    """[H, W, 1] float32; raises InputError where maps of one image have different sizes."""
    levels = [np.asarray(Image.open(io.BytesIO(path.read_bytes()))) for path in paths]
    sizes = collections.Counter(of.shape for of in levels)
    if len(sizes) > 1 or levels[0].dtype != np.uint8 or levels[0].ndim != 2:
        raise InputError(f"{paths[0]}: expected grey maps of one size, found {list(sizes)}")
    mean = np.mean(levels, axis=0, dtype=np.float64) / FULL
    return tf.constant(mean[..., None], tf.float32)
