"""An append: images meet the records of the earlier version, which stay, or get other labels.

In: LabelledImages. Out: those that are new; the Changes of records, once it is sure that their
images are the same.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import apache_beam as beam

from beam.conversion import digests, earlier_lake, earlier_version, label_part, listing
from beam.conversion.earlier_version import EarlierRecords
from beam.conversion.labelling import JoinOutcomes, LabelledImage
from beam.conversion.options import ConversionOptions
from beam.conversion.shards import record
from beam.running import files, paths, progress
from beam.running.packing import pack, unpack
from lake import Refused, Reject
from lake.records import example, tfrecord
from lake.sources import reader

CHANGE = "change"  # tag of the output of records that may change
# Names of counts. The images of records that are not among `--images` count as images, too.
UNLISTED, RELABELLED, KEPT_LABELS = "unlisted", "relabelled", "labels_without_row"


class Change(NamedTuple):
    """Says why the record at `position` of a shard may change."""

    position: int
    image: LabelledImage
    is_relabelled: bool
    is_suspect: bool  # its file is newer, or its header differs


class Carry(NamedTuple):
    """Holds the collections of an append that has compared images with records."""

    outcomes: JoinOutcomes  # its images are those that are new
    places: beam.PCollection  # one EarlierLake
    changes: beam.PCollection  # (shard, packed Change)
    is_needed: beam.PCollection  # one bool: whether anything is new


@beam.ptransform_fn
def Compare(root, outcomes: JoinOutcomes, options: ConversionOptions) -> Carry:
    """Tell the images of which the earlier version has no record from those whose records change,
    or stay: the pipeline's root -> Carry."""
    sidecars = (
        root
        | "Earlier sidecars" >> beam.Create([options])
        | "Index" >> beam.Map(earlier_version.read)
    )
    records = sidecars | "Records" >> beam.Map(lambda pair: pair[0])
    tags = (CHANGE, listing.COUNT, listing.REJECT)
    images = outcomes.images | "Meet records" >> beam.FlatMap(
        meet, beam.pvalue.AsSingleton(records), options
    ).with_outputs(*tags, main="new")
    changes = (
        images[CHANGE]  # (shard, packed Change)
        | "By shard" >> beam.GroupByKey()
        | "Examine" >> beam.FlatMap(examine, options).with_outputs(*tags[1:], main="out")
    )
    unlisted = root | "All records" >> beam.Create([(UNLISTED, options.base.records)])
    counts = (outcomes.counts, images[listing.COUNT], changes[listing.COUNT], unlisted)
    rejects = (outcomes.rejects, images[listing.REJECT], changes[listing.REJECT])
    outcomes = outcomes._replace(
        images=images["new"],
        counts=counts | "All counts" >> beam.Flatten(),
        rejects=rejects | "All rejects" >> beam.Flatten(),
    )
    new = (
        images["new"] | "A new one" >> beam.Map(lambda _: True),
        changes["out"] | "A change" >> beam.Map(lambda pair: unpack(pair[1]).is_relabelled),
    )
    is_needed = new | "Any of both" >> beam.Flatten() | beam.CombineGlobally(any)
    places = sidecars | "Places" >> beam.Map(lambda pair: pair[1])
    return Carry(outcomes, places, changes["out"], is_needed)


def meet(image: LabelledImage, records: EarlierRecords, options: ConversionOptions) -> Iterator:
    """Yield an image of which the earlier version has no record or, tagged, the Change of its
    record where it may need one, and its part of the counts."""
    header, image_digest = image.header, digests.image_digest(image.header)
    names = earlier_lake.names(header, options.key_file)[-2:]  # without the patient
    place = records.find(names)
    if place is None and image_digest in records.rejects:
        progress.tick(options.progress_file, progress.REJECTED)
        line = records.rejects[image_digest] | {"path": header.path}
        yield beam.pvalue.TaggedOutput(listing.REJECT, line)
        return
    if place is None:
        yield image
        return
    progress.tick(options.progress_file, progress.RECORD)
    yield beam.pvalue.TaggedOutput(listing.COUNT, (UNLISTED, -1))
    is_relabelled = int(place["label"]) != digests.label_digest(image)
    if is_relabelled and not image.has_row:  # labels of one night may be in that night's file
        is_relabelled = False
        yield beam.pvalue.TaggedOutput(listing.COUNT, (KEPT_LABELS, 1))
    is_suspect = int(place["image"]) != image_digest
    if is_relabelled or is_suspect:
        change = Change(int(place["position"]), image, is_relabelled, is_suspect)
        yield beam.pvalue.TaggedOutput(CHANGE, (int(place["shard"]), pack(change)))


def examine(
    shard_and_changes: tuple[int, Iterable[bytes]], options: ConversionOptions
) -> Iterator[tuple[int, bytes]]:
    """Yield (shard, packed Change) of those whose images are those of their records and, tagged,
    counts and rejects; raise Refused where one is another image."""
    shard, changes = shard_and_changes[0], [unpack(change) for change in shard_and_changes[1]]
    suspects = {change.position: change for change in changes if change.is_suspect}
    rejected = set()
    if suspects:
        entry = dict(earlier_version.shards(options))[shard][1]
        inputs = files.Inputs()
        reader.quieten()
        with earlier_version.open_shard(paths.join(options.base.folder, entry["name"])) as file:
            for position, content in tfrecord.records_at(file, suspects):
                try:
                    _check_same(suspects[position].image, content, inputs, options)
                except Reject as reject:
                    rejected.add(position)
                    yield from _reject(suspects[position].image, reject, options)
    for change in changes:
        if change.position in rejected:
            continue
        if change.is_relabelled:
            yield beam.pvalue.TaggedOutput(listing.COUNT, (RELABELLED, 1))
        yield shard, pack(change)


def _reject(image: LabelledImage, reject: Reject, options: ConversionOptions) -> Iterator:
    """Yield the reject of a file that can no more be read, and its count: its record stays, as
    those do whose files are not listed."""
    yield listing.to_reject(image.header.path, image.header.image_id, reject, options)
    yield beam.pvalue.TaggedOutput(listing.COUNT, (UNLISTED, 1))


def _check_same(
    image: LabelledImage, content: bytes, inputs: files.Inputs, options: ConversionOptions
) -> None:
    """Raise Refused where a record of the image would differ from the one with this content in more
    than its label, Reject where its file cannot be read."""
    num_findings = len(options.findings)
    fields = example.decode(content, num_findings)
    scan = reader.read_scan(
        options.source, inputs, image.header, options.storage(options.base.bits)
    )
    as_today = example.encode(record(image, scan, fields["fold"], options))
    as_today = example.decode(as_today, num_findings)
    names = [
        name
        for name in fields
        if name not in label_part.FIELDS and repr(fields[name]) != repr(as_today[name])
    ]
    if names:
        raise Refused(
            f"--append: {image.header.path} is not the image that {options.base.folder} has as "
            f"{image.header.image_id!r}: {', '.join(names)} differ. An append changes labels, not "
            f"images: if it is another one, give ids that tell them apart (--image_id_from uid or "
            f"path); if it was corrected, leave it out of --images, or convert all to a new "
            f"version with --splits_from. Nothing was written"
        )
