"""An append: the shards of the earlier version come into the next one, linked or copied, and those
of which labels came or changed are written anew.

In: the Changes of records. Out: the names of the shards in the next version.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import BinaryIO

import apache_beam as beam

from beam.conversion import digests, earlier_version, label_part
from beam.conversion.labelling import LabelledImage
from beam.conversion.options import ConversionOptions
from beam.conversion.plan import Assignment
from beam.running import files, paths
from beam.running.packing import unpack
from lake.records import example, index, manifest, tfrecord

# How a shard came into a version, in its sidecar; one that is new has no word.
LINKED, COPIED, REWRITTEN = "linked", "copied", "rewritten"
# The sums of a sidecar that its images alone decide.
IMAGE_SUMS = ("grouped_by_", "flat_views", "sampled_", "total", "squares")


@beam.ptransform_fn
def CarryShards(changes, assignment, is_needed, options: ConversionOptions):
    """Carry the earlier version's shards into the next one: (shard, packed Change) -> the name of
    each shard; nothing where nothing is new."""
    shards = (
        changes.pipeline
        | "Earlier version" >> beam.Create([options])
        | "Earlier shards"
        >> beam.FlatMap(earlier_version.shards)  # (shard, (its number, its entry))
    )
    return (
        {"shards": shards, "changes": changes}
        | "Changes by shard" >> beam.CoGroupByKey()
        | "Carry"
        >> beam.FlatMap(
            carry, beam.pvalue.AsSingleton(assignment), beam.pvalue.AsSingleton(is_needed), options
        )
    )


def carry(
    shard_and_sides: tuple[int, dict],
    assignment: Assignment,
    is_needed: bool,
    options: ConversionOptions,
) -> Iterator[str]:
    """Put a shard of the earlier version, and its sidecar, into the next one; yield its name there.
    Nothing happens where the next version is not needed."""
    if not is_needed:
        return
    sides = shard_and_sides[1]
    [(number, entry)] = sides["shards"]
    changes = {change.position: change for change in map(unpack, sides["changes"])}
    split = entry["split"]
    name = manifest.shard_name(options.dataset, split, number, assignment.num_shards(split))
    source, target = paths.join(options.base.folder, entry["name"]), options.path(name)
    if files.size_of(source) != entry["bytes"]:
        raise earlier_version.damage(
            source, f"{files.size_of(source):,} bytes, expected {entry['bytes']:,}"
        )
    sidecar = earlier_version.read_sidecar(options, entry["name"])
    for position, change in changes.items():
        image, label, group = digests.record_digests(change.image, options.key_file)
        label = label if change.is_relabelled else sidecar["digests"][position][1]
        sidecar["digests"][position] = image, label, group
    sidecar |= {"name": name, "rejects": []}
    relabelled = {n: change.image for n, change in changes.items() if change.is_relabelled}
    # From here on the worker may die after any step: a sidecar stands beside its own shard only.
    files.remove(options.sidecar(name))
    if relabelled:
        with earlier_version.open_shard(source) as earlier_file, files.whole_file(target) as file:
            sidecar |= _rewrite(earlier_file, file, relabelled, sidecar, options)
    else:
        sidecar["carried"] = LINKED if files.link_or_copy(source, target) else COPIED
    files.write_text(options.sidecar(name), json.dumps(sidecar))
    yield name


def _rewrite(
    earlier_file: BinaryIO,
    file: BinaryIO,
    relabelled: dict[int, LabelledImage],
    sidecar: dict,
    options: ConversionOptions,
) -> dict:
    """Write the shard in `earlier_file` to `file` with other labels of the records at some
    positions; return what changes in its sidecar."""
    sums, sha256, num_bytes = label_part.sums(options), hashlib.sha256(), 0
    rows = list(sidecar["rows"])
    for position, (content, is_intact) in enumerate(tfrecord.records(earlier_file)):
        if not is_intact:
            raise earlier_version.damage(
                sidecar["name"], f"the checksum of record {position} is wrong"
            )
        fields, parts = example.decode(content, len(options.findings)), [content]
        if position in relabelled:
            fields |= _label_fields(fields, relabelled[position])
            parts = example.encode_parts(fields)
            row = rows[position]
            rows[position] = index.row(fields, row["split"], row["shard"], position)
        sums.add(fields)
        for part in tfrecord.frame(*parts):
            file.write(part)
            sha256.update(part)
            num_bytes += len(part)
    kept_sums = {key: n for key, n in sidecar["sums"].items() if key.startswith(IMAGE_SUMS)}
    inputs = [sidecar["sha256"], sidecar["digests"]]
    return {
        "fingerprint": hashlib.sha256(json.dumps(inputs).encode()).hexdigest(),
        "carried": REWRITTEN,
        "bytes": num_bytes,
        "sha256": sha256.hexdigest(),
        "rows": rows,
        "sums": kept_sums | sums.sums,
    }


def _label_fields(fields: dict, image: LabelledImage) -> dict:
    """Return the fields that another label gives the record with these fields."""
    original_size = fields["original_height"], fields["original_width"]
    return label_part.fields(image.label, original_size, (fields["height"], fields["width"]))
