"""Random augmentation on the accelerator, per example; no generator of its own.

Images and masks [B, S, S, 1] and a table of uniform draws [B, P] go in, images and masks come out.
The draws come with the batch, so the same table gives the same images on every device, compiled or
not, up to rounding. All geometry becomes one source position a pixel (warp.py); what changes grey
values alone follows it (grey.py).
"""

import math
from typing import NamedTuple

import numpy as np
from keras import ops

from trainer.augmentation import grey, warp
from trainer.config.augmentation import Augment, Parameter

MASK_THRESHOLD = 0.5  # lesion is what is more than half lesion


class Column(NamedTuple):
    """A column of the table of draws: what it is for, and when its transform happens."""

    name: str  # "affine.rotate_deg"; several columns in a row are one parameter's
    parameter: Parameter
    asked: int  # the column that decides: from <= its draw < to
    begin: float
    end: float


def table_columns(settings: Augment, side: int) -> list[Column]:
    """The one place that lays out the table: first what decides, then every parameter."""
    possible = settings.possible()
    deciding = [f"one_of.{number}" for number in range(len(settings.one_of))]
    deciding += [name for name in possible if name not in settings.grouped()]
    found = [Column(name, Parameter(0, 0, 0), 0, 0, 0) for name in deciding]
    for name, transform in possible.items():
        when = _when(name, settings, deciding)
        for key, parameter in transform.parameters(side).items():
            found += [Column(f"{name}.{key}", parameter, *when)] * math.prod(parameter.shape)
    return found or [Column("nothing", Parameter(0, 0, 0), 0, 0, 0)]  # a batch has at least one


def num_draws(settings: Augment, side: int) -> int:
    """P, how many numbers in [0, 1) one example takes."""
    return len(table_columns(settings, side))


def _when(name: str, settings: Augment, deciding: list[str]) -> tuple[int, float, float]:
    for number, group in enumerate(settings.one_of):
        if name in group.transforms:
            # The group's one draw says whether and which: [0, p) is cut into equal parts.
            place, part = group.transforms.index(name), group.probability / len(group.transforms)
            return number, place * part, (place + 1) * part
    return deciding.index(name), 0.0, getattr(settings, name).probability


def parameters(uniforms, settings: Augment, side: int) -> dict:
    """{"affine.rotate_deg": [B, 1, 1], "elastic.control_px": [B, 2, K, K], …} of the transforms
    that can happen; neutral where they do not."""
    layout = table_columns(settings, side)
    low, high, neutral = np.float32([column.parameter[:3] for column in layout]).T  # [P]
    begin, end = np.float32([(column.begin, column.end) for column in layout]).T
    deciding = ops.take(uniforms, np.int32([column.asked for column in layout]), axis=1)
    happens = ops.logical_and(deciding >= begin, deciding < end)
    # All at once: XLA on a CPU takes a chain of scalars for each parameter into every pixel's loop.
    values = ops.where(happens, low + (high - low) * uniforms, neutral)  # [B, P]
    found, names = {}, [column.name for column in layout]
    for name in dict.fromkeys(names):
        start, shape = names.index(name), layout[names.index(name)].parameter.shape
        part = values[:, start : start + math.prod(shape)]
        found[name] = ops.reshape(part, (-1, *(shape or (1, 1))))
    return found


def apply(images, masks, uniforms, settings: Augment):
    """Images in [0, 1] and masks of 0 and 1, float32, changed; where nothing happens, the same
    bits."""
    side = images.shape[1]
    drawn = parameters(uniforms, settings, side)
    images, masks = images[..., 0], masks[..., 0]  # [B, S, S]
    mean = grey.mean(images)  # before the warp brings in what lies outside
    if warp.changes(drawn):
        rows, columns = warp.source_positions(side, drawn)
        images, masks = warp.resample([images, masks], rows, columns, settings.fill)
        masks = ops.cast(masks > MASK_THRESHOLD, "float32")
    images = grey.adjust(images, mean, drawn, settings.blur.sigma_px[1])
    return images[..., None], masks[..., None]


def jitter_window(window, uniforms, settings: Augment, side: int):
    """Windows [B, 2] as `window:` of the settings moves and widens them."""
    drawn = parameters(uniforms, settings, side)
    if "window.shift" not in drawn:
        return window
    shift, width = (ops.reshape(drawn[f"window.{name}"], (-1,)) for name in ("shift", "width"))
    low, high = ops.unstack(window, num=2, axis=1)
    shift = shift * (high - low)
    # The two ends by themselves, so that nothing at all changes where nothing happens.
    wider = (width - 1) * (high - low) / 2
    return ops.stack([low + shift - wider, high + shift + wider], axis=1)
