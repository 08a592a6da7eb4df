"""The check of one shard against the manifest and the index: its bytes, its records, its pixels.

In: a Task. Out: the Problems and the number of records. A worker process needs nothing else.
"""

import hashlib
import io
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from lake import Reject, storage
from lake.labels import rle
from lake.labels.findings import label_of
from lake.records import example, manifest, mask_png, tfrecord

MAX_LISTED = 20  # problems of one kind that are listed; the others are counted
UNDECODABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # Pillow's errors
FORMATS = {"jpeg-kept": "JPEG", "png": "PNG"}  # encoding -> Pillow's name


@dataclass
class Problems:
    """How many problems of each kind, and the first few messages."""

    counts: Counter = field(default_factory=Counter)
    messages: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, kind: str, message: str) -> None:
        """Count a problem; keep its message while there are fewer than MAX_LISTED of its kind."""
        self.counts[kind] += 1
        if len(self.messages[kind]) < MAX_LISTED:
            self.messages[kind].append(message)

    def update(self, other: "Problems") -> None:
        """Add the problems of another shard."""
        self.counts.update(other.counts)
        for kind, messages in other.messages.items():
            self.messages[kind] = (self.messages[kind] + messages)[:MAX_LISTED]

    def lines(self) -> list[str]:
        """Return the lines that a user reads: the messages of each kind, and the number of
        others."""
        lines = []
        for kind, count in self.counts.items():
            lines += [f"{kind}: {message}" for message in self.messages[kind]]
            if more := count - len(self.messages[kind]):
                lines.append(f"{kind}: and {more:,} more")
        return lines


@dataclass(frozen=True)
class Task:
    """One shard, and what the manifest and the index state about it."""

    path: Path
    entry: dict  # the shard in the manifest
    number: int  # of the shard in its split
    dtype: str  # the lake's: uint8 | uint16
    num_classes: int
    num_findings: int
    columns: dict[str, list] | None  # the index's rows of this shard; None without an index
    decodes_pixels: bool


def check(task: Task) -> tuple[Problems, int]:
    """Return the problems of a shard, and the number of records that could be read."""
    problems, name, num_records = Problems(), task.path.name, 0
    is_whole = True
    with storage.local(task.path) as path, path.open("rb") as file:
        _check_bytes(file, task, problems)
        try:
            for record, is_intact in tfrecord.records(file):
                where = f"{name} record {num_records}"
                if is_intact:
                    _check_record(record, where, num_records, task, problems)
                else:
                    problems.add("record-checksum", f"{where}: not the checksum of its bytes")
                num_records += 1
        except tfrecord.FrameError as error:
            is_whole = False
            problems.add("frame", f"{name}: {error}; what follows was not checked")
    if is_whole and num_records != task.entry["records"]:
        expected = f"{task.entry['records']} by the manifest"
        problems.add("shard-records", f"{name}: expected {expected}, found {num_records}")
    num_rows = 0 if task.columns is None else len(task.columns["position"])
    if is_whole and num_rows > num_records:
        problems.add("index", f"{name}: {num_records} records, but {num_rows} rows of the index")
    return problems, num_records


def _check_bytes(file, task: Task, problems: Problems) -> None:
    """Compare size and SHA-256 of an open shard with the manifest; rewind the file."""
    entry, num_bytes = task.entry, os.fstat(file.fileno()).st_size
    if num_bytes != entry["bytes"]:
        message = f"expected {entry['bytes']:,} by the manifest, found {num_bytes:,}"
        problems.add("shard-bytes", f"{task.path.name}: {message}")
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != entry["sha256"]:
        message = f"expected {entry['sha256']} by the manifest, found {sha256}"
        problems.add("shard-sha256", f"{task.path.name}: {message}")
    file.seek(0)


def _check_record(record: bytes, where: str, position: int, task: Task, problems: Problems) -> None:
    """Check the fields of one record against the index and each other and, if asked, its pixels."""
    try:
        fields = example.decode(record, task.num_findings)
    except ValueError as error:
        problems.add("fields", f"{where}: {error}")
        return
    where += f" ({_text(fields['image_id'])})"
    pairs = list(differences_from_index(fields, position, task))
    pairs += [*label_problems(fields, task.num_classes), *view_problems(fields)]
    if task.num_findings:
        pairs += finding_problems(fields)
    if task.decodes_pixels:
        pairs += pixel_problems(fields, task.dtype)
    for kind, message in pairs:
        problems.add(kind, f"{where}: {message}")


def differences_from_index(fields: dict, position: int, task: Task) -> Iterator[tuple[str, str]]:
    """Yield (kind, message) for every column of the index that differs from the record at
    `position`."""
    if task.columns is None:
        return
    if position >= len(task.columns["position"]):
        yield "index", "the index has no row for it"
        return
    place = {"split": task.entry["split"], "shard": task.number, "position": position}
    for column, values in task.columns.items():
        field_value = place.get(column, fields.get(column))
        expected = _text(field_value) if isinstance(field_value, bytes) else field_value
        expected = list(expected) if column == example.FINDINGS else expected
        actual = values[position]
        # NaN, the slice_mm of a radiograph, is not equal to itself.
        if expected != actual and (expected == expected or actual == actual):
            yield "index", f"its {column} is {expected!r}, the index has {actual!r}"


