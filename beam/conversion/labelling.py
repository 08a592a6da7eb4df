"""Headers meet their labels: rows of a CSV, mask images or class folders -> one LabelledImage per
image. Pixels are read here of mask images alone."""

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import apache_beam as beam

from beam.conversion import folders, listing
from beam.conversion.options import ConversionOptions
from beam.running import files, progress
from lake import Packed, Reject, Stopped
from lake.labels import nodules, tables
from lake.labels.columns import Layout
from lake.labels.tables import Label, Row
from lake.scan import Header
from lake.sources import dicom_masks, masks, reader, series

FRAME = re.compile(r"#\d+$")  # as lake.scan.frame_id ends an id
ORPHAN_PART = "labels-without-image-"
ORPHAN_PARTS = 64  # ten million ids are 160,000 in each
ORPHAN, LEFT_OUT = "label without an image", "slices left out"  # tags of outputs


@dataclass(frozen=True)
class LabelledImage(Packed):
    """Says of one image that becomes a record where it is, and its label."""

    header: Header
    label: Label
    split: str = ""  # from --split_column

    @property
    def grouped_by(self) -> tuple[str, str]:
        """Return (kind, name) of what a split must not divide: the patient, else the study, else
        the series of a volume, else the file."""
        header = self.header
        if header.patient:
            return "patient", header.patient
        if header.study:
            return "study", header.study
        if header.geometry is not None:
            return "series", header.series
        return "image", FRAME.sub("", header.image_id)  # frames of one file together

    @property
    def group(self) -> str:
        return "/".join(self.grouped_by)


# --- the rows ---


@beam.ptransform_fn
def ReadLabels(inputs: listing.Listing, options: ConversionOptions, layout: Layout | None):
    """Read all labels: Listing -> (key, Row), nothing where no image has a label."""
    root = inputs.headers.pipeline
    if options.class_folders:
        classes = beam.pvalue.AsSingleton(inputs.classes)
        return inputs.headers | beam.Map(folders.to_row, classes, options.classes_root)
    if options.labels:
        return root | beam.Create([options.labels]) | beam.FlatMap(read_csv, layout)
    return (
        root
        | "Pattern" >> beam.Create([options.masks] if options.masks else [])
        | "Match" >> beam.FlatMap(listing.match, "masks", "images", None)
        | "Spread" >> beam.Reshuffle()  # [(path, bytes)]
        | "Read" >> beam.FlatMap(read_masks, options)
    )


def read_csv(path: str, layout: Layout) -> Iterator[tuple[str, Row]]:
    """Yield (image id, Row) of each row of a label CSV, compressed or not."""
    try:
        with files.open_unpacked(path) as file:
            yield from tables.read(file, layout)
    except tables.DAMAGED as error:
        raise Stopped(f"--labels={path}: not readable to its end: {error}") from None


def read_masks(
    chunk: list[tuple[str, int]], options: ConversionOptions
) -> Iterator[tuple[str, Row]]:
    """Yield (image id, Row) of each mask in the files of a chunk whose names end in
    `--mask_suffix`."""
    for path, _ in chunk:
        if masks.image_id(path, options.mask_suffix) is None:
            continue
        is_dicom = False
        try:
            with reader.reject_unreadable(path):
                data = files.read(path)
            is_dicom = dicom_masks.is_dicom(data)
            parts = masks.read(data, path, options.mask_values)
            rows = [(part.sop_uid, Row(0, part.text, size=part.size, path=path)) for part in parts]
        except Reject as reject:
            rows = [("", Row(0, None, problem=(reject.reason, reject.message), path=path))]
        for sop_uid, row in rows:
            yield sop_uid or masks.image_id(path, options.mask_suffix, is_dicom), row


# --- the join ---


class JoinOutcomes(NamedTuple):
    """Holds what becomes of headers and rows, one collection per outcome."""

    images: beam.PCollection  # LabelledImage
    rejects: beam.PCollection  # lines of rejects.jsonl
    orphans: beam.PCollection  # (name of a part of the list of labels without an image, its length)
    counts: beam.PCollection  # (name, number), to be added up


@beam.ptransform_fn
def Join(sides, options: ConversionOptions, layout: Layout | None) -> JoinOutcomes:
    """Join headers and rows: {"headers": (key, Header), "rows": (key, Row)} -> JoinOutcomes."""
    kind = layout.kind if layout else "folder" if options.class_folders else "rle"
    outputs = (
        sides
        | "By key" >> beam.CoGroupByKey()  # (key, {"headers": [Header], "rows": [Row]})
        | "Join"
        >> beam.FlatMap(join, kind, options).with_outputs(
            listing.REJECT, ORPHAN, LEFT_OUT, main="images"
        )
    )
    orphans = (
        outputs[ORPHAN]
        | "Deal orphans" >> beam.Map(orphan_part)  # (number of its part, key)
        | "Parts" >> beam.GroupByKey()
        | "Write orphans" >> beam.Map(write_orphans, options)
    )
    counts = outputs[LEFT_OUT] | "Left out" >> beam.Map(lambda number: ("left_out", number))
    return JoinOutcomes(outputs["images"], outputs[listing.REJECT], orphans, counts)


