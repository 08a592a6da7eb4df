"""The first pass over the files: a pattern -> paths -> headers. No pixel is read here."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO, NamedTuple

import apache_beam as beam
from apache_beam.io.filesystem import FileMetadata

from beam.conversion import folders, label_names
from beam.conversion.options import ConversionOptions
from beam.running import files, patterns, progress
from beam.running.files import CHUNK_FILES
from lake import Reject, ids
from lake.scan import Header
from lake.sources import reader
from lake.sources.masks import mask_names

REJECT = "reject"  # tag of the output that becomes rejects.jsonl
COUNT = "count"  # tag of the output of (name, number), to be added up


class Listing(NamedTuple):
    """Holds the collections that the first pass gives."""

    headers: beam.PCollection  # (key, Header); its labels have the same key
    classes: beam.PCollection  # [name]: one list, empty without class folders
    rejects: beam.PCollection  # lines of rejects.jsonl
    counts: beam.PCollection  # (name, number), to be added up


@beam.ptransform_fn
def ReadHeaders(root, options: ConversionOptions) -> Listing:
    """List the files of `--images` and read their headers: the pipeline's root -> Listing."""
    matches = (
        root
        | "Pattern" >> beam.Create([options.images])
        | "Match" >> beam.FlatMap(match_images, options).with_outputs(COUNT, main="chunks")
    )
    chunks = matches["chunks"] | "Spread" >> beam.Reshuffle()  # [(path, bytes, time)]
    outputs = chunks | "Read" >> beam.FlatMap(read_headers, options).with_outputs(
        REJECT, COUNT, main="headers"
    )
    counts = (
        matches[COUNT],
        outputs[COUNT],
        chunks | "Files" >> beam.Map(lambda chunk: ("files", len(chunk))),
        outputs["headers"] | "Images" >> beam.FlatMap(counts_of_header),
        outputs[REJECT] | "Rejected" >> beam.Map(lambda _: ("files_rejected", 1)),
    )
    return Listing(
        headers=outputs["headers"],
        classes=chunks | folders.Classes(options.classes_root, options.earlier_classes),
        rejects=outputs[REJECT],
        counts=counts | "Counts" >> beam.Flatten(),
    )


def match_images(pattern: str, options: ConversionOptions) -> Iterator:
    """Yield chunks [(path, bytes, time of its last change)] of the images that a pattern names and,
    tagged, the numbers of files that are left out (of the system, labels) and of images that are
    named as masks. Raises Refused where all files are labels, Stopped where none can be listed."""
    matches = patterns.image_files_on_worker("images", pattern, options.source)
    images = label_names.without_labels(matches.files, options)
    num_labels = len(matches.files) - len(images)
    yield beam.pvalue.TaggedOutput(COUNT, ("files_left_out", matches.num_left_out))
    yield beam.pvalue.TaggedOutput(COUNT, ("label_files_among_images", num_labels))
    num_named = mask_names.num_named_as_masks([file.path for file in images])
    yield beam.pvalue.TaggedOutput(COUNT, ("images_named_as_masks", num_named))
    progress.tick(options.progress_file, progress.MATCHED * len(images))
    yield from chunks_of(images)


def chunks_of(metadata: list[FileMetadata]) -> Iterator[list[tuple[str, int, float]]]:
    """Yield chunks [(path, bytes, time of its last change)] of files."""
    rows = [
        (files.printable(file.path), file.size_in_bytes, file.last_updated_in_seconds)
        for file in metadata
    ]
    for start in range(0, len(rows), CHUNK_FILES):
        yield rows[start : start + CHUNK_FILES]


def read_headers(chunk: list[tuple[str, int, float]], options: ConversionOptions) -> Iterator:
    """Yield (id by which its labels know it, Header) of each image of a chunk."""
    for path, size, update_time in chunk:
        try:
            with reader.reject_unreadable(path), files.open_binary(path) as file:
                headers = headers_in(file, path, size, options)
                is_volume = headers[0].geometry is not None
                version = files.version_of(file, path, update_time, is_volume_header=is_volume)
        except Reject as reject:
            progress.tick(options.progress_file, progress.LISTED)
            if reject.reason == "segmentation" and label_names.is_told_by_content(options):
                progress.tick(options.progress_file, progress.LEFT_OUT)
                yield beam.pvalue.TaggedOutput(COUNT, ("label_files_by_content", 1))
                continue
            yield to_reject(path, reader.stem(options.source, path), reject, options)
            continue
        # Frames beyond the first are more images than files were matched.
        events = progress.MATCHED * (len(headers) - 1) + progress.LISTED * len(headers)
        progress.tick(options.progress_file, events)
        for header in headers:
            header = header.with_version(version)
            yield header.series if header.geometry else header.image_id, header


def headers_in(file: BinaryIO, path: str, size: int, options: ConversionOptions) -> list[Header]:
    """Return the headers of an open file's images; raise Reject, or OSError where it cannot be
    read."""
    headers = reader.read_headers(
        options.source, file, path, size, options.image_id_from, options.frames
    )
    if options.patient_pattern:
        patient = patient_in(path, options)
        headers = [replace(header, patient=patient) for header in headers]
    if options.image_id_from == "path":
        root = patterns.fixed_folder(options.images)
        return [reader.name_by_path(header, root) for header in headers]
    if not options.class_folders:
        return headers
    # Two folders may have files of one name.
    folder = folders.class_name(path, options.classes_root)
    return [replace(header, image_id=f"{folder}/{header.image_id}") for header in headers]


def patient_in(path: str, options: ConversionOptions) -> str:
    """Return the patient that a path names by --patient_pattern: its first group, or all that it
    matches; raise Reject where it matches nothing."""
    part = ids.below(path, patterns.fixed_folder(options.images))
    match = re.search(options.patient_pattern, part)
    patient = match and (match[1] if match.re.groups else match[0])
    if not patient:
        message = f"--patient_pattern {options.patient_pattern} finds no patient in {part!r}"
        raise Reject("no-patient", f"{path}: {message}")
    return patient


def num_images(header: Header) -> int:
    """Return the number of images that a header stands for: the slices of a volume, else one."""
    return header.geometry.slices if header.geometry else 1


def counts_of_header(key_and_header: tuple[str, Header]) -> Iterator[tuple[str, int]]:
    """Yield (name, number) that a header adds to the counts: its images, and its file once."""
    header = key_and_header[1]
    yield "images", num_images(header)
    if header.frame == 0:
        yield "files_listed", 1


def to_reject(
    path: str, image_id: str, reject: Reject, options: ConversionOptions, num_images: int = 1
) -> beam.pvalue.TaggedOutput:
    """Count a reject as progress and return it, tagged for the output of rejects."""
    progress.tick(options.progress_file, progress.REJECTED)
    return beam.pvalue.TaggedOutput(REJECT, reject_line(path, image_id, reject, num_images))


def reject_line(path: str, image_id: str, reject: Reject, num_images: int = 1) -> dict:
    """Return one line of rejects.jsonl; `num_images` is more than 1 for a volume."""
    return {
        "path": path,
        "image_id": image_id,
        "reason": reject.reason,
        "message": reject.message,
        "images": num_images,
    }
