"""The end of a conversion: every input accounted for, then the files beside the shards, the
manifest last."""

import datetime
import json
import math
from collections import Counter
from collections.abc import Iterator

import apache_beam as beam
import numpy as np
import pyarrow.parquet
from apache_beam.io.filesystems import FileSystems

from beam.conversion.labelling import Joined
from beam.conversion.listing import Listing
from beam.conversion.options import ConversionOptions
from beam.running import files
from lake import Stopped
from lake.labels import rle
from lake.records import index, manifest
from lake.scan import stable_hash


class Finish(beam.PTransform):
    """Names of the shards -> a finished lake: the files beside the shards, the manifest last."""

    def __init__(self, listed: Listing, joined: Joined, bits, options: ConversionOptions):
        super().__init__()
        self.listed, self.joined, self.bits, self.options = listed, joined, bits, options

    def expand(self, names):
        listed, joined = self.listed, self.joined
        rejects = (listed.rejects, joined.rejects) | "Rejects" >> beam.Flatten()
        counts = (
            (listed.counts, joined.counts)
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
                orphans=beam.pvalue.AsDict(joined.orphans),
                counted=beam.pvalue.AsDict(counts),
                lake_bits=beam.pvalue.AsSingleton(self.bits),
                classes=beam.pvalue.AsSingleton(listed.classes),
                options=self.options,
            )
        )


def finalise(
    names: list[str],
    rejects: list[dict],
    orphans: dict[str, int],
    counted: dict[str, int],
    lake_bits: int,
    classes: list[str],
    options: ConversionOptions,
) -> None:
    """Writes rejects, index, TFDS files and, last, the manifest; nothing when the lake stands as it
    would be written. Raises Stopped above `--max_reject_fraction`."""
    names, totals = sorted(names), _Totals(classes)
    for sidecar in _sidecars(names, options):
        totals.add(sidecar)
    rejects = sorted([*rejects, *totals.rejects], key=lambda r: (r["path"], r["reason"]))
    _write_rejects(rejects, orphans, options)
    counts = totals.counts(rejects, sum(orphans.values()), counted)
    _check_accounts(counts, counted, options)
    _check_classes(counts, classes, options)
    conflict = rle.order_conflict(
        (totals.sums["order_as_columns"], totals.sums["order_as_rows"]), options.dialect
    )
    if conflict:
        raise Stopped(f"{conflict}; the lake is not finished")
    content = {
        "schema_version": manifest.SCHEMA_VERSION,
        "dataset": options.dataset,
        "version": options.version,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "options": {**options.for_lake(), "bits": lake_bits},
        "dtype": f"uint{lake_bits}",
        "counts": counts,
        "statistics": totals.statistics(),
        "shards": totals.shards,
        **({"classes": classes} if classes else {}),
    }
    _remove_stale_files(names, orphans, options)
    if not _stands(content, options):
        _write(names, content, options)


def _write(names: list[str], content: dict, options: ConversionOptions) -> None:
    files.remove(options.path(manifest.MANIFEST))  # it must not stand beside another index
    with (
        files.written(options.path(manifest.INDEX)) as file,
        pyarrow.parquet.ParquetWriter(file, index.SCHEMA) as writer,
    ):
        for sidecar in _sidecars(names, options):
            writer.write_table(index.table(sidecar["rows"]))
    features = manifest.features_json(content["dtype"])
    info = manifest.dataset_info_json(options.dataset, options.version, content["shards"])
    files.write_text(options.path(manifest.FEATURES), manifest.to_json(features))
    files.write_text(options.path(manifest.DATASET_INFO), manifest.to_json(info))
    files.write_text(options.path(manifest.MANIFEST), manifest.to_json(content))


def _stands(content: dict, options: ConversionOptions) -> bool:
    """Whether the finished lake on disk is already this one."""
    path = options.path(manifest.MANIFEST)
    if not FileSystems.exists(path):
        return False
    old = json.loads(files.read_text(path))
    return {**old, "created": ""} == {**json.loads(json.dumps(content)), "created": ""}


def _sidecars(names: list[str], options: ConversionOptions) -> Iterator[dict]:
    """One at a time: ten million rows of the index do not fit a worker."""
    for name in names:
        yield json.loads(files.read_text(options.sidecar(name)))


class _Totals:
    """What all shards add up to."""

    def __init__(self, classes: list[str]):
        self.classes = classes
        self.shards, self.rejects, self.sums = [], [], Counter()
        self.splits, self.patients = {}, {}

    def add(self, sidecar: dict) -> None:
        keys = ("name", "split", "records", "bytes", "sha256")
        self.shards.append({key: sidecar[key] for key in keys})
        self.rejects += sidecar["rejects"]
        self.sums.update(sidecar["sums"])
        counts = index.count(index.table(sidecar["rows"], index.COUNTED), len(self.classes))
        self.splits.setdefault(sidecar["split"], []).append(counts)
        # Hashes, because ten million names would take a gigabyte.
        patients = {stable_hash(row["patient"]) for row in sidecar["rows"] if row["patient"]}
        arrays = self.patients.setdefault(sidecar["split"], [])
        arrays.append(np.fromiter(patients, np.uint64, len(patients)))

    def counts(self, rejects: list[dict], orphans: int, counted: dict[str, int]) -> dict:
        reasons = Counter()
        for reject in rejects:
            reasons[reject["reason"]] += reject["images"]
        splits = {
            name: {
                **index.total(self.splits[name]),
                "patients": len(np.unique(np.concatenate(self.patients[name]))),
            }
            for name in sorted(self.splits)
        }
        kinds = ("patient", "study", "series", "image")
        grouped_by = {kind: self.sums[f"grouped_by_{kind}"] for kind in kinds}
        return {
            "files": counted.get("files", 0),
            "images": counted.get("images", 0) + counted.get("files_rejected", 0),
            "records": sum(split["records"] for split in splits.values()),
            "rejects": dict(sorted(reasons.items())),
            "slices_left_out": counted.get("left_out", 0),
            "labels_without_image": orphans,
            "grouped_by": {kind: n for kind, n in grouped_by.items() if n},
            "splits": splits,
        }

    def statistics(self) -> dict:
        sums = self.sums
        mean = sums["total"] / max(sums["sampled_pixels"], 1)
        variance = sums["squares"] / max(sums["sampled_pixels"], 1) - mean**2
        return {
            "mean": mean,
            "standard_deviation": math.sqrt(max(variance, 0.0)),
            "images_sampled": sums["sampled_images"],
            "positive_pixel_share": sums["lesion_pixels"] / max(sums["mask_pixels"], 1),
            "positive_pixel_share_of_positives": sums["lesion_pixels"]
            / max(sums["pixels_of_positives"], 1),
        }


