"""Geometry: all transforms composed into one source position per pixel, where each plane is read
once.

Positions are in pixels from the image's centre. From output to input: the displacements of grid,
elastic and optical, which add up; crop; shift; rotation; shear; scales; flip. `parameters` are
augment.parameters: [B, …], one value per example.
"""

import math

import numpy as np
from keras import ops

BAND_ROWS = 64  # of elastic fields; at 512 px 32 to 128 take the same time, no bands a third more


def changes(parameters: dict) -> bool:
    """Return whether any of the parameters moves pixels."""
    geometric = ("flip", "affine", "crop", "optical", "grid", "elastic")
    return any(key.split(".")[0] in geometric for key in parameters)


def source_positions(side: int, parameters: dict):
    """Return rows and columns, [B, S, S] or what broadcasts to it, at which each output pixel reads
    the input."""
    centre = (side - 1) / 2
    offsets = ops.arange(side, dtype="float32") - centre
    rows, columns = offsets[:, None], offsets[None, :]  # [S, 1], [1, S]
    linear_map, share, fields = _linear_map(parameters), parameters.get("crop.share", 1.0), []
    if "elastic.control_px" in parameters:
        # Control points, not pixels, go through the map: it is linear, and so is the spline, so
        # the mapped points' field is the mapped field.
        control = ops.unstack(parameters["elastic.control_px"], 2, axis=1)  # of [B, K, K]
        control = ops.stack(linear_map(*(share * points for points in control)), axis=1)
        fields.append(ops.unstack(_elastic(control, side), 2, axis=1))
    if "optical.k" in parameters:
        stretch, *from_lens = _optical(rows, columns, side, parameters)
        # Rows [B, S, 1] and columns [B, 1, S], not pixels, go through the map: it is linear.
        from_lens = linear_map(*(share * distances for distances in from_lens))
        fields.append([stretch * distances for distances in from_lens])
    if "grid.wider" in parameters:
        along_rows, along_columns = ops.unstack(_grid(parameters["grid.wider"], side), 2, axis=1)
        rows, columns = rows + along_rows[:, :, None], columns + along_columns[:, None, :]
    room = (1 - share) * side / 2  # that the crop leaves on each side
    down, right = (
        room * parameters.get(f"crop.{edge}", 0.0) - side * parameters.get(f"affine.{shift}", 0.0)
        for edge, shift in (("top", "shift_rows"), ("left", "shift_columns"))
    )
    rows, columns = linear_map(share * rows + down, share * columns + right, centre)
    for row_offsets, column_offsets in fields:
        rows, columns = rows + row_offsets, columns + column_offsets
    return rows, columns


def _linear_map(parameters: dict):
    """Return rotation, shear, scales and flip as one function of positions."""
    cos, sin, slope, per_row, per_column = 1.0, 0.0, 0.0, 1.0, 1.0
    if "affine.zoom" in parameters:
        angle = math.pi / 180 * parameters["affine.rotate_deg"]
        cos, sin = ops.cos(angle), ops.sin(angle)
        slope = ops.tan(math.pi / 180 * parameters["affine.shear_deg"])
        per_row = 1 / (parameters["affine.zoom"] * parameters["affine.scale_rows"])  # [B, 1, 1]
        per_column = 1 / (parameters["affine.zoom"] * parameters["affine.scale_columns"])
    per_column = parameters.get("flip.sign", 1.0) * per_column

    def linear_map(rows, columns, centre=0.0):
        """Return (rows, columns) in the input for positions in the output; `centre` is added."""
        # Two products along the sides and one addition per pixel, where rows are [B, S, 1] and
        # columns [B, 1, S].
        return (
            ((per_row * cos) * rows + centre) + (per_row * sin) * columns,
            ((per_column * (cos - slope * sin)) * columns + centre)
            - (per_column * (sin + slope * cos)) * rows,
        )

    return linear_map


def _optical(rows, columns, side: int, parameters: dict):
    """Return the share [B, S, S] by which a pixel moves of its distances from the lens's centre,
    and these: rows [B, S, 1] and columns [B, 1, S]."""
    k = parameters["optical.k"]
    rows = rows - parameters["optical.centre_row"]
    columns = columns - parameters["optical.centre_column"]
    # A pixel at the distance r (in sides) reads at r (1 + k r² + k r⁴). For a negative k this has a
    # maximum, beyond which pixels would be read in reverse order: where its derivative
    # 1 + 3 k r² + 5 k r⁴ is 0. r² is clipped there. For any other k the
    # bound is that of -1e-6, far outside of the image.
    turning_point = (ops.sqrt(9 + 20 / ops.maximum(-k, 1e-6)) - 3) / 10
    r_squared = ops.minimum(ops.square(rows / side) + ops.square(columns / side), turning_point)
    return k * r_squared * (1 + r_squared), rows, columns


