"""The end of a conversion: check that every input has an outcome, then write the files beside the
shards, the manifest last."""

import datetime
import json
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems

from beam.conversion import compared, erasures, finished, mask_files, outcomes, rejected, summary
from beam.conversion.earlier_lake import Base
from beam.conversion.labelling import JoinOutcomes, Labels
from beam.conversion.listing import Listing
from beam.conversion.options import ConversionOptions
from beam.running import files
from lake import Stopped
from lake.labels import coherence, findings
from lake.records import index, manifest
from lake.records.totals import Totals, num_by_reason


@beam.ptransform_fn
def Finish(
    names, inputs: Listing, labels: Labels, outcomes: JoinOutcomes, bits, options: ConversionOptions
):
    """Write the files beside the shards, of which `names` has the names; the manifest comes last,
    because a folder with a manifest is a finished lake."""
    rejects = (inputs.rejects, outcomes.rejects) | "Rejects" >> beam.Flatten()
    counts = (
        (inputs.counts, labels.counts, outcomes.counts)
        | "Counts" >> beam.Flatten()
        | "Sums" >> beam.CombinePerKey(sum)  # (name, number)
    )
    return (
        names
        | "Names" >> beam.combiners.ToList()
        | "Finalise"
        >> beam.Map(
            finalise,
            rejects=beam.pvalue.AsList(rejects),
            orphans=beam.pvalue.AsDict(outcomes.orphans),
            input_counts=beam.pvalue.AsDict(counts),
            lake_bits=beam.pvalue.AsSingleton(bits),
            classes=beam.pvalue.AsSingleton(inputs.classes),
            options=options,
        )
    )


def finalise(
    names: list[str],
    rejects: list[dict],
    orphans: dict[str, int],
    input_counts: dict[str, int],
    lake_bits: int,
    classes: list[str],
    options: ConversionOptions,
) -> None:
    """Write rejects, index, TFDS files and, last, the manifest; nothing where the lake on disk is
    already the same. Raises Stopped above `--max_reject_fraction`, for a class without records, and
    for run lengths in another order than `--rle` says.

    `orphans`: {a part of the list of labels without an image: its length}; `input_counts`: how many
    files and images there were.
    """
    names, totals = sorted(names), Totals(len(classes), options.findings)
    for sidecar in _sidecars(names, options):
        totals.add(sidecar)
    if options.base and not names:  # nothing is new
        rejects = erasures.hide(rejects, options)
        rejected.finish_without_news(rejects, orphans, input_counts, options)
        return
    rejects = erasures.hide([*rejects, *totals.rejects], options)
    rejects = sorted(rejects, key=lambda r: (r["path"], r["reason"]))
    counts = _counts(totals, rejects, sum(orphans.values()), input_counts, options)
    warnings = summary.warnings(counts, options) + mask_files.warnings(input_counts, options)
    warnings += summary.finding_warnings(totals.statistics().get("findings", {}))
    content = _manifest(counts, totals, lake_bits, classes, warnings, input_counts, options)
    old_content = finished.read_manifest(options)
    is_same = old_content is not None and finished.is_same(old_content, content)
    if options.keeps_finished and old_content is not None and not is_same:
        raise finished.other_manifest(old_content, content, options)
    is_repeat = options.keeps_finished and is_same  # nothing is written
    if not is_repeat:
        rejected.write(rejects, orphans, options)  # they explain why a conversion stops
    outcomes.check(counts, input_counts, classes, options)
    votes = totals.sums["order_as_columns"], totals.sums["order_as_rows"]
    if conflict := coherence.order_conflict(votes, options.dialect):
        raise Stopped(f"{conflict}; the lake is not finished")
    if conflict := coherence.line_conflict(coherence.line_votes(totals.sums)):
        raise Stopped(f"--labels={options.labels}: {conflict}; the lake is not finished")
    if not is_repeat:
        _remove_stale_files(names, orphans, options)
    if not is_same:
        _write_lake_files(names, content, options)


def _manifest(
    counts: dict,
    totals: Totals,
    lake_bits: int,
    classes: list[str],
    warnings: list[str],
    input_counts: dict[str, int],
    options: ConversionOptions,
) -> dict:
    """Return the manifest of the lake."""
    return {
        "schema_version": manifest.schema_version(len(options.findings)),
        "dataset": options.dataset,
        "version": options.version,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "options": {**options.for_lake(), "bits": lake_bits},
        "dtype": f"uint{lake_bits}",
        "counts": counts,
        "statistics": totals.statistics(),
        "shards": totals.shards,
        **({"classes": classes} if classes else {}),
        **({"findings": list(options.findings)} if options.findings else {}),
        **({"warnings": warnings} if warnings else {}),
        **({"append": _append(totals, input_counts, options.base)} if options.base else {}),
        "earlier_lakes": list(options.earlier_lakes),
    }


