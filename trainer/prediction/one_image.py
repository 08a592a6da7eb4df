"""What the networks say of one image -> its mask at the source's own size, its row of the tables,
and its files: overlay, probability map, DICOM SEG."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import special

from lake import Reject, picture, storage
from lake.labels import rle
from lake.predictions import seg
from lake.predictions.folder import reject_row
from lake.sources import reader
from lake.sources.damage import broken_is
from trainer.config import run
from trainer.display import overlay
from trainer.inference import decision
from trainer.inference.decision import Decision, Sizes
from trainer.inference.images import STORED_IMAGE, ImagesToPredict
from trainer.prediction import input_files, output_folder

OVERLAYS, PROBABILITIES, SEGS = "overlays", "probabilities", "seg"
FIELDS = ("image_id", *Sizes._fields, "pixel_spacing_mm", "original_rle")


class OutputOptions(NamedTuple):
    """What to make besides the tables."""

    overlays: bool = False
    probabilities: bool = False
    candidates: bool = False
    finding: str | None = None  # of lake.seg.FINDINGS: DICOM SEGs
    mint_uids: bool = False


class ImagePrediction(NamedTuple):
    """Of one image by the networks, and what is known of it."""

    item: dict  # FIELDS and what else is in a batch
    probabilities: np.ndarray  # [S, S, 1]
    lesion: np.ndarray | None  # [], p of a lesion
    score: float  # a logit

    @property
    def image_id(self) -> str:
        return self.item["image_id"].decode()


class FinishedImage(NamedTuple):
    """Of one image, for the tables."""

    image_id: str
    text: str  # run lengths
    probability: float
    lesion_px: int
    area_mm2: float | None  # None where the pixel spacing is unknown
    rejects: list[dict]
    mask: np.ndarray | None  # bool [H, W], for candidates where there is a lesion
    at_source: np.ndarray | None  # probabilities [H, W], likewise


class ImageFinisher(NamedTuple):
    """Said -> Finished, with the files of the image; threads call it at the same time."""

    settings: run.Data  # of the networks' input
    chosen: Decision
    asked: ImagesToPredict
    output: Path
    wanted: OutputOptions

    def __call__(self, said: ImagePrediction) -> FinishedImage:
        mask, at_source = self._mask(said)
        runs = rle.from_mask(mask) if mask.any() else rle.NO_RUNS
        lesion_px, probability = rle.area(runs), special.expit(np.float64(said.score))
        area_mm2, rejects = area_of(said.item, lesion_px), []
        if self.wanted.probabilities:
            levels = np.rint(at_source * 255).astype(np.uint8)
            self._write_png(PROBABILITIES, said, levels)
        if self.wanted.overlays:
            area = f", {area_mm2:,.0f} mm²" if area_mm2 else ""
            self._write_png(OVERLAYS, said, draw(said, mask, f"p = {probability:.2f}{area}"))
        if self.wanted.finding:
            rejects = self._write_seg(said.image_id, mask)
        kept = (mask, at_source) if self.wanted.candidates and lesion_px else (None, None)
        text = rle.to_text(runs)
        return FinishedImage(said.image_id, text, probability, lesion_px, area_mm2, rejects, *kept)

    def _mask(self, said: ImagePrediction) -> tuple[np.ndarray, np.ndarray | None]:
        """(bool [H, W], probabilities [H, W] or None where nothing asks for them) at the source's
        size."""
        sizes = Sizes.from_fields(said.item)
        if not self.wanted.probabilities and is_plainly_empty(said, self.chosen):
            return np.zeros((sizes.original_height, sizes.original_width), bool), None
        at_source = decision.resize_to_source(said.probabilities, sizes, self.settings)
        mask = decision.mask_of(at_source, self.chosen, said.lesion).numpy()
        return mask, at_source.numpy()[..., 0]

    def _write_png(self, folder: str, said: ImagePrediction, pixels: np.ndarray) -> None:
        path = output_folder.path_of(self.output / folder, said.image_id, ".png")
        storage.write(path, picture.to_png(pixels))

    def _write_seg(self, image_id: str, mask: np.ndarray) -> list[dict]:
        """The SEG, and with minted UIDs its source beside it; what kept it from being made."""
        path, folder = self.asked.headers[image_id].path, self.output / SEGS
        mint_uids = self.wanted.mint_uids
        try:
            content = input_files.InputFiles().read(path)
            made, copy = seg.segmentation(content, path, mask, self.wanted.finding, mint_uids)
            with broken_is("unusable-source", path):
                files = {".dcm": seg.encode(made)}
                files |= {".source.dcm": seg.encode(copy)} if copy is not None else {}
        except OSError as error:
            return [reject_row(path, image_id, reader.unreadable(path, error), SEGS)]
        except Reject as reject:
            return [reject_row(path, image_id, reject, SEGS)]
        for suffix, encoded in files.items():
            storage.write(output_folder.path_of(folder, image_id, suffix), encoded)
        return []


def is_plainly_empty(said: ImagePrediction, chosen: Decision) -> bool:
    return bool(decision.is_plainly_empty(said.probabilities.max(), chosen, said.lesion))


def area_of(item: dict, lesion_px: int) -> float | None:
    """mm² in the plane of the detector or slice; a source pixel's spacing is that of the stored
    image times how much it was shrunk."""
    row_mm, column_mm = item["pixel_spacing_mm"]
    sizes = Sizes.from_fields(item)
    if not row_mm or not column_mm:
        return None
    shrunk = sizes.height / sizes.original_height * sizes.width / sizes.original_width
    return float(lesion_px * np.float64(row_mm) * np.float64(column_mm) * shrunk)


def draw(said: ImagePrediction, mask: np.ndarray, caption: str) -> np.ndarray:
    """RGB of the stored image, the truth where it is known, and the predicted mask."""
    with Image.open(io.BytesIO(said.item[STORED_IMAGE])) as stored:
        levels = np.asarray(stored).astype(np.float32)
    low, high = said.item["window"]
    truth = None
    if said.item["has_mask"]:
        runs = rle.runs(said.item["original_rle"].decode(), *mask.shape)
        truth = rle.to_mask(runs, *mask.shape)
    return overlay.side_by_side(np.clip((levels - low) / (high - low), 0, 1), truth, mask, caption)