def _check_accounts(counts: dict, counted: dict[str, int], options: ConversionOptions) -> None:
    listed, rejected = counted.get("files_listed", 0), sum(counts["rejects"].values())
    outcome = counts["records"] + rejected + counts["slices_left_out"]
    if counts["files"] != listed + counted.get("files_rejected", 0) or counts["images"] != outcome:
        raise Stopped(f"the books do not balance, please report this: {counts} from {counted}")
    if rejected > options.max_reject_fraction * counts["images"]:
        reasons = ", ".join(f"{reason}: {n}" for reason, n in counts["rejects"].items())
        raise Stopped(
            f"{rejected} of {counts['images']} images rejected ({reasons}), more than "
            f"--max_reject_fraction={options.max_reject_fraction:g}; the lake is not finished. See "
            f"{options.path(manifest.REJECTS)}"
        )


def _check_classes(counts: dict, classes: list[str], options: ConversionOptions) -> None:
    for number, name in enumerate(classes):
        if not any(split["classes"][number] for split in counts["splits"].values()):
            raise Stopped(
                f"class folder {name}: none of its images became a record; the lake is not "
                f"finished. See {options.path(manifest.REJECTS)}, or leave the folder out of "
                f"--images"
            )


def _write_rejects(
    rejects: list[dict], orphans: dict[str, int], options: ConversionOptions
) -> None:
    with files.written(options.path(manifest.REJECTS)) as file:
        for reject in rejects:
            file.write((json.dumps(reject, ensure_ascii=False) + "\n").encode())
    with files.written(options.path(manifest.ORPHANS)) as file:
        for part in sorted(orphans):
            file.write(files.read(options.work(part)))


def _remove_stale_files(
    names: list[str], orphans: dict[str, int], options: ConversionOptions
) -> None:
    """Shards of an earlier conversion with other options into the same folder, and what a killed
    one left unfinished."""
    kept = {*names, *(f"{name}.json" for name in names), *orphans}
    for folder, is_ours in ((options.folder, _is_shard), (options.work(""), lambda name: True)):
        for name in files.names_in(folder):
            if files.UNFINISHED in name or (is_ours(name) and name not in kept):
                files.remove(FileSystems.join(folder, name))


def _is_shard(name: str) -> bool:
    return ".tfrecord-" in name


def table(content: dict, seconds: float | None = None) -> str:
    """What a user reads at the end of a conversion, which took so many seconds."""
    counts, megabytes = content["counts"], sum(shard["bytes"] for shard in content["shards"]) / 1e6
    rejected = ", ".join(f"{reason} {n:,}" for reason, n in counts["rejects"].items())
    lines = [
        f"files    {counts['files']:>9,}",
        f"images   {counts['images']:>9,}",
        f"records  {counts['records']:>9,}",
        f"rejects  {sum(counts['rejects'].values()):>9,}  {rejected}",
        f"{'split':<9}{'records':>9} {'positive':>9} {'negative':>9} {'unknown':>9} "
        f"{'patients':>9} {'shards':>7} {'MB':>9}",
    ]
    for name, split in sorted(counts["splits"].items()):
        own = [shard for shard in content["shards"] if shard["split"] == name]
        numbers = " ".join(
            f"{split[key]:>9,}" for key in ("positives", "negatives", "unknown", "patients")
        )
        size = sum(shard["bytes"] for shard in own) / 1e6
        lines.append(f"{name:<9}{split['records']:>9,} {numbers} {len(own):>7} {size:>9.1f}")
    if names := content.get("classes"):
        lines.append(f"classes: {', '.join(manifest.numbered(names))}")
    if counts["slices_left_out"]:
        lines.append(f"{counts['slices_left_out']:,} slices without a nodule left out")
    if counts["labels_without_image"]:
        lines.append(f"{counts['labels_without_image']:,} labels have no image: {manifest.ORPHANS}")
    fallen = [f"{n:,} by {kind}" for kind, n in counts["grouped_by"].items() if kind != "patient"]
    if fallen:
        lines.append(f"images without a patient id, split {', '.join(fallen)}")
    speed = f" in {seconds:.1f} s, {counts['images'] / seconds:.0f} images/s" if seconds else ""
    lines.append(f"{megabytes:.1f} MB{speed}")
    return "\n".join(lines)
