"""The end of a prediction: the sidecars of all shards -> submission.csv, predictions.csv and
rejects.csv, in the order of the paths, every image accounted for; predict.json last."""

import hashlib
import json
from collections.abc import Iterator

from apache_beam.io.filesystems import FileSystems

from beam.prediction import listing
from beam.prediction.options import OWNER, PredictionOptions
from beam.running import files
from beam.running.options import WORK
from lake import Refused, Stopped, exam
from lake.predictions import folder
from lake.predictions.folder import SEGS, SUMMARY, FindingsRow, PredictionRow


def finalise(
    shards: list[tuple[str, str]],
    rejects: list[dict],
    num_files: int,
    num_images: int,
    num_left_out: int,
    standings: dict[str, int],
    options: PredictionOptions,
) -> None:
    """Write the tables and predict.json of all shards [(first path, fingerprint)]; write nothing
    where they are already there and the same. `standings` are lake.exam's. Raise Stopped above
    `--max_reject_fraction`."""
    shards = sorted(shards)
    rejects = sorted(rejects, key=lambda reject: (reject["path"], reject["image_id"]))
    inputs = [shards, rejects, num_files, num_images, num_left_out, options.max_reject_fraction]
    inputs.append(dict(sorted(standings.items())))
    digest = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
    if _are_tables_there(digest, options):
        return
    # Files of an earlier run must not be mistaken for this run's, should it stop; a killed one may
    # have left parts of them.
    for name in files.names_in(options.folder):
        if name in (SUMMARY, *folder.tables(options.findings)) or files.UNFINISHED in name:
            files.remove(options.path(name))
    names = [listing.shard_name(path) for path, _ in shards]

    # The rows stream from the sidecars into the tables, and add each shard's rejects on the way.
    def rows() -> Iterator[PredictionRow | FindingsRow]:
        row_type = folder.row_type(options.findings)
        for sidecar in _sidecars(names, options):
            rejects.extend(sidecar["rejects"])
            yield from (row_type(*values) for values in sidecar["rows"])

    counts = folder.write_tables(
        lambda name: files.whole_file(options.path(name)),
        rows(),
        rejects,
        lambda counts: _check(counts, num_images, rejects, options),
        options.findings,
    )
    # Remove what earlier runs made of files that the pattern no longer matches.
    _remove_others(WORK, {OWNER, *names}, options)
    if options.seg:
        segs = {name for sidecar in _sidecars(names, options) for name in sidecar["segs"]}
        _remove_others(SEGS, segs, options)
    content = {
        **options.for_predictions(),
        "counts": {
            "files": num_files,
            "files_left_out": num_left_out,
            **counts,
            "exams": standings,
        },
        "digest": digest,
        "bytes": _sizes(options),
    }
    files.write_text(options.path(SUMMARY), json.dumps(content, indent=1) + "\n")


def _check(counts: dict, num_images: int, rejects: list[dict], options: PredictionOptions) -> None:
    """Raise Stopped where images are missing, there is none, or too many are rejected."""
    num_rejected = counts["rejected"]
    if counts["predicted"] + num_rejected != num_images:
        raise Stopped(f"{num_images:,} images, but {counts}; this is a bug")
    reason = f"; {options.path(folder.REJECTS_CSV)} says why" if rejects else ""
    reason += f"; the first: {rejects[0]['message']}" if rejects else ""
    if num_rejected == num_images and counts["reasons"].keys() <= set(exam.REASONS):
        raise Refused(f"{num_images:,} of {num_images:,} files are refused{reason}")
    if not counts["predicted"]:
        raise Stopped(f"no image in {num_images:,} files{reason}")
    if num_rejected > options.max_reject_fraction * num_images:
        raise Stopped(
            f"{num_rejected:,} of {num_images:,} images rejected, more than --max_reject_fraction="
            f"{options.max_reject_fraction:g}{reason}. With a higher one, the same command only "
            f"writes the tables"
        )


def _remove_others(subfolder: str, names: set[str], options: PredictionOptions) -> None:
    """Remove the files of a folder that have none of these names."""
    for name in files.names_in(options.path(subfolder)):
        if name not in names:
            files.remove(options.path(subfolder, name))


def _are_tables_there(digest: str, options: PredictionOptions) -> bool:
    """Return whether the tables of a run with this digest are in the folder, whole."""
    if not FileSystems.exists(options.path(SUMMARY)):
        return False
    content = json.loads(files.read_text(options.path(SUMMARY)))
    return content["digest"] == digest and content["bytes"] == _sizes(options)


def _sizes(options: PredictionOptions) -> dict[str, int]:
    """Return the bytes of each table, 0 of one that is missing."""
    names = folder.tables(options.findings)
    results = FileSystems.match([options.path(name) for name in names])
    sizes = [sum(file.size_in_bytes for file in result.metadata_list) for result in results]
    return dict(zip(names, sizes, strict=True))


def _sidecars(names: list[str], options: PredictionOptions) -> Iterator[dict]:
    """Yield the sidecars one at a time, because the run lengths of ten million masks do not fit
    into a worker's memory."""
    for name in names:
        yield json.loads(files.read_text(options.work_path(name)))


def table(options: PredictionOptions, seconds: float) -> str:
    """Return the lines that the command prints, from predict.json."""
    counts = json.loads(files.read_text(options.path(SUMMARY)))["counts"]
    reasons = ", ".join(f"{name} {number:,}" for name, number in counts["reasons"].items())
    lines = [
        ("files", counts["files"], f"{counts['files'] / seconds:,.1f} per second"),
        ("predicted", counts["predicted"], folder.answer(counts)),
        ("rejected", counts["rejected"], reasons),
    ]
    if number := counts.get("files_left_out"):
        lines.insert(1, ("left out", number, "hidden, or left there by a system"))
    if options.seg:
        lines.append(("without a SEG", counts["without_seg"], ""))
    rows = [f"  {name:14}{number:>12,}   {more}".rstrip() for name, number, more in lines]
    is_known = bool(options.reader_settings.exams)
    remarks = exam.sentences(counts.get("exams", {}), counts["reasons"], is_known)
    return "\n".join([options.folder, *rows, *remarks])
