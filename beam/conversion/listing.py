"""The first pass: file names -> headers -> headers joined with their labels. No pixels of an image
are read here, only those of mask files."""

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

import apache_beam as beam

from beam.conversion import folders
from beam.conversion.options import ConversionOptions
from beam.running import files, progress
from beam.running.files import CHUNK_FILES
from lake import Packed, Reject, Stopped
from lake.labels import nodules, tables
from lake.labels.tables import Label, Layout, Row
from lake.scan import Header
from lake.sources import images, reader, series

FRAME = re.compile(r"#\d+$")  # as lake.sources.frame_id ends an id
ORPHAN_PART = "labels-without-image-"
ORPHAN_PARTS = 64  # ten million ids are 160,000 a worker
# The tagged outputs of the steps below.
REJECTS, ORPHANS, LEFT_OUT = "rejects", "labels without an image", "slices left out"


@dataclass(frozen=True)
class LabelledImage(Packed):
    """One image that will be a record: where it is and what is known of it."""

    header: Header
    label: Label
    split: str = ""  # as a CSV column says

    @property
    def grouped_by(self) -> tuple[str, str]:
        """(kind, name) of what must not be torn apart by a split: the patient, else the study, else
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


def num_images(header: Header) -> int:
    """How many images a header stands for: the slices of a volume, else one."""
    return header.geometry.slices if header.geometry else 1


def reject_line(path: str, image_id: str, reject: Reject, num_rejected: int = 1) -> dict:
    """One line of rejects.jsonl; `images` is more than 1 for a volume."""
    return {
        "path": path,
        "image_id": image_id,
        "reason": reject.reason,
        "message": reject.message,
        "images": num_rejected,
    }


def match(
    pattern: str, option: str, kind: str, progress_file: str | None
) -> Iterator[list[tuple[str, int]]]:
    """Chunks of (path, bytes) of the files of an option's pattern."""
    matched = [
        (files.printable(file.path), file.size_in_bytes)
        for file in files.image_files_on_worker(option, pattern, kind)
    ]
    progress.tick(progress_file, progress.MATCHED * len(matched))
    for start in range(0, len(matched), CHUNK_FILES):
        yield matched[start : start + CHUNK_FILES]


class ReadHeaders(beam.DoFn):
    """[(path, bytes)] -> (key of its labels, Header): the image id, or a volume's series."""

    def __init__(
        self,
        kind: str,
        image_id_from: str,
        frames: str,
        class_root: str | None,
        progress_file: str | None,
    ):
        self.kind, self.image_id_from, self.frames = kind, image_id_from, frames
        self.class_root, self.progress_file = class_root, progress_file

    def process(self, chunk: list[tuple[str, int]]) -> Iterator[tuple[str, Header]]:
        for path, size in chunk:
            try:
                headers = self._headers(path, size)
            except Reject as reject:
                progress.tick(self.progress_file, progress.REJECTED)
                row = reject_line(path, reader.stem(self.kind, path), reject)
                yield beam.pvalue.TaggedOutput(REJECTS, row)
                continue
            # Frames beyond the first are more images than files were matched.
            more = progress.MATCHED * (len(headers) - 1)
            progress.tick(self.progress_file, progress.LISTED + more)
            for header in headers:
                yield header.series if header.geometry else header.image_id, header

    def _headers(self, path: str, size: int) -> list[Header]:
        try:
            with files.open_binary(path) as opened:
                return self.headers_in(opened, path, size)
        except OSError as error:
            raise reader.unreadable(path, error) from None

    def headers_in(self, opened: BinaryIO, path: str, size: int) -> list[Header]:
        """Of one file; raises Reject, or OSError where it cannot be read."""
        headers = reader.read_headers(
            self.kind, opened, path, size, self.image_id_from, self.frames
        )
        if self.class_root is None:
            return headers
        # Two folders may have files of one name.
        of_class = folders.class_name(path, self.class_root)
        return [replace(header, image_id=f"{of_class}/{header.image_id}") for header in headers]


def read_labels(path: str, layout: Layout) -> Iterator[tuple[str, Row]]:
    """(image_id, Row) of each row of a label CSV, compressed or not."""
    try:
        with files.open_unpacked(path) as opened:
            yield from tables.read(opened, layout)
    except tables.DAMAGED as error:
        raise Stopped(f"--labels={path}: not readable to its end: {error}") from None


