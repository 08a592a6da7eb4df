"""An export of trainer.task under Beam's RunInference: shards of images in, their predictions out.

Files are read as beam.convert reads them and become the records that it would write of them, which
the export's signature `records` takes. So a file that the converter takes is predicted, and as
trainer.task predict does it.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from apache_beam.ml.inference.base import ModelHandler, PredictionResult

from beam.prediction.listing import ImageToPredict, Shard
from beam.prediction.options import PredictionOptions
from beam.running import files
from lake import Reject, storage
from lake.predictions import folder
from lake.predictions.exported import RECORDS
from lake.predictions.folder import FindingsRow, PredictionRow
from lake.records import example
from lake.scan import Header, Scan
from lake.sources import reader


class ExportHandler(ModelHandler):
    """A model handler whose examples are whole shards, not files, so that a shard is written as
    soon as it is predicted. If they were files, all would have to be predicted before the grouping
    by shards, and a job that is killed would begin anew.

    Only headers come here, and one batch of images is in memory at a time.
    """

    def __init__(self, options: PredictionOptions):
        super().__init__(max_batch_size=1)
        self.options = options

    def load_model(self) -> "LazyModel":
        return LazyModel(self._load)

    def _load(self):
        """Return the SavedModel, loaded by a TensorFlow with as many threads as the options say."""
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import tensorflow as tf

        if num_threads := self.options.num_threads:
            tf.config.threading.set_intra_op_parallelism_threads(num_threads)
            tf.config.threading.set_inter_op_parallelism_threads(num_threads)
        reader.quieten()
        return tf.saved_model.load(storage.without_pattern(self.options.model))

    def run_inference(
        self, batch: Sequence[Shard], model: "LazyModel", inference_args=None
    ) -> Iterator[PredictionResult]:
        """Yield a PredictionResult for each shard; its inference is ([(ImageToPredict,
        PredictionRow or FindingsRow)], rows of rejects.csv), both in the order of the shard's
        images."""
        for shard in batch:
            predictions, rejects = [], []
            for start in range(0, len(shard.images), self.options.batch_size):
                images = shard.images[start : start + self.options.batch_size]
                for image, result in predict(images, model().signatures[RECORDS], self.options):
                    if isinstance(result, Reject):
                        header = image.header
                        rejects.append(folder.reject_row(header.path, header.image_id, result))
                    else:
                        predictions.append((image, result))
            yield PredictionResult(shard, (predictions, rejects))


class LazyModel:
    """A model for all threads of a worker, loaded for the first shard: where no shard is left,
    TensorFlow need not start."""

    def __init__(self, load: Callable):
        self.load, self.lock, self.model = load, threading.Lock(), None

    def __call__(self):
        with self.lock:
            if self.model is None:
                self.model = self.load()
            return self.model


def predict(
    images: Sequence[ImageToPredict], signature: Callable, options: PredictionOptions
) -> Iterator[tuple[ImageToPredict, PredictionRow | FindingsRow | Reject]]:
    """Yield (image, its row, or the Reject that says why there is none) of a batch: first the
    images whose files cannot be read."""
    import tensorflow as tf

    pairs = []  # (image, its Scan)
    for image, scan in zip(images, read_scans(images, options), strict=True):
        if isinstance(scan, Reject):
            yield image, scan
        else:
            pairs.append((image, scan))
    if not pairs:
        return
    records = [example.encode_unlabelled(image.header, scan) for image, scan in pairs]
    outputs = signature(records=tf.constant(records, tf.string))
    names = ("findings",) if options.findings else ("rle", "probability", "lesion_px")
    columns = [outputs[name].numpy().tolist() for name in ("error", *names)]
    for (image, scan), error, *values in zip(pairs, *columns, strict=True):
        if error:
            reason, _, message = error.decode().partition(": ")
            yield image, Reject(reason, f"{image.header.path}: {message}")
        elif options.findings:
            yield image, FindingsRow(image.header.image_id, tuple(*values))
        else:
            yield image, mask_row(image.header, scan, *values)


def mask_row(
    header: Header, scan: Scan, rle: bytes, probability: float, lesion_px: int
) -> PredictionRow:
    """Return the row of an image whose mask was predicted."""
    sizes = (scan.height, scan.width), (header.height, header.width)
    area_mm2 = folder.area_mm2(lesion_px, scan.pixel_spacing_mm, *sizes)
    return PredictionRow(header.image_id, rle.decode(), probability, lesion_px, area_mm2)


def read_scans(images: Sequence[ImageToPredict], options: PredictionOptions) -> list[Scan | Reject]:
    """Return each image as a lake stores it, or the Reject that says why there is none; read by
    several threads."""
    inputs, settings = files.Inputs(), options.reader_settings

    def read(image: ImageToPredict) -> Scan | Reject:
        try:
            return reader.read_scan(image.source, inputs, image.header, settings.storage)
        except Reject as reject:
            return reject

    # The slices of a volume share what was read from it, so they are read one after the other.
    num_threads = 1 if settings.is_ct else options.num_threads or None
    with ThreadPoolExecutor(num_threads) as pool:
        return list(pool.map(read, images))
