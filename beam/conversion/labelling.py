"""Headers get their labels: rows of a CSV, mask images or class folders -> one LabelledImage per
image. No pixel is read here; mask_files.py reads those of masks."""

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import apache_beam as beam

from beam.conversion import deidentify, folders, listing, mask_files, meeting
from beam.conversion.options import ConversionOptions
from beam.running import files, progress
from lake import Packed, Reject, Stopped, ids
from lake.labels import coco, findings, nodules, tables
from lake.labels.columns import Layout
from lake.labels.tables import Label, Row
from lake.scan import Header
from lake.sources.volumes import series

ORPHAN_PART = "labels-without-image-"
ORPHAN_PARTS = 64  # ten million ids are 160,000 in each
# Tags of outputs.
ORPHAN, LEFT_OUT, TALLY = "label without an image", "slices left out", "who met whom"


@dataclass(frozen=True)
class LabelledImage(Packed):
    """Holds the header, which says where the image is, and the label of one record to be."""

    header: Header
    label: Label
    split: str = ""  # from --split_column
    has_row: bool = True  # a row of the labels decided; else --unlabelled did

    @property
    def grouped_by(self) -> tuple[str, str]:
        """Return (kind, name) of the group that a split must not divide: the patient, else the
        study, else the series of a volume, else the file."""
        header = self.header
        if header.patient:
            return "patient", header.patient
        if header.study:
            return "study", header.study
        if header.geometry is not None:
            return "series", header.series
        return "image", ids.without_frame(header.image_id)  # frames of one file together

    @property
    def group(self) -> str:
        return "/".join(self.grouped_by)


# --- the rows ---


class Labels(NamedTuple):
    """Holds the collections that reading the labels gives."""

    rows: beam.PCollection  # (id, Row), nothing where no image has a label
    counts: beam.PCollection  # (name, number), to be added up


@beam.ptransform_fn
def ReadLabels(inputs: listing.Listing, options: ConversionOptions, layout: Layout | None):
    """Read all labels: Listing -> Labels."""
    root = inputs.headers.pipeline
    if options.masks:
        outputs = root | mask_files.ReadMasks(options)
        return Labels(outputs["rows"], outputs[listing.COUNT])
    nothing = root | "Nothing" >> beam.Create([])
    if options.class_folders:
        classes = beam.pvalue.AsSingleton(inputs.classes)
        rows = inputs.headers | beam.Map(folders.to_row, classes, options.classes_root)
        return Labels(rows, nothing)
    if options.findings:
        outputs = (
            root
            | beam.Create([options.labels])
            | beam.FlatMap(read_findings, layout).with_outputs(listing.COUNT, main="rows")
        )
        return Labels(outputs["rows"], outputs[listing.COUNT])
    if options.labels:
        return Labels(
            root | beam.Create([options.labels]) | beam.FlatMap(read_csv, layout), nothing
        )
    return Labels(nothing, nothing)


def read_csv(path: str, layout: Layout) -> Iterator[tuple[str, Row]]:
    """Yield (image id, Row) of each row of a label CSV, or image of a COCO JSON, compressed or not;
    raise Stopped where it cannot be read to its end."""
    try:
        with files.open_unpacked(path) as file:
            if layout.is_coco:
                yield from coco.read(file, path, layout.classes)
            else:
                yield from tables.read(file, layout)
    except tables.DAMAGED as error:
        raise Stopped(f"--labels={path}: not readable to its end: {error}") from None


def read_findings(path: str, layout: Layout) -> Iterator:
    """Yield (image id, Row) of each row of a CSV of findings, then, as tagged outputs, counts of
    its cells and readers; raise Stopped where it cannot be read to its end."""
    counts = Counter()
    try:
        with files.open_unpacked(path) as file:
            yield from findings.read(file, layout, counts)
    except tables.DAMAGED as error:
        raise Stopped(f"--labels={path}: not readable to its end: {error}") from None
    for pair in counts.items():
        yield beam.pvalue.TaggedOutput(listing.COUNT, pair)


# --- the join ---


class JoinOutcomes(NamedTuple):
    """Holds what becomes of headers and rows, one collection per outcome."""

    images: beam.PCollection  # LabelledImage
    rejects: beam.PCollection  # lines of rejects.jsonl
    orphans: beam.PCollection  # (name of a part of the list of labels without an image, its length)
    counts: beam.PCollection  # (name, number), to be added up
    tally: beam.PCollection  # one Tally; Stopped where the labels are of other images


@beam.ptransform_fn
def Join(sides, options: ConversionOptions, layout: Layout | None) -> JoinOutcomes:
    """Join headers and rows: {"headers": (id, Header), "rows": (id, Row)} -> JoinOutcomes."""
    kind = layout.kind if layout else "folder" if options.class_folders else "rle"
    outputs = (
        sides
        | meeting.ByKey(options)  # (key, {"headers": [Header], "rows": [(id, Row)]})
        | "Join"
        >> beam.FlatMap(join, kind, options).with_outputs(
            listing.REJECT, ORPHAN, LEFT_OUT, TALLY, main="images"
        )
    )
    orphans = (
        outputs[ORPHAN]
        | "Deal orphans" >> beam.Map(orphan_part)  # (number of its part, id)
        | "Parts" >> beam.GroupByKey()
        | "Write orphans" >> beam.Map(write_orphans, options)
    )
    tally = (
        outputs[TALLY]
        | "Tally" >> beam.CombineGlobally(meeting.AddUp())
        | "Check tally" >> beam.Map(meeting.check, options)
    )
    counts = outputs[LEFT_OUT] | "Left out" >> beam.Map(lambda number: ("left_out", number))
    return JoinOutcomes(outputs["images"], outputs[listing.REJECT], orphans, counts, tally)


