"""Geometry: every transform composed into one source position a pixel, at which all planes are read
once.

Positions are in pixels from the image's centre. From output to input: the displacements of grid,
elastic and optical, which add up; crop; shift; rotation; shear; scales; flip.
"""

import math

import numpy as np
from keras import ops

BAND_ROWS = 64  # of elastic fields; 32 to 128 take the same time at 512 px, the whole a third more


def changes(drawn: dict) -> bool:
    geometric = ("flip", "affine", "crop", "optical", "grid", "elastic")
    return any(key.split(".")[0] in geometric for key in drawn)


def source_positions(side: int, drawn: dict):
    """Rows and columns, [B, S, S] or what broadcasts to it, at which each output pixel reads the
    input."""
    centre = (side - 1) / 2
    offsets = ops.arange(side, dtype="float32") - centre
    rows, columns = offsets[:, None], offsets[None, :]  # [S, 1], [1, S]
    linear, share, fields = _linear(drawn), drawn.get("crop.share", 1.0), []
    if "elastic.control_px" in drawn:
        # The map goes onto the few control points: the field of these is the field, mapped.
        control = ops.unstack(drawn["elastic.control_px"], 2, axis=1)  # of [B, K, K]
        control = ops.stack(linear(*(share * points for points in control)), axis=1)
        fields.append(ops.unstack(_elastic(control, side), 2, axis=1))
    if "optical.k" in drawn:
        stretch, *from_lens = _optical(rows, columns, side, drawn)
        # The map is linear: it goes onto rows [B, S, 1] and columns [B, 1, S], not onto each pixel.
        fields.append([stretch * by for by in linear(*(share * offset for offset in from_lens))])
    if "grid.wider" in drawn:
        along_rows, along_columns = ops.unstack(_grid(drawn["grid.wider"], side), 2, axis=1)
        rows, columns = rows + along_rows[:, :, None], columns + along_columns[:, None, :]
    room = (1 - share) * side / 2
    from_row = room * drawn.get("crop.top", 0.0) - side * drawn.get("affine.shift_rows", 0.0)
    from_column = room * drawn.get("crop.left", 0.0) - side * drawn.get("affine.shift_columns", 0.0)
    rows, columns = linear(share * rows + from_row, share * columns + from_column, centre)
    for by_rows, by_columns in fields:
        rows, columns = rows + by_rows, columns + by_columns
    return rows, columns


def _linear(drawn: dict):
    """Rotation, shear, scales and flip as a map of (rows, columns), with `centre` added."""
    cos, sin, slope, per_row, per_column = 1.0, 0.0, 0.0, 1.0, 1.0
    if "affine.zoom" in drawn:
        angle = math.pi / 180 * drawn["affine.rotate_deg"]
        cos, sin = ops.cos(angle), ops.sin(angle)
        slope = ops.tan(math.pi / 180 * drawn["affine.shear_deg"])
        per_row = 1 / (drawn["affine.zoom"] * drawn["affine.scale_rows"])  # [B, 1, 1]
        per_column = 1 / (drawn["affine.zoom"] * drawn["affine.scale_columns"])
    per_column = drawn.get("flip.sign", 1.0) * per_column

    def linear(rows, columns, centre=0.0):
        # One addition a pixel where rows are [B, S, 1] and columns [B, 1, S].
        return (
            ((per_row * cos) * rows + centre) + (per_row * sin) * columns,
            ((per_column * (cos - slope * sin)) * columns + centre)
            - (per_column * (sin + slope * cos)) * rows,
        )

    return linear


def _optical(rows, columns, side: int, drawn: dict):
    """How far a pixel moves, [B, S, S], as a share of its rows [B, S, 1] and columns [B, 1, S] from
    the lens's centre, which come with it."""
    k = drawn["optical.k"]
    rows, columns = rows - drawn["optical.centre_row"], columns - drawn["optical.centre_column"]
    # r (1 + k r² + k r⁴) has its maximum where 1 + 3 k r² + 5 k r⁴ = 0; a k that is not negative
    # has none, and the bound is far outside.
    turning = (ops.sqrt(9 + 20 / ops.maximum(-k, 1e-6)) - 3) / 10
    squared = ops.minimum(ops.square(rows / side) + ops.square(columns / side), turning)
    return k * squared * (1 + squared), rows, columns


