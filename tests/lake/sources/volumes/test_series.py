"""Series of CT slices: their order and the masks of nodules, on geometries that SimpleITK computes
independently."""

import math
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from makers import volumes
from makers.volumes import OBLIQUE

from lake import Reject
from lake.labels.nodules import Nodule, masks
from lake.scan import Geometry, Header
from lake.sources.volumes import series

FLIPPED = (-1, 0, 0, 0, -1, 0, 0, 0, 1)
TURNED = (0, 0, 1, 1, 0, 0, 0, 1, 0)  # slices along x: a sagittal volume


def volume(
    columns=50, rows=60, slices=9, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1), spacing=(0.7, 0.9, 2.5)
) -> sitk.Image:
    """A volume that does not lie at the origin."""
    image = sitk.Image(columns, rows, slices, sitk.sitkInt16)
    image.SetSpacing(spacing)
    image.SetOrigin((-120.5, 33.0, -210.25))
    image.SetDirection(direction)
    return image


def header_of(image: sitk.Image) -> Header:
    """As of one MetaImage file."""
    width, height, slices = image.GetSize()
    geometry = Geometry(slices, image.GetOrigin(), image.GetSpacing(), image.GetDirection())
    volume = {"series": "one", "modality": "CT", "geometry": geometry}
    return Header("one.mhd", 1000, "", height, width, bits=16, **volume)


def slice_headers(image: sitk.Image) -> list[Header]:
    """As of one DICOM file a slice, the files in no order."""
    whole = header_of(image)
    headers = []
    for k in range(whole.geometry.slices):
        geometry = replace(
            whole.geometry,
            slices=1,
            origin_mm=image.TransformIndexToPhysicalPoint((0, 0, k)),
            spacing_mm=(*image.GetSpacing()[:2], 5.0),  # thicker than they lie apart
        )
        headers.append(replace(whole, path=f"{k}.dcm", geometry=geometry))
    return [headers[k] for k in np.random.default_rng(2).permutation(len(headers))]


def shift_header(header: Header, by_mm: tuple[float, float, float]) -> Header:
    origin_mm = tuple(np.add(header.geometry.origin_mm, by_mm).tolist())
    return replace(header, geometry=replace(header.geometry, origin_mm=origin_mm))


def reason_of(headers: list[Header], nodules: list[Nodule] | None = None) -> str:
    with pytest.raises(Reject) as caught:
        series.slices(headers, nodules, 0.0)
    return caught.value.reason


@pytest.mark.parametrize("direction", [FLIPPED, TURNED, OBLIQUE])
def test_a_mask_is_the_voxels_within_the_radius_in_any_direction(direction):
    image = volume(direction=direction)
    center = image.TransformContinuousIndexToPhysicalPoint((22.3, 31.6, 4.2))
    near = image.TransformContinuousIndexToPhysicalPoint((29.0, 31.6, 4.2))  # overlaps it
    nodules = [Nodule(center, 14.0), Nodule(near, 9.0)]
    selection, left_out = series.slices([header_of(image)], nodules, 0.0)
    masks = volumes.masks_of(selection, 60, 50)
    # SimpleITK says where each voxel is, one by one.
    expected = np.zeros((9, 60, 50), bool)
    for k, j, i in np.ndindex(*expected.shape):
        point = np.array(image.TransformIndexToPhysicalPoint((i, j, k)))
        expected[k, j, i] = any(
            np.linalg.norm(point - one.center_mm) <= one.diameter_mm / 2 for one in nodules
        )
    assert set(masks) == set(np.flatnonzero(expected.any(axis=(1, 2)))) and len(masks) > 3
    assert all((masks[k] == expected[k]).all() for k in masks)
    assert left_out == 9 - len(masks)
    origin = selection[0][0].geometry.origin_mm
    place = (0, 0, int(selection[0][0].frame))
    assert origin == pytest.approx(image.TransformIndexToPhysicalPoint(place))


def test_the_discs_of_a_sphere_have_its_volume():
    image = volume(100, 100, 80, OBLIQUE, spacing=(0.4, 0.5, 0.6))
    center = image.TransformContinuousIndexToPhysicalPoint((50.2, 48.7, 39.4))
    selection, _ = series.slices([header_of(image)], [Nodule(center, 30.0)], 0.0)
    found_mm3 = sum(label.lesion_px for _, label in selection) * 0.4 * 0.5 * 0.6
    assert found_mm3 == pytest.approx(4 / 3 * math.pi * 15**3, rel=0.005)


