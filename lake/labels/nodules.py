"""Nodules of a CT -> masks of its slices. In: centres and diameters in world mm, as LUNA16 lists
them, and where each slice lies in the patient; out: bool masks [height, width]."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lake import Reject
from lake.scan import Geometry


@dataclass(frozen=True)
class Nodule:
    """Describes a nodule as a sphere in the patient."""

    center_mm: tuple[float, float, float]  # world x, y, z
    diameter_mm: float


def parse_nodule(text: str) -> Nodule:
    """Return the nodule of `x y z diameter`, world mm; raise Reject where the text is not that."""
    try:
        x, y, z, diameter_mm = (float(part) for part in text.split())
    except ValueError:
        x = y = z = diameter_mm = math.nan
    if not all(map(math.isfinite, (x, y, z, diameter_mm))) or diameter_mm <= 0:
        raise Reject(
            "bad-nodule",
            f"{text[:80]!r}: expected four finite numbers, x y z and a diameter above 0, in mm",
        )
    return Nodule((x, y, z), diameter_mm)


def index_of(point_mm: tuple[float, float, float], geometry: Geometry) -> np.ndarray:
    """Return the continuous index (column, row, slice) of a world point; whole numbers are voxel
    centres."""
    offset_mm = np.subtract(point_mm, geometry.origin_mm)
    # The direction is orthonormal (the sources check that), so its inverse is its transpose.
    return axes(geometry).T @ offset_mm / geometry.spacing_mm


def axes(geometry: Geometry) -> np.ndarray:
    """Return the direction as a matrix [3, 3]: its columns are the world directions of columns,
    rows and slices."""
    return np.reshape(geometry.direction, (3, 3))


def masks(
    planes: list[Geometry], height: int, width: int, nodules: list[Nodule]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (place in `planes`, mask of all nodules, bool [height, width]) of each slice that a
    nodule cuts.

    A pixel is lesion when its centre is no farther from a nodule's centre than the radius, so the
    mask of a slice is the disc in which it cuts the sphere. The pixel nearest to a nodule's centre,
    on the slice nearest to it, is always lesion: a nodule thinner than a slice must not vanish.
    """
    if not nodules:
        return
    # [N, S, 3]: column and row on each plane, and the distance from it in slices
    centers = np.array([[index_of(ball.center_mm, plane) for plane in planes] for ball in nodules])
    distances_mm = np.abs(centers[..., 2]) * [plane.spacing_mm[2] for plane in planes]  # [N, S]
    nearest_planes = distances_mm.argmin(axis=1)  # [N]
    radii_mm = np.array([nodule.diameter_mm / 2 for nodule in nodules])
    for k, plane in enumerate(planes):
        column_mm, row_mm, _ = plane.spacing_mm
        mask = np.zeros((height, width), bool)
        for n in np.flatnonzero((distances_mm[:, k] <= radii_mm) | (nearest_planes == k)):
            right_mm = (np.arange(width) - centers[n, k, 0]) * column_mm
            down_mm = (np.arange(height) - centers[n, k, 1]) * row_mm
            disc_mm2 = radii_mm[n] ** 2 - distances_mm[n, k] ** 2  # its squared radius
            mask |= np.add.outer(down_mm**2, right_mm**2) <= disc_mm2
            if nearest_planes[n] == k:
                column, row = (
                    np.rint(centers[n, k, :2]).astype(int).clip(0, (width - 1, height - 1))
                )
                mask[row, column] = True
        if mask.any():  # a sphere's tip can pass between the pixel centres
            yield k, mask
