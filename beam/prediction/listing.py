"""What predict is asked about: names of files -> image ids -> shards of images. No pixels are read
here."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems

from beam.prediction.options import PredictionOptions
from beam.running import files, progress
from lake import Packed, Reject
from lake.predictions import folder
from lake.scan import stable_hash
from lake.sources import images, reader

MOST = 2  # times shard_images: files of the longest shard
WRITER_VERSION = 1  # raise it when answers to the same files change
# The tagged outputs of the steps below.
REJECTS, STANDING = "rejects", "shards that stand"


@dataclass(frozen=True)
class ImageToPredict(Packed):
    path: str
    size: int  # bytes
    updated: float  # seconds since 1970; 0 where the file system does not say
    kind: str  # dicom | images
    image_id: str


@dataclass(frozen=True)
class Shard(Packed):
    """Images that are answered and written together."""

    first: str  # path of its first file
    fingerprint: str  # of all that the answers depend on
    images: list[ImageToPredict]  # by path

    @property
    def name(self) -> str:
        return name_of(self.first)


def name_of(first: str) -> str:
    return f"{stable_hash(first):016x}.json"


def match(pattern: str, options: PredictionOptions) -> Iterator[tuple[str, list[tuple]]]:
    """Chunks (first path of their shard, [(path, bytes, time)]) of the files of a pattern."""
    found = sorted(
        (files.printable(file.path), file.size_in_bytes, file.last_updated_in_seconds)
        for file in files.image_files_on_worker("images", pattern, "images")
    )
    progress.tick(options.progress_file, progress.MATCHED * len(found))
    for shard in divided(found, options.shard_images):
        for start in range(0, len(shard), files.CHUNK_FILES):
            yield shard[0][0], shard[start : start + files.CHUNK_FILES]


def divided(found: list[tuple], shard_images: int) -> Iterator[list[tuple]]:
    """Neighbours of about so many, at least half (but for the last) and at most twice as many, so
    that workers share them evenly. A shard begins at the paths whose hash says so: a file more or
    less changes its shard, and not all behind it."""
    fewest = max(shard_images // 2, 1)
    period = shard_images - fewest + 1  # `fewest` and then period - 1 on average
    shard = []
    for file in found:
        is_start = stable_hash(file[0]) % period == 0
        if (is_start and len(shard) >= fewest) or len(shard) == MOST * shard_images:
            yield shard
            shard = []
        shard.append(file)
    if shard:
        yield shard


class ReadIds(beam.DoFn):
    """(first path, [(path, bytes, time)]) -> (image id, (first path, Image))."""

    def __init__(self, options: PredictionOptions):
        self.options = options

    def process(
        self, chunk: tuple[str, list[tuple]]
    ) -> Iterator[tuple[str, tuple[str, ImageToPredict]]]:
        reader.quieten()
        first, found = chunk
        for path, size, updated in found:
            try:
                kind, image_id = self._known(path, size)
            except Reject as reject:
                yield rejected(path, "", reject, self.options)
                continue
            progress.tick(self.options.progress_file, progress.LISTED)
            yield image_id, (first, ImageToPredict(path, size, updated, kind, image_id))

    def _known(self, path: str, size: int) -> tuple[str, str]:
        """(which source reads it, the image's id)."""
        try:
            with files.open_binary(path) as file:
                start = file.read(8)
                file.seek(0)
                kind = "images" if start.startswith(tuple(images.OPENERS)) else "dicom"
                # The graph has a reason of its own to refuse a file of several frames.
                by = self.options.image_id_from
                [header] = reader.read_headers(kind, file, path, size, by, "first")
        except OSError as error:
            raise reader.unreadable(path, error) from None
        return kind, header.image_id


def first_of_id(joined: tuple, options: PredictionOptions) -> Iterator:
    """(image id, [(first path, Image)]) -> (first path, Image) of the first; the others are
    rejects."""
    image_id, found = joined
    taken, *others = sorted(found, key=lambda item: item[1].path)
    yield taken
    for _, image in others:
        said = f"{image.path}: id {image_id} is already at {taken[1].path}"
        yield rejected(image.path, image_id, Reject("duplicate-id", said), options)


def rejected(path: str, image_id: str, reject: Reject, options: PredictionOptions):
    progress.tick(options.progress_file, progress.REJECTED)
    return beam.pvalue.TaggedOutput(REJECTS, folder.reject_row(path, image_id, reject))


def asked(keyed: tuple, options: PredictionOptions) -> Iterator:
    """(first path, [Image]) -> Shard; or its (first path, fingerprint) where its answers stand."""
    first, found = keyed
    found = sorted(found, key=lambda image: image.path)
    shard = Shard(first, fingerprint(found, options), found)
    if _stands(shard, options):
        progress.tick(options.progress_file, progress.RECORD * len(found))
        yield beam.pvalue.TaggedOutput(STANDING, (first, shard.fingerprint))
    else:
        yield shard


def fingerprint(found: list[ImageToPredict], options: PredictionOptions) -> str:
    content = [WRITER_VERSION, options.of_answers(), [vars(image) for image in found]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _stands(shard: Shard, options: PredictionOptions) -> bool:
    at = options.work(shard.name)
    if not FileSystems.exists(at):
        return False
    sidecar = json.loads(files.read_text(at))
    segs = [options.path("seg", name) for name in sidecar["segs"]]
    return sidecar["fingerprint"] == shard.fingerprint and all(map(FileSystems.exists, segs))