def test_a_nodule_between_the_voxels_marks_the_nearest_one():
    image = volume()
    center = image.TransformContinuousIndexToPhysicalPoint((7.6, 12.4, 3.45))
    selection, _ = series.slices([header_of(image)], [Nodule(center, 0.1)], 0.0)
    masks = volumes.masks_of(selection, 60, 50)
    assert list(masks) == [3] and np.argwhere(masks[3]).tolist() == [[12, 8]]


def test_empty_slices_are_taken_by_share_and_always_the_same():
    header = header_of(volume(4, 4, 400))
    selection, left_out = series.slices([header], [], 0.25)
    assert 70 < len(selection) < 130 and len(selection) + left_out == 400
    assert selection == series.slices([header], [], 0.25)[0]
    more = {one.image_id for one, _ in series.slices([header], [], 0.5)[0]}
    assert {one.image_id for one, _ in selection} < more
    assert {label.label for _, label in selection} == {0}
    assert series.slices([header], [], 1.0)[1] == 0
    assert series.slices([header], [], 0.0) == ([], 400)


def test_a_nodule_outside_the_volume_is_a_reject():
    image = volume()
    inside = image.TransformContinuousIndexToPhysicalPoint((49.4, 0, 8.4))
    assert series.slices([header_of(image)], [Nodule(inside, 5.0)], 0.0)[0]
    outside = image.TransformContinuousIndexToPhysicalPoint((20, 20, 8.6))
    assert reason_of([header_of(image)], [Nodule(outside, 5.0)]) == "nodule-outside"


def test_files_of_slices_are_the_volume_of_one_file():
    image = volume(direction=OBLIQUE)
    nodules = [Nodule(image.TransformContinuousIndexToPhysicalPoint((22.3, 31.6, 4.2)), 14.0)]
    whole, _ = series.slices([header_of(image)], nodules, 1.0)
    files, _ = series.slices(slice_headers(image), nodules, 1.0)
    assert [header.path for header, _ in files] == [f"{k}.dcm" for k in range(9)]
    assert [header.frame for header, _ in whole] == list(range(9))
    for (one, its_label), (other, label) in zip(whole, files, strict=True):
        assert (one.image_id, its_label, other.frame) == (other.image_id, label, 0)
        assert one.geometry.origin_mm == pytest.approx(other.geometry.origin_mm)
        assert one.geometry.spacing_mm == pytest.approx(other.geometry.spacing_mm)


def test_slices_that_are_no_volume_are_a_reject():
    headers = slice_headers(volume(direction=OBLIQUE))
    in_order = sorted(headers, key=lambda header: header.path)
    assert reason_of(in_order[:4] + in_order[5:]) == "uneven-slices"  # one missing
    assert reason_of([*headers, headers[3]]) == "uneven-slices"  # one twice
    assert reason_of([headers[0], headers[0]]) == "uneven-slices"
    assert reason_of([*headers[1:], shift_header(headers[0], (3.0, 0, 0))]) == "uneven-slices"
    series.slices([*headers[1:], shift_header(headers[0], (0.02, 0, 0))], None, 0.0)  # rounded
    first = headers[0]
    for other in (
        replace(first, geometry=replace(first.geometry, spacing_mm=(0.7, 0.8, 5.0))),
        replace(first, geometry=replace(first.geometry, direction=FLIPPED)),
        replace(first, geometry=replace(first.geometry, slices=2)),
        replace(first, width=51),
        replace(first, patient="another"),
    ):
        assert reason_of([*headers[1:], other]) == "mixed-series"


def test_a_tilted_gantry_is_a_reject():
    lean = math.radians(15)  # the table moves along z, the slices lean
    matrix = [
        *(1, 0, 0),
        *(0, math.cos(lean), math.sin(lean)),
        *(0, -math.sin(lean), math.cos(lean)),
    ]
    straight = slice_headers(volume())
    leaning = [
        replace(header, geometry=replace(header.geometry, direction=tuple(matrix)))
        for header in straight
    ]
    assert reason_of(leaning) == "uneven-slices"


def test_masks_of_no_nodules_are_none():
    assert list(masks([], 4, 4, [])) == []
