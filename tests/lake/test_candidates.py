"""Candidates of CT series are compared with the spheres that their masks show, and with the nodules
of the real slabs."""

import csv
import math

import numpy as np
from makers.volumes import OBLIQUE

from lake.labels import nodules
from lake.predictions import candidates
from lake.scan import Geometry
from lake.sources.volumes import metaimage, series


def planes_of(slices: int, spacing_mm, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)) -> list[Geometry]:
    """Return the place of each slice, computed one at a time."""
    step_mm = np.reshape(direction, (3, 3))[:, 2] * spacing_mm[2]
    return [
        Geometry(1, tuple(np.array([-20.0, 31.5, -200.0]) + k * step_mm), spacing_mm, direction)
        for k in range(slices)
    ]


def candidates_in(planes, masks: dict, height: int, width: int, probabilities=None) -> list:
    slices = candidates.Series("1.2.3")
    for place, plane in enumerate(planes):
        mask = masks.get(place, np.zeros((height, width), bool))
        p = np.full((height, width), 0.5) if probabilities is None else probabilities[place]
        slices.add(plane, place, mask, p)
    return slices.candidates()


def test_spheres_come_back_as_they_were_drawn():
    """Also in a volume that lies askew in the patient."""
    for direction in ((1, 0, 0, 0, 1, 0, 0, 0, 1), tuple(np.ravel(OBLIQUE))):
        planes = planes_of(40, (0.6, 0.8, 1.25), direction)
        matrix = np.reshape(direction, (3, 3))
        spheres = []
        for index, diameter_mm in (((22, 30, 12), 11.0), ((60, 50, 28), 16.0)):
            center_mm = planes[0].origin_mm + matrix @ (np.array(index) * (0.6, 0.8, 1.25))
            spheres.append(nodules.Nodule(tuple(center_mm), diameter_mm))
        masks = dict(nodules.masks(planes, 80, 90, spheres))
        actual = sorted(candidates_in(planes, masks, 80, 90), key=lambda one: one.diameter_mm)
        assert len(actual) == 2
        for one, nodule in zip(actual, spheres, strict=True):
            np.testing.assert_allclose(one.center_mm, nodule.center_mm, atol=0.1)
            assert math.isclose(one.diameter_mm, nodule.diameter_mm, rel_tol=0.02)


def test_corners_connect_and_a_gap_divides():
    planes = planes_of(4, (1.0, 1.0, 1.0))
    masks = {k: np.zeros((6, 6), bool) for k in range(4)}
    masks[0][1, 1] = masks[1][2, 2] = True  # share a corner
    masks[3][3, 3] = True  # slice 2 is between
    p = np.zeros((4, 6, 6))
    p[0, 1, 1], p[1, 2, 2], p[3, 3, 3] = 0.2, 0.6, 0.9
    last, first = candidates_in(planes, masks, 6, 6, p)  # the most probable first
    assert (first.probability, last.probability) == (0.6, 0.9)
    np.testing.assert_allclose(first.center_mm, (-20 + 1.5, 31.5 + 1.5, -200 + 0.5))
    np.testing.assert_allclose(last.center_mm, (-20 + 3, 31.5 + 3, -200 + 3))
    assert math.isclose(first.diameter_mm, (6 / math.pi * 2) ** (1 / 3))


def test_a_slice_that_is_missing_leaves_the_others_where_they_are():
    planes = planes_of(3, (1.0, 1.0, 5.0))
    slices = candidates.Series("1.2.3")
    mask = np.ones((1, 1), bool)
    for place in (0, 2):
        slices.add(planes[place], place, mask, np.ones((1, 1)))
    assert [one.center_mm[2] for one in slices.candidates()] == [-200.0, -190.0]


def test_no_lesion_no_candidate():
    assert candidates_in(planes_of(2, (1.0, 1.0, 1.0)), {}, 3, 3) == []


def test_the_nodules_of_the_real_slabs(real_data):
    """The truth of LUNA16 as masks, and back: position within a voxel."""
    with (real_data / "luna" / "annotations.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for row in rows:
        x, y, z, diameter_mm = (float(row[name]) for name in list(row)[1:])
        path = real_data / "luna" / "mhd" / f"{row['seriesuid']}.mhd"
        with path.open("rb") as file:
            headers = metaimage.read_headers(file, str(path), path.stat().st_size)
        stack = [header for header, _ in series.slices(headers, None, 1.0)[0]]
        planes, first = [header.geometry for header in stack], stack[0]
        masks = dict(
            nodules.masks(
                planes, first.height, first.width, [nodules.Nodule((x, y, z), diameter_mm)]
            )
        )
        [one] = candidates_in(planes, masks, first.height, first.width)
        offset = np.abs(np.subtract(one.center_mm, (x, y, z))) / planes[0].spacing_mm
        outermost = masks.keys() & {0, len(planes) - 1}  # a slab can end within the nodule
        assert (offset[:2] < 0.5).all() and (outermost or offset[2] < 0.5)
        assert outermost or math.isclose(one.diameter_mm, diameter_mm, rel_tol=0.05)
        assert first.series == row["seriesuid"]