def read_masks(chunk: list[tuple[str, int]]) -> Iterator[tuple[str, Row]]:
    """(image_id, Row) of each mask image file of a chunk."""
    for path, _ in chunk:
        try:
            text, size = images.read_mask(files.read(path), path)
            row = Row(0, text, size=size)
        except OSError as error:
            reject = reader.unreadable(path, error)
            row = Row(0, None, problem=(reject.reason, reject.message))
        except Reject as reject:
            row = Row(0, None, problem=(reject.reason, reject.message))
        yield images.file_stem(path), row


class Join(beam.DoFn):
    """(key, {"headers": [Header], "rows": [Row]}) -> Image."""

    def __init__(
        self,
        kind: str,
        unlabelled: str,
        dialect: str,
        has_split_column: bool,
        empty_slices: float,
        progress_file: str | None,
    ):
        self.kind, self.unlabelled, self.dialect = kind, unlabelled, dialect
        self.has_split_column, self.empty_slices = has_split_column, empty_slices
        self.progress_file = progress_file

    def process(self, joined: tuple) -> Iterator[LabelledImage]:
        key, sides = joined
        headers = sorted(sides["headers"], key=lambda header: header.path)
        if not headers:
            yield beam.pvalue.TaggedOutput(ORPHANS, key)  # its rows stay unread: they can be many
            return
        rows, (headers, duplicates) = list(sides["rows"]), _without_duplicates(headers)
        for header in duplicates:
            reason = f"{header.path}: id {key} is already at {headers[0].path}"
            yield self._reject(header, Reject("duplicate-id", reason))
        try:
            if headers[0].geometry is None:
                yield self._image(headers[0], rows)
            else:
                yield from self._slices(headers, rows)
        except Reject as reject:
            for header in headers:
                yield self._reject(header, reject)

    def _image(self, header: Header, rows: list[Row]) -> LabelledImage:
        if rows:
            label = tables.unite(rows, self.kind, header.height, header.width, self.dialect)
        else:
            label = tables.label_without_rows(self.unlabelled, self.kind)
        return LabelledImage(header, label, self._split(rows))

    def _slices(self, headers: list[Header], rows: list[Row]) -> Iterator:
        """The slices to take of one series."""
        label = None if rows else tables.label_without_rows(self.unlabelled, self.kind)
        spheres = None if label == tables.UNKNOWN else [_nodule(row) for row in rows]
        split = self._split(rows)
        taken, left_out = series.slices(headers, spheres, self.empty_slices)
        # The files were counted as one image each.
        more = len(taken) + left_out - len(headers)
        progress.tick(self.progress_file, progress.MATCHED * more + progress.LEFT_OUT * left_out)
        yield beam.pvalue.TaggedOutput(LEFT_OUT, left_out)
        for header, slice_label in taken:
            yield LabelledImage(header, slice_label, split)

    def _split(self, rows: list[Row]) -> str:
        return tables.split_of(rows) if self.has_split_column else ""

    def _reject(self, header: Header, reject: Reject):
        progress.tick(self.progress_file, progress.REJECTED)
        row = reject_line(header.path, header.image_id, reject, num_images(header))
        return beam.pvalue.TaggedOutput(REJECTS, row)


def _without_duplicates(headers: list[Header]) -> tuple[list[Header], list[Header]]:
    """(what one id stands for, files beyond it): one image, or one volume, or all slices of a
    series."""
    whole = [at for at, header in enumerate(headers) if num_images(header) > 1]
    if headers[0].geometry is not None and not whole:
        return headers, []
    at = whole[0] if whole else 0
    return [headers[at]], headers[:at] + headers[at + 1 :]


def _nodule(row: Row):
    try:
        if row.value is None:
            raise Reject("row-without-value", "ends before its coordinates")
        return nodules.parse_nodule(row.value)
    except Reject as reject:
        raise Reject(reject.reason, f"row {row.number}: {reject.message}") from None


def counts(keyed: tuple[str, Header]) -> Iterator[tuple[str, int]]:
    """What a header adds to the books: its images, and its file once."""
    header = keyed[1]
    yield "images", num_images(header)
    if header.frame == 0:
        yield "files_listed", 1


def orphan_bucket(key: str) -> tuple[int, str]:
    return zlib.crc32(key.encode()) % ORPHAN_PARTS, key


def write_orphans(bucket: tuple[int, Iterable[str]], options: ConversionOptions) -> tuple[str, int]:
    """(bucket, ids) -> (a sorted part of the list of labels without an image, its length)."""
    number, ids = bucket
    ids = sorted(ids)
    part = f"{ORPHAN_PART}{number:03d}"
    lines = "".join(name.replace("\n", "\\n") + "\n" for name in ids)
    files.write_text(options.work(part), lines)
    return part, len(ids)
