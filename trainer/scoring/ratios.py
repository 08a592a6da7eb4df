"""Fractions whose whole may be 0: of tensors in a graph, and of NumPy's float64."""

import numpy as np
from keras import ops


def tensor_ratio(part, whole, otherwise: float, nothing: float = 0.0):
    """Return part / whole, and `otherwise` where the whole is `nothing` or less.

    0 / 0 is never computed: it would make the gradient nan even where `otherwise` is the result.
    """
    is_defined = whole > nothing
    return ops.where(is_defined, part / ops.where(is_defined, whole, 1.0), otherwise)


def ratio(part, whole, otherwise: float = np.nan) -> np.ndarray:
    """Return part / whole in float64, and `otherwise` where the whole is 0."""
    part, whole = np.broadcast_arrays(np.float64(part), np.float64(whole))
    return np.divide(part, whole, out=np.full(part.shape, otherwise), where=whole > 0)


def mean_of_defined(values) -> np.ndarray:
    """Return the mean over the first axis of the values that are numbers, nan where there is
    none."""
    is_defined = ~np.isnan(values)
    return ratio(np.where(is_defined, values, 0.0).sum(axis=0), is_defined.sum(axis=0))
