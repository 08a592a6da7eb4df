"""Random augmentation on the accelerator, per example; no generator of its own.

Images and masks [B, S, S, 1] and a table of uniform draws [B, P] go in, images and masks come out.
The draws come with the batch, so the same table gives the same images on every device, compiled or
not, up to rounding. All geometry becomes one source position per pixel (warp.py); what changes grey
values alone follows it (grey.py). CLAHE comes before: its histograms are of the image (clahe.py).
"""

import math
from typing import NamedTuple

import numpy as np
from keras import ops

from trainer.augmentation import clahe, grey, warp
from trainer.config.augmentation import Augment, Parameter

MASK_THRESHOLD = 0.5  # a resampled pixel is lesion where more than half of it is


class Column(NamedTuple):
    """A column of the table of draws: its parameter, and when its transform happens."""

    name: str  # "affine.rotate_deg"; several columns in a row are one parameter's
    parameter: Parameter
    decider: int  # the column whose draw decides: the transform happens where low <= draw < high
    low: float
    high: float


def table_columns(settings: Augment, side: int) -> list[Column]:
    """Return the layout of the table: first the columns that decide, then every parameter."""
    transforms = settings.possible_transforms()
    deciders = [f"one_of.{number}" for number in range(len(settings.one_of))]
    deciders += [name for name in transforms if name not in settings.group_members()]
    # A decider's draw is compared with others' conditions. It has no parameter and no condition.
    columns = [Column(name, Parameter(0, 0, 0), 0, 0, 0) for name in deciders]
    for name, transform in transforms.items():
        condition = _condition(name, settings, deciders)
        for key, parameter in transform.parameters(side).items():
            column = Column(f"{name}.{key}", parameter, *condition)
            columns += [column] * math.prod(parameter.shape)
    return columns or [Column("nothing", Parameter(0, 0, 0), 0, 0, 0)]  # a batch has at least one


def num_draws(settings: Augment, side: int) -> int:
    """Return P, the number of draws in [0, 1) that an example takes."""
    return len(table_columns(settings, side))


def _condition(name: str, settings: Augment, deciders: list[str]) -> tuple[int, float, float]:
    """Return (decider, low, high) of a transform, as a Column has them; `deciders`: the names of
    the columns that decide."""
    for number, group in enumerate(settings.one_of):
        if name in group.transforms:
            # One draw decides whether any of the group happens, and which: [0, p) is cut into equal
            # parts.
            position = group.transforms.index(name)
            part = group.probability / len(group.transforms)
            return number, position * part, (position + 1) * part
    return deciders.index(name), 0.0, getattr(settings, name).probability


def parameters(uniforms, settings: Augment, side: int) -> dict:
    """Return {"affine.rotate_deg": [B, 1, 1], "elastic.control_px": [B, 2, K, K], …} of the
    transforms that can happen, from draws [B, P]; neutral values where a transform does not."""
    columns = table_columns(settings, side)
    low, high, neutral = np.float32([column.parameter[:3] for column in columns]).T  # [P]
    begin, end = np.float32([(column.low, column.high) for column in columns]).T
    draws = ops.take(uniforms, np.int32([column.decider for column in columns]), axis=1)
    happens = ops.logical_and(draws >= begin, draws < end)
    # All parameters at once: XLA on a CPU would repeat the scalars of each one for every pixel.
    values = ops.where(happens, low + (high - low) * uniforms, neutral)  # [B, P]
    result, names = {}, [column.name for column in columns]
    for name in dict.fromkeys(names):
        start = names.index(name)
        shape = columns[start].parameter.shape
        part = values[:, start : start + math.prod(shape)]
        result[name] = ops.reshape(part, (-1, *(shape or (1, 1))))
    return result


def apply(images, masks, uniforms, settings: Augment):
    """Return the images in [0, 1] and masks of 0 and 1, float32, after the transforms that the
    draws select; an image without a transform keeps its bits."""
    side = images.shape[1]
    values = parameters(uniforms, settings, side)
    images, masks = images[..., 0], masks[..., 0]  # [B, S, S]
    if "clahe.clip" in values:
        images = clahe.equalise(images, values["clahe.clip"], settings.clahe.tiles)
    mean = grey.mean(images)  # before the warp brings in what lies outside
    if warp.changes(values):
        rows, columns = warp.source_positions(side, values)
        images, masks = warp.resample([images, masks], rows, columns, settings.fill)
        masks = ops.cast(masks > MASK_THRESHOLD, "float32")
    images = grey.adjust(images, mean, values, settings.blur.sigma_px[1])
    return images[..., None], masks[..., None]


def jitter_window(window, uniforms, settings: Augment, side: int):
    """Return each image's window [B, 2], moved and widened as `window:` of the settings says."""
    values = parameters(uniforms, settings, side)
    if "window.shift" not in values:
        return window
    share, width_factor = (
        ops.reshape(values[f"window.{name}"], (-1,)) for name in ("shift", "width")
    )
    low, high = ops.unstack(window, num=2, axis=1)
    shift = share * (high - low)
    # Each end is computed by itself, so that it keeps its exact bits where nothing happens.
    half_gain = (width_factor - 1) * (high - low) / 2
    return ops.stack([low + shift - half_gain, high + shift + half_gain], axis=1)
