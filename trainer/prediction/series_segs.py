"""Finished images, one after the other -> DICOM SEGs, each written when the last image of its
series is there (lake/predictions/seg_series.py).

Until then the masks of a series wait as run lengths. Series may lie among each other, as the order
of the images is that of their paths.
"""

import collections
import functools
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from lake import storage
from lake.predictions import seg_series
from lake.predictions.folder import SEGS, PredictionRow
from lake.predictions.seg_series import PredictedMask, SegRequest, series_key
from trainer.inference.images import ImagesToPredict
from trainer.prediction.finished import FinishedImages
from trainer.prediction.input_files import InputFiles
from trainer.prediction.one_image import FinishedImage

WAITING_PER_CORE = 2  # so many images may be held back until the SEG of the first is written


class _Series:
    """Gathers the masks of each series."""

    def __init__(self, inputs: ImagesToPredict):
        self.headers, self.masks = inputs.headers, collections.defaultdict(list)
        self.last_ids = {
            series_key(header): image_id for image_id, header in inputs.headers.items()
        }

    def add(self, row: PredictionRow) -> list[PredictedMask] | None:
        """Add the mask of an image; with the last image of a series, return all masks of the
        series."""
        header = self.headers[row.image_id]
        key = series_key(header)
        self.masks[key].append(PredictedMask(header, row.rle))
        return self.masks.pop(key) if self.last_ids[key] == row.image_id else None


def write(
    finished_images: Iterator[FinishedImage],
    done: FinishedImages,
    output: Path,
    request: SegRequest,
) -> Iterator[FinishedImage]:
    """Yield the images as they come, the last of a series when its SEGs are written, so that none
    is missing where predict stops and goes on; what cannot be written is appended to the rejects
    of `done.inputs`."""
    series = _Series(done.inputs)
    for row in done.rows_before():  # their series are written, but for those that go on
        series.add(row)
    save = functools.partial(_save, done.inputs, output / SEGS, request)
    waiting = collections.deque()  # of (image, future of the SEGs of its series or None)
    limit, pool = WAITING_PER_CORE * os.cpu_count(), ThreadPoolExecutor(os.cpu_count())
    try:
        for image in finished_images:
            masks = series.add(image.row)
            waiting.append((image, masks and pool.submit(save, masks)))
            while waiting and (_is_written(waiting[0][1]) or len(waiting) > limit):
                yield _when_written(*waiting.popleft())
        while waiting:
            yield _when_written(*waiting.popleft())
        for masks in series.masks.values():  # of series whose last image was rejected
            save(masks)
    finally:
        pool.shutdown(cancel_futures=True)


def _is_written(future: Future | None) -> bool:
    return future is None or future.done()


def _when_written(image: FinishedImage, future: Future | None) -> FinishedImage:
    """Return the image when the SEGs of its series are written; raise what was raised there."""
    if future is not None:
        future.result()
    return image


def _save(
    inputs: ImagesToPredict, folder: Path, request: SegRequest, masks: list[PredictedMask]
) -> None:
    """Write the SEGs of a series."""
    for name, content in seg_series.files(InputFiles(), masks, request, inputs.rejects):
        storage.write(folder / name, content)
