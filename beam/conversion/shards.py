"""One shard: read its images, convert them, write the records under a temporary name, rename.

Each finished shard has a sidecar in `.work/` with its fingerprint, its rows of the index, its
rejects and its sums. A shard whose fingerprint is still the same is not written again.
"""

import functools
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from importlib import metadata

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems

from beam.conversion import deidentify, digests, erasures, finished, label_part
from beam.conversion.earlier_lake import Base
from beam.conversion.finished import FinishedLake, PlannedShard
from beam.conversion.labelling import LabelledImage
from beam.conversion.listing import reject_line
from beam.conversion.options import ConversionOptions
from beam.running import files, progress
from beam.running.packing import pack, unpack
from lake import Refused, Reject, Stopped, exam
from lake.records import example, index, manifest, tfrecord
from lake.records.totals import STATISTICS_EVERY, grey_sums
from lake.scan import Scan
from lake.sources import reader

WRITER_VERSION = 5  # raise it when records of the same input change
DECODERS = (
    *("pydicom", "pillow", "imagecodecs", "pylibjpeg", "pylibjpeg-openjpeg", "numpy"),
    *("scikit-image", "SimpleITK"),
)
_version_of = functools.cache(metadata.version)  # of a package; each shard asks for all


@beam.ptransform_fn
def LakeBits(images, options: ConversionOptions):
    """Choose the bits of all pixels of the lake: LabelledImage -> 8 or 16."""
    return (
        images
        | "Bits" >> beam.Map(bits_of_image)  # (8 or 16, path)
        | "An example of each" >> beam.CombinePerKey(min)
        | "List" >> beam.combiners.ToList()
        | "Choose" >> beam.Map(lake_bits, options.bits, options.base)
    )


@beam.ptransform_fn
def WriteShards(
    entries,
    options: ConversionOptions,
    bits: beam.PCollection,
    leave: beam.PCollection | None = None,
):
    """Write the shards: ((split, shard, shards), (key, fold, image)) -> the name of each. Raises
    Refused, and writes nothing, where a finished lake would change that has to stay as it is.
    It waits for the one value of `leave`: an append first looks at all images."""
    packed = entries | "Pack" >> beam.MapTuple(lambda shard, entry: (shard, pack(entry)))
    bits, shards = beam.pvalue.AsSingleton(bits), packed | beam.GroupByKey()
    if leave:
        return shards | beam.Map(write, bits, options, beam.pvalue.AsSingleton(leave))
    if not options.keeps_finished:
        return shards | beam.Map(write, bits, options)
    finished_lake = shards.pipeline | beam.Create([options]) | "Finished" >> beam.Map(finished.read)
    check = (
        shards
        | "Compare" >> beam.Map(compare, bits, beam.pvalue.AsSingleton(finished_lake), options)
        | "Planned" >> beam.combiners.ToList()
        | "Check" >> beam.Map(finished.check, bits, options)  # None
    )
    return shards | beam.Map(write, bits, options, beam.pvalue.AsSingleton(check))


def bits_of_image(image: LabelledImage) -> tuple[int, str]:
    """Return (8 or 16, path): the stored dtype that fits an image."""
    return (8 if image.header.bits <= 8 else 16), image.header.path


def lake_bits(examples: list[tuple[int, str]], option: int | None, base: Base | None = None) -> int:
    """Return the lake's bits: those of the option, else those of all images, from (8 or 16, path)
    of one image of each. Raises Stopped where the images have both, or an append's others than
    the version that it continues."""
    if option:
        return option
    if base:
        for bits, path in sorted(examples):
            if bits != base.bits:
                raise Refused(
                    f"--append: {base.folder} has {base.bits} bits, and {path} {bits}; say --bits "
                    f"{base.bits} to store it so, or leave it out of --images"
                )
        return base.bits
    if len(examples) > 1:
        paths = " and ".join(f"{bits} bits: {path}" for bits, path in sorted(examples))
        raise Stopped(f"images of 8 and of more bits ({paths}); choose --bits 8 or --bits 16")
    return examples[0][0] if examples else 8


