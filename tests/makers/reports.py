"""Reports of predictions that no network made."""

from pathlib import Path

import numpy as np
from makers.members import CLASSIFIER, UNET, member

from trainer.config import files
from trainer.evaluation import curves, gallery, results, scores, surfaces
from trainer.evaluation.gallery import GalleryImage
from trainer.evaluation.outcomes import decide, with_outlines
from trainer.evaluation.remarks import Remark, remarks
from trainer.evaluation.results import Evaluation, SplitScores
from trainer.inference.counts import Counts
from trainer.inference.decision import Decision
from trainer.inference.ensemble import Ensemble
from trainer.inference.kinship import LakeInUse

NASTY = "</script><img src=x onerror=alert(1)>"
OPTIONS = scores.ScoreOptions(replicates=20)
MANIFEST = {
    "dataset": "phantoms",
    "version": "1.0.0",
    "created": "2026-11-21",
    "shards": [],
    "counts": {"splits": {"test": {"records": 40, "positives": 14, "patients": 20}}},
}


def without_masks(predictions):
    """Return predictions as those of a classifier."""
    parts = {name: part[:0] for name, part in predictions.counts._asdict().items()}
    empty = Counts(**parts | {"thresholds": predictions.counts.thresholds})
    num_images = len(predictions.ids)
    no_maps = surfaces.column([None] * num_images)
    return predictions._replace(has_mask=np.zeros(num_images, bool), maps=no_maps, counts=empty)


def gallery_image(map_of_p: np.ndarray, truth: np.ndarray, decision: Decision) -> GalleryImage:
    """Return a picture that is the map itself."""
    if decision.triplet is None:
        return GalleryImage(map_of_p, None, None)
    return GalleryImage(map_of_p, truth, map_of_p > np.float32(decision.triplet.bottom), map_of_p)


def evaluation_of(
    predictions, pairs: list, decision: Decision | None, folder: Path, options=OPTIONS
) -> tuple[Evaluation, dict[int, GalleryImage]]:
    """Return an evaluation whose run's folder, lake and subgroup have nasty names, and the images
    of its galleries; `pairs`: the map and the mask of each image."""
    folder = folder / "<b>run"
    folder.mkdir()
    has_masks = decision is not None and decision.triplet is not None
    one = member(str(folder), UNET if has_masks else CLASSIFIER, 1, side=16)
    files.save(one.config, folder / "config.yaml")
    (folder / "best.weights.h5").touch()
    description = results.describe(Ensemble(*([one], []) if has_masks else ([], [one])))
    outcomes = decide(predictions, decision)
    if has_masks:
        outcomes = with_outlines(outcomes, options.tolerance_mm, options.tolerance_px)
    split_scores = scores.score(outcomes, options)
    subgroups = {"view": {NASTY: split_scores}}
    split = SplitScores(outcomes, split_scores, subgroups, curves.from_outcomes(outcomes))
    long_path = Remark("unfinished", "", "/" + "long" * 40 + ": the best of 1 epochs so far, of 2.")
    notes = [long_path] + remarks({"test": outcomes}, {"test": split_scores}, options)
    lake = LakeInUse("lakes/<i>", MANIFEST, is_own=True, notes=[])
    origin = results.provenance_of(lake, {"test": outcomes}, "test", 75.0)
    evaluation = Evaluation(
        *(*description, lake.folder, MANIFEST, options, decision, {"test": split}, notes, origin),
        chosen_on="test",
    )
    places = {place for row in gallery.choose(outcomes).values() for place in row}
    images = {place: gallery_image(*pairs[place], decision) for place in places}
    return evaluation, images
