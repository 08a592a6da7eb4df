"""Contrast-limited adaptive histogram equalisation (Zuiderveld 1994) on the accelerator: each tile
of an image has a map of grey values, and a pixel's is interpolated between those of the four tiles
around it.

lake/sources/clahe.py is for whole lakes, level for level as scikit-image has it. Here a level
between two bins counts for both, and so the result moves with it: what another device rounds
otherwise does not become another image.
"""

import numpy as np
from keras import ops

BINS = 256
PARTS = 256  # of a pixel, that its two bins share: whole numbers add up to the same in any order


def equalise(images, clip, tiles: int):
    """Return images [B, S, S] in [0, 1], equalised where the clip limit [B, 1, 1] is above 0: no
    bin of a tile counts more than this share of its pixels, and what is above it goes to all bins.
    A multiple of `tiles` is S."""
    size = images.shape[1] // tiles  # of a tile, px
    levels = ops.clip(images, 0, 1) * (BINS - 1)
    lower = ops.minimum(ops.floor(levels), BINS - 2)
    share = levels - lower  # of the upper bin
    bins = ops.cast(lower, "int32")  # [B, S, S]
    maps = ops.reshape(_maps(bins, share, clip, tiles, size), (-1,))
    first = ops.arange(ops.shape(images)[0], dtype="int32")[:, None, None] * tiles**2
    result = 0.0
    for row, row_weight in _neighbours(tiles, size):
        for column, column_weight in _neighbours(tiles, size):
            tile = (row * tiles)[:, None] + column  # [S, S]
            index = (first + tile) * BINS + bins
            below, above = (ops.take(maps, index + step, axis=0) for step in (0, 1))
            weight = row_weight[:, None] * column_weight
            result = result + weight * (below + share * (above - below))
    return ops.where(clip > 0, result, images)


def _maps(bins, share, clip, tiles: int, size: int):
    """Return what each tile makes of each bin, in [0, 1], [B, tiles², BINS]."""
    side, batch = tiles * size, ops.shape(bins)[0]
    tile_of = np.arange(side, dtype=np.int32) // size
    tile = tile_of[:, None] * tiles + tile_of  # [S, S]
    first = ops.arange(batch, dtype="int32")[:, None, None] * tiles**2
    index = ops.reshape((first + tile) * BINS + bins, (-1,))
    upper = ops.reshape(ops.cast(ops.round(share * PARTS), "int32"), (-1,))
    parts = ops.segment_sum(
        ops.concatenate([PARTS - upper, upper]),
        ops.concatenate([index, index + 1]),
        num_segments=batch * tiles**2 * BINS,
    )
    histograms = ops.reshape(ops.cast(parts, "float32") / PARTS, (-1, tiles**2, BINS))
    limit = ops.maximum(clip * size**2, 1.0)  # [B, 1, 1] px
    excess = ops.sum(ops.relu(histograms - limit), axis=-1, keepdims=True)
    return ops.cumsum(ops.minimum(histograms, limit) + excess / BINS, axis=-1) / size**2


def _neighbours(tiles: int, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (the tile, its weight) of each row of pixels, or column, [S] each: of the tile whose
    centre lies before the pixel's and of the one behind it. At the border both are the outer
    one."""
    place = (np.arange(tiles * size) + 0.5) / size - 0.5  # in tiles, from the first one's centre
    before = np.floor(place)
    behind_share = np.float32(place - before)
    pairs = (before, 1 - behind_share), (before + 1, behind_share)
    return [(np.clip(tile, 0, tiles - 1).astype(np.int32), weight) for tile, weight in pairs]
