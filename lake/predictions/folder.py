"""The folder of predictions that trainer.task predict and beam.predict both write.

In: a row per image, rejects. Out: submission.csv, predictions.csv and rejects.csv; the caller says
how a file is created, on this machine or by Beam.
"""

import collections
import urllib.parse
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import BinaryIO, NamedTuple

import numpy as np

from lake import Reject
from lake.predictions import submission

TABLES = ("submission.csv", "predictions.csv", "rejects.csv")
SUBMISSION_CSV, PREDICTIONS_CSV, REJECTS_CSV = TABLES
SUMMARY = "predict.json"  # what they are of, written last: the predictions are whole
PREDICTION_COLUMNS = ("ImageId", "probability", "lesion_px", "area_mm2")
REJECT_COLUMNS = ("path", "image_id", "what", "reason", "message")
LOCK = "predict.lock"  # while a process predicts into the folder
LOCK_WORDS = "predicts", "give another --output"  # in the message of lake/lock.py
SEGS = "seg"  # the folder of DICOM SEGs, and `what` could not be made in a row of rejects.csv


class PredictionRow(NamedTuple):
    """What the tables say about one image."""

    image_id: str
    rle: str  # run lengths; `-1` for an empty mask
    probability: float  # of a lesion
    lesion_px: int  # pixels of the mask, at the size of the source
    area_mm2: float | None  # None where the pixel spacing is unknown


def write_tables(
    create: Callable[[str], AbstractContextManager[BinaryIO]],
    rows: Iterable[PredictionRow],
    rejects: list[dict],
    check: Callable[[dict], None] = lambda counts: None,
) -> dict:
    """Write the three tables, submission.csv last; return their counts, as SUMMARY has them.

    `create(name)` opens a file that gets its name when the block ends without an error. `rejects`
    may grow while `rows` are iterated. rejects.csv is whole before `check(counts)`, which may raise
    to keep the other two tables from appearing.
    """
    num_predicted = num_with_lesion = 0
    with create(SUBMISSION_CSV) as submission_csv, create(PREDICTIONS_CSV) as predictions_csv:
        submission_csv.write(submission.csv_line(submission.HEADER))
        predictions_csv.write(submission.csv_line(PREDICTION_COLUMNS))
        for image_id, rle, probability, lesion_px, area_mm2 in rows:
            area = "" if area_mm2 is None else f"{area_mm2:.6g}"
            submission_csv.write(submission.csv_line((image_id, rle)))
            values = image_id, f"{probability:.6g}", lesion_px, area
            predictions_csv.write(submission.csv_line(values))
            num_predicted += 1
            num_with_lesion += lesion_px > 0
        rejects.sort(key=lambda reject: (reject["path"], reject["image_id"], reject["what"]))
        with create(REJECTS_CSV) as file:
            file.write(submission.csv_line(REJECT_COLUMNS))
            for reject in rejects:
                file.write(submission.csv_line(tuple(reject[name] for name in REJECT_COLUMNS)))
        image_rejects = [reject for reject in rejects if reject["what"] == "image"]
        reasons = collections.Counter(reject["reason"] for reject in image_rejects)
        counts = {
            "predicted": num_predicted,
            "with_lesion": num_with_lesion,
            "rejected": len(image_rejects),
            "reasons": dict(reasons.most_common()),
            "without_seg": len(rejects) - len(image_rejects),
        }
        check(counts)
    return counts


def reject_row(path: str, image_id: str, reject: Reject, what: str = "image") -> dict:
    """Return one row of rejects.csv: `what` (image | seg) could not be made."""
    values = (path, image_id, what, reject.reason, reject.message)
    return dict(zip(REJECT_COLUMNS, values, strict=True))


def file_name(image_id: str, suffix: str) -> str:
    """Return the name of an image's own file; characters of the id that no file name can hold are
    escaped, as in a URL."""
    return f"{urllib.parse.quote(image_id, safe='# ')}{suffix}"


def image_id_of(stem: str) -> str:
    """Return the image id of a file name without its suffix, the inverse of `file_name`."""
    return urllib.parse.unquote(stem)


def area_mm2(
    lesion_px: int,
    spacing_mm: tuple[float, float],
    stored_size: tuple[int, int],
    source_size: tuple[int, int],
) -> float | None:
    """Return the area of a mask of `lesion_px` source pixels in the plane of the detector or slice;
    None where the spacing is unknown (0).

    `spacing_mm` (row, column) is that of the stored image, as a record holds it, so that a source
    pixel is as much smaller as the image was shrunk; sizes are (height, width).
    """
    row_mm, column_mm = np.float32(spacing_mm).astype(np.float64)
    if not row_mm or not column_mm:
        return None
    (height, width), (source_height, source_width) = stored_size, source_size
    area_scale = height / source_height * width / source_width
    return float(lesion_px * row_mm * column_mm * area_scale)
