"""candidates.csv of predict, or a file in LUNA16's form, and a CSV of nodules -> FROC and CPM.

In: paths. Out: a table to print, metrics.json and a picture of the curve.
"""

import collections
import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lake import InputError, clock, ids, storage
from lake.labels import csv_text
from lake.labels.columns import NODULE_COLUMNS
from lake.picture import to_png
from lake.predictions.candidates import CANDIDATES_CSV
from lake.predictions.folder import PREDICTIONS_CSV
from lake.records import index
from trainer.display import plots
from trainer.evaluation import froc
from trainer.workdir import write_metrics

SERIES, *COORDINATES, DIAMETER = NODULE_COLUMNS
PROBABILITY = "probability"
UNKNOWN_DIAMETER_MM = 10.0  # of irrelevant findings whose diameter is -1, as LUNA16 takes it
FOLDER, PICTURE = "froc", "froc.png"
Positions = Mapping[str, np.ndarray]  # {scan: x, y, z in mm and a further number, [N, 4]}
NONE = np.zeros((0, 4))


class Files(NamedTuple):
    """The files of an evaluation of candidates."""

    predictions: Path  # a folder of predict, or a CSV of candidates
    labels: Path  # the nodules
    irrelevant: Path | None  # findings that count neither way
    scans: Path | None  # a CSV whose first column lists the scans
    lake: str | None  # its split lists the scans
    split: str


def evaluate(files: Files, output: Path | None, replicates: int, seed: int) -> str:
    """Score candidates; write metrics.json and the curve into `output`; return the table. Raises
    InputError for files that cannot be scored."""
    is_folder = files.predictions.is_dir()
    if output is None:
        output = (files.predictions if is_folder else files.predictions.parent) / FOLDER
    storage.check_writable(output)
    candidates_csv = files.predictions / CANDIDATES_CSV if is_folder else files.predictions
    candidates = read_positions(candidates_csv, PROBABILITY)
    nodules = with_positive_diameters(read_positions(files.labels, DIAMETER), files.labels)
    irrelevant = read_positions(files.irrelevant, DIAMETER) if files.irrelevant else {}
    uids = scans_to_score(files, is_folder)
    if not any(uid in nodules for uid in uids):
        raise InputError(
            f"{files.labels}: no nodule lies in any of the {len(uids):,} scans to score, such as "
            f"{uids[0]}; it has those of {len(nodules):,} others, such as {next(iter(nodules), '')}"
        )
    scan_marks = [
        froc.match(
            froc.Candidates(*_columns(candidates, uid)),
            _spheres(nodules, uid),
            _spheres(irrelevant, uid),
        )
        for uid in uids
    ]
    marks = froc.gather(scan_marks)
    entry = entry_of(marks, scan_marks, candidates, nodules, uids)
    entry["intervals"] = froc.intervals(marks, uids, replicates, seed)
    entry["options"] = {"bootstrap": replicates, "seed": seed}
    origin = {name: value and str(value) for name, value in files._asdict().items()}
    entry["provenance"] = {"time": clock.now(), **origin}
    text = table(entry)
    storage.make_folder(output)
    write_metrics(output, {FOLDER: entry})
    title = f"{files.predictions}: CPM {entry['scores']['cpm']:.3f}"
    points = {rate: entry["scores"][f"sensitivity_at_{rate:g}"] for rate in froc.RATES}
    picture = plots.froc(entry["curve"], points, title)
    storage.write(output / PICTURE, to_png(picture))
    return f"{text}\ncurve: {output / PICTURE}"


def entry_of(
    marks: froc.Marks,
    scans: Sequence[froc.ScanMarks],
    candidates: Positions,
    nodules: Positions,
    uids: Sequence[str],
) -> dict:
    """Return counts, scores and curve for metrics.json."""
    scored = set(uids)
    counts = {
        "scans": len(uids),
        "nodules": int(marks.nodules.sum()),
        "candidates": sum(len(candidates.get(uid, NONE)) for uid in uids),
        "hits": int(marks.is_hit.sum()),
        "repeated_hits": sum(scan.num_repeated for scan in scans),
        "on_irrelevant_findings": sum(scan.num_irrelevant for scan in scans),
        "false_positives": int((~marks.is_hit).sum()),
        "nodules_of_other_scans": sum(len(x) for uid, x in nodules.items() if uid not in scored),
        "candidates_of_other_scans": sum(
            len(x) for uid, x in candidates.items() if uid not in scored
        ),
    }
    values = froc.scores(froc.sensitivities(marks))
    return {
        "counts": counts,
        "scores": {name: float(value) for name, value in values.items()},
        "drawn": {"unit": "scans", "number": len(uids)},
        "curve": froc.thin_curve(froc.curve(marks)),
    }


