"""A finished version is never changed in silence: what a command would write, beside what is there.

In: the planned shards of a conversion into a folder with a finished lake. Out: leave to go on, or
Refused with what would change.
"""

import json
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from apache_beam.io.filesystems import FileSystems

from beam.conversion import earlier_lake
from beam.conversion.earlier_lake import EarlierLake
from beam.conversion.labelling import LabelledImage
from beam.conversion.options import ConversionOptions
from beam.running import files
from lake import Refused
from lake.records import manifest

# What the manifests of earlier writers lack: fields, and entries of `counts`.
LATER_FIELDS = {"earlier_lakes"}
LATER_COUNTS = {
    *("files_left_out", "label_files_among_images", "images_named_as_masks"),
    *("masks_without_suffix", "flat_views", "small_lesions", "images_of_largest_patient"),
    *("empty_splits", "empty_folds", "exams"),
}


class FinishedLake(NamedTuple):
    """Holds where the images of the finished lake are."""

    places: EarlierLake
    rejected_ids: set[str]


@dataclass(frozen=True)
class PlannedShard:
    """Says of a shard that would be written how it differs from what the finished lake has."""

    name: str
    is_changed: bool  # its bytes would be others
    counts: Counter  # images that are `known`, `new`, `moved` to another split, `refolded`
    example: str = ""  # of a moved image


def read(options: ConversionOptions) -> FinishedLake:
    """Return the finished lake in the folder of a conversion."""
    path = options.path(manifest.REJECTS)
    lines = files.read_text(path).splitlines() if FileSystems.exists(path) else []
    rejected_ids = {json.loads(line)["image_id"] for line in lines}
    return FinishedLake(earlier_lake.read(options.folder), rejected_ids)


def plan_shard(
    name: str,
    split: str,
    images: list[tuple[LabelledImage, int]],
    is_changed: bool,
    lake: FinishedLake,
    options: ConversionOptions,
) -> PlannedShard:
    """Return the PlannedShard of [(image, fold)]."""
    counts, examples = Counter(), []
    for image, fold in images:
        names = earlier_lake.names(image.header, options.key_file)[-2:]  # without the patient
        old_split, old_fold = lake.places.find(names)
        if not old_split:
            counts["new"] += image.header.image_id not in lake.rejected_ids
            continue
        counts["known"] += 1
        if old_split.decode() != split:
            counts["moved"] += 1
            examples.append(f"{image.header.image_id} from {old_split.decode()} to {split}")
        elif old_fold != fold:
            counts["refolded"] += 1
    return PlannedShard(name, is_changed, counts, min(examples, default=""))


def check(shards: list[PlannedShard], lake_bits: int, options: ConversionOptions) -> None:
    """Raise Refused where the shards are not those of the finished lake."""
    content = read_manifest(options)
    if content is None:  # removed meanwhile
        return
    old_names = {shard["name"] for shard in content["shards"]}
    removed_names = old_names - {shard.name for shard in shards}
    changed_shards = [shard for shard in shards if shard.is_changed]
    if not removed_names and not changed_shards:
        return
    counts = sum((shard.counts for shard in shards), Counter())
    num_gone = content["counts"]["records"] - counts["known"]
    example = min((shard.example for shard in shards if shard.example), default="")
    numbers = (
        (counts["new"], "images more"),
        (num_gone, "images fewer"),
        (counts["moved"], f"images in another split, such as {example}"),
        (counts["refolded"], "images in another fold"),
        (len(changed_shards), f"of {len(shards)} shards written anew"),
        (len(removed_names), "shards removed"),
    )
    changes = [f"{number:,} {what}" for number, what in numbers if number > 0]
    raise refusal(changes + option_changes(content, lake_bits, options), options)


def option_changes(
    content: dict, lake_bits: int, options: ConversionOptions, free: Collection[str] = ()
) -> list[str]:
    """Return the options that differ from those of the finished lake with this manifest, in
    words, but for those that are `free` to."""
    new_options, old_options = {**options.for_lake(), "bits": lake_bits}, content["options"]
    new_options = json.loads(json.dumps(new_options))  # tuples become lists on the way
    # A lake with findings says so, and one without has no word of them.
    of_findings = {"findings": "none"} if "findings" in (new_options | old_options) else {}
    new_options, old_options = of_findings | new_options, of_findings | old_options
    return [
        f"--{name} {new_options[name]} instead of {old_options[name]}"
        for name in new_options
        if name in old_options and name not in free and new_options[name] != old_options[name]
    ]


def other_manifest(old_content: dict, content: dict, options: ConversionOptions) -> Refused:
    """Return the error of a command that would replace a finished lake's manifest by `content`."""
    counts = old_content["counts"]
    changes = [
        f"{name.replace('_', ' ')} {value:,} instead of {counts[name]:,}"
        for name, value in content["counts"].items()
        if isinstance(value, int) and counts.get(name, value) != value
    ]
    bits = content["options"]["bits"]
    return refusal(changes + option_changes(old_content, bits, options), options)


def is_same(old_content: dict, content: dict) -> bool:
    """Return whether two manifests say the same, whatever their `created`, of what both can say: a
    lake of an earlier radlake lacks the fields and counts that came later."""
    content = json.loads(json.dumps(content))  # tuples become lists on the way
    content = _without_later(content, old_content, LATER_FIELDS)
    counts, old_counts = content["counts"], old_content["counts"]
    content["counts"] = _without_later(counts, old_counts, LATER_COUNTS)
    if content["counts"] != counts:
        # Warnings are made of counts, and its writer could not warn of those that it lacks.
        old_content = old_content | {"warnings": content.get("warnings")}
        content["warnings"] = content.get("warnings")
    return {**old_content, "created": ""} == {**content, "created": ""}


def _without_later(content: dict, old_content: dict, later: set[str]) -> dict:
    """Return the entries of `content`, without those named in `later` that the old one lacks."""
    return {key: value for key, value in content.items() if key in old_content or key not in later}


def refusal(changes: list[str], options: ConversionOptions) -> Refused:
    """Return the error of a command that would make these changes."""
    what = "; ".join(changes) or "what its manifest says"
    return Refused(
        f"{options.folder} is finished, and this command would change it: {what}. Nothing was "
        f"written. New images and labels become a new version with --append, other options one "
        f"with --splits_from {options.folder}: both keep its splits; or write this one anew: "
        f"--replace"
    )


def read_manifest(options: ConversionOptions) -> dict | None:
    """Return the manifest of the finished lake; None where there is none any more."""
    path = options.path(manifest.MANIFEST)
    return json.loads(files.read_text(path)) if FileSystems.exists(path) else None
