"""Images meet the rows of their labels by their ids, which people write in many ways.

In: the headers and rows that share a key. Out: each image with its rows; a tally over all images,
which stops a conversion whose labels are of other images.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import apache_beam as beam

from beam.conversion import listing
from beam.conversion.options import ConversionOptions
from beam.running.packing import pack, unpack
from lake import Reject, Stopped, ids
from lake.labels.tables import Row
from lake.scan import Header

MOST_PARTS = 1000  # of an id: more than any path has


class Tally(NamedTuple):
    """Counts images by how they met their rows, with an example of each."""

    met: int = 0
    without_row: int = 0
    image_id: str = ""  # of an image without a row
    text: str = ""  # an id in the labels that no image has
    agreeing: int = 0  # whose id in the labels also names the folders in which the file lies
    elsewhere: int = 0  # whose id in the labels also names folders, but others
    example: str = ""  # of the last: both forms


class Group(NamedTuple):
    """Holds all headers with one label id and the rows that mean them."""

    headers: list[Header]
    rows: list[Row]
    is_of_file: bool = False  # the rows are those of a file of frames, the headers its frames
    reject: Reject | None = None


def label_id(header: Header) -> str:
    """Return the id by which labels know an image, or the volume that a slice is of."""
    return header.series if header.geometry else header.image_id


@beam.ptransform_fn
def ByKey(sides, options: ConversionOptions):
    """Group what may belong together: {"headers": (id, Header), "rows": (id, Row)} -> (key,
    {"headers": [Header], "rows": [(id, Row)]})."""
    depth = 1  # names alone decide, whatever the folders before them
    if options.image_id_from == "path":
        numbers = [
            side | f"Parts of {name}" >> beam.Map(lambda pair: ids.num_parts(pair[0]))
            for name, side in sides.items()
        ]
        shallowest = numbers | beam.Flatten() | beam.CombineGlobally(shallowest_of)
        depth = beam.pvalue.AsSingleton(shallowest)
    sides_by_key = {
        "headers": sides["headers"] | "Key of headers" >> beam.Map(key_of_header, depth),
        "rows": sides["rows"] | "Key of rows" >> beam.Map(key_of_row, depth),
    }
    return sides_by_key | "By key" >> beam.CoGroupByKey() | "Unpack" >> beam.Map(unpack_group)


def shallowest_of(numbers: Iterable[int]) -> int:
    """Return the smallest number of parts that an id has: by so many parts all ids are grouped."""
    return min(numbers, default=MOST_PARTS)


def key_of_header(id_and_header: tuple[str, Header], depth: int) -> tuple[str, bytes]:
    """Return (key, the packed Header)."""
    return ids.key(id_and_header[0], depth), pack(id_and_header[1])


def key_of_row(id_and_row: tuple[str, Row], depth: int) -> tuple[str, bytes]:
    """Return (key, the packed (id, Row))."""
    return ids.key(id_and_row[0], depth), pack(id_and_row)


def unpack_group(key_and_sides: tuple[str, dict]) -> tuple[str, dict]:
    """Return (key, {"headers": [Header], "rows": [(id, Row)]}), from packed ones."""
    key, sides = key_and_sides
    return key, {name: [unpack(content) for content in side] for name, side in sides.items()}


# --- in one group ---


def meet(
    headers: list[Header], pairs: Iterable[tuple[str, Row]], options: ConversionOptions
) -> tuple[list[Group], list[str], Tally]:
    """Return (images with their rows, ids in the labels that no image has, their tally) of headers
    and (id, Row) pairs that share a key."""
    pairs = list(pairs)
    if len(headers) == 1 and all(text == label_id(headers[0]) for text, _ in pairs):
        return _meet_one(headers[0], [row for _, row in pairs])
    rows, by_id = defaultdict(list), defaultdict(list)
    for text, row in pairs:
        rows[text].append(row)
    for header in sorted(headers, key=lambda header: (header.path, header.frame)):
        by_id[label_id(header)].append(header)
    meeting = ids.meet({name: _path(of_id[0], options) for name, of_id in by_id.items()}, rows)
    texts, free, file_ids = dict(meeting.texts), meeting.free, set()
    if options.frames == "each" and free:
        open_ids = [name for name in by_id if name not in texts and name not in meeting.unclear]
        paths = {ids.without_frame(name): by_id[name][0].path for name in open_ids}
        of_files = ids.meet(paths, free)
        file_ids = {name for name in open_ids if ids.without_frame(name) in of_files.texts}
        texts |= {name: of_files.texts[ids.without_frame(name)] for name in file_ids}
        free = of_files.free
    groups = []
    for name, of_id in by_id.items():
        reject = None
        if name in meeting.unclear:
            reject = Reject("unclear-id", f"{of_id[0].path}: {meeting.unclear[name]}")
        headers, duplicates = _without_duplicates(of_id)
        its_rows = [row for text in texts.get(name, ()) for row in rows[text]]
        if headers:
            groups.append(Group(headers, its_rows, name in file_ids, reject))
        for header in duplicates:
            reject = _duplicate_reject(header, of_id, options)
            groups.append(Group([header], rows=[], reject=reject))
    return groups, free, _tally(by_id, texts, free, meeting.elsewhere)


def _meet_one(header: Header, rows: list[Row]) -> tuple[list[Group], list[str], Tally]:
    """Return the result of `meet` for one header whose id all rows have, as nearly always."""
    image_id = label_id(header)
    tally = Tally(met=1) if rows else Tally(without_row=1, image_id=image_id)
    return [Group([header], rows)], [], tally


def _path(header: Header, options: ConversionOptions) -> str:
    """Return the path of an image's file, with the number of a frame behind it."""
    frame = ids.FRAME.search(header.image_id) if options.frames == "each" else None
    return header.path + (frame[0] if frame else "")


