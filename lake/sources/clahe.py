"""Contrast-limited adaptive histogram equalisation (Zuiderveld 1994), as scikit-image's
`equalize_adapthist` does it, level for level, at a quarter of its time and memory.

Levels are whole numbers, so what scikit-image calculates pixel by pixel in float64 is a table here,
and a tile's pixels are interpolated one tile after the other.
"""

import math

import numpy as np

CLIP = 0.01  # scikit-image's default: bins are cut at this share of a tile's pixels
BAND_ROWS = 32  # of a tile at once: what fits into a processor's cache
TILES, BINS, LEVELS = 8, 256, 2**14  # tiles of a side; bins of a histogram; levels that they map to


def equalise(pixels: np.ndarray, low: float, high: float, bits: int) -> np.ndarray:
    """Return pixels [H, W], whole numbers of at most 16 bits as seen through the window (low,
    high), equalised: 0 … 2^bits - 1."""
    # These take 0.4 s to import, and few conversions need them. The last module has no public name.
    from skimage import exposure, util

    dtype = np.uint8 if bits == 8 else np.uint16
    darkest, brightest = int(pixels.min()), int(pixels.max())
    unit = np.clip((np.arange(brightest + 1) - low) / (high - low), 0, 1)
    table = util.img_as_uint(unit)
    ends = tuple(table[[darkest, brightest]].tolist())
    table = exposure.rescale_intensity(table, in_range=ends, out_range=(0, LEVELS - 1))
    table = np.round(table).astype(np.uint16) // (1 + LEVELS // BINS)
    levels = _equalise_bins(table.astype(np.uint8)[pixels])
    unit = exposure.rescale_intensity(
        np.arange(LEVELS, dtype=np.float64),
        in_range=(float(levels.min()), float(levels.max())),
        out_range=(0, 1),
    )
    return np.rint(unit * (2**bits - 1)).astype(dtype)[levels]


def _equalise_bins(bins: np.ndarray) -> np.ndarray:
    """Return the levels [H, W] uint16 of bins [H, W] uint8: each pixel's mean, weighted by
    nearness, of what the maps of the four tiles around it make of its bin."""
    size = height, width = tuple(max(side // TILES, 1) for side in bins.shape)  # of a tile
    top, left = height // 2, width // 2
    padding = [
        (tile // 2, -side % tile + math.ceil(tile / 2))
        for side, tile in zip(bins.shape, size, strict=True)
    ]
    padded = np.pad(bins, padding, mode="reflect")
    num_rows, num_columns = padded.shape[0] // height, padded.shape[1] // width
    maps = _tile_maps(padded[top:, left:], num_rows - 1, num_columns - 1, size)
    # As float64 they need not be converted before they are weighted.
    maps = np.pad(maps.astype(np.float64), [(1, 1), (1, 1), (0, 0)], mode="edge")
    right = np.arange(width) / width
    levels = np.empty(padded.shape, np.uint16)
    for row, column in np.ndindex(num_rows, num_columns):
        corners = maps[row : row + 2, column : column + 2].reshape(4, BINS)
        columns = slice(column * width, (column + 1) * width)
        for start in range(0, height, BAND_ROWS):
            down = np.arange(start, min(start + BAND_ROWS, height))[:, None] / height
            rows = slice(row * height + start, row * height + start + len(down))
            places = padded[rows, columns].astype(np.intp)
            total = np.zeros(places.shape, np.float32)
            # Of the tiles above left, above right, below left, below right.
            weights = (
                across * along for along in (1 - down, down) for across in (1 - right, right)
            )
            for tile_map, weight in zip(corners, weights, strict=True):
                total += (tile_map[places] * weight).astype(np.float32)
            levels[rows, columns] = total
    return levels[top : top + bins.shape[0], left : left + bins.shape[1]]


def _tile_maps(
    padded: np.ndarray, num_rows: int, num_columns: int, size: tuple[int, int]
) -> np.ndarray:
    """Return the map [rows, columns, BINS] of each tile of `size`: a bin -> its equalised level."""
    from skimage.exposure import _adapthist

    height, width = size
    clip = int(np.clip(CLIP * height * width, 1, None))
    histograms = np.empty((num_rows, num_columns, BINS), np.int64)
    for row, column in np.ndindex(num_rows, num_columns):
        tile = padded[row * height : (row + 1) * height, column * width : (column + 1) * width]
        histogram = np.bincount(tile.ravel(), minlength=BINS)
        histograms[row, column] = _adapthist.clip_histogram(histogram, clip_limit=clip)
    return _adapthist.map_histogram(histograms, 0, LEVELS - 1, height * width)
