"""The end of a conversion: every input accounted for, then the files beside the shards, the
manifest last."""

import datetime
import json
import math
from collections import Counter

import pyarrow
import pyarrow.parquet
from apache_beam.io.filesystems import FileSystems

from beam import files
from beam.shards import WORK, Options, Stopped
from lake import manifest


def finalise(
    names: list[str],
    rejects: list[dict],
    orphans: int,
    matched: int,
    lake_bits: int,
    options: Options,
):
    """Writes rejects, index, TFDS files and, last, the manifest; raises Stopped above
    `--max_reject_fraction`."""
    sidecars = [
        json.loads(files.read_text(options.path(f"{WORK}/{name}.json"))) for name in sorted(names)
    ]
    rejects = sorted(
        [*rejects, *(r for s in sidecars for r in s["rejects"])],
        key=lambda r: (r["path"], r["reason"]),
    )
    files.write_text(
        options.path(manifest.REJECTS),
        "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rejects),
    )
    records = sum(sidecar["records"] for sidecar in sidecars)
    if matched != records + len(rejects):
        raise Stopped(
            f"{matched} images in, but {records} records and {len(rejects)} rejects: please "
            f"report this"
        )
    if len(rejects) > options.max_reject_fraction * matched:
        reasons = ", ".join(
            f"{reason}: {n}" for reason, n in Counter(r["reason"] for r in rejects).most_common()
        )
        raise Stopped(
            f"{len(rejects)} of {matched} images rejected ({reasons}), more than "
            f"--max_reject_fraction="
            f"{options.max_reject_fraction:g}; the lake is not finished. See "
            f"{options.path(manifest.REJECTS)}"
        )
    _remove_stale_shards(names, options)
    _write_index(sidecars, options)
    dtype = f"uint{lake_bits}"
    shards = [
        {key: s[key] for key in ("name", "split", "records", "bytes", "sha256")} for s in sidecars
    ]
    content = {
        "schema_version": manifest.SCHEMA_VERSION,
        "dataset": options.dataset,
        "version": options.version,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "options": {**options.content(), "bits": lake_bits},
        "dtype": dtype,
        "counts": _counts(sidecars, rejects, orphans, matched),
        "statistics": _statistics(sidecars),
        "shards": shards,
    }
    files.write_text(options.path("features.json"), manifest.to_json(manifest.features_json(dtype)))
    info = manifest.dataset_info_json(options.dataset, options.version, shards)
    files.write_text(options.path("dataset_info.json"), manifest.to_json(info))
    files.write_text(options.path(manifest.MANIFEST), manifest.to_json(content))


def _counts(sidecars: list[dict], rejects: list[dict], orphans: int, matched: int) -> dict:
    splits = {}
    for sidecar in sidecars:
        split = splits.setdefault(
            sidecar["split"],
            {
                "records": 0,
                "positives": 0,
                "negatives": 0,
                "unknown": 0,
                "patients": set(),
                "with_mask": 0,
                "lesion_pixels": 0,
            },
        )
        for row in sidecar["rows"]:
            split["records"] += 1
            split[("unknown", "negatives", "positives")[row["label"] + 1]] += 1
            split["lesion_pixels"] += max(row["lesion_px"], 0)
            split["with_mask"] += row["has_mask"]
            split["patients"] |= {row["patient"]} - {""}
    for split in splits.values():
        split["patients"] = len(split["patients"])
    return {
        "images": matched,
        "records": sum(split["records"] for split in splits.values()),
        "rejects": dict(sorted(Counter(reject["reason"] for reject in rejects).items())),
        "labels_without_image": orphans,
        "splits": splits,
    }


def _statistics(sidecars: list[dict]) -> dict:
    sums = Counter()
    for sidecar in sidecars:
        sums.update(sidecar["sums"])
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


def _write_index(sidecars: list[dict], options: Options) -> None:
    with (
        files.Unfinished(options.path(manifest.INDEX)) as file,
        pyarrow.parquet.ParquetWriter(file, manifest.INDEX_SCHEMA) as writer,
    ):
        for sidecar in sidecars:
            rows = pyarrow.Table.from_pylist(sidecar["rows"], manifest.INDEX_SCHEMA)
            writer.write_table(rows)


def _remove_stale_shards(names: list[str], options: Options) -> None:
    """Shards of an earlier conversion with other options into the same folder."""
    for pattern, suffix in (
        (options.path(f"{options.dataset}-*.tfrecord-*"), ""),
        (options.path(f"{WORK}/*.json"), ".json"),
    ):
        for found in FileSystems.match([pattern])[0].metadata_list:
            if FileSystems.split(found.path)[1].removesuffix(suffix) not in names:
                files.remove(found.path)


def table(content: dict, seconds: float) -> str:
    """What a user reads at the end of a conversion."""
    counts, megabytes = content["counts"], sum(shard["bytes"] for shard in content["shards"]) / 1e6
    rejected = ", ".join(f"{reason} {n:,}" for reason, n in counts["rejects"].items())
    lines = [
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
    if counts["labels_without_image"]:
        lines.append(f"{counts['labels_without_image']:,} ids of the label CSV have no image")
    lines.append(
        f"{megabytes:.1f} MB in {seconds:.1f} s, {counts['images'] / seconds:.0f} images/s"
    )
    return "\n".join(lines)