def join(key_and_sides: tuple, kind: str, options: ConversionOptions) -> Iterator:
    """Yield the LabelledImages of (key, {"headers": [Header], "rows": [(id, Row)]}) and, as tagged
    outputs, its rejects, the ids of labels without an image, the number of slices left out and a
    Tally. `kind` says what the rows hold: that of a Layout, or folder."""
    sides = key_and_sides[1]
    headers = list(sides["headers"])
    if not headers:  # the rows' labels stay unread: they can be many
        orphans = sorted({image_id for image_id, _ in sides["rows"]})
        tally = meeting.Tally(text=orphans[0])
    else:
        groups, orphans, tally = meeting.meet(headers, sides["rows"], options)
        for group in groups:
            yield from _label_group(group, kind, options)
    for image_id in orphans:
        yield beam.pvalue.TaggedOutput(ORPHAN, image_id)
    yield beam.pvalue.TaggedOutput(TALLY, tally)


def _label_group(group: meeting.Group, kind: str, options: ConversionOptions) -> Iterator:
    """Yield the LabelledImages, or the rejects, of the headers of one id."""
    try:
        if group.reject is not None:
            raise group.reject
        if group.headers[0].geometry is None:
            yield _label_image(group, kind, options)
        else:
            yield from _label_slices(group.headers, group.rows, kind, options)
    except Reject as reject:
        for header in group.headers:
            yield _reject_header(header, reject, options)


def _label_image(group: meeting.Group, kind: str, options: ConversionOptions) -> LabelledImage:
    """Return the LabelledImage of an image and its rows; raise Reject where it gets no label."""
    [header], rows = group.headers, group.rows
    telling = [row for row in rows if not tables.is_silent(row, kind, options.unlabelled)]
    if telling:
        label = _unite(telling, kind, header, options)
    else:
        message, num_findings = _no_label_message(header, rows, options), len(options.findings)
        label = tables.label_without_rows(options.unlabelled, kind, message, num_findings)
    if group.is_of_file and label.lesion_px > 0:
        raise Reject(
            "no-label",
            f"{header.path}: the mask of {ids.without_frame(header.image_id)!r} may belong to any "
            f"of its frames; expected the id of a frame, such as {header.image_id!r}",
        )
    return LabelledImage(header, label, _split(rows, options), bool(telling))


def _unite(rows: list[Row], kind: str, header: Header, options: ConversionOptions) -> Label:
    """Return the label of an image from its rows; raise Reject naming the row."""
    if kind == "findings":
        return findings.unite(rows, options.findings, options.readers)
    return tables.unite(rows, kind, header.height, header.width, options.dialect)


def _label_slices(
    headers: list[Header], rows: list[Row], kind: str, options: ConversionOptions
) -> Iterator:
    """Yield the slices of one series that become records, and the number of the others."""
    label = None
    if not rows:
        message = _no_label_message(headers[0], rows, options)
        label = tables.label_without_rows(options.unlabelled, kind, message)
    spheres = None if label == tables.UNKNOWN else [_nodule(row) for row in rows]
    split = _split(rows, options)
    slices, num_left_out = series.slices(headers, spheres, options.empty_slices)
    # The files were counted as one image each.
    events = progress.MATCHED * (len(slices) + num_left_out - len(headers))
    progress.tick(options.progress_file, events + progress.LEFT_OUT * num_left_out)
    yield beam.pvalue.TaggedOutput(LEFT_OUT, num_left_out)
    for header, slice_label in slices:
        yield LabelledImage(header, slice_label, split)


def _no_label_message(header: Header, rows: list[Row], options: ConversionOptions) -> str:
    """Return the message about an image, or a volume, that gets no label from its rows."""
    image_id = meeting.label_id(header)
    if rows:
        return f"{header.path}: {rows[0].place} of {options.labels} says nothing of {image_id!r}"
    if options.masks:
        name = image_id + options.mask_suffix
        expected = f"{name}.png, or {name} with another ending"
        return f"{header.path}: no mask file is named {expected}: {options.masks}"
    where = options.labels or "a label CSV"
    return f"{header.path}: no row of {where} has the id {image_id!r}"


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


def orphan_part(image_id: str) -> tuple[int, str]:
    """Return (number of the part that lists a label without an image, the label's id)."""
    return zlib.crc32(image_id.encode()) % ORPHAN_PARTS, image_id


def write_orphans(
    number_and_keys: tuple[int, Iterable[str]], options: ConversionOptions
) -> tuple[str, int]:
    """Write one part, sorted, of the list of labels without an image; return (its name, its
    length)."""
    number, names = number_and_keys[0], sorted(number_and_keys[1])
    if options.erased:  # whose rows may be in the label file still
        key = deidentify.key_of(options.key_file)
        names = [name for name in names if not options.erased.has_text(name, key)]
    part = f"{ORPHAN_PART}{number:03d}"
    lines = "".join(name.replace("\n", "\\n") + "\n" for name in names)
    files.write_text(options.work_path(part), lines)
    return part, len(names)
