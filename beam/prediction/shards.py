"""The predictions of one shard -> its sidecar in `.work/` and the DICOM SEGs of its images. Where
the sidecar is, the SEGs are too."""

import collections
import json
from collections.abc import Iterable

from apache_beam.ml.inference.base import PredictionResult

from beam.prediction.listing import ImageToPredict, shard_name
from beam.prediction.options import PredictionOptions
from beam.running import files, progress
from lake.predictions import seg_series
from lake.predictions.folder import SEGS, SUMMARY, PredictionRow
from lake.predictions.seg_series import PredictedMask


def write(result: PredictionResult, options: PredictionOptions) -> tuple[str, str]:
    """Write the files of a shard; return its (first path, fingerprint)."""
    shard, (predictions, rejects) = result.example, result.inference
    # Neither predict.json nor an old sidecar may stand beside new SEGs, should this worker die.
    files.remove(options.path(SUMMARY))
    sidecar_path = options.work_path(shard_name(shard.first_path))
    files.remove(sidecar_path)
    segs = []  # names
    for masks in _series(predictions) if options.seg_request else []:
        contents = seg_series.files(files.Inputs(), masks, options.seg_request, rejects)
        for name, content in contents:
            with files.whole_file(options.path(SEGS, name)) as file:
                file.write(content)
            segs.append(name)
    rows = [row for _, row in predictions]
    sidecar = {"fingerprint": shard.fingerprint, "rows": rows, "rejects": rejects, "segs": segs}
    files.write_text(sidecar_path, json.dumps(sidecar))
    num_rejected = sum(reject["what"] == "image" for reject in rejects)
    events = progress.RECORD * len(predictions) + progress.REJECTED * num_rejected
    progress.tick(options.progress_file, events)
    return shard.first_path, shard.fingerprint


def _series(
    predictions: list[tuple[ImageToPredict, PredictionRow]],
) -> Iterable[list[PredictedMask]]:
    """Return the masks of each series; all images of a series are in one shard."""
    masks = collections.defaultdict(list)
    for image, row in predictions:
        masks[seg_series.series_key(image.header)].append(PredictedMask(image.header, row.rle))
    return masks.values()