def label_problems(fields: dict, num_classes: int = 2) -> Iterator[tuple[str, str]]:
    """Yield (kind, message) where label, has_mask, lesion_px and original_rle contradict each
    other."""
    label, has_mask, lesion_px = (fields[name] for name in ("label", "has_mask", "lesion_px"))
    state = f"label={label} has_mask={has_mask} lesion_px={lesion_px}"
    if not -1 <= label < num_classes or has_mask not in (0, 1):
        highest = num_classes - 1
        yield "label", f"{state}: expected a label from -1 to {highest} and a has_mask of 0 or 1"
        return
    has_lesion = _has_lesion(fields)
    state += f", original_rle {'' if has_lesion else 'not '}set"
    if has_mask:
        # A lesion smaller than half a stored pixel leaves no pixel, but stays a label.
        if label != has_lesion or lesion_px < 0 or (lesion_px > 0 and label == 0):
            rule = "with a mask, label says whether original_rle has a lesion, and lesion_px agrees"
            yield "label", f"{state}: {rule}"
    elif lesion_px != -1 or has_lesion:
        rule = f"without a mask lesion_px is -1 and original_rle {rle.EMPTY}"
        yield "label", f"{state}: {rule}"


def finding_problems(fields: dict) -> Iterator[tuple[str, str]]:
    """Yield (kind, message) where the findings are no states, or the label contradicts them."""
    findings, label = fields[example.FINDINGS], fields["label"]
    if not set(findings) <= {*manifest.FINDING_STATES.values()}:
        yield "findings", f"findings are {findings}: expected 1, 0 or -1 for each"
    elif label != label_of(findings):
        rule = "label is 1 where a finding is, 0 where all are 0, else -1"
        yield "findings", f"label={label}, findings are {findings}: {rule}"
    if fields["has_mask"]:
        yield "findings", "has_mask is 1: a record of findings has no mask"


def view_problems(fields: dict) -> Iterator[tuple[str, str]]:
    """Yield (kind, message) where window or rescale has no finite numbers or no extent; a trainer
    divides by the window's width."""
    (low, high), (slope, intercept) = fields["window"], fields["rescale"]
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        yield "window", f"window is {(low, high)}: expected two numbers, the lower first"
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope == 0:
        yield "rescale", f"rescale is {(slope, intercept)}: expected two numbers, a slope not 0"


def pixel_problems(fields: dict, dtype: str) -> Iterator[tuple[str, str]]:
    """Yield (kind, message) for everything that is wrong with image, mask and run lengths."""
    encoding, size = _text(fields["encoding"]), (fields["height"], fields["width"])
    if encoding not in FORMATS:
        yield "image", f"encoding {encoding!r}, expected one of {', '.join(FORMATS)}"
    formats = [FORMATS[encoding]] if encoding in FORMATS else None
    try:
        with Image.open(io.BytesIO(fields["image"]), formats=formats) as image:
            pixels = np.asarray(image)
        yield from (("image", message) for message in _misfits(pixels, size, dtype))
    except UNDECODABLE as error:
        yield "image", f"not decodable as {encoding}: {error}"
    try:
        mask = mask_png.decode(fields["mask"])
    except UNDECODABLE as error:
        yield "mask", f"not decodable as png: {error}"
        return
    misfits = list(_misfits(mask, size, "uint8"))
    yield from (("mask", message) for message in misfits)
    if not misfits:
        yield from _mask_problems(mask, fields)


def _mask_problems(mask: np.ndarray, fields: dict) -> Iterator[tuple[str, str]]:
    """Yield (kind, message) where a decoded mask [H, W] contradicts lesion_px or original_rle."""
    lesion_px = int(np.count_nonzero(mask))
    if lesion_px and (np.count_nonzero(mask == 255) != lesion_px):
        yield "mask", f"holds the values {np.unique(mask).tolist()[:8]}, expected 0 and 255"
    if lesion_px != max(fields["lesion_px"], 0):
        yield "lesion-px", f"lesion_px={fields['lesion_px']}, but the mask has {lesion_px} pixels"
    if not _has_lesion(fields):
        return
    original_size = (fields["original_height"], fields["original_width"])
    if min(original_size) < 1:
        yield "run-lengths", f"an original size of {original_size[0]}x{original_size[1]}"
        return
    try:
        truth = rle.decode(_text(fields["original_rle"]), *original_size)
    except Reject as reject:
        yield "run-lengths", str(reject)
        return
    if original_size == mask.shape and (num_wrong := np.count_nonzero((truth != 0) != (mask != 0))):
        yield "run-lengths", f"original_rle and mask differ in {num_wrong:,} pixels"


def _has_lesion(fields: dict) -> bool:
    """Return whether the run lengths of a record's original mask have a run."""
    return fields["original_rle"].split() not in ([], [rle.EMPTY.encode()])


def _misfits(pixels: np.ndarray, size: tuple[int, int], dtype: str) -> Iterator[str]:
    """Yield a message for each of shape and dtype that is not as expected."""
    if pixels.shape != size:
        expected, actual = ("x".join(map(str, shape)) for shape in (size, pixels.shape))
        yield f"expected height x width {expected}, found {actual}"
    if pixels.dtype != dtype:
        yield f"expected {dtype}, found {pixels.dtype}"


def _text(value: bytes) -> str:
    return value.decode(errors="backslashreplace")
