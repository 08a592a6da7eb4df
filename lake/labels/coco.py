"""COCO JSON files -> rows of labels: the polygons and run lengths of all annotations of an image.

In: an open file with `images`, `annotations` and `categories`. Out: (file name, Row) of each image;
one without annotations of the chosen categories has no lesion. COCO's own run lengths count down
the columns and begin with background, as relative ones do.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from lake import InputError, Reject
from lake.labels import cells, rle
from lake.labels.tables import Row
from lake.scan import check_pixels

PARTS = ("images", "annotations", "categories")
IDS = ("id", "image_id", "category_id")  # by which the parts name each other
MAX_NAMES = 16  # that a message lists


def check(file: BinaryIO, path: str, classes: tuple[str, ...]) -> None:
    """Raise InputError where a file is no COCO JSON, has several categories and none is chosen, or
    lacks a chosen one."""
    content = _load(file, path)
    names = _names(content)
    used_names = {names.get(item.get("category_id"), "") for item in content["annotations"]}
    class_list = ", ".join(sorted(name[:40] for name in names.values())[:MAX_NAMES])
    if not classes and len(used_names) > 1:
        raise InputError(
            f"{path} has annotations of several categories: {class_list}; a lake has one kind of "
            f"lesion: say with --classes NAME,NAME which of them it is, or --classes all"
        )
    absent_classes = (
        set(classes) - {cells.class_name(name) for name in names.values()} - {cells.ALL}
    )
    if absent_classes:
        raise InputError(
            f"--classes: {path} has no {sorted(absent_classes)[0]!r}; it has {class_list}"
        )


def read(file: BinaryIO, path: str, classes: tuple[str, ...]) -> Iterator[tuple[str, Row]]:
    """Yield (file name, Row) of each image; annotations of other than the chosen classes are left
    out."""
    content = _load(file, path)
    names, by_image = _names(content), defaultdict(list)
    for item in content["annotations"]:
        name = cells.class_name(names.get(item.get("category_id"), ""))
        if not classes or cells.is_chosen([name], classes):
            by_image[item.get("image_id")].append(item)
    for image in content["images"]:
        file_name = str(image.get("file_name", image.get("id")))
        place = f"{path}, image {file_name[:80]}"
        try:
            size = _size(image)
            parts = [_runs(item, *size) for item in by_image[image.get("id")]]
            yield file_name, Row(0, rle.to_text(rle.unite(parts)), size=size, path=place)
        except Reject as reject:
            problem = reject.reason, f"{place}: {reject.message}"
            yield file_name, Row(0, value=None, problem=problem, path=place)


def _load(file: BinaryIO, path: str) -> dict:
    """Return the content of a COCO JSON; raise InputError for another file."""
    try:
        content = json.load(file)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {str(error)[:200]}") from None
    lists = content if isinstance(content, dict) else {}
    lacks = [name for name in PARTS if not isinstance(lists.get(name), list)]
    if lacks:
        raise InputError(f"{path}: no COCO file, which has lists of {', '.join(PARTS)}")
    if not all(isinstance(item, dict) for name in PARTS for item in content[name]):
        raise InputError(f"{path}: no COCO file: its {', '.join(PARTS)} are no objects")
    items = [item for name in PARTS for item in content[name]]
    numbers = (item.get(key) for item in items for key in IDS)
    if any(isinstance(number, (list, dict)) for number in numbers):
        raise InputError(f"{path}: an {', '.join(IDS[:2])} or {IDS[2]} is no number and no text")
    return content


def _names(content: dict) -> dict:
    """Return {number: name} of the categories."""
    return {item.get("id"): str(item.get("name", item.get("id"))) for item in content["categories"]}


def _size(image: dict) -> tuple[int, int]:
    """Return (height, width) of an image; raise Reject where it has none."""
    height, width = image.get("height"), image.get("width")
    if not all(isinstance(side, int) and side > 0 for side in (height, width)):
        raise Reject("coco-damaged", "no height and width")
    check_pixels(height, width)
    return height, width


def _runs(item: dict, height: int, width: int) -> np.ndarray:
    """Return the runs of one annotation; raise Reject where it has no outline."""
    outline, number = item.get("segmentation"), str(item.get("id"))[:40]
    try:
        if isinstance(outline, dict):
            return _coded_runs(outline, height, width)
        if isinstance(outline, list) and outline:
            return rle.unite([_polygon_runs(points, height, width) for points in outline])
    except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
        if isinstance(error, Reject):
            raise
        raise Reject(
            "coco-damaged", f"annotation {number}: {type(error).__name__} in its segmentation"
        ) from None
    raise Reject("coco-damaged", f"annotation {number} has no polygon and no run lengths")


def _coded_runs(outline: dict, height: int, width: int) -> np.ndarray:
    """Return the runs of `{"size", "counts"}`, whose counts are numbers or compressed text; raise
    Reject where they are those of another size."""
    if list(outline["size"]) != [height, width]:
        raise Reject("mask-size", f"run lengths of {outline['size']}, the image {height}x{width}")
    counts = outline["counts"]
    numbers = _decompress(counts) if isinstance(counts, str) else [int(count) for count in counts]
    if any(number < 0 for number in numbers) or sum(numbers) != height * width:
        raise Reject("coco-damaged", "its run lengths do not add up to the pixels of the image")
    ends = np.cumsum([*numbers, *[0] * (len(numbers) % 2)]).astype(np.int64)
    return rle.unite([ends.reshape(-1, 2)])


def _decompress(text: str) -> list[int]:
    """Return the counts of COCO's text (maskApi.c, rleFrString): five bits per character, and from
    the fourth count on the difference to the last but one."""
    numbers, position = [], 0
    while position < len(text):
        number = shift = 0
        while True:
            code = ord(text[position]) - 48
            if not 0 <= code < 64 or shift > 60:
                raise ValueError(text[position])
            number |= (code & 31) << shift
            shift, position = shift + 5, position + 1
            if not code & 32:
                break
        number -= (1 << shift) if code & 16 else 0
        numbers.append(number + (numbers[-2] if len(numbers) > 2 else 0))
    return numbers


def _polygon_runs(points: list, height: int, width: int) -> np.ndarray:
    """Return the runs of the pixels whose centres lie in a polygon x, y, x, y …; where it lies
    between the centres, the pixel in its middle. Raises Reject where it has fewer than three
    corners."""
    from skimage.draw import polygon  # 0.3 s to import, and few label files need it

    corners = np.asarray(points, float).reshape(-1, 2)
    if len(corners) < 3 or not np.isfinite(corners).all():
        raise Reject("coco-damaged", f"a polygon of {len(corners)} corners, expected three or more")
    mask = np.zeros((height, width), bool)
    # Corners count from the edge of the first pixel, pixels from its centre.
    corners = corners.clip(-4 * max(height, width), 4 * max(height, width))
    mask[polygon(corners[:, 1] - 0.5, corners[:, 0] - 0.5, mask.shape)] = True
    if not mask.any():
        column, row = (math.floor(middle) for middle in corners.mean(axis=0))
        if 0 <= row < height and 0 <= column < width:
            mask[row, column] = True
    return rle.from_mask(mask)
