"""The end of a prediction: all shards' answers -> submission.csv, predictions.csv and rejects.csv,
in the order of the paths, every file accounted for; predict.json last."""

import collections
import csv
import hashlib
import io
import json
from collections.abc import Iterator

from apache_beam.io.filesystems import FileSystems

from beam.prediction import listing
from beam.prediction.options import OWNER, PredictionOptions
from beam.prediction.shards import SUMMARY
from beam.running import files
from lake import Stopped
from lake.predictions import folder, submission
from lake.predictions.folder import PREDICTIONS_CSV, REJECTS_CSV, SUBMISSION_CSV


def finalise(
    shards: list[tuple[str, str]], rejects: list[dict], num_files: int, options: PredictionOptions
) -> None:
    """Of [(first path, fingerprint)]; nothing where the tables stand as they would be written.
    Raises Stopped above `--max_reject_fraction`."""
    shards = sorted(shards)
    rejects = sorted(rejects, key=_order)
    said = [shards, rejects, num_files, options.max_reject_fraction]
    digest = hashlib.sha256(json.dumps(said).encode()).hexdigest()
    if _stands(digest, options):
        return
    for name in (
        SUMMARY,
        SUBMISSION_CSV,
        PREDICTIONS_CSV,
    ):  # of an earlier run, should this one stop
        files.remove(options.path(name))
    names = [listing.name_of(first) for first, _ in shards]
    counts = _write_tables(names, rejects, num_files, options)
    _remove_stale_files(names, options)
    sizes = {
        name: _size(options.path(name)) for name in (SUBMISSION_CSV, PREDICTIONS_CSV, REJECTS_CSV)
    }
    content = {**options.of_answers(), "counts": counts, "digest": digest, "bytes": sizes}
    files.write_text(options.path(SUMMARY), json.dumps(content, indent=1) + "\n")


def _write_tables(
    names: list[str], rejects: list[dict], num_files: int, options: PredictionOptions
) -> dict[str, int | dict]:
    """The counts of predict.json."""
    count = lesions = 0
    with (
        files.written(options.path(SUBMISSION_CSV)) as texts,
        files.written(options.path(PREDICTIONS_CSV)) as facts,
    ):
        _write_row(texts, submission.HEADER)
        _write_row(facts, folder.PREDICTION_COLUMNS)
        for sidecar in _sidecars(names, options):
            rejects = rejects + sidecar["rejects"]
            for row in sidecar["rows"]:
                area = "" if row["area_mm2"] is None else f"{row['area_mm2']:.6g}"
                probability = f"{row['probability']:.6g}"
                _write_row(texts, (row["image_id"], row["rle"]))
                _write_row(facts, (row["image_id"], probability, row["lesion_px"], area))
                count, lesions = count + 1, lesions + (row["lesion_px"] > 0)
        _write_rejects(sorted(rejects, key=_order), options)
        counts = _counts(num_files, count, lesions, rejects)
        _check_accounts(counts, rejects, options)
    return counts


def _write_row(file, values: tuple) -> None:
    file.write(submission.csv_line(values).encode())


def _write_rejects(rejects: list[dict], options: PredictionOptions) -> None:
    table = io.StringIO()
    writer = csv.DictWriter(table, folder.REJECT_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rejects)
    files.write_text(options.path(REJECTS_CSV), table.getvalue())


def _counts(num_files: int, count: int, lesions: int, rejects: list[dict]) -> dict:
    reasons = collections.Counter(row["reason"] for row in rejects if row["what"] == "image")
    return {
        "files": num_files,
        "predicted": count,
        "with_lesion": lesions,
        "rejected": reasons.total(),
        "reasons": dict(reasons.most_common()),
        "without_seg": len(rejects) - reasons.total(),
    }


def _check_accounts(counts: dict, rejects: list[dict], options: PredictionOptions) -> None:
    num_files, rejected = counts["files"], counts["rejected"]
    if counts["predicted"] + rejected != num_files:
        raise Stopped(f"{num_files:,} files, but {counts}; this is a bug")
    at = (
        f"{options.path(REJECTS_CSV)} says why; the first: {rejects[0]['message']}"
        if rejects
        else ""
    )
    if not counts["predicted"]:
        raise Stopped(f"no image in {num_files:,} files; {at}")
    if rejected > options.max_reject_fraction * num_files:
        raise Stopped(
            f"{rejected:,} of {num_files:,} files rejected, more than --max_reject_fraction="
            f"{options.max_reject_fraction:g}; {at}. With a higher one, the same command only "
            f"writes the tables"
        )


def _remove_stale_files(names: list[str], options: PredictionOptions) -> None:
    """Of files that are no longer asked about."""
    kept = {OWNER, *names}
    for name in files.names_in(options.work("")):
        if name not in kept:
            files.remove(options.work(name))
    if options.seg:
        segs = {name for sidecar in _sidecars(names, options) for name in sidecar["segs"]}
        for name in files.names_in(options.path("seg")):
            if name not in segs:
                files.remove(options.path("seg", name))


def _stands(digest: str, options: PredictionOptions) -> bool:
    if not FileSystems.exists(options.path(SUMMARY)):
        return False
    old = json.loads(files.read_text(options.path(SUMMARY)))
    at = {options.path(name): size for name, size in old["bytes"].items()}
    is_whole = all(FileSystems.exists(path) and _size(path) == at[path] for path in at)
    return old["digest"] == digest and is_whole


def _size(path: str) -> int:
    return FileSystems.match([path])[0].metadata_list[0].size_in_bytes


def _sidecars(names: list[str], options: PredictionOptions) -> Iterator[dict]:
    """One at a time: the texts of ten million masks do not fit a worker."""
    for name in names:
        yield json.loads(files.read_text(options.work(name)))


def _order(row: dict) -> tuple:
    return row["path"], row["image_id"], row["what"]


def table(options: PredictionOptions, seconds: float) -> str:
    """What was done, of predict.json."""
    counts = json.loads(files.read_text(options.path(SUMMARY)))["counts"]
    reasons = ", ".join(f"{name} {number:,}" for name, number in counts["reasons"].items())
    lines = [
        ("files", counts["files"], f"{counts['files'] / seconds:,.1f} a second"),
        ("predicted", counts["predicted"], f"{counts['with_lesion']:,} with a lesion"),
        ("rejected", counts["rejected"], reasons),
    ]
    if options.seg:
        lines.append(("without a SEG", counts["without_seg"], ""))
    rows = [f"  {name:14}{number:>12,}   {more}".rstrip() for name, number, more in lines]
    return "\n".join([options.folder, *rows])
