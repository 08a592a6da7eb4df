"""The first pass: file names -> headers -> headers joined with their labels. No pixels are read
here."""

from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems

from beam import files, progress
from lake import Reject, labels
from lake.labels import Label, Layout, Row
from lake.sources import Header, dicom

REJECTS = "rejects"  # the tagged output of every step that can reject
ORPHANS = "labels without an image"


@dataclass(frozen=True)
class Image:
    """One image that will be a record: where it is and what is known of it."""

    header: Header
    label: Label

    @property
    def group(self) -> str:
        """What must not be torn apart by a split: the patient, else the study, else the image."""
        header = self.header
        for kind, name in (
            ("patient", header.patient),
            ("study", header.study),
            ("image", header.image_id),
        ):
            if name:
                return f"{kind}/{name}"
        raise ValueError(f"{header.path}: an image without an id")


def reject_row(path: str, image_id: str, reject: Reject) -> dict[str, str]:
    """One line of rejects.jsonl."""
    return {"path": path, "image_id": image_id, "reason": reject.reason, "message": reject.message}


def match(pattern: str, progress_file: str | None) -> Iterator[tuple[str, int]]:
    """(path, bytes) of each file of a pattern."""
    for file in FileSystems.match([pattern])[0].metadata_list:
        progress.tick(progress_file, progress.MATCHED)
        yield file.path, file.size_in_bytes


class ReadHeader(beam.DoFn):
    """(path, bytes) -> (image_id, Header)."""

    def __init__(self, image_id_from: str, progress_file: str | None):
        self.image_id_from, self.progress_file = image_id_from, progress_file

    def process(self, file: tuple[str, int]) -> Iterator[tuple[str, Header]]:
        path, size = file
        try:
            with files.open_binary(path) as opened:
                header = dicom.read_header(opened, path, size, self.image_id_from)
        except Reject as reject:
            progress.tick(self.progress_file, progress.REJECTED)
            yield beam.pvalue.TaggedOutput(REJECTS, reject_row(path, dicom.file_stem(path), reject))
        else:
            progress.tick(self.progress_file, progress.LISTED)
            yield header.image_id, header


def read_labels(path: str, layout: Layout) -> Iterator[tuple[str, Row]]:
    """(image_id, Row) of each row of a label CSV, compressed or not."""
    with FileSystems.open(path) as opened:
        yield from labels.read(opened, layout)


class Join(beam.DoFn):
    """(image_id, {"headers": [Header], "rows": [Row]}) -> Image."""

    def __init__(self, kind: str, unlabelled: str, progress_file: str | None):
        self.kind, self.unlabelled, self.progress_file = kind, unlabelled, progress_file

    def process(self, joined: tuple) -> Iterator[Image]:
        image_id, sides = joined
        headers = sorted(sides["headers"], key=lambda header: header.path)
        rows = list(sides["rows"])
        if not headers:
            yield beam.pvalue.TaggedOutput(ORPHANS, image_id)
            return
        for later in headers[1:]:
            reject = Reject(
                "duplicate-id", f"{later.path}: image id {image_id} is already at {headers[0].path}"
            )
            yield self._reject(later, reject)
        try:
            yield Image(headers[0], self._label(headers[0], rows))
        except Reject as reject:
            yield self._reject(headers[0], reject)

    def _label(self, header: Header, rows: list[Row]) -> Label:
        if not rows:
            return labels.of_unlabelled(self.unlabelled, self.kind)
        return labels.unite(rows, self.kind, header.height * header.width)

    def _reject(self, header: Header, reject: Reject):
        progress.tick(self.progress_file, progress.REJECTED)
        return beam.pvalue.TaggedOutput(REJECTS, reject_row(header.path, header.image_id, reject))
