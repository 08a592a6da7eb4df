"""One shard without some of its records: the file, then its sidecar. Either is whole at any moment,
and a repeat goes on where the process ended.

In: a shard, its sidecar, positions of records. Out: the same without them.
"""

import hashlib
import io
import json
import math
import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from lake import Stopped, exam, storage
from lake.records import example, label_sums, manifest, tfrecord, totals
from lake.sources import pixels

ADVICE = "copy that shard again, or convert again, and repeat this"
GREY_SUMS = ("sampled_images", "sampled_pixels", "total", "squares")


class Links:
    """Knows which files of the versions of a lake are one: where one was written without records,
    the others become names of the new file."""

    def __init__(self):
        self.new_paths = {}  # (device, inode, positions) -> the new file
        self.names = Counter()  # (device, inode) -> names that it had, less those that are gone

    def see(self, path: Path) -> tuple[int, int]:
        """Note a file before it is replaced; return its device and inode."""
        status = path.stat()
        inode = status.st_dev, status.st_ino
        self.names.setdefault(inode, status.st_nlink)
        return inode

    def num_left(self) -> int:
        """Return how many old files have names that were not replaced."""
        return sum(number > 0 for number in self.names.values())


def write_durably(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, so that it is there after a power cut, too."""
    with storage.whole_file(path) as unfinished_path, unfinished_path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)


def sync(folder: Path) -> None:
    """Let the names in a folder be those after a power cut, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check(path: Path, image_ids: dict[int, str], num_findings: int) -> None:
    """Raise Stopped where a shard cannot be read to its end, or has not the images {position: id}
    that the index says, before anything is changed."""
    for position, record in records(path):
        if position in image_ids:
            image_id = example.decode(record, num_findings)["image_id"].decode()
            if image_id != image_ids[position]:
                raise Stopped(f"{path}: record {position} is not that of the index; {ADVICE}")


def erase(
    path: Path, num_records: int, positions: Collection[int], content: dict, links: Links
) -> dict:
    """Remove the records at these positions of the `num_records` that a shard had, and return its
    new sidecar, which the caller writes. `content`: the manifest."""
    sidecar = read_sidecar(path)
    positions = frozenset(positions)
    if not positions or len(sidecar["rows"]) < num_records:  # nothing to do, or done already
        return sidecar
    if storage.size_of(path) == sidecar["bytes"]:
        _replace(path, positions, links)
    kept = [n for n in range(num_records) if n not in positions]
    sidecar["rows"] = [
        sidecar["rows"][n] | {"position": position} for position, n in enumerate(kept)
    ]
    for name in ("digests", "record_exams"):
        if name in sidecar:
            sidecar[name] = [sidecar[name][n] for n in kept]
    sidecar["exams"] = _exams(sidecar, num_records)
    is_same_sample = 0 not in positions and num_records <= totals.STATISTICS_EVERY
    sidecar["sums"] = _sums(path, sidecar["sums"], is_same_sample, content)
    with path.open("rb") as file:
        sidecar["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    inputs = json.dumps([sidecar["sha256"], sidecar.get("digests")])
    sidecar["fingerprint"] = hashlib.sha256(inputs.encode()).hexdigest()
    return sidecar | {"records": len(kept), "bytes": storage.size_of(path), "versions": ""}


def read_sidecar(path: Path) -> dict:
    """Return the sidecar of a shard."""
    return json.loads(manifest.sidecar_path(path).read_text(encoding="utf-8"))


def _replace(path: Path, positions: frozenset[int], links: Links) -> None:
    """Put a file without the records at these positions in the place of a shard."""
    inode = links.see(path)
    new_path = links.new_paths.get((*inode, positions))
    if new_path is None or not _link(new_path, path):
        with storage.whole_file(path) as unfinished_path, unfinished_path.open("wb") as file:
            for position, record in records(path):
                if position not in positions:
                    file.writelines(tfrecord.frame(record))
            file.flush()
            os.fsync(file.fileno())
        links.new_paths[*inode, positions] = path
    sync(path.parent)
    links.names[inode] -= 1


def _link(source: Path, path: Path) -> bool:
    """Let `path` become a name of the file at `source`; return whether the disk does that."""
    unfinished_path = path.with_name(f"{storage.UNFINISHED}{path.name}")
    unfinished_path.unlink(missing_ok=True)
    try:
        os.link(source, unfinished_path)
    except OSError:
        return False
    unfinished_path.replace(path)
    return True


def records(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (position, record) of a shard; raise Stopped where it is damaged."""
    try:
        with path.open("rb") as file:
            for position, (record, is_intact) in enumerate(tfrecord.records(file)):
                if not is_intact:
                    raise tfrecord.FrameError(f"the checksum of record {position} is wrong")
                yield position, record
    except tfrecord.FrameError as error:
        raise Stopped(f"{path}: {error}; {ADVICE}") from None


def _exams(sidecar: dict, num_before: int) -> dict | None:
    """Return what the shard's records show; None where that is not known, as an earlier radlake
    counted all records of a shard together."""
    num_records, counts = len(sidecar["rows"]), sidecar.get("exams")
    if "record_exams" in sidecar:
        return exam.count(
            Counter(
                exam.Exam(modality, tuple(body_parts), is_capture)
                for modality, body_parts, is_capture in sidecar["record_exams"]
            )
        )
    if counts is None:
        return None
    words = [counts[name] for name in exam.WORDS]
    if any([*numbers.values()] != [num_before] for numbers in words):
        return None
    if counts[exam.CAPTURES] not in (0, num_before):
        return None
    alike = {name: dict.fromkeys(counts[name], num_records) for name in exam.WORDS}
    return alike | {exam.CAPTURES: min(counts[exam.CAPTURES], num_records)}


def _sums(path: Path, before: dict, is_same_sample: bool, content: dict) -> dict:
    """Return the sums of a shard, from its records alone. `before`: those of before, which have the
    grey values still where `is_same_sample`."""
    has_votes = "line_votes" in before
    labels = label_sums.Sums(content["options"].get("dialect", ""), has_votes)
    sums = Counter({key: before[key] for key in GREY_SUMS if is_same_sample and key in before})
    for position, record in records(path):
        fields = example.decode(record, len(manifest.findings(content)))
        labels.add(fields)
        sums[f"grouped_by_{_group(fields)}"] += 1
        if before.get("flat_views"):
            with Image.open(io.BytesIO(fields["image"])) as picture:
                sums["flat_views"] += pixels.is_flat(np.asarray(picture), fields["window"])
        if not is_same_sample and position % totals.STATISTICS_EVERY == 0:
            # A record does not say which pixels are padding: as 0 they count among the darkest.
            sums += totals.grey_sums(fields["image"], fields["height"] * fields["width"])
    return {key: int(number) for key, number in (sums + labels.sums).items()}


def _group(fields: dict) -> str:
    """Return the kind of what a split must not divide, as a conversion chose it for a record."""
    if fields["patient"]:
        return "patient"
    if fields["study"]:
        return "study"
    return "image" if math.isnan(fields["slice_mm"]) else "series"
