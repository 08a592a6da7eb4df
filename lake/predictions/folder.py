"""The folder of predictions that trainer.task predict and beam.predict both write.

In: a row per image, rejects. Out: submission.csv, predictions.csv and rejects.csv; of networks
that score findings and draw no masks the last two. The caller says how a file is created, on this
machine or by Beam.
"""

import collections
import contextlib
import urllib.parse
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import BinaryIO, NamedTuple

import numpy as np

from lake import Reject
from lake.predictions import submission

TABLES = ("submission.csv", "predictions.csv", "rejects.csv")
SUBMISSION_CSV, PREDICTIONS_CSV, REJECTS_CSV = TABLES
SUMMARY = "predict.json"  # what they are of, written last: the predictions are whole
IMAGE_ID = "ImageId"
PREDICTION_COLUMNS = (IMAGE_ID, "probability", "lesion_px", "area_mm2")
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


class FindingsRow(NamedTuple):
    """What the table says about one image whose findings were scored."""

    image_id: str
    probabilities: tuple[float, ...]  # of each finding, in the order of the network's


def tables(findings: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the tables in a folder of predictions, by networks of these findings."""
    return tuple(name for name in TABLES if not findings or name != SUBMISSION_CSV)


def row_type(findings: Sequence[str]) -> type:
    """Return the type of the rows, by networks of these findings."""
    return FindingsRow if findings else PredictionRow


def write_tables(
    create: Callable[[str], AbstractContextManager[BinaryIO]],
    rows: Iterable[PredictionRow | FindingsRow],
    rejects: list[dict],
    check: Callable[[dict], None] = lambda counts: None,
    findings: Sequence[str] = (),
) -> dict:
    """Write the tables, submission.csv last; return their counts, as SUMMARY has them.

    `create(name)` opens a file that gets its name when the block ends without an error. `rejects`
    may grow while `rows` are iterated. rejects.csv is whole before `check(counts)`, which may raise
    to keep the other tables from appearing. `findings`: those of FindingsRows.
    """
    num_predicted = num_with_lesion = 0
    with contextlib.ExitStack() as stack:
        files = {}
        for name, header in _headers(findings).items():
            files[name] = stack.enter_context(create(name))
            files[name].write(submission.csv_line(header))
        for row in rows:
            for name, cells in _cells(row).items():
                files[name].write(submission.csv_line(cells))
            num_predicted += 1
            num_with_lesion += not findings and row.lesion_px > 0
        rejects.sort(key=lambda reject: (reject["path"], reject["image_id"], reject["what"]))
        with create(REJECTS_CSV) as file:
            file.write(submission.csv_line(REJECT_COLUMNS))
            for reject in rejects:
                file.write(submission.csv_line(tuple(reject[name] for name in REJECT_COLUMNS)))
        image_rejects = [reject for reject in rejects if reject["what"] == "image"]
        reasons = collections.Counter(reject["reason"] for reject in image_rejects)
        counts = {
            "predicted": num_predicted,
            **({"findings": len(findings)} if findings else {"with_lesion": num_with_lesion}),
            "rejected": len(image_rejects),
            "reasons": dict(reasons.most_common()),
            "without_seg": len(rejects) - len(image_rejects),
        }
        check(counts)
    return counts


def _headers(findings: Sequence[str]) -> dict[str, tuple]:
    """Return the header of each table of predictions, by its name."""
    if findings:
        return {PREDICTIONS_CSV: (IMAGE_ID, *findings)}
    return {SUBMISSION_CSV: submission.HEADER, PREDICTIONS_CSV: PREDICTION_COLUMNS}


def _cells(row: PredictionRow | FindingsRow) -> dict[str, tuple]:
    """Return the cells of an image in each table of predictions, by its name."""
    if isinstance(row, FindingsRow):
        return {PREDICTIONS_CSV: (row.image_id, *(f"{p:.6g}" for p in row.probabilities))}
    area = "" if row.area_mm2 is None else f"{row.area_mm2:.6g}"
    values = row.image_id, f"{row.probability:.6g}", row.lesion_px, area
    return {SUBMISSION_CSV: (row.image_id, row.rle), PREDICTIONS_CSV: values}


def answer(counts: dict) -> str:
    """Return in words what was predicted, by the counts of write_tables."""
    if "findings" in counts:
        return f"a probability of each of {counts['findings']} findings"
    return f"{counts['with_lesion']:,} with a lesion"


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