def table(entry: dict) -> str:
    """Return the scores in words, with their intervals."""
    counts, values, ends = entry["counts"], entry["scores"], entry["intervals"]
    lines = [
        f"{counts['scans']:,} scans, {counts['nodules']:,} nodules, "
        f"{counts['candidates']:,} candidates: {counts['hits']:,} hits, "
        f"{counts['repeated_hits']:,} more on the same nodules, "
        f"{counts['on_irrelevant_findings']:,} on irrelevant findings, "
        f"{counts['false_positives']:,} false positives",
        "",
        f"{'false positives per scan':26} sensitivity",
    ]
    for rate in froc.RATES:
        name = f"sensitivity_at_{rate:g}"
        lines.append(f"{rate:<26g} {values[name]:.3f}{_interval(ends.get(name))}")
    lines.append(f"{'CPM, the mean of these':26} {values['cpm']:.3f}{_interval(ends.get('cpm'))}")
    if not ends:
        lines.append("no 95% intervals: they need ten scans and --bootstrap")
    for name in ("nodules", "candidates"):
        if number := counts[f"{name}_of_other_scans"]:
            lines.append(f"left out: {number:,} {name} of scans that are not scored")
    return "\n".join(lines)


def _interval(ends: tuple[float, float] | None) -> str:
    return f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else ""


def _columns(positions: Positions, uid: str) -> tuple[np.ndarray, np.ndarray]:
    rows = positions.get(uid, NONE)
    return rows[:, :3], rows[:, 3]


def _spheres(positions: Positions, uid: str) -> froc.Spheres:
    centers_mm, diameters_mm = _columns(positions, uid)
    diameters_mm = np.where(diameters_mm > 0, diameters_mm, UNKNOWN_DIAMETER_MM)
    return froc.Spheres(centers_mm, diameters_mm / 2)


# --- which scans ---


def scans_to_score(files: Files, is_folder: bool) -> list[str]:
    """Return the scans: those of --scans, of a lake's split, or all that were predicted. One that
    has neither a nodule nor a candidate counts, too. Raises InputError where there is none."""
    if files.scans:
        where, uids = f"--scans {files.scans}", _first_column(files.scans)
    elif files.lake:
        where = f"the split {files.split} of {files.lake}"
        rows = index.read(storage.path_of(files.lake), ["image_id"], [files.split])
        uids = _series(rows["image_id"].to_pylist())
    elif is_folder:
        where = f"{files.predictions / PREDICTIONS_CSV}"
        uids = _series(_first_column(files.predictions / PREDICTIONS_CSV))
    else:
        raise InputError(
            f"{files.predictions}: a CSV of candidates does not say which scans were searched; "
            f"give --scans or --lake, or the folder that predict wrote"
        )
    if not uids:
        raise InputError(f"{where} has no scan of several slices")
    return list(dict.fromkeys(uids))


def _series(image_ids: Sequence[str]) -> list[str]:
    """Return the series of the slices among these images."""
    return [ids.without_frame(one) for one in image_ids if ids.without_frame(one) != one]


def _first_column(path: Path) -> list[str]:
    """Return the first cell of each row, without a header such as seriesuid or ImageId."""
    cells = [fields[0] for _, fields in _rows(path)]
    return cells[1:] if cells and cells[0].lower() in (SERIES, "imageid") else cells


# --- reading ---


def read_positions(path: Path, number_column: str) -> Positions:
    """Return x, y, z and the number in a further column of each scan's rows; raise InputError for a
    file that lacks a column or has a cell that is no number."""
    names = [SERIES, *COORDINATES, number_column]
    rows = _rows(path)
    header = [cell.lower() for cell in rows[0][1]] if rows else []
    if absent := [name for name in names if name not in header]:
        raise InputError(f"{path}: no column {', '.join(absent)}; its first row is {header[:8]}")
    places = [header.index(name) for name in names]
    positions = collections.defaultdict(list)
    for line, fields in rows[1:]:
        uid, *cells = (fields[place] if place < len(fields) else "" for place in places)
        try:
            numbers = [float(cell.replace(",", ".")) for cell in cells]
        except ValueError:
            numbers = [math.nan]
        if not uid or not all(map(math.isfinite, numbers)):
            raise InputError(f"{path}, row {line}: {fields[:8]}, expected {', '.join(names)}")
        positions[uid].append(numbers)
    return {uid: np.array(numbers) for uid, numbers in positions.items()}


def with_positive_diameters(nodules: Positions, path: Path) -> Positions:
    """Return the nodules; raise InputError for one without a size, which nothing could hit."""
    for uid, rows in nodules.items():
        if (rows[:, 3] <= 0).any():
            value = rows[rows[:, 3] <= 0][0, 3]
            raise InputError(
                f"{path}: {DIAMETER}={value:g} of a nodule in {uid}, expected more than 0; what "
                f"nobody has to find belongs into --irrelevant"
            )
    return nodules


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return (line, fields) of the rows of a CSV, whichever its delimiter; raise InputError where
    it is none."""
    try:
        with storage.local(path) as local, local.open("rb") as file:
            heads = [form for form, rows in csv_text.heads(file) if rows and len(rows[0]) > 1]
            form = heads[0] if heads else csv_text.Form(csv_text.encoding_of(file))
            return list(csv_text.rows(file, form))
    except (OSError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV: {error}") from None
