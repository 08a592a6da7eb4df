"""Several predictions of the same images -> one submission: by majority of their masks, or by the
mean of their probability maps."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lake import InputError, storage
from lake.labels import rle
from lake.predictions import submission
from lake.predictions.folder import image_id_of
from trainer.prediction.output_folder import create

FULL = 255  # of a map: p = 1


def run(paths: Sequence[Path], output: Path, min_votes: int | None, triplet: str | None) -> str:
    """Let submissions vote, or average folders of maps; return the line to print. Raises InputError
    for paths and options that do not go together."""
    if len(paths) < 2:
        raise InputError(f"there is one prediction, {paths[0]}; a vote takes two or more")
    storage.check_writable(output.parent)
    are_folders = {path.is_dir() for path in paths}
    if len(are_folders) > 1:
        raise InputError("expected submission CSVs, or folders of probability maps; not both")
    if are_folders == {False}:
        if triplet is not None:
            raise InputError("--triplet is for probability maps; submissions take --votes")
        return vote(paths, output, min_votes)
    if min_votes is not None:
        raise InputError("--votes is for submissions; probability maps take --triplet")
    return average(paths, output, _parse_triplet(triplet or "0.5,0,0.5"))


def vote(paths: Sequence[Path], output: Path, min_votes: int | None) -> str:
    """Write the pixels that at least `min_votes` of the submissions hold; None: more than half.
    Raises InputError for another number than there are submissions."""
    min_votes = len(paths) // 2 + 1 if min_votes is None else min_votes
    if not 1 <= min_votes <= len(paths):
        raise InputError(
            f"--votes={min_votes}: expected 1 to {len(paths)}, as there are submissions"
        )
    texts = [submission.read(path) for path in paths]
    _write(paths, texts, output, lambda masks: submission.majority(masks, min_votes))
    return (
        f"{len(texts[0]):,} images, pixels that at least {min_votes} of {len(paths)} hold: {output}"
    )


def average(folders: Sequence[Path], output: Path, triplet: tuple[float, float, float]) -> str:
    """Write what the triplet makes of the mean of the maps that predict --probabilities wrote
    into each folder. A map has 256 levels, so p is known to 0.002."""
    # TensorFlow takes seconds to import, and submissions vote without it.
    import tensorflow as tf

    from trainer.inference.decision import Decision, Triplet, mask_of

    decision = Decision(Triplet(*triplet))
    maps = [_list_maps(path) for path in folders]

    def mask(paths: list[Path]) -> str:
        return rle.encode(mask_of(tf.constant(_mean_map(paths)), decision).numpy())

    _write(folders, maps, output, mask)
    images = f"{len(maps[0]):,} images, the mean of {len(folders)} maps per image"
    return f"{images}, {decision}: {output}"


def _write(paths: Sequence[Path], predictions: list[dict], output: Path, unite: Callable) -> None:
    """Write a submission of the run lengths that `unite` makes of the list of an image's
    predictions. `predictions`: {image id: prediction} of each path; raise InputError where their
    ids differ."""
    first, *others = predictions
    for path, other in zip(paths[1:], others, strict=True):
        submission.check_ids(path, other, first, str(paths[0]))
    with create(output) as file:
        file.write(submission.csv_line(submission.HEADER))
        for image_id in first:
            text = unite([prediction[image_id] for prediction in predictions])
            file.write(submission.csv_line((image_id, text)))


def _parse_triplet(text: str) -> tuple[float, float, float]:
    """Return the three numbers of --triplet; raise InputError."""
    try:
        triplet = tuple(float(number) for number in text.split(","))
    except ValueError:
        triplet = ()
    if len(triplet) != 3 or not all(0 <= number <= 1 for number in triplet):
        raise InputError(f"--triplet={text}: expected TOP,AREA_SHARE,BOTTOM, each from 0 to 1")
    return triplet


def _list_maps(folder: Path) -> dict[str, Path]:
    """Return {image id: PNG}, sorted; raise InputError where there is none."""
    maps = dict(sorted((image_id_of(path.stem), path) for path in folder.glob("*.png")))
    if not maps:
        raise InputError(f"{folder}: no .png; expected a folder that predict --probabilities wrote")
    return maps


def _mean_map(paths: list[Path]) -> np.ndarray:
    """Return the mean probability, 0 to 1, of one image's maps, float32 [H, W, 1]. Raises
    InputError where they are not 8-bit grey PNGs of one size."""
    maps = [np.asarray(Image.open(io.BytesIO(path.read_bytes()))) for path in paths]
    for path, levels in zip(paths, maps, strict=True):
        if levels.shape != maps[0].shape or levels.ndim != 2 or levels.dtype != np.uint8:
            raise InputError(
                f"{path}: {levels.dtype} {list(levels.shape)}; expected 8-bit grey levels, and the "
                f"size of {paths[0]}, {list(maps[0].shape[:2])}"
            )
    mean = np.mean(maps, axis=0, dtype=np.float64) / FULL
    return mean[..., None].astype(np.float32)
