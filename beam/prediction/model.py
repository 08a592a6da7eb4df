"""An export of trainer.task under Beam's RunInference: shards of image files in, answers out."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from apache_beam.ml.inference.base import ModelHandler, PredictionResult

from beam.prediction.listing import ImageToPredict, Shard
from beam.prediction.options import PredictionOptions
from beam.running import files
from lake import Reject
from lake.predictions import folder, tfio
from lake.predictions.exported import SIGNATURES, TFIO
from lake.sources import dicom, reader
from lake.sources.damage import broken_is


class ExportHandler(ModelHandler):
    """Its examples are whole shards, not files: a shard's answers are written right behind it. Of
    files, all had to be answered before the grouping by shards, and a killed job began anew.

    Only paths come here, and one batch of files is in memory at a time.
    """

    def __init__(self, options: PredictionOptions):
        super().__init__(max_batch_size=1)
        self.options = options

    def load_model(self) -> "LazyModel":
        return LazyModel(self._load)

    def _load(self):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import tensorflow as tf

        if threads := self.options.threads:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        reader.quieten()
        if self.options.decoder == TFIO:
            tfio.load()
        return tf.saved_model.load(self.options.model)

    def run_inference(
        self, batch: Sequence[Shard], model: "LazyModel", inference_args=None
    ) -> Iterator[PredictionResult]:
        """(shard, (answers, rejects)), each by path."""
        for shard in batch:
            found = []
            for kind, name in SIGNATURES.items():
                of_kind = [image for image in shard.images if image.kind == kind]
                for start in range(0, len(of_kind), self.options.batch_size):
                    some = of_kind[start : start + self.options.batch_size]
                    found += answers(some, model().signatures[name])
            found.sort(key=lambda row: row["path"])
            kept = [row for row in found if "reason" not in row]
            yield PredictionResult(shard, (kept, [row for row in found if "reason" in row]))


class LazyModel:
    """A model for all threads of a worker, from the first shard on: where none is left, TensorFlow
    need not start."""

    def __init__(self, load: Callable):
        self.load, self.lock, self.model = load, threading.Lock(), None

    def __call__(self):
        with self.lock:
            if self.model is None:
                self.model = self.load()
            return self.model


def answers(images: Sequence[ImageToPredict], signature: Callable) -> list[dict]:
    """A row of the tables or of the rejects for each image, in no order."""
    import tensorflow as tf

    contents, rows = {}, []
    for image in images:
        try:
            contents[image] = files.read(image.path)
        except OSError as error:
            reject = reader.unreadable(image.path, error)
            rows.append(folder.reject_row(image.path, image.image_id, reject))
    if not contents:
        return rows
    said = signature(files=tf.constant(list(contents.values()), tf.string))
    names = ("error", "rle", "probability", "lesion_px", "height", "width")
    columns = [said[name].numpy().tolist() for name in names]
    for (image, content), *values in zip(contents.items(), *columns, strict=True):
        try:
            rows.append(_row(image, content, *values))
        except Reject as reject:
            rows.append(folder.reject_row(image.path, image.image_id, reject))
    return rows


def _row(
    image: ImageToPredict,
    content: bytes,
    error: bytes,
    rle: bytes,
    probability: float,
    lesion_px: int,
    *size: int,
) -> dict:
    if error:
        reason, _, message = error.decode().partition(": ")
        raise Reject(reason, f"{image.path}: {message}")
    spacing_mm = (0.0, 0.0)
    if image.kind == "dicom":
        with broken_is("undecodable", image.path):
            spacing_mm = dicom.spacing_mm(content)
    row_mm, column_mm = np.float32(spacing_mm).tolist()  # as a record, from which predict has them
    return {
        "path": image.path,
        "image_id": image.image_id,
        "size": size,  # height, width
        "rle": rle.decode(),
        "probability": probability,
        "lesion_px": lesion_px,
        "area_mm2": lesion_px * row_mm * column_mm if row_mm else None,
    }
