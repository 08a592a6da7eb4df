"""The predictions of one shard -> its sidecar in `.work/` and the DICOM SEGs of its images. Where
the sidecar is, the SEGs are too."""

import json

from apache_beam.ml.inference.base import PredictionResult

from beam.prediction.listing import shard_name
from beam.prediction.options import PredictionOptions
from beam.running import files, progress
from lake.labels import rle
from lake.predictions import folder
from lake.predictions.folder import SEGS

SUMMARY = "predict.json"  # in the folder of predictions: they are whole


def write(result: PredictionResult, options: PredictionOptions) -> tuple[str, str]:
    """Write the files of a shard; return its (first path, fingerprint)."""
    shard, (predictions, rejects) = result.example, result.inference
    # Neither predict.json nor an old sidecar may stand beside new SEGs, should this worker die.
    files.remove(options.path(SUMMARY))
    sidecar_path = options.work_path(shard_name(shard.first_path))
    files.remove(sidecar_path)
    segs = []  # names
    for image, row in predictions if options.seg else []:
        header = image.header
        mask = rle.decode(row.rle, header.height, header.width)
        contents = folder.seg_files(
            files.Inputs(), header, mask, options.seg, options.mint_uids, rejects
        )
        for name, content in contents.items():
            with files.whole_file(options.path(SEGS, name)) as file:
                file.write(content)
        segs += contents
    rows = [row for _, row in predictions]
    sidecar = {"fingerprint": shard.fingerprint, "rows": rows, "rejects": rejects, "segs": segs}
    files.write_text(sidecar_path, json.dumps(sidecar))
    num_rejected = sum(reject["what"] == "image" for reject in rejects)
    events = progress.RECORD * len(predictions) + progress.REJECTED * num_rejected
    progress.tick(options.progress_file, events)
    return shard.first_path, shard.fingerprint