def _write_lake_files(names: list[str], content: dict, options: ConversionOptions) -> None:
    """Write index, TFDS files and the manifest `content` beside the shards `names`."""
    files.remove(options.path(manifest.MANIFEST))  # never beside the index of another lake
    with files.whole_file(options.path(manifest.INDEX)) as file:
        rows_of_shards = (sidecar["rows"] for sidecar in _sidecars(names, options))
        index.write(file, rows_of_shards, len(options.findings))
    features = manifest.features_json(content["dtype"], len(options.findings))
    erasures.write(options)
    info = manifest.dataset_info_json(options.dataset, options.version, content["shards"])
    files.write_text(options.path(manifest.FEATURES), manifest.to_json(features))
    files.write_text(options.path(manifest.DATASET_INFO), manifest.to_json(info))
    files.write_text(options.path(manifest.MANIFEST), manifest.to_json(content))


def _sidecars(names: list[str], options: ConversionOptions) -> Iterator[dict]:
    """Yield the shards' sidecars one at a time, because ten million rows of the index do not fit
    into a worker's memory."""
    for name in names:
        yield json.loads(files.read_text(options.sidecar(name)))


def _counts(
    totals: Totals,
    rejects: list[dict],
    num_orphans: int,
    input_counts: dict[str, int],
    options: ConversionOptions,
) -> dict:
    """Return the manifest's `counts`, from the totals of the shards, the rejects of the whole lake,
    the number of labels without an image and the counts of input files and images."""
    of_records = totals.counts()
    return {
        "files": input_counts.get("files", 0),
        "files_left_out": input_counts.get("files_left_out", 0),
        "label_files_among_images": input_counts.get("label_files_among_images", 0)
        + input_counts.get("label_files_by_content", 0),
        "images_named_as_masks": input_counts.get("images_named_as_masks", 0),
        "masks_without_suffix": input_counts.get("masks_without_suffix", 0),
        "images": input_counts.get("images", 0)
        + input_counts.get("files_rejected", 0)
        + input_counts.get(compared.UNLISTED, 0),
        **({compared.UNLISTED: input_counts[compared.UNLISTED]} if options.base else {}),
        "records": of_records["records"],
        "rejects": num_by_reason(rejects),
        "slices_left_out": input_counts.get("left_out", 0),
        "flat_views": of_records["flat_views"],
        "labels_without_image": num_orphans,
        **{name: of_records[name] for name in ("small_lesions", "grouped_by")},
        "images_of_largest_patient": of_records["images_of_largest_patient"],
        "empty_splits": summary.empty_splits(of_records["splits"], options),
        "empty_folds": totals.empty_folds(options.folds),
        **({"exams": of_records["exams"]} if "exams" in of_records else {}),
        **_label_cells(input_counts, options),
        "splits": of_records["splits"],
    }


def _label_cells(input_counts: dict[str, int], options: ConversionOptions) -> dict:
    """Return what a multi-label lake counts besides: cells of its CSV that say -1 or nothing, and
    readers."""
    names = (findings.UNCERTAIN_CELLS, findings.UNMENTIONED_CELLS, findings.READERS)
    return {name: input_counts.get(name, 0) for name in names} if options.findings else {}


def _append(totals: Totals, input_counts: dict[str, int], base: Base) -> dict:
    """Return what an append changed since the version that it continues."""
    names = (compared.RELABELLED, compared.KEPT_LABELS, compared.UNLISTED)
    return {
        "since": base.version,
        "new": sum(shard["records"] for shard in totals.shards) - base.records,
        **{name: input_counts.get(name, 0) for name in names},
        "shards": dict(sorted(totals.carried.items())),
    }


def _remove_stale_files(
    names: list[str], orphans: dict[str, int], options: ConversionOptions
) -> None:
    """Remove shards of an earlier conversion into this folder with other options, and unfinished
    files of a killed one."""
    current = {*names, *(f"{name}.json" for name in names), *orphans}
    work = options.work_path("")
    for folder in (options.folder, work):
        for name in files.names_in(folder):
            is_ours = folder == work or ".tfrecord-" in name
            if files.UNFINISHED in name or (is_ours and name not in current):
                files.remove(FileSystems.join(folder, name))
