"""A lake as a COCO data set: SPLIT/ID.png, annotations/instances_SPLIT.json and table.csv.

Each connected part of a mask is an annotation. An image without annotations has no lesion, so an
image whose mask is unknown is left out, and a row of the table without a file. The JSON is written
as the records come, with the annotations in a file of their own until the images are complete.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import count, groupby
from operator import attrgetter
from pathlib import Path
from typing import TextIO

import numpy as np
from scipy import ndimage

from lake.inspection.writing import table
from lake.inspection.writing.counts import Counts
from lake.inspection.writing.shards import Record, Shard
from lake.labels import rle

CATEGORY = {"id": 1, "name": "lesion", "supercategory": "finding"}
# What an image's entry has besides COCO's own keys: what tells stored grey values from others.
MORE = ("split", "label", "patient", "image_id", "window_low", "window_high", "rescale_slope")
MORE += ("rescale_intercept", "row_spacing_mm", "column_spacing_mm")


def write(output: Path, content: dict, shards: Iterable[Shard]) -> Counts:
    """Write the records of the shards into the folder; return how many."""
    counts, ids = Counts(), (count(1), count(1))
    (output / "annotations").mkdir()
    with table.create(output, content) as add_row:
        for split, its_shards in groupby(shards, attrgetter("split")):
            (output / split).mkdir()
            records = (record for shard in its_shards for record in shard.records)
            for record, name in _write_split(output, content, split, records, ids):
                counts.add(split, record, is_left_out=not name)
                paths = (f"{split}/{name}", _json_name(split)) if name else ("", "")
                add_row(record, split, *paths)
    return counts


def _json_name(split: str) -> str:
    return f"annotations/instances_{split}.json"


def _write_split(
    output: Path,
    content: dict,
    split: str,
    records: Iterable[Record],
    ids: tuple[Iterator[int], Iterator[int]],
) -> Iterator[tuple[Record, str]]:
    """Write the images and the JSON of a split; yield each record with its file's name, "" where it
    is left out. `ids`: those of images and annotations that come next."""
    with (
        (output / _json_name(split)).open("w", encoding="utf-8") as file,
        tempfile.TemporaryFile("w+", encoding="utf-8", dir=output) as later,
    ):
        file.write(_head(content))
        add_image, add_annotation = _add_to(file), _add_to(later)
        for record in records:
            name = ""
            if record.mask is not None:
                name, image_id = table.file_name(record, ".png"), next(ids[0])
                (output / split / name).write_bytes(record.to_png())
                add_image(_image(record, split, content, image_id, name))
                for annotation in _annotations(record.mask, image_id):
                    add_annotation({"id": next(ids[1])} | annotation)
            yield record, name
        file.write('],\n"annotations": [\n')
        later.seek(0)
        shutil.copyfileobj(later, file)
        file.write("]}\n")


def _add_to(file: TextIO) -> Callable[[dict], None]:
    """Return a function that adds an item to a list in an open JSON file."""
    separator = ""

    def add(item: dict) -> None:
        nonlocal separator
        file.write(separator + json.dumps(item))
        separator = ",\n"

    return add


def _head(content: dict) -> str:
    """Return the JSON up to the first image."""
    title = f"{content['dataset']} {content['version']}"
    info = {"description": f"{title}, written by radlake", "version": content["version"]}
    head = {"info": info, "licenses": [], "categories": [CATEGORY]}
    return f'{json.dumps(head)[:-1]},\n"images": [\n'


def _image(record: Record, split: str, content: dict, image_id: int, name: str) -> dict:
    """Return the entry of an image."""
    values = table.values(record, split, content)
    size = {key: record.fields[key] for key in ("height", "width")}
    more = {("lake_image_id" if key == "image_id" else key): values[key] for key in MORE}
    more = {key: float(str(v)) if isinstance(v, np.float32) else v for key, v in more.items()}
    return {"id": image_id, "file_name": name, **size, **more}


def _annotations(mask: np.ndarray, image_id: int) -> Iterator[dict]:
    """Yield the annotation of each connected part of a mask [H, W], all but its id; parts that
    touch at a corner are one."""
    parts, _ = ndimage.label(mask, np.ones((3, 3)))
    for number, (rows, columns) in enumerate(ndimage.find_objects(parts), start=1):
        runs = rle.from_mask(parts[:, columns] == number) + columns.start * mask.shape[0]
        box = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
        # COCO's counts: background and lesion in turns, down the columns.
        edges = [0, *runs.ravel().tolist()]
        edges += [mask.size] if edges[-1] < mask.size else []
        yield {
            "image_id": image_id,
            "category_id": CATEGORY["id"],
            "segmentation": {"size": list(mask.shape), "counts": np.diff(edges).tolist()},
            "area": rle.area(runs),
            "bbox": list(box),
            "iscrowd": 0,
        }
