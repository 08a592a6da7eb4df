"""Decoded DICOM pixels become grey levels: whole numbers 0 ... highest, larger is brighter, with
their rescale and window."""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from lake.sources import pixels
from lake.sources.damage import Malformed
from lake.sources.dicom import elements, lookup, padding
from lake.sources.dicom.elements import Attributes
from lake.sources.dicom.image_module import BITS_STORED, SIGNED
from lake.sources.dicom.lookup import MODALITY_LUTS, VOI_LUTS
from lake.sources.dicom.values import first_number, numbers, whole_number

SOP_CLASS = 0x00080016
RESCALE_INTERCEPT, RESCALE_SLOPE = 0x00281052, 0x00281053
WINDOW_CENTER, WINDOW_WIDTH, VOI_FUNCTION = 0x00281050, 0x00281051, 0x00281056
TAGS = frozenset(
    (
        *(RESCALE_INTERCEPT, RESCALE_SLOPE, WINDOW_CENTER, WINDOW_WIDTH, VOI_FUNCTION),
        *(MODALITY_LUTS, VOI_LUTS, SOP_CLASS, *padding.TAGS),
    )
)
# X-ray angiography and fluoroscopy, biplane and enhanced. Their Modality LUT leads back to X-ray
# intensity and is not for display (PS3.3 C.8.7.1.1.2).
ANGIOGRAPHY = frozenset(
    f"1.2.840.10008.5.1.4.1.1.12.{suffix}" for suffix in ("1", "1.1", "2", "2.1", "3")
)
# The width that a LINEAR window of width 1, a threshold, gets. The smallest at which float32, the
# type in a record, still tells its ends apart at 65,535.
LINEAR_WIDTH = 2**-7
QUANTITIES = ("CT", "PT")  # modalities whose rescale is required: values are HU, Bq/ml
LARGEST = 1e15  # larger numbers in a header are nonsense; the product of two fits float32
# ITU-R BT.601 in 16-bit fixed point, as Pillow's "L" has it.
LUMA = np.array((19595, 38470, 7471), np.uint32)


class Grey(NamedTuple):
    """Grey levels of one image, their meaning (rescale) and how they are displayed (window)."""

    levels: np.ndarray  # [H, W] whole numbers 0 ... highest, larger is brighter
    highest: int
    rescale: tuple[float, float]  # modality value = level * slope + intercept
    window: tuple[float, float]  # low, high in levels
    padding: np.ndarray | None = None  # [H, W] bool: where nothing was measured; level 0


def from_values(
    values: np.ndarray,
    attributes: Attributes,
    is_monochrome1: bool,
    is_presented: bool,
    is_lossy: bool,
) -> Grey:
    """Return the grey levels of stored values [H, W].

    `is_presented` applies the file's own curve (VOI LUT or sigmoid), if it has one. Without a
    window in the file, an image of more than 8 bits is displayed from its darkest to its brightest
    level, padding aside, which gets the darkest of all. Only MONOCHROME1 inverts the levels:
    Presentation LUT Shape INVERSE accompanies it (PS3.3 C.8.11.3) and must not invert them a second
    time. `is_lossy`: the codestream moves values a little.
    """
    is_padding = padding.mask(values, attributes, is_lossy)
    table = modality_table(attributes)
    if table:
        values, bits, lowest = table.look_up(values), table.bits, 0
        slope, intercept = 1.0, 0.0
    else:
        slope, intercept = rescale(attributes)
        bits = whole_number(attributes, BITS_STORED)
        lowest = int(_stored_range(attributes)[0])
    highest = 2**bits - 1
    levels = np.clip(values.astype(np.int32) - lowest, 0, highest)
    intercept += slope * lowest
    is_curved = is_presented and has_curve(attributes)
    if is_curved:
        modality_range = sorted((intercept, intercept + slope * highest))
        # Of each level once: of each pixel it would take 36 bytes of memory.
        modality = np.arange(highest + 1) * slope + intercept
        curve, highest = presentation(modality, attributes, bits, modality_range)
        levels = curve[levels]
        slope, intercept, attributes = 1.0, 0.0, {}  # the curve has applied the file's window
    if is_monochrome1 != (slope < 0):  # invert, so that what is displayed darker has lower levels
        levels, slope, intercept = highest - levels, -slope, intercept + slope * highest
    whole = (0.0, float(highest))
    if bits > 8 and not is_curved:  # the image may use a small part of its bits
        whole = pixels.extent(pixels.without_padding(levels, is_padding))
    if is_padding is not None:
        levels[is_padding] = 0
    view = window(attributes, slope, intercept, whole)
    return Grey(levels, highest, (slope, intercept), view, is_padding)


def modality_table(attributes: Attributes) -> lookup.Table | None:
    """Return the Modality LUT of a grey image, None without one that is for display."""
    if MODALITY_LUTS not in attributes or elements.text(attributes, SOP_CLASS) in ANGIOGRAPHY:
        return None
    return lookup.table(attributes, MODALITY_LUTS, _stored_range(attributes))


