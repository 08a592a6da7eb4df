"""A network that paints what is bright, images for it, and its predictions of files."""

import csv
import functools
import tempfile
from pathlib import Path

import keras
import numpy as np
from makers.dicom import seg_source
from PIL import Image

from lake.scan import Storage
from lake.sources import reader
from trainer.config.run import Config
from trainer.inference.decision import Decision, Triplet
from trainer.inference.ensemble import Ensemble, Member
from trainer.prediction import input_files, predict
from trainer.prediction.one_image import OutputOptions
from trainer.workdir import BEST

HALF = Decision(Triplet(0.5, 0.0, 0.5))
SIDE = 64
RADIOGRAPHS = reader.ReaderSettings(False, "name", Storage(bits=8, max_side=1024))
DARK, BRIGHT = 50, 200


@functools.cache
def painter(low=0.0, high=1.0, **settings) -> Ensemble:
    """Return a predictor of p = 1 where an image, as a share of its window, is above the middle
    between low and high."""
    data = {"side": SIDE, "batch_size": 4, **settings}
    config = Config.model_validate({"model": {"kind": "unet"}, "lake": "a", "data": data})
    pixels = keras.Input((data["side"], data["side"], 1))
    layer = keras.layers.Conv2D(1, 1)
    network = keras.Model(pixels, layer(pixels))
    layer.set_weights([np.full((1, 1, 1, 1), 1000.0), np.array([-500.0 * (low + high)])])
    workdir = Path(tempfile.mkdtemp()) / "painter"
    workdir.mkdir()
    network.save_weights(workdir / BEST)  # their checksum is in SEGs
    return Ensemble([Member(workdir, config, network)], ())


def picture(height: int, width: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Return dark pixels [H, W] with bright boxes (top, left, height, width)."""
    pixels = np.full((height, width), DARK, np.uint8)
    for top, left, tall, wide in boxes:
        pixels[top : top + tall, left : left + wide] = BRIGHT
    return pixels


def save_image(path: Path, pixels: np.ndarray) -> None:
    """Write an image in the format that the path's ending names."""
    Image.fromarray(pixels).save(path)


def save_dicom(path: Path, pixels: np.ndarray, **changes) -> None:
    rows, columns = pixels.shape
    elements = {"Rows": rows, "Columns": columns, "PixelData": pixels.tobytes()}
    path.write_bytes(seg_source(**{**elements, **changes}))


def predict_files(folder: Path, output: Path, settings=RADIOGRAPHS, system=None, **wanted) -> str:
    inputs = input_files.from_files([str(folder)], settings)
    return predict.predict(system or painter(), HALF, inputs, output, OutputOptions(**wanted))


def table(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