def _grid(wider, side: int):
    """Return the displacements [B, 2, S] of rows and of columns where the grid's steps are `wider`
    [B, 2, N] by these shares."""
    # All steps together are brought back to the side's length: divided by their mean.
    mean = 1 + ops.mean(wider, axis=-1, keepdims=True)
    return ops.matmul(wider, _grid_weights(wider.shape[-1], side)) / mean


def _grid_weights(num_steps: int, side: int) -> np.ndarray:
    """Return [N, S]: the distance that each pixel moves for a step that is 1 wider, before all are
    brought to the side's length again."""
    # A wider step moves all nodes behind it by 1. Bringing the whole back to its length moves node
    # j back by j / N. Between two nodes the movement is linear: hat functions.
    nodes = np.arange(num_steps + 1)
    moves = (nodes[None] > np.arange(num_steps)[:, None]) - nodes / num_steps  # [N, N + 1]
    centres = (np.arange(side) + 0.5) / side * num_steps  # of pixels, in steps
    hats = np.maximum(0, 1 - np.abs(centres - nodes[:, None]))  # [N + 1, S]
    return np.float32(moves @ hats * side / num_steps)


def _elastic(control, side: int):
    """Return the fields [B, 2, S, S] of control points [B, 2, K, K]."""
    # A field is W C Wᵀ: W [S, K] are the spline's weights, C the control points. The product over
    # the columns, C Wᵀ, is one matrix product. The one over the rows is done in bands of the rows
    # of W, because a band depends on N of the K knots alone: most of W is 0.
    #
    # The bands are cut first, from C: a few knots serve two bands and are multiplied twice over the
    # columns. That costs more multiplications and less time than to cut them from C Wᵀ, whose rows
    # are longer.
    weights = _spline_weights(control.shape[-1], side)  # W
    near, bands = _to_bands(weights)
    control = ops.take(control, near, axis=2)  # [B, 2, bands, N, K]
    fields = ops.matmul(ops.reshape(control, (-1, weights.shape[1])), weights.T)  # [B·2·bands·N, S]
    fields = ops.matmul(
        bands, ops.reshape(fields, (-1, *near.shape, side))
    )  # [B·2, bands, rows, S]
    return ops.reshape(fields, (-1, 2, side, side))


def _to_bands(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights [S, K] in bands of rows: the N neighbouring knots that each band needs,
    [bands, N], and its weights for them, [bands, rows, N]; all others are 0.

    Knots are a pixel apart or more.
    """
    side, knots = weights.shape
    bands = weights.reshape(-1, math.gcd(side, BAND_ROWS), knots)
    is_used = bands.any(axis=1)  # [bands, K]
    first_knots, num_knots = is_used.argmax(axis=1), is_used.sum(axis=1).max()
    # Every band gets as many knots as the widest one needs, so the last ones start earlier.
    near = np.minimum(first_knots, knots - num_knots)[:, None] + np.arange(num_knots)
    return near, np.take_along_axis(bands, near[:, None], axis=2)


def _spline_weights(num_knots: int, side: int) -> np.ndarray:
    """Return [S, K]: the uniform cubic B-spline at each pixel's centre; each row sums to 1."""
    centres = (np.arange(side) + 0.5) / side * (num_knots - 3) + 1  # of pixels, in knots
    distance = np.abs(centres[:, None] - np.arange(num_knots))
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.maximum(2 - distance, 0) ** 3 / 6
    return np.float32(np.where(distance < 1, near, far))


def resample(planes, rows, columns, fill: str):
    """Return each plane's bilinear values at the same positions; planes [B, S, S], rows and columns
    broadcast to that.

    The planes are arrays of their own: as channels of one array, split after the gather, they took
    XLA on a CPU four times as long.
    """
    batch, side = ops.shape(planes[0])[0], planes[0].shape[1]
    # A frame of zeros around the image saves tests for "outside": positions are clipped to the
    # frame or, where `fill` is the nearest pixel, to the image.
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
