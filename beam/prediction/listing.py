"""Which images are predicted: names of files -> headers -> shards of images. No pixels are read
here."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from operator import attrgetter

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems

from beam.prediction.options import PredictionOptions
from beam.running import files, patterns, progress
from lake import Packed, Reject, exam
from lake.predictions import seg_series
from lake.predictions.folder import reject_row
from lake.scan import Header, stable_hash
from lake.sources import reader
from lake.sources.volumes import series

LONGEST_SHARD = 2  # times shard_images: its files
WRITER_VERSION = 5  # raise it when the predictions for the same files change
# The tagged outputs of the steps below.
LEFT_OUT = "files left out"
REJECT_ROWS, MORE_IMAGES, FINISHED = "rows of rejects.csv", "images beyond files", "finished shards"


@dataclass(frozen=True)
class ImageToPredict(Packed):
    """Describes an image, which may be a frame or a slice, as far as it is known without pixels."""

    header: Header
    source: str  # that reads it: dicom | images | metaimage
    place: tuple[str, int]  # orders images: (path, frame), or (first path, number) in a series


@dataclass(frozen=True)
class Shard(Packed):
    """Holds images that are predicted and written together."""

    first_path: str  # of its first file
    fingerprint: str  # of all that the predictions depend on
    images: list[ImageToPredict]  # by place


def shard_name(first_path: str) -> str:
    """Return the name of the sidecar of the shard that begins with this path."""
    return f"{stable_hash(first_path):016x}.json"


def match(pattern: str, options: PredictionOptions) -> Iterator:
    """Yield chunks (first path of their shard, [(path, bytes, time)]) of the files of a pattern
    and, tagged, the number of files of the system that are left out."""
    source = reader.METAIMAGE if options.reader_settings.is_ct else reader.IMAGES
    listed = patterns.image_files_on_worker("images", pattern, source)
    yield beam.pvalue.TaggedOutput(LEFT_OUT, listed.num_left_out)
    matches = sorted(
        (files.printable(file.path), file.size_in_bytes, file.last_updated_in_seconds)
        for file in listed.files
    )
    progress.tick(options.progress_file, progress.MATCHED * len(matches))
    for shard in divide(matches, options.shard_images):
        for start in range(0, len(shard), files.CHUNK_FILES):
            yield shard[0][0], shard[start : start + files.CHUNK_FILES]


def divide(matches: list[tuple], shard_images: int) -> Iterator[list[tuple]]:
    """Yield shards: neighbours among the files (path, bytes, time), about `shard_images` of them,
    at least half (but for the last) and at most twice as many, so that workers share them evenly.

    A shard begins at the paths whose hash says so: with a file more or less, its shard changes, and
    not all behind it.
    """
    fewest = max(shard_images // 2, 1)
    period = shard_images - fewest + 1  # `fewest` and then period - 1 on average
    shard = []
    for file in matches:
        is_start = stable_hash(file[0]) % period == 0
        is_end = len(shard) >= fewest if is_start else len(shard) == LONGEST_SHARD * shard_images
        if shard and is_end:
            yield shard
            shard = []
        shard.append(file)
    if shard:
        yield shard


def read_headers(chunk: tuple[str, list[tuple]], options: PredictionOptions) -> Iterator:
    """Yield (key, (first path of the shard, ImageToPredict)) of each image of a chunk as `match`
    yields it; the key is the id of the file's images without a frame, or the series of a volume
    or slice."""
    reader.quieten()
    (first_path, matches), settings = chunk, options.reader_settings
    for path, size, update_time in matches:
        try:
            with reader.reject_unreadable(path), files.open_binary(path) as file:
                source, headers = reader.read_file(file, path, size, settings, options.images_root)
                version = files.version_of(file, path, update_time, is_volume_header=settings.is_ct)
        except Reject as reject:
            progress.tick(options.progress_file, progress.LISTED)
            yield to_reject(path, "", reject, options)
            continue
        yield from more_images(len(headers) - 1, options)
        progress.tick(options.progress_file, progress.LISTED * len(headers))
        for header in headers:
            key = reader.label_id(header)
            place = path, header.frame
            image = ImageToPredict(header.with_version(version), source, place)
            yield key, (first_path, image)


def choose_images(key_and_images: tuple, options: PredictionOptions) -> Iterator:
    """Yield the (first path, ImageToPredict) that are predicted, of (key, [(first path,
    ImageToPredict)]): the first image of an id, whose others become rejects, or all slices of a
    series, which is a shard of its own. Files of one name have their folders in their ids."""
    pairs = sorted(key_and_images[1], key=lambda pair: pair[1].place)
    headers = reader.tell_apart([image.header for _, image in pairs], options.images_root)
    by_id = {}
    for (first_path, image), header in zip(pairs, headers, strict=True):
        image_id = header.series if header.geometry else header.image_id
        by_id.setdefault(image_id, []).append((first_path, replace(image, header=header)))
    for image_id, pairs_of_id in by_id.items():
        if options.reader_settings.is_ct:
            yield from _slices([image for _, image in pairs_of_id], options)
            continue
        yield pairs_of_id[0]
        for _, image in pairs_of_id[1:]:
            path = image.header.path
            message = f"{path}: id {image_id} is already at {pairs_of_id[0][1].header.path}"
            yield to_reject(path, image_id, Reject("duplicate-id", message), options)


def standings(path_and_image: tuple, options: PredictionOptions) -> Iterable[tuple[str, int]]:
    """Return the (name, number) pairs of lake.exam.standings for the image of (first path,
    ImageToPredict), to be added up."""
    exams = [path_and_image[1].header.exam]
    return exam.standings(exams, options.reader_settings.exams).items()


def key_by_series(path_and_image: tuple) -> tuple[str, tuple]:
    """Return (series key, (first path, ImageToPredict)) of (first path, ImageToPredict)."""
    return seg_series.series_key(path_and_image[1].header), path_and_image


def gather_series(key_and_images: tuple) -> Iterator[tuple[str, ImageToPredict]]:
    """Yield (first path, ImageToPredict) of (series key, [(first path, ImageToPredict)]), with the
    first of these paths for all: a SEG of a series is written where all its masks are."""
    pairs = list(key_and_images[1])
    first_path = min(path for path, _ in pairs)
    for _, image in pairs:
        yield first_path, image


def _slices(images: list[ImageToPredict], options: PredictionOptions) -> Iterator:
    """Yield (first path, ImageToPredict) of each slice of a series in the order of the volume;
    where the series is a Reject, yield a reject per file instead."""
    by_path = {image.header.path: image for image in images}
    headers = [image.header for image in images]
    try:
        slices = series.stack_slices(headers)
    except Reject as reject:
        for header in headers:
            yield to_reject(header.path, "", reject, options)
        return
    yield from more_images(len(slices) - len(headers), options)
    first_path = headers[0].path
    for number, header in enumerate(slices):
        yield first_path, replace(by_path[header.path], header=header, place=(first_path, number))


def to_reject(path: str, image_id: str, reject: Reject, options: PredictionOptions):
    """Count a reject as progress and return its row, tagged for the output of rejects."""
    progress.tick(options.progress_file, progress.REJECTED)
    return beam.pvalue.TaggedOutput(REJECT_ROWS, reject_row(path, image_id, reject))


def more_images(number: int, options: PredictionOptions) -> Iterator:
    """Yield, tagged, the number of images beyond one per file, unless it is 0; count them as
    progress."""
    progress.tick(options.progress_file, progress.MATCHED * number)
    if number:
        yield beam.pvalue.TaggedOutput(MORE_IMAGES, number)


def make_shard(path_and_images: tuple, options: PredictionOptions) -> Iterator:
    """Yield the Shard of (first path, [ImageToPredict]); where an earlier run finished it, yield
    its tagged (first path, fingerprint) instead."""
    first_path, images = path_and_images[0], sorted(path_and_images[1], key=attrgetter("place"))
    shard = Shard(first_path, fingerprint(images, options), images)
    if _is_finished(shard, options):
        progress.tick(options.progress_file, progress.RECORD * len(images))
        yield beam.pvalue.TaggedOutput(FINISHED, (first_path, shard.fingerprint))
    else:
        yield shard


def fingerprint(images: list[ImageToPredict], options: PredictionOptions) -> str:
    """Return a hash of everything that the predictions of a shard depend on."""
    headers = [image.header for image in images]
    versions = [(h.path, h.frame, h.size, h.version, h.image_id) for h in headers]
    content = [WRITER_VERSION, options.for_predictions(), versions]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_finished(shard: Shard, options: PredictionOptions) -> bool:
    """Return whether a shard with this fingerprint has its sidecar and all its SEGs."""
    path = options.work_path(shard_name(shard.first_path))
    if not FileSystems.exists(path):
        return False
    sidecar = json.loads(files.read_text(path))
    segs = [options.path("seg", name) for name in sidecar["segs"]]
    return sidecar["fingerprint"] == shard.fingerprint and all(map(FileSystems.exists, segs))