def join(key_and_sides: tuple, kind: str, options: ConversionOptions) -> Iterator:
    """Yield the LabelledImages of (key, {"headers": [Header], "rows": [Row]}) and, as tagged
    outputs, its rejects, the key itself where it has labels and no image, and the number of slices
    left out. `kind` says what the rows hold: rle, class, folder or nodule."""
    key, sides = key_and_sides
    headers = sorted(sides["headers"], key=lambda header: header.path)
    if not headers:
        yield beam.pvalue.TaggedOutput(ORPHAN, key)  # its rows stay unread: they can be many
        return
    rows, (headers, duplicates) = list(sides["rows"]), _without_duplicates(headers)
    for header in duplicates:
        message = f"{header.path}: id {key} is already at {headers[0].path}"
        yield _reject_header(header, Reject("duplicate-id", message), options)
    try:
        if headers[0].geometry is None:
            yield _label_image(headers[0], rows, kind, options)
        else:
            yield from _label_slices(headers, rows, kind, options)
    except Reject as reject:
        for header in headers:
            yield _reject_header(header, reject, options)


def _without_duplicates(headers: list[Header]) -> tuple[list[Header], list[Header]]:
    """Return (the files that an id stands for, its duplicates), of files with the same id.

    An id stands for all slices of a series, for one volume or for one image. A volume is whole by
    itself, so that slices beside it are duplicates.
    """
    volumes = [n for n, header in enumerate(headers) if listing.num_images(header) > 1]
    if headers[0].geometry is not None and not volumes:
        return headers, []
    position = volumes[0] if volumes else 0
    return [headers[position]], headers[:position] + headers[position + 1 :]


def _label_image(header: Header, rows: list[Row], kind: str, options: ConversionOptions):
    """Return the LabelledImage of an image and its rows; raise Reject where it gets no label."""
    telling = [row for row in rows if not tables.is_silent(row, kind, options.unlabelled)]
    if telling:
        label = tables.unite(telling, kind, header.height, header.width, options.dialect)
    else:
        sought = _sought(header.image_id, rows, options)
        label = tables.label_without_rows(options.unlabelled, kind, sought)
    return LabelledImage(header, label, _split(rows, options))


def _label_slices(
    headers: list[Header], rows: list[Row], kind: str, options: ConversionOptions
) -> Iterator:
    """Yield the slices of one series that become records, and the number of the others."""
    label = None
    if not rows:
        sought = _sought(headers[0].series, rows, options)
        label = tables.label_without_rows(options.unlabelled, kind, sought)
    spheres = None if label == tables.UNKNOWN else [_nodule(row) for row in rows]
    split = _split(rows, options)
    slices, num_left_out = series.slices(headers, spheres, options.empty_slices)
    # The files were counted as one image each.
    events = progress.MATCHED * (len(slices) + num_left_out - len(headers))
    progress.tick(options.progress_file, events + progress.LEFT_OUT * num_left_out)
    yield beam.pvalue.TaggedOutput(LEFT_OUT, num_left_out)
    for header, slice_label in slices:
        yield LabelledImage(header, slice_label, split)


def _sought(key: str, rows: list[Row], options: ConversionOptions) -> str:
    """Return the message about an image, or a series, that gets no label from its rows."""
    if rows:
        return f"{rows[0].place} of {options.labels} says nothing of {key}"
    if options.masks:
        name = key + options.mask_suffix
        return f"no mask file is named {name}.png, or {name} with another ending: {options.masks}"
    return f"no row of {options.labels or 'a label CSV'} has the id {key}"


def _split(rows: list[Row], options: ConversionOptions) -> str:
    """Return the split that the rows of an image name, empty without --split_column."""
    return tables.split_of(rows) if options.split_column else ""


def _nodule(row: Row) -> nodules.Nodule:
    """Return the nodule of one row; raise a Reject that names the row where it holds none."""
    try:
        if row.value is None:
            raise Reject("row-without-value", "ends before its coordinates")
        return nodules.parse_nodule(row.value)
    except Reject as reject:
        raise Reject(reject.reason, f"row {row.number}: {reject.message}") from None


def _reject_header(
    header: Header, reject: Reject, options: ConversionOptions
) -> beam.pvalue.TaggedOutput:
    """Count all images of a header as rejected, in the progress, and return their reject."""
    num_slices = listing.num_images(header)
    return listing.to_reject(header.path, header.image_id, reject, options, num_slices)


def orphan_part(key: str) -> tuple[int, str]:
    """Return (number of the part that lists a label without an image, the label's key)."""
    return zlib.crc32(key.encode()) % ORPHAN_PARTS, key


def write_orphans(
    number_and_keys: tuple[int, Iterable[str]], options: ConversionOptions
) -> tuple[str, int]:
    """Write one part, sorted, of the list of labels without an image; return (its name, its
    length)."""
    number, ids = number_and_keys[0], sorted(number_and_keys[1])
    part = f"{ORPHAN_PART}{number:03d}"
    lines = "".join(name.replace("\n", "\\n") + "\n" for name in ids)
    files.write_text(options.work_path(part), lines)
    return part, len(ids)
