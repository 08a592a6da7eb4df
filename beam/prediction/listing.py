"""Which images are predicted: names of files -> headers -> shards of images. No pixels are read
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
from lake.predictions.folder import reject_row
from lake.scan import Header, stable_hash
from lake.sources import reader, series

MOST = 2  # times shard_images: files of the longest shard
WRITER_VERSION = 2  # raise it when the predictions for the same files change
VOLUMES = (".mhd", ".mha")  # files of many slices
# The tagged outputs of the steps below.
REJECT_ROWS, MORE_IMAGES, FINISHED = "rows of rejects.csv", "images beyond files", "finished shards"


@dataclass(frozen=True)
class ImageToPredict(Packed):
    """One image of a file, a frame or a slice too, and what is known about it without pixels."""

    header: Header
    source: str  # that reads it: dicom | images | metaimage
    updated: float  # seconds since 1970; 0 where the file system does not say

    @property
    def place(self) -> tuple[str, int]:
        """(path, frame), which orders the images."""
        return self.header.path, self.header.frame


@dataclass(frozen=True)
class Shard(Packed):
    """Images that are predicted and written together."""

    first: str  # path of its first file
    fingerprint: str  # of all that the predictions depend on
    images: list[ImageToPredict]  # by place

    @property
    def name(self) -> str:
        return shard_name(self.first)


def shard_name(first: str) -> str:
    """Return the name of the sidecar of the shard that begins with this path."""
    return f"{stable_hash(first):016x}.json"


def match(pattern: str, options: PredictionOptions) -> Iterator[tuple[str, list[tuple]]]:
    """Yield chunks (first path of their shard, [(path, bytes, time)]) of the files of a pattern."""
    source = reader.METAIMAGE if options.reader_settings.is_ct else reader.IMAGES
    matched = sorted(
        (files.printable(file.path), file.size_in_bytes, file.last_updated_in_seconds)
        for file in files.image_files_on_worker("images", pattern, source)
    )
    progress.tick(options.progress_file, progress.MATCHED * len(matched))
    for shard in divide(matched, options.shard_images):
        for start in range(0, len(shard), files.CHUNK_FILES):
            yield shard[0][0], shard[start : start + files.CHUNK_FILES]


def divide(matched: list[tuple], shard_images: int) -> Iterator[list[tuple]]:
    """Yield neighbours of about `shard_images` files, at least half (but for the last) and at most
    twice as many, so that workers share them evenly; a volume is a shard of its own.

    A shard begins at the paths whose hash says so: with a file more or less, its shard changes, and
    not all behind it.
    """
    fewest = max(shard_images // 2, 1)
    period = shard_images - fewest + 1  # `fewest` and then period - 1 on average
    shard, is_volume = [], False
    for file in matched:
        was_volume, is_volume = is_volume, file[0].lower().endswith(VOLUMES)
        is_start = stable_hash(file[0]) % period == 0
        is_end = len(shard) >= fewest if is_start else len(shard) == MOST * shard_images
        if shard and (is_end or is_volume or was_volume):
            yield shard
            shard = []
        shard.append(file)
    if shard:
        yield shard


class ReadHeaders(beam.DoFn):
    """(first path, [(path, bytes, time)]) -> (key, (first path, ImageToPredict)); the key is the
    image id, or the series of a volume or slice."""

    def __init__(self, options: PredictionOptions):
        self.options = options

    def process(
        self, chunk: tuple[str, list[tuple]]
    ) -> Iterator[tuple[str, tuple[str, ImageToPredict]]]:
        reader.quieten()
        (first, matched), settings = chunk, self.options.reader_settings
        for path, size, updated in matched:
            try:
                with files.open_binary(path) as file:
                    source, headers = reader.read_file(file, path, size, settings)
            except OSError as error:
                yield to_reject(path, "", reader.unreadable(path, error), self.options)
                continue
            except Reject as reject:
                yield to_reject(path, "", reject, self.options)
                continue
            progress.tick(self.options.progress_file, progress.LISTED)
            yield from more_images(len(headers) - 1, self.options)
            for header in headers:
                key = header.series if header.geometry else header.image_id
                yield key, (first, ImageToPredict(header, source, updated))


def choose_images(joined: tuple, options: PredictionOptions) -> Iterator:
    """(key, [(first path, ImageToPredict)]) -> (first path, ImageToPredict): the first image of an
    id, whose others are rejects, or the slices of a series."""
    key, elements = joined
    elements = sorted(elements, key=lambda element: element[1].place)
    if options.reader_settings.is_ct:
        yield from _slices(elements, options)
        return
    yield elements[0]
    for _, image in elements[1:]:
        path = image.header.path
        message = f"{path}: id {key} is already at {elements[0][1].header.path}"
        yield to_reject(path, key, Reject("duplicate-id", message), options)


def _slices(elements: list[tuple[str, ImageToPredict]], options: PredictionOptions) -> Iterator:
    by_path = {image.header.path: (first, image) for first, image in elements}
    headers = [image.header for _, image in elements]
    try:
        slices = [header for header, _ in series.slices(headers, None, empty_share=1.0)[0]]
    except Reject as reject:
        for header in headers:
            yield to_reject(header.path, "", reject, options)
        return
    yield from more_images(len(slices) - len(headers), options)
    for header in slices:
        first, image = by_path[header.path]
        yield first, ImageToPredict(header, image.source, image.updated)


def to_reject(path: str, image_id: str, reject: Reject, options: PredictionOptions):
    progress.tick(options.progress_file, progress.REJECTED)
    return beam.pvalue.TaggedOutput(REJECT_ROWS, reject_row(path, image_id, reject))


def more_images(number: int, options: PredictionOptions) -> Iterator:
    """Yield, from a step, by how many its images outnumber their files."""
    progress.tick(options.progress_file, progress.MATCHED * number)
    if number:
        yield beam.pvalue.TaggedOutput(MORE_IMAGES, number)


def make_shard(keyed: tuple, options: PredictionOptions) -> Iterator:
    """(first path, [ImageToPredict]) -> Shard; or its (first path, fingerprint) where an earlier
    run finished it."""
    first, images = keyed
    images = sorted(images, key=lambda image: image.place)
    shard = Shard(first, fingerprint(images, options), images)
    if _is_finished(shard, options):
        progress.tick(options.progress_file, progress.RECORD * len(images))
        yield beam.pvalue.TaggedOutput(FINISHED, (first, shard.fingerprint))
    else:
        yield shard


def fingerprint(images: list[ImageToPredict], options: PredictionOptions) -> str:
    facts = [
        [*image.place, image.header.size, image.updated, image.header.image_id] for image in images
    ]
    content = [WRITER_VERSION, options.deciding(), facts]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_finished(shard: Shard, options: PredictionOptions) -> bool:
    path = options.work(shard.name)
    if not FileSystems.exists(path):
        return False
    sidecar = json.loads(files.read_text(path))
    segs = [options.path("seg", name) for name in sidecar["segs"]]
    return sidecar["fingerprint"] == shard.fingerprint and all(map(FileSystems.exists, segs))