def _grid(wider, side: int):
    """Displacements [B, 2, S] of rows and of columns, of steps that are `wider` [B, 2, N] by these
    shares."""
    return ops.matmul(wider, _grid_weights(wider.shape[-1], side)) / (
        1 + ops.mean(wider, axis=-1, keepdims=True)
    )


def _grid_weights(steps: int, side: int) -> np.ndarray:
    """[N, S]: how far each pixel moves for a step that is 1 wider, before all are brought to the
    side's length again."""
    nodes = np.arange(steps + 1)
    moved = (nodes[None] > np.arange(steps)[:, None]) - nodes / steps  # [N, N + 1]
    places = (np.arange(side) + 0.5) / side * steps  # of pixel centres, in steps
    hats = np.maximum(0, 1 - np.abs(places - nodes[:, None]))  # [N + 1, S]
    return np.float32(moved @ hats * side / steps)


def _elastic(control, side: int):
    """The fields [B, 2, S, S] of control points [B, 2, K, K]: one matrix product over the columns,
    and one over the rows, band by band, as a band depends on few knots."""
    weights = _spline_weights(control.shape[-1], side)
    near, bands = _banded(weights)
    # Some knots serve two bands and are multiplied twice: dearer by count, and faster than to take
    # the bands from the longer rows.
    control = ops.take(control, near, axis=2)  # [B, 2, bands, N, K]
    fields = ops.matmul(ops.reshape(control, (-1, weights.shape[1])), weights.T)
    fields = ops.matmul(bands, ops.reshape(fields, (-1, *near.shape, side)))
    return ops.reshape(fields, (-1, 2, side, side))


def _banded(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights [S, K] in bands of rows: the N neighbouring knots that each band needs, [bands, N],
    and its weights of them, [bands, rows, N]; all others are 0. Knots are a pixel apart or more."""
    side, knots = weights.shape
    bands = weights.reshape(-1, math.gcd(side, BAND_ROWS), knots)
    used = bands.any(axis=1)
    first, most = used.argmax(axis=1), used.sum(axis=1).max()
    near = np.minimum(first, knots - most)[:, None] + np.arange(most)
    return near, np.take_along_axis(bands, near[:, None], axis=2)


def _spline_weights(knots: int, side: int) -> np.ndarray:
    """[S, K]: the uniform cubic B-spline at each pixel's centre; each row sums to 1."""
    places = (np.arange(side) + 0.5) / side * (knots - 3) + 1
    distance = np.abs(places[:, None] - np.arange(knots))
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.maximum(2 - distance, 0) ** 3 / 6
    return np.float32(np.where(distance < 1, near, far))


def resample(planes, rows, columns, fill: str):
    """Bilinear values of each of the planes [B, S, S] at the same positions, which broadcast to
    [B, S, S].

    Planes, not channels of one array: split after the gather, those took XLA on a CPU four times
    as long.
    """
    batch, side = ops.shape(planes[0])[0], planes[0].shape[1]
    # A frame of zeros takes the place of tests for "outside": positions go no further than it, or,
    # to the nearest pixel, not even there.
    width = side + 3
    low, high = (-1, side) if fill == "constant" else (0, side - 1)
    rows, columns = ops.clip(rows, low, high) + 1, ops.clip(columns, low, high) + 1
    top, left = ops.floor(rows), ops.floor(columns)
    down, right = rows - top, columns - left  # shares in [0, 1)
    image = ops.arange(batch, dtype="int32")[:, None, None]
    index = (image * width + ops.cast(top, "int32")) * width + ops.cast(left, "int32")

    def interpolate(plane):
        flat = ops.reshape(ops.pad(plane, ((0, 0), (1, 2), (1, 2))), (-1,))
        corners = [ops.take(flat, index + step, axis=0) for step in (0, 1, width, width + 1)]
        upper = corners[0] * (1 - right) + corners[1] * right
        lower = corners[2] * (1 - right) + corners[3] * right
        return upper * (1 - down) + lower * down

    return [interpolate(plane) for plane in planes]
