"""COCO JSON files -> masks; against the arrays that were written and pycocotools' own text."""

import io
import json

import numpy as np
import pytest

from lake import InputError
from lake.labels import cells, coco, rle, tables

SIZE = (24, 20)


def read(annotations: list[dict], *names: str, classes=()) -> dict[str, np.ndarray | str]:
    """The lesion of each of two images, or the reason of its Reject."""
    content = {
        "images": [
            {"id": n, "file_name": f"{letter}.png", "height": 24, "width": 20}
            for n, letter in enumerate("ab")
        ],
        "annotations": [{"id": n, "image_id": 0, **item} for n, item in enumerate(annotations)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names or ("lesion",))],
    }
    data = json.dumps(content).encode()
    chosen = tuple(map(cells.class_name, classes))
    coco.check(io.BytesIO(data), "x.json", chosen)
    lesions = {}
    for name, row in coco.read(io.BytesIO(data), "x.json", chosen):
        if row.problem:
            lesions[name] = row.problem[0]
            continue
        label = tables.unite([row], "rle", *SIZE, "relative")
        lesions[name] = rle.decode(label.rle, *SIZE) > 0
    return lesions


def box(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[rows, columns] = True
    return mask


SQUARE = [4, 5, 12, 5, 12, 15, 4, 15]  # x, y


def counts(mask: np.ndarray) -> list[int]:
    edges = np.flatnonzero(np.diff(np.r_[0, mask.T.ravel(), 0]))
    return np.diff(np.r_[0, edges, mask.size]).tolist()


def compressed(numbers: list[int]) -> str:
    """pycocotools' text of counts (maskApi.c, rleToString)."""
    text = ""
    for place, number in enumerate(numbers):
        rest, more = number - (numbers[place - 2] if place > 2 else 0), True
        while more:
            code, rest = rest & 31, rest >> 5
            more = rest != -1 if code & 16 else rest != 0
            text += chr((code | 32 * more) + 48)
    return text


def test_polygons_and_run_lengths_in_both_spellings():
    expected = box(slice(5, 15), slice(4, 12))
    outlines = [
        [SQUARE],
        {"size": [24, 20], "counts": counts(expected)},
        {"size": [24, 20], "counts": compressed(counts(expected))},
        [[4, 5, 12, 5, 12, 10, 4, 10], [4, 10, 12, 10, 12, 15, 4, 15]],
    ]
    assert compressed(counts(expected)).startswith("U3")  # 101: 5 + 32 * 3
    for outline in outlines:
        lesions = read([{"category_id": 0, "segmentation": outline}])
        assert (lesions["a.png"] == expected).all() and not lesions["b.png"].any()
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = rng.random(SIZE) < rng.random()
        outline = {"size": [24, 20], "counts": compressed(counts(mask))}
        assert (read([{"category_id": 0, "segmentation": outline}])["a.png"] == mask).all()


def test_a_polygon_between_pixels_keeps_one_and_one_beyond_the_image_is_cut():
    thin = read([{"category_id": 0, "segmentation": [[7.6, 3.6, 7.7, 3.6, 7.7, 3.7]]}])
    assert np.argwhere(thin["a.png"]).tolist() == [[3, 7]]
    wide = read([{"category_id": 0, "segmentation": [[-9, -9, 5, -9, 5, 3, -9, 3]]}])
    assert (wide["a.png"] == box(slice(0, 3), slice(0, 5))).all()


def test_categories_are_chosen_never_merged():
    items = [
        {"category_id": 0, "segmentation": [SQUARE]},
        {"category_id": 1, "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]},
    ]
    with pytest.raises(InputError, match="several categories: lung, nodule; .* --classes"):
        read(items, "lung", "nodule")
    lesions = read(items, "lung", "nodule", classes=["Nodule"])
    assert (lesions["a.png"] == box(slice(0, 2), slice(0, 2))).all()
    assert read(items, "lung", "nodule", classes=["all"])["a.png"].sum() == 84
    with pytest.raises(InputError, match="has no 'heart'; it has lung, nodule"):
        read(items, "lung", "nodule", classes=["heart"])


@pytest.mark.parametrize(
    "outline",
    [
        *(None, [], [[1, 2, 3]], [[1, 2, 3, 4]], [["a"] * 6], {"size": [24, 20]}, "x", [7]),
        *(
            {"size": [24, 20], "counts": text}
            for text in ("U3", "\x00", "o" * 40, [5, 5], [-1, 481])
        ),
        {"size": [20, 24], "counts": [480]},
    ],
)
def test_an_annotation_without_an_outline_rejects_its_image(outline):
    lesions = read([{"category_id": 0, "segmentation": outline}])
    assert lesions["a.png"] in ("coco-damaged", "mask-size") and not lesions["b.png"].any()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": [1]}', "[" * 100_000])
def test_other_json_is_no_coco(text):
    with pytest.raises(InputError, match="x.json: no"):
        coco.check(io.BytesIO(text.encode()), "x.json", ())


@pytest.mark.parametrize("part, key", [("images", "id"), ("annotations", "category_id")])
def test_an_id_that_is_a_list_is_a_mistake(part, key):
    content = {name: [{"id": 0}] for name in ("images", "annotations", "categories")}
    content[part][0][key] = [0]
    with pytest.raises(InputError, match="is no number and no text"):
        coco.check(io.BytesIO(json.dumps(content).encode()), "x.json", ())