def _stored_range(attributes: Attributes) -> tuple[float, float]:
    """Return the (lowest, highest) value that the stored bits can hold."""
    bits, is_signed = (whole_number(attributes, tag) for tag in (BITS_STORED, SIGNED))
    lowest = -(2 ** (bits - 1)) if is_signed == 1 else 0
    return float(lowest), float(lowest + 2**bits - 1)


def from_colour(pixels: np.ndarray, bits: int) -> Grey:
    """Return the luma of colours [H, W, 3] of at most `bits` bits as grey levels.

    The sign, the rescale, the tables and the padding of a header are for grey images.
    """
    if pixels.dtype.kind == "i":
        pixels = pixels.view(f"u{pixels.itemsize}") & (2**bits - 1)
    if pixels.dtype == np.uint8:
        levels = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))
    else:
        levels = (pixels.astype(np.uint32) @ LUMA + 2**15) >> 16
    highest = 2**bits - 1
    return Grey(np.minimum(levels, highest), highest, (1.0, 0.0), (0.0, float(highest)))


def rescale(attributes: Attributes) -> tuple[float, float]:
    """Return (slope, intercept) of the file; (1, 0) where they are absent or nonsense."""
    slope = first_number(attributes, RESCALE_SLOPE, 1.0)
    intercept = first_number(attributes, RESCALE_INTERCEPT, 0.0)
    is_sound = 1 / LARGEST <= abs(slope) <= LARGEST and abs(intercept) <= LARGEST
    return (slope, intercept) if is_sound else (1.0, 0.0)


def check_rescale(attributes: Attributes, modality: str) -> None:
    """Raise Malformed where values in a unit (HU of a CT) need a rescale that is no number."""
    for tag in (RESCALE_SLOPE, RESCALE_INTERCEPT):
        if modality in QUANTITIES and any(map(math.isnan, numbers(attributes, tag)[:1])):
            raise Malformed(
                f"{elements.name(tag)} is no number, and the values of a {modality} need one"
            )


def window(
    attributes: Attributes, slope: float, intercept: float, whole: tuple[float, float]
) -> tuple[float, float]:
    """Return (low, high) in levels of the file's first window (PS3.3 C.11.2.1.2, C.11.2.1.3.2).

    Returns `whole` where the file has no window, or one without width as float32. LINEAR of width 1
    is a threshold. LINEAR of a smaller width, which the standard forbids, is written by devices
    whose units are much larger than 1, and is read as LINEAR_EXACT.
    """
    center, width = (first_number(attributes, tag) for tag in (WINDOW_CENTER, WINDOW_WIDTH))
    if elements.text(attributes, VOI_FUNCTION) != "LINEAR_EXACT" and width >= 1:
        center, width = center - 0.5, max(width - 1, LINEAR_WIDTH)
    low, high = sorted((center + side * width / 2 - intercept) / slope for side in (-1, 1))
    is_bounded = width > 0 and low >= -LARGEST and high <= LARGEST
    return (low, high) if is_bounded and np.float32(low) < np.float32(high) else whole


def has_curve(attributes: Attributes) -> bool:
    """Return whether the file's default view is a curve, a VOI LUT or a sigmoid, not a window."""
    if VOI_LUTS in attributes and lookup.table(attributes, VOI_LUTS, (0.0, 0.0)):
        return True
    return elements.text(attributes, VOI_FUNCTION) == "SIGMOID" and len(_sigmoid(attributes)) == 2


def presentation(
    values: np.ndarray, attributes: Attributes, bits: int, value_range: list[float]
) -> tuple[np.ndarray, int]:
    """Return (levels [N], highest) of modality values [N] of `bits` bits, which lie in
    `value_range`, through the file's curve (VOI LUT or sigmoid)."""
    table = lookup.table(attributes, VOI_LUTS, tuple(value_range))
    if table is None:
        (center, width), highest = _sigmoid(attributes), 2**bits - 1  # PS3.3 C.11.2.1.3.1
        exponent = np.clip(-4 * (values - center) / width, -700, 700)  # exp within float64
        return np.rint(highest / (1 + np.exp(exponent))).astype(np.int32), highest
    levels, highest = table.look_up(np.rint(values)), 2**table.bits - 1
    if bits <= 8 < table.bits:  # a lake stores files of 8 bits in 8 bits, whatever their LUT has
        levels, highest = np.rint(levels * (255 / highest)).astype(np.int32), 255
    return levels, highest


def _sigmoid(attributes: Attributes) -> tuple[float, ...]:
    """Return (center, width) of the sigmoid where both are sound, else ()."""
    center, width = (first_number(attributes, tag) for tag in (WINDOW_CENTER, WINDOW_WIDTH))
    is_sound = math.isfinite(center) and math.isfinite(width) and width > 0
    return (center, width) if is_sound else ()
