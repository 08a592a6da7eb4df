"""Grey values become the Scan of a record: window, contrast, size, PNG. Every source ends here."""

import io
import math

import numpy as np
from PIL import Image

from lake.scan import Scan, Storage, parse_window
from lake.sources import clahe

# zlib 4 on 1024 px radiographs: 76 ms and 366 KB; 6: 192 ms, 368 KB; 1: 49 ms, 432 KB (2026-11, one
# core).
PNG_LEVEL = 4
# Larger images are coded by libpng with one filter and runs alone: 100 million pixels of 16 bits,
# noisy, take 4 s instead of about 15, and no more bytes (2026-11, one core).
LARGE_PIXELS = 2**24
PERCENTILES = (1, 99)  # of `--window percentile`
# A block of 8 x 8 equal pixels takes about a byte of a JPEG's scan, and its tables some hundreds.
FLAT_HEADER_BYTES, FLAT_PIXELS_PER_BYTE = 1000, 64


def store(
    pixels: np.ndarray,
    highest: int,
    rescale: tuple[float, float],
    window: tuple[float, float],
    spacing_mm: tuple[float, float],
    storage: Storage,
    slice_mm: float = math.nan,
    is_padding: np.ndarray | None = None,
) -> Scan:
    """Return the Scan of grey pixels [H, W], whole numbers 0 … highest <= 65535, larger is
    brighter.

    `rescale`, the default `window` and `spacing_mm` (row, column) describe `pixels`. Where the lake
    has fewer bits than the pixels, the window is mapped to 0 … 255. Pixels [H, W] that are padding
    are stored as 0.
    """
    slope, intercept = rescale
    low, high = view(storage.window, window, rescale, pixels, is_padding)
    if storage.clahe:
        pixels, highest = clahe.equalise(pixels, low, high, storage.bits), 2**storage.bits - 1
        (slope, intercept), (low, high) = (1.0, 0.0), (0.0, float(highest))
    elif storage.bits == 8 and highest > 255:
        pixels = np.rint(np.clip((pixels - low) / (high - low), 0, 1) * 255)
        slope, intercept = slope * (high - low) / 255, intercept + slope * low
        low, high = 0.0, 255.0
    if is_padding is not None:
        pixels = np.where(is_padding, 0, pixels)
    rows, columns = pixels.shape
    height, width = shrunk_size(rows, columns, storage.max_side)
    stored = shrink(pixels.astype(np.uint8 if storage.bits == 8 else np.uint16), height, width)
    return Scan(
        image=to_png(stored),
        encoding="png",
        height=height,
        width=width,
        pixel_spacing_mm=(spacing_mm[0] * rows / height, spacing_mm[1] * columns / width),
        rescale=(slope, intercept),
        window=(low, high),
        slice_mm=slice_mm,
        is_flat=is_flat(stored, (low, high)),
        padding_px=0 if is_padding is None else _count_padding(is_padding, height, width),
    )


def extent(levels: np.ndarray) -> tuple[float, float]:
    """Return (darkest, brightest) of levels as a window: that of a flat image, too, has a width."""
    low = float(levels.min())
    return low, max(float(levels.max()), low + 1)


def is_flat(pixels: np.ndarray, window: tuple[float, float]) -> bool:
    """Return whether all pixels have one grey level in the view of `window`, (low, high)."""
    darkest, brightest = int(pixels.min()), int(pixels.max())
    return darkest == brightest or brightest <= window[0] or darkest >= window[1]


def is_flat_code(code: bytes, height: int, width: int, window: tuple[float, float]) -> bool:
    """Return whether a grey JPEG or PNG of 8 bits has one grey level in the view of `window`.

    Only a code that is too short for much more than one level is decoded.
    """
    if window[0] >= 255 or window[1] <= 0:
        return True
    if len(code) > FLAT_HEADER_BYTES + height * width / FLAT_PIXELS_PER_BYTE:
        return False
    return is_flat(np.asarray(Image.open(io.BytesIO(code))), window)


def _count_padding(is_padding: np.ndarray, height: int, width: int) -> int:
    """Return the number of pixels of a copy of [height, width] that are padding alone."""
    return int(np.count_nonzero(shrink(is_padding.astype(np.uint8) * 255, height, width) == 255))


def is_stored_unchanged(bits: int, height: int, width: int, storage: Storage) -> bool:
    """Return whether the lake needs no other bits, size or contrast than an image has."""
    is_whole = shrunk_size(height, width, storage.max_side) == (height, width)
    return bits == storage.bits and is_whole and not storage.clahe


def view(
    window: str,
    default: tuple[float, float],
    rescale: tuple[float, float],
    pixels: np.ndarray,
    is_padding: np.ndarray | None = None,
) -> tuple[float, float]:
    """Return (low, high), in stored values, of a record's default view, as `--window` says:
    `default`, percentiles of `pixels` [H, W] that are no padding, or LOW,HIGH in modality units."""
    if window == "percentile":
        pixels = without_padding(pixels, is_padding)
        low, high = (float(value) for value in np.percentile(pixels, PERCENTILES))
        return low, max(high, low + 1)  # a constant image needs a width, too, to divide by
    modality_window = parse_window(window)
    if modality_window is None:
        return default
    slope, intercept = rescale
    low, high = sorted((value - intercept) / slope for value in modality_window)
    return low, high


def without_padding(values: np.ndarray, is_padding: np.ndarray | None) -> np.ndarray:
    """Return the values [N] that are no padding; all [H, W] where none is padding, or all are."""
    return values if is_padding is None or is_padding.all() else values[~is_padding]


def shrunk_size(height: int, width: int, max_side: int | None) -> tuple[int, int]:
    """Return (height, width) after fitting the longer side into `max_side`, aspect kept."""
    longest = max(height, width)
    if max_side is None or longest <= max_side:
        return height, width
    return max(1, round(height * max_side / longest)), max(1, round(width * max_side / longest))


def shrink(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return an area-filtered copy [height, width] of pixels [H, W], same dtype."""
    if pixels.shape == (height, width):
        return pixels
    # Pillow filters 16-bit grey only as float.
    small = Image.fromarray(pixels.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
    return np.rint(np.asarray(small)).astype(pixels.dtype)


def to_png(pixels: np.ndarray, level: int = PNG_LEVEL) -> bytes:
    """Return grey pixels [H, W], uint8 or uint16, as a PNG."""
    if pixels.size > LARGE_PIXELS:
        from imagecodecs import PNG, png_encode  # an export with tensorflow-io does without

        fast = {"level": 1, "strategy": PNG.STRATEGY.RLE, "filter": PNG.FILTER.UP}
        return png_encode(np.ascontiguousarray(pixels), **fast)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=level)
    return buffer.getvalue()
