"""Masks of a CT series -> nodule candidates in the patient, the reverse of lake/labels/nodules.py.

In: the lesion pixels of a series' slices, their probabilities, and where the slices lie. Out: a
world position, a diameter and a probability per connected component.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lake.labels.nodules import axes
from lake.scan import Geometry

CANDIDATES_CSV = "candidates.csv"  # in a folder of predictions
HEADER = ("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm", "probability")


@dataclass(frozen=True)
class Candidate:
    """Describes a connected component of a series' masks as a sphere in the patient."""

    center_mm: tuple[float, float, float]  # world x, y, z
    diameter_mm: float  # of a sphere of the same volume
    probability: float  # the highest among its pixels


class Series:
    """Gathers the lesion pixels of one series, slice after slice."""

    def __init__(self, uid: str):
        self.uid, self.planes, self.voxels, self.probabilities = uid, [], [], []

    def add(self, plane: Geometry, place: int, mask: np.ndarray, probabilities: np.ndarray) -> None:
        """Add the next slice, at index `place` of the volume: a mask and probabilities [H, W]."""
        rows, columns = np.nonzero(mask)
        indices = np.full(len(rows), len(self.planes))  # of the pixels' plane
        self.planes.append(plane)
        self.voxels.append(np.stack([np.full(len(rows), place), rows, columns, indices], axis=1))
        self.probabilities.append(probabilities[rows, columns])

    def candidates(self) -> list[Candidate]:
        """Return the connected components, the most probable first; corners connect."""
        if not sum(map(len, self.voxels)):
            return []
        voxels = np.concatenate(self.voxels)  # [N, 4]
        labels, count = _components(voxels[:, :3])  # [N], 1 … count
        positions_mm = self._world(voxels)  # [N, 3]
        sizes = np.bincount(labels)[1:]
        sums_mm = [np.bincount(labels, axis)[1:] for axis in positions_mm.T]
        centers_mm = np.stack(sums_mm, axis=1) / sizes[:, None]
        peaks = ndimage.maximum(np.concatenate(self.probabilities), labels, range(1, count + 1))
        voxel_mm3 = math.prod(self.planes[0].spacing_mm)
        diameters_mm = np.cbrt(6 / math.pi * sizes * voxel_mm3)
        order = np.argsort(-peaks, kind="stable")
        return [
            Candidate(tuple(centers_mm[n].tolist()), float(diameters_mm[n]), float(peaks[n]))
            for n in order
        ]

    def _world(self, voxels: np.ndarray) -> np.ndarray:
        """Return the positions [N, 3] in mm of voxels [N, 4]: place, row, column, plane's index."""
        origins_mm = np.array([plane.origin_mm for plane in self.planes])[voxels[:, 3]]
        column_mm, row_mm, _ = self.planes[0].spacing_mm
        in_plane_mm = voxels[:, [2, 1]] * (column_mm, row_mm)
        return origins_mm + in_plane_mm @ axes(self.planes[0])[:, :2].T


def _components(voxels: np.ndarray) -> tuple[np.ndarray, int]:
    """Return (the component [N] of each voxel [N, 3], numbered from 1; how many there are)."""
    corner = voxels.min(axis=0)
    box = np.zeros(voxels.max(axis=0) - corner + 1, bool)
    indices = tuple((voxels - corner).T)
    box[indices] = True
    labels, count = ndimage.label(box, structure=np.ones((3, 3, 3)))  # corners connect
    return labels[indices], count
