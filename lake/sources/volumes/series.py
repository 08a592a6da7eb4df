"""A series of CT slices: the Headers of its files become one Header and Label per slice, in the
order of the volume.

No file is opened here: a slice's mask follows from its geometry and the list of nodules.
"""

from dataclasses import replace
from operator import attrgetter

import numpy as np

from lake import Reject
from lake.labels import rle, tables
from lake.labels.nodules import Nodule, axes, index_of, masks
from lake.scan import Geometry, Header, frame_id, stable_hash

COSINE_TOLERANCE = 1e-3  # some headers print cosines with only four digits
# As a share of the slice's thickness. Positions are rounded and the table's steps are not exact,
# but a missing slice is a gap of a whole thickness, and a gantry tilted by more than 6 degrees
# makes voxels that are not boxes.
GAP_TOLERANCE = 0.1


def slices(
    headers: list[Header], nodules: list[Nodule] | None, empty_share: float
) -> tuple[list[tuple[Header, tables.Label]], int]:
    """Return ([(Header, Label)] of the selected slices, number of slices left out) of one series.

    Every slice that a nodule reaches is selected, and of the others the share `empty_share`, chosen
    by a hash of the image id. With nodules=None, unlabelled, every slice is selected. Raises
    Reject."""
    stack = stack_slices(headers)
    if nodules is None:
        return [(header, tables.UNKNOWN) for header in stack], 0
    planes, first = [header.geometry for header in stack], stack[0]
    volume = replace(first.geometry, slices=len(stack))
    for nodule in nodules:
        index, size = index_of(nodule.center_mm, volume), (first.width, first.height, len(stack))
        if (index < -0.5).any() or (index > np.array(size) - 0.5).any():
            raise Reject(
                "nodule-outside",
                f"series {first.series}: the nodule at {nodule.center_mm} mm is at column, row, "
                f"slice {index.round(1).tolist()} of {size}; check that the CSV belongs to these "
                f"images",
            )
    labels = {
        k: tables.label_from_runs(rle.from_mask(mask))
        for k, mask in masks(planes, first.height, first.width, nodules)
    }
    empty = tables.label_from_runs(rle.NO_RUNS)
    selection = [
        (header, labels.get(k, empty))
        for k, header in enumerate(stack)
        if k in labels or stable_hash(header.image_id) / 2**64 < empty_share
    ]
    return selection, len(stack) - len(selection)


def stack_slices(headers: list[Header]) -> list[Header]:
    """Return one Header per slice of a series, in the order of the volume, each with its origin.
    Raises Reject."""
    if len(headers) == 1:
        (header,) = headers
        geometry = header.geometry
        step_mm = axes(geometry)[:, 2] * geometry.spacing_mm[2]
        origins_mm = geometry.origin_mm + np.outer(np.arange(geometry.slices), step_mm)  # [S, 3]
        slice_headers, thickness_mm = [header] * geometry.slices, geometry.spacing_mm[2]
    else:
        slice_headers, thickness_mm = _sort_slices(headers)
        origins_mm = np.array([header.geometry.origin_mm for header in slice_headers])
    is_volume = len(headers) == 1
    stack = []
    for k, (header, origin_mm) in enumerate(zip(slice_headers, origins_mm, strict=True)):
        column_mm, row_mm, _ = header.geometry.spacing_mm
        origin_mm, spacing_mm = tuple(origin_mm.tolist()), (column_mm, row_mm, thickness_mm)
        geometry = Geometry(1, origin_mm, spacing_mm, header.geometry.direction)
        image_id, frame = frame_id(header.series, k), k if is_volume else header.frame
        stack.append(replace(header, image_id=image_id, frame=frame, geometry=geometry))
    return stack


def _sort_slices(headers: list[Header]) -> tuple[list[Header], float]:
    """Return (DICOM slices along their normal, mm from one to the next); raises Reject where they
    do not form a regular volume."""
    first = headers[0]
    for header in headers[1:]:
        if not _fits_volume(header, first):
            raise Reject(
                "mixed-series",
                f"series {first.series}: {header.path} and {first.path} differ in size, spacing, "
                f"orientation, patient or study, or are volumes; give each volume its own series",
            )
    normal = axes(first.geometry)[:, 2]
    stack = sorted(headers, key=lambda header: float(normal @ header.geometry.origin_mm))
    steps_mm = np.diff([header.geometry.origin_mm for header in stack], axis=0)  # [S - 1, 3]
    thickness_mm = float(np.median(steps_mm @ normal))
    errors_mm = np.abs(steps_mm - thickness_mm * normal).max(axis=1)
    worst = int(errors_mm.argmax())
    if not errors_mm[worst] <= GAP_TOLERANCE * thickness_mm or thickness_mm == 0:
        raise Reject(
            "uneven-slices",
            f"series {first.series}: from {stack[worst].path} to {stack[worst + 1].path} the step "
            f"is {steps_mm[worst].round(3).tolist()} mm, expected {thickness_mm:g} mm along the "
            f"normal; look for missing, doubled or tilted slices",
        )
    return stack, thickness_mm


def _fits_volume(header: Header, first: Header) -> bool:
    """Return whether two slices can belong to one volume."""
    properties = attrgetter("height", "width", "patient", "study", "series", "geometry.slices")
    a, b = header.geometry, first.geometry
    return (
        properties(header) == properties(first)
        and a.slices == 1
        and np.allclose(a.direction, b.direction, rtol=0, atol=COSINE_TOLERANCE)
        and np.allclose(a.spacing_mm[:2], b.spacing_mm[:2], rtol=COSINE_TOLERANCE, atol=0)
    )
