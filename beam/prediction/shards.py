"""One shard's answers -> its sidecar in `.work/` and the DICOM SEGs of its images. Where the
sidecar stands, so do they."""

import json

import numpy as np
from apache_beam.ml.inference.base import PredictionResult

from beam.prediction.options import PredictionOptions
from beam.running import files, progress
from lake import Reject
from lake.labels import rle
from lake.predictions import folder, seg
from lake.sources import reader
from lake.sources.damage import broken_is

SUMMARY = "predict.json"  # in the folder of the answers: they are whole


def write(found: PredictionResult, options: PredictionOptions) -> tuple[str, str]:
    """Returns the shard's (first path, fingerprint)."""
    shard, (rows, rejects) = found.example, found.inference
    # Neither may stand beside new answers, should this worker die between the two.
    files.remove(options.path(SUMMARY))
    files.remove(options.work(shard.name))
    segs = []
    if options.seg:
        for row in rows:
            try:
                segs += _write_segs(row, options)
            except Reject as reject:
                of = row["path"], row["image_id"], reject
                rejects.append(folder.reject_row(*of, what="seg"))
    said = {"fingerprint": shard.fingerprint, "rows": rows, "rejects": rejects, "segs": segs}
    files.write_text(options.work(shard.name), json.dumps(said))
    lost = sum(row["what"] == "image" for row in rejects)
    progress.tick(options.progress_file, progress.RECORD * len(rows) + progress.REJECTED * lost)
    return shard.first, shard.fingerprint


def _write_segs(row: dict, options: PredictionOptions) -> list[str]:
    """The SEG of one image, and with minted UIDs its source beside it; the names of both. Raises
    Reject."""
    path, image_id = row["path"], row["image_id"]
    try:
        content = files.read(path)
    except OSError as error:
        raise reader.unreadable(path, error) from None
    mask = _mask(row)
    made, copy = seg.segmentation(content, path, mask, options.seg, options.mint_uids)
    with broken_is("unusable-source", path):
        encoded = {".dcm": seg.encode(made)}
        encoded |= {".source.dcm": seg.encode(copy)} if copy is not None else {}
    names = [folder.file_name(image_id, suffix) for suffix in encoded]
    for name, data in zip(names, encoded.values(), strict=True):
        with files.written(options.path("seg", name)) as file:
            file.write(data)
    return names


def _mask(row: dict) -> np.ndarray:
    """[H, W] uint8, at the source's own size."""
    height, width = row["size"]
    return rle.to_mask(rle.runs(row["rle"], height, width), height, width)
