"""What the networks predict for one image -> its mask at the size of the source, its row of the
tables, and its files: overlay and probability map; or the row of its findings."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import special

from lake import picture, storage
from lake.labels import rle
from lake.predictions import folder
from lake.predictions.folder import FindingsRow, PredictionRow
from trainer.config.run import Data
from trainer.display import overlay, panel
from trainer.inference.decision import Decision, Sizes, is_plainly_empty, mask_of, resize_to_source
from trainer.inference.images import STORED_IMAGE, ImagesToPredict

OVERLAYS, PROBABILITIES = "overlays", "probabilities"
FIELDS = ("image_id", *Sizes._fields, "pixel_spacing_mm", "original_rle")


class OutputOptions(NamedTuple):
    """What to write besides the tables."""

    overlays: bool = False
    probabilities: bool = False
    candidates: bool = False
    seg: str | None = None  # a name in lake.predictions.seg.FINDINGS: write DICOM SEGs of it
    mint_uids: bool = False
    any_modality: bool = False  # predict what the lake had no images of


class ImagePrediction(NamedTuple):
    """What the networks predict for one image, and the fields of its record."""

    fields: dict  # FIELDS and what else is in a batch
    probabilities: np.ndarray | None  # [S, S, 1]; None from classifiers of findings
    lesion: np.ndarray | None  # [], p of a lesion
    score: float | np.ndarray  # a logit; those of the findings, [F]
    place: int  # among all images that are predicted


class FinishedImage(NamedTuple):
    """What the tables need from one image."""

    row: PredictionRow | FindingsRow
    mask: np.ndarray | None  # bool [H, W]; only for candidates, and where there is a lesion
    probabilities: np.ndarray | None  # [H, W], likewise
    place: int  # among all images that are predicted


def finish_findings(prediction: ImagePrediction) -> FinishedImage:
    """Return the row of an image whose findings were scored; there is no mask and no file."""
    p = special.expit(prediction.score.astype(np.float64))
    row = FindingsRow(prediction.fields["image_id"].decode(), tuple(p.tolist()))
    return FinishedImage(row, None, None, prediction.place)


class ImageFinisher(NamedTuple):
    """Turns an ImagePrediction into a FinishedImage, and writes the files of the image or appends
    to `inputs.rejects` why there are none; threads call it at the same time."""

    networks: str  # in words
    settings: Data  # of the networks' input
    decision: Decision
    inputs: ImagesToPredict
    output: Path
    options: OutputOptions

    def __call__(self, prediction: ImagePrediction) -> FinishedImage:
        """Write the image's files; return what the tables need."""
        fields, image_id = prediction.fields, prediction.fields["image_id"].decode()
        mask, probabilities = self._mask(prediction)
        runs = rle.from_mask(mask) if mask.any() else rle.NO_RUNS
        sizes = Sizes.from_fields(fields)
        row = PredictionRow(
            image_id,
            rle.to_text(runs),
            special.expit(np.float64(prediction.score)),
            rle.area(runs),
            folder.area_mm2(rle.area(runs), fields["pixel_spacing_mm"], sizes[:2], sizes[2:]),
        )
        if self.options.probabilities:
            self._write_png(PROBABILITIES, image_id, np.rint(probabilities * 255).astype(np.uint8))
        if self.options.overlays:
            area = f", {row.area_mm2:,.0f} mm²" if row.area_mm2 else ""
            answer = f"p of a lesion {panel.share(row.probability)}{area}"
            parts = self.networks, image_id, self.inputs.title, answer, str(self.decision)
            self._write_png(OVERLAYS, image_id, draw(picture.title(*parts), fields, mask))
        has_candidates = self.options.candidates and row.lesion_px
        maps = (mask, probabilities) if has_candidates else (None, None)
        return FinishedImage(row, *maps, prediction.place)

    def _mask(self, prediction: ImagePrediction) -> tuple[np.ndarray, np.ndarray | None]:
        """Return (mask bool [H, W], probabilities [H, W]) at the size of the source; None instead
        of the latter where the mask is plainly empty and nobody asks for them."""
        sizes = Sizes.from_fields(prediction.fields)
        p, lesion = prediction.probabilities, prediction.lesion
        if not self.options.probabilities and is_plainly_empty(p.max(), self.decision, lesion):
            return np.zeros((sizes.original_height, sizes.original_width), bool), None
        probabilities = resize_to_source(p, sizes, self.settings)
        mask = mask_of(probabilities, self.decision, lesion).numpy()
        return mask, probabilities.numpy()[..., 0]

    def _write_png(self, name: str, image_id: str, pixels: np.ndarray) -> None:
        path = self.output / name / folder.file_name(image_id, ".png")
        storage.write(path, picture.to_png(pixels))


def draw(title: str, fields: dict, mask: np.ndarray) -> np.ndarray:
    """Return RGB pixels below a title: the stored image, the truth where it is known, and the
    predicted mask."""
    with Image.open(io.BytesIO(fields[STORED_IMAGE])) as image:
        levels = np.asarray(image).astype(np.float32)
    low, high = fields["window"]
    truth = rle.decode(fields["original_rle"].decode(), *mask.shape) if fields["has_mask"] else None
    image = np.clip((levels - low) / (high - low), 0, 1)
    panels = overlay.side_by_side(image, truth, mask, "prediction")
    return picture.with_title(panels, title, overlay.TITLE_PX, panel.font_file())