def _without_duplicates(headers: list[Header]) -> tuple[list[Header], list[Header]]:
    """Return (the files that an id stands for, the files that cannot be told apart), of files with
    one id.

    An id stands for all slices of a series, for one volume or for one image. A volume is whole by
    itself, so that slices beside it are too many. Of two images, or volumes, neither may have the
    labels of the other.
    """
    volumes = [header for header in headers if listing.num_images(header) > 1]
    if len(headers) == 1 or (headers[0].geometry is not None and not volumes):
        return headers, []
    if len(volumes) == 1:
        return volumes, [header for header in headers if header is not volumes[0]]
    return [], headers


def _duplicate_reject(header: Header, of_id: list[Header], options: ConversionOptions) -> Reject:
    """Return the Reject of one of the files that have one id."""
    other = next((twin.path for twin in of_id if twin.path != header.path), header.path)
    advice = "give the files other names"
    if options.image_id_from != "path":
        or_uid = " (or uid)" if options.source == "dicom" else ""
        advice = f"--image_id_from path{or_uid} tells them apart"
    message = f"{header.path}: its id {label_id(header)!r} is also that of {other}; {advice}"
    return Reject("duplicate-id", message)


def _tally(
    by_id: dict[str, list[Header]], texts: dict[str, list[str]], free: list[str], elsewhere: set
) -> Tally:
    """Return the tally of one group."""
    without_row = [name for name in by_id if name not in texts]
    with_folders = [name for name in texts if ids.num_parts(texts[name][0]) > ids.num_parts(name)]
    strangers = [name for name in with_folders if name in elsewhere]
    example = ""
    if strangers:
        example = f"{by_id[strangers[0]][0].path} the row of {texts[strangers[0]][0]!r}"
    return Tally(
        met=len(texts),
        without_row=len(without_row),
        image_id=min(without_row, default=""),
        text=min(free, default=""),
        agreeing=len(with_folders) - len(strangers),
        elsewhere=len(strangers),
        example=example,
    )


# --- over all groups ---


class AddUp(beam.CombineFn):
    """Adds up tallies; keeps of each example the first in the order of the letters."""

    def create_accumulator(self):
        return list(Tally())

    def add_input(self, accumulator, tally):
        for number, value in enumerate(tally):
            if value:  # else 0, or no example
                accumulator[number] = _add(accumulator[number], value)
        return accumulator

    def merge_accumulators(self, accumulators):
        total = self.create_accumulator()
        for accumulator in accumulators:
            self.add_input(total, accumulator)
        return total

    def extract_output(self, accumulator):
        return Tally(*accumulator)


def _add(total: int | str, value: int | str) -> int | str:
    """Return the sum of two numbers, or the first of two examples."""
    if isinstance(value, str):
        return min(total or value, value)
    return total + value


def check(tally: Tally, options: ConversionOptions) -> Tally:
    """Return the tally of all images; raise Stopped where the labels are those of other images."""
    labels = options.labels or options.masks
    if not labels or not tally.met + tally.without_row:
        return tally
    if not tally.met:
        texts = f"has ids such as {tally.text!r}" if tally.text else "has no row"
        raise Stopped(
            f"no label meets an image: {labels} {texts}, the images have ids such as "
            f"{tally.image_id!r}. Correct the ids (--image_id_from says where those of images come "
            f"from); if no image has a label, leave the labels out and say --unlabelled keep or "
            f"negative"
        )
    if tally.agreeing and tally.elsewhere:
        raise Stopped(
            f"{labels}: {tally.agreeing:,} images lie in the folders that their ids there name, "
            f"but {tally.elsewhere:,} in others, such as {tally.example}. Correct those folders, "
            f"or take ids with folders: --image_id_from path"
        )
    return tally