def compare(
    shard_and_entries: tuple, lake_bits: int, lake: FinishedLake, options: ConversionOptions
) -> PlannedShard:
    """Return the PlannedShard of a shard, as `write` takes it: how it differs from the finished
    lake. Where files are newer than the lake and nothing else differs, their records are made, to
    see whether their bytes differ."""
    (split, shard, num_shards), entries = shard_and_entries
    images = in_order(entries)
    name = manifest.shard_name(options.dataset, split, shard, num_shards)
    sidecar = _sidecar(name, options) or {}
    is_changed = sidecar.get("fingerprint") != fingerprint(images, lake_bits, options)
    if not is_changed and sidecar["versions"] != file_versions(images):
        silent_options = replace(options, progress_file=None)
        totals = _Writer(split, shard, lake_bits, silent_options).write(images, io.BytesIO())
        totals = json.loads(json.dumps(totals))
        is_changed = any(totals[key] != sidecar[key] for key in ("sha256", "rejects"))
    return finished.plan_shard(name, split, images, is_changed, lake, options)


def in_order(entries: Iterable[bytes]) -> list[tuple[LabelledImage, int]]:
    """Return [(image, fold)] of packed (key, fold, image), as a shard has them."""
    entries = sorted(map(unpack, entries), key=lambda entry: (entry[0], entry[2].header.image_id))
    return [(image, fold) for _, fold, image in entries]


def write(
    shard_and_entries: tuple, lake_bits: int, options: ConversionOptions, leave: object = None
) -> str:
    """Write the shard of ((split, shard, shards), [packed (key, fold, image)]) and its sidecar,
    unless they are already there; return its name. `leave` is waited for; in a finished lake it is
    what `finished.check` returns, who knows that newer files give the same bytes."""
    (split, shard, num_shards), entries = shard_and_entries
    images = in_order(entries)
    name = manifest.shard_name(options.dataset, split, shard, num_shards)
    digest, versions = fingerprint(images, lake_bits, options), file_versions(images)
    if _is_complete(name, digest, versions, options):
        progress.tick(options.progress_file, progress.RECORD * len(images))
        return name
    # From here on the worker may die after any step; no manifest, and no sidecar of other bytes,
    # may then stand beside the new shard.
    files.remove(options.path(manifest.MANIFEST))
    files.remove(options.sidecar(name))
    writer = _Writer(split, shard, lake_bits, options)
    with files.whole_file(options.path(name)) as file:
        totals = writer.write(images, file)
    sidecar = {"fingerprint": digest, "versions": versions, "name": name, "split": split}
    sidecar["key"] = deidentify.key_digest(options.key_file)
    files.write_text(options.sidecar(name), json.dumps({**sidecar, **totals}))
    return name


def fingerprint(
    images: list[tuple[LabelledImage, int]], lake_bits: int, options: ConversionOptions
) -> str:
    """Return a hash of everything that the bytes of a shard of [(image, fold)] depend on, as far as
    headers tell; `file_versions` tells of the rest."""
    versions = {name: _version_of(name) for name in DECODERS}
    inputs = [(image.header.for_record(), image.label.for_record(), fold) for image, fold in images]
    content = [WRITER_VERSION, options.for_records(), lake_bits, versions, inputs]
    content.append(deidentify.key_digest(options.key_file))
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=vars).encode()).hexdigest()


def file_versions(images: list[tuple[LabelledImage, int]]) -> str:
    """Return a hash that differs where the file of an image was written again."""
    versions = [image.header.version for image, _ in images]
    return hashlib.sha256(json.dumps(versions).encode()).hexdigest()


def _sidecar(name: str, options: ConversionOptions) -> dict | None:
    """Return the sidecar of a shard, None where it has none."""
    path = options.sidecar(name)
    return json.loads(files.read_text(path)) if FileSystems.exists(path) else None


def _is_complete(name: str, digest: str, versions: str, options: ConversionOptions) -> bool:
    """Return whether a shard with this fingerprint is on disk, whole."""
    sidecar = _sidecar(name, options)
    if sidecar is None or sidecar["fingerprint"] != digest:
        return False
    # In a finished lake that stays as it is, `compare` has looked at files that are newer.
    is_newer = not options.keeps_finished and sidecar["versions"] != versions
    # An earlier radlake, whose sidecars had less, began this lake.
    is_earlier = not options.keeps_finished and not {"exams", "digests"} <= sidecar.keys()
    path = options.path(name)
    is_whole = FileSystems.exists(path) and sidecar["bytes"] == files.size_of(path)
    return is_whole and not is_newer and not is_earlier


