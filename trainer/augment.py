"""Random augmentation on the accelerator, through one resampling of image and mask.

Images and masks [B, S, S, 1] and a table of uniform draws go in, images and masks come out. No
generator of its own: the draws [B, len(COLUMNS)] come with the batch, so the same table gives the
same images on every device, up to rounding. All geometry becomes one source position a pixel, at
which image and mask are read once; what lies outside is 0.
"""

import math

from keras import ops

COLUMNS = (  # of the table of draws, uniform in [0, 1)
    "flip",
    "rotate",
    "scale_rows",
    "scale_columns",
    "shift_rows",
    "shift_columns",
    "brightness",
    "contrast",
)
MASK_THRESHOLD = 0.5  # lesion is what is more than half lesion


def apply(
    images,
    masks,
    uniforms,
    flip: float,
    rotate_deg: float,
    scale: float,
    shift: float,
    brightness: float,
    contrast: float,
):
    """Images in [0, 1] and masks of 0 and 1, float32, changed by the strengths of config.Augment.

    All strengths 0 give back the same bits. Contrast is about the mean of the image as it came.
    """
    table = ops.reshape(uniforms, (-1, len(COLUMNS), 1, 1))
    draws = dict(zip(COLUMNS, ops.unstack(table, axis=1), strict=True))  # of [B, 1, 1]
    rows, columns = source_positions(images.shape[1], draws, flip, rotate_deg, scale, shift)
    images, masks = images[..., 0], masks[..., 0]  # [B, S, S]
    # One axis at a time: compiled for a CPU, one float32 sum over a megapixel is off by up to 1%.
    mean = ops.mean(ops.mean(images, axis=2), axis=1)[:, None, None]  # [B, 1, 1]
    images, masks = resample([images, masks], rows, columns)
    images = adjust(images, mean, draws, brightness, contrast)
    return images[..., None], ops.cast(masks > MASK_THRESHOLD, "float32")[..., None]


def source_positions(side: int, draws, flip: float, rotate_deg: float, scale: float, shift: float):
    """Rows and columns [B, S, S], in pixels, at which each output pixel reads the input.

    From output to input: shift, rotation about the centre, scaling, flip.
    """
    centre = (side - 1) / 2
    offsets = ops.arange(side, dtype="float32") - centre
    rows = offsets[:, None] - side * shift * signed(draws["shift_rows"])  # [B, S, 1]
    columns = offsets[None, :] - side * shift * signed(draws["shift_columns"])  # [B, 1, S]
    angle = math.radians(rotate_deg) * signed(draws["rotate"])
    per_row = 1 / (1 + scale * signed(draws["scale_rows"]))  # [B, 1, 1]
    per_column = 1 / (1 + scale * signed(draws["scale_columns"]))
    per_column = ops.where(draws["flip"] < flip, -per_column, per_column)
    cos, sin = ops.cos(angle), ops.sin(angle)
    # One addition a pixel; the products are of [B, S, 1] and of [B, 1, S].
    rows, columns = (
        (cos * per_row) * rows + (sin * per_row) * columns,
        (cos * per_column) * columns - (sin * per_column) * rows,
    )
    return rows + centre, columns + centre


def resample(planes, rows, columns):
    """Bilinear values of each of the planes [B, S, S] at the same positions [B, S, S]; 0 outside.

    Planes, not channels of one array: split after the gather, those took XLA on a CPU four times
    as long.
    """
    batch, side = ops.shape(rows)[0], rows.shape[1]
    # A frame of zeros takes the place of tests for "outside": positions go no further than it.
    width = side + 3
    rows, columns = ops.clip(rows, -1, side) + 1, ops.clip(columns, -1, side) + 1
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


def adjust(images, mean, draws, brightness: float, contrast: float):
    """Images [B, S, S] made brighter or darker, and contrast changed about `mean` [B, 1, 1]."""
    added = brightness * signed(draws["brightness"])
    factor = 1 + contrast * signed(draws["contrast"])
    images = images * factor + (mean * (1 - factor) + added)  # exact where nothing changes
    return ops.clip(images, 0, 1)


def signed(draw):
    return 2 * draw - 1  # [0, 1) -> [-1, 1)


def to_unit(images, window):
    """Float32 in [0, 1] of images [B, S, S, 1] as a lake stores them; window [B, 2]: what becomes 0
    and 1."""
    low, high = (ops.reshape(end, (-1, 1, 1, 1)) for end in ops.unstack(window, num=2, axis=1))
    return ops.clip((ops.cast(images, "float32") - low) / (high - low), 0, 1)