class _Writer:
    """Writes the records of one shard and adds up the numbers for its sidecar."""

    def __init__(self, split: str, shard: int, lake_bits: int, options: ConversionOptions):
        """Begin the shard number `shard` of a split, in a lake of 8 or 16 bits."""
        self.split, self.shard, self.options = split, shard, options
        self.storage = options.storage(lake_bits)
        self.inputs = files.Inputs()
        reader.quieten()
        self.rows, self.rejects, self.bytes, self.sha256 = [], [], 0, hashlib.sha256()
        self.sums, self.exams = Counter(), Counter()
        self.label_sums = label_part.sums(options)
        # Of each record, and of each reject of this shard, for an append to a later version.
        self.digests, self.rejected = [], []
        self.record_exams = []  # of each record, for an erasure

    def write(self, images: list[tuple[LabelledImage, int]], file) -> dict:
        """Write the records of [(image, fold)]; return their part of the sidecar."""
        for image, fold in images:
            self.add(image, fold, file)
        return self.totals()

    def add(self, image: LabelledImage, fold: int, file) -> None:
        """Write one record, or list the image as a reject."""
        header = image.header
        try:
            scan = reader.read_scan(self.options.source, self.inputs, header, self.storage)
        except Reject as reject:
            line = reject_line(header.path, header.image_id, reject)
            self.rejects += erasures.hide([line], self.options)
            self.rejected.append([digests.image_digest(header), self.rejects[-1]])
            progress.tick(self.options.progress_file, progress.REJECTED)
            return
        fields = record(image, scan, fold, self.options)
        for part in tfrecord.frame(*example.encode_parts(fields)):
            file.write(part)
            self.bytes += len(part)
            self.sha256.update(part)
        self.rows.append(index.row(fields, self.split, self.shard, position=len(self.rows)))
        self._count(image, scan)
        self.label_sums.add(fields)
        self.digests.append(digests.record_digests(image, self.options.key_file))
        progress.tick(self.options.progress_file, progress.RECORD)

    def _count(self, image: LabelledImage, scan: Scan) -> None:
        """Add the image of a written record to the sums; of one in STATISTICS_EVERY the stored
        values, too."""
        self.sums[f"grouped_by_{image.grouped_by[0]}"] += 1
        self.sums["flat_views"] += int(scan.is_flat)
        self.exams[image.header.exam] += 1
        self.record_exams.append(image.header.exam)
        if (len(self.rows) - 1) % STATISTICS_EVERY == 0:
            # Padding is stored as 0, so that it adds nothing to the sums.
            num_pixels = scan.height * scan.width - scan.padding_px
            self.sums.update(grey_sums(scan.image, num_pixels))

    def totals(self) -> dict:
        """Return the content of the shard's sidecar, but for its name and fingerprint."""
        return {
            "records": len(self.rows),
            "bytes": self.bytes,
            "sha256": self.sha256.hexdigest(),
            "rows": self.rows,
            "rejects": self.rejects,
            "sums": dict(self.sums + self.label_sums.sums),
            "exams": exam.count(self.exams),
            "record_exams": self.record_exams,
            "digests": self.digests,
            "rejected": self.rejected,
        }


def record(image: LabelledImage, scan: Scan, fold: int, options: ConversionOptions) -> dict:
    """Return the fields of a record, as lake.records.example.fields_of has them."""
    header = image.header
    image_key_file = options.key_file if options.image_id == "hash" else None
    texts = {
        "image_id": deidentify.pseudonym("image", header.image_id, image_key_file),
        "encoding": scan.encoding,
        **{name: getattr(header, name) for name in ("view", "sex", "modality")},
    }
    for kind in ("patient", "study", "series"):
        texts[kind] = deidentify.pseudonym(kind, getattr(header, kind), options.key_file)
    return {
        **{name: getattr(scan, name) for name in example.SCAN_FIELDS},
        **{f"original_{name}": getattr(header, name) for name in ("height", "width", "bits")},
        **{name: text.encode() for name, text in texts.items()},
        "age": header.age,
        "fold": fold,
        **label_part.fields(image.label, (header.height, header.width), (scan.height, scan.width)),
    }
