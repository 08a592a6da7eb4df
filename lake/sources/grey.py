"""Decoded DICOM pixels -> grey levels: whole numbers 0 ... highest, larger is brighter, with the
rescale and the window that belong to them."""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from lake.sources import elements
from lake.sources.elements import Element

RESCALE_INTERCEPT, RESCALE_SLOPE = 0x00281052, 0x00281053
WINDOW_CENTER, WINDOW_WIDTH, VOI_FUNCTION = 0x00281050, 0x00281051, 0x00281056
MODALITY_LUTS, VOI_LUTS = 0x00283000, 0x00283010
LUT_DESCRIPTOR, LUT_DATA = 0x00283002, 0x00283006
TAGS = frozenset(
    (
        *(RESCALE_INTERCEPT, RESCALE_SLOPE, WINDOW_CENTER, WINDOW_WIDTH, VOI_FUNCTION),
        *(MODALITY_LUTS, VOI_LUTS),
    )
)
# Of a LINEAR window of width 1, a threshold, in its own units; float32, as in a record, still tells
# its ends apart at 65,535.
LINEAR_WIDTH = 2**-7
LARGEST = 1e15  # number of a header that is no nonsense; products of two fit float32
# ITU-R BT.601 in 16-bit fixed point, as Pillow's "L" has it.
LUMA = np.array((19595, 38470, 7471), np.uint32)


class Grey(NamedTuple):
    levels: np.ndarray  # [H, W] whole numbers 0 ... highest, larger is brighter
    highest: int
    rescale: tuple[float, float]  # modality value = level * slope + intercept
    window: tuple[float, float]  # low, high in levels


class Table(NamedTuple):
    """A lookup table of the file."""

    outputs: np.ndarray  # [N]
    first: int  # the value that the first output belongs to
    bits: int  # of an output


def from_values(
    values: np.ndarray,
    found: dict[int, Element],
    bits: int,
    is_signed: bool,
    is_monochrome1: bool,
    is_presented: bool,
) -> Grey:
    """Grey of stored values [H, W]; `is_presented`: through the file's own curve, if it has one.

    Where the file has no window, that of more than 8 bits is from the darkest to the brightest
    level of the image. MONOCHROME1 alone says which way round the levels are: Presentation LUT
    Shape INVERSE goes with it (PS3.3 C.8.11.3) and must not turn them over once more.
    """
    table = modality_table(found)
    if table:
        values, bits, lowest = looked_up(values, table), table.bits, 0
        slope, intercept = 1.0, 0.0
    else:
        slope, intercept = rescale(found)
        lowest = -(2 ** (bits - 1)) if is_signed else 0
    highest = 2**bits - 1
    levels = np.clip(values.astype(np.int32) - lowest, 0, highest)
    intercept += slope * lowest
    is_curved = is_presented and has_curve(found)
    if is_curved:
        levels, highest = presentation(levels * slope + intercept, found, bits)
        slope, intercept, found = 1.0, 0.0, {}  # the file's window is in the levels now
    if is_monochrome1 != (slope < 0):  # turned over: what is displayed darker has lower levels
        levels, slope, intercept = highest - levels, -slope, intercept + slope * highest
    whole = (0.0, float(highest))
    if bits > 8 and not is_curved:  # the image may fill a small part of 16 bits
        whole = (float(levels.min()), max(float(levels.max()), levels.min() + 1.0))
    return Grey(levels, highest, (slope, intercept), window(found, slope, intercept, whole))


def from_colour(pixels: np.ndarray, bits: int) -> Grey:
    """Grey of colours [H, W, 3] of at most `bits` bits: their luma."""
    if pixels.dtype.kind != "u":
        raise elements.Malformed("colours with a sign")
    if pixels.dtype == np.uint8:
        levels = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))
    else:
        levels = (pixels.astype(np.uint32) @ LUMA + 2**15) >> 16
    highest = 2**bits - 1
    return Grey(np.minimum(levels, highest), highest, (1.0, 0.0), (0.0, float(highest)))


def rescale(found: dict[int, Element]) -> tuple[float, float]:
    """Slope and intercept, (1, 0) where the file has none or nonsense."""
    slope = first(elements.numbers(found, RESCALE_SLOPE), 1.0)
    intercept = first(elements.numbers(found, RESCALE_INTERCEPT), 0.0)
    is_sound = 1 / LARGEST <= abs(slope) <= LARGEST and abs(intercept) <= LARGEST
    return (slope, intercept) if is_sound else (1.0, 0.0)


def window(
    found: dict[int, Element], slope: float, intercept: float, whole: tuple[float, float]
) -> tuple[float, float]:
    """The file's first window in levels (PS3.3 C.11.2.1.2, C.11.2.1.3.2); `whole` where it has
    none, or one that has no width as float32.

    LINEAR of width 1 is a threshold. LINEAR below that, which the standard forbids, comes from
    units much larger than 1 and is taken as LINEAR_EXACT.
    """
    center = first(elements.numbers(found, WINDOW_CENTER), math.nan)
    width = first(elements.numbers(found, WINDOW_WIDTH), math.nan)
    if elements.text(found, VOI_FUNCTION) != "LINEAR_EXACT" and width >= 1:
        center, width = center - 0.5, max(width - 1, LINEAR_WIDTH)
    low, high = sorted((center + side * width / 2 - intercept) / slope for side in (-1, 1))
    is_bounded = width > 0 and low >= -LARGEST and high <= LARGEST
    return (low, high) if is_bounded and np.float32(low) < np.float32(high) else whole


def has_curve(found: dict[int, Element]) -> bool:
    """Whether the file's default view is no window: a VOI LUT or a sigmoid."""
    if _table(found, VOI_LUTS):
        return True
    return elements.text(found, VOI_FUNCTION) == "SIGMOID" and len(_sigmoid(found)) == 2


def presentation(
    values: np.ndarray, found: dict[int, Element], bits: int
) -> tuple[np.ndarray, int]:
    """(levels, highest) of modality values [H, W] of `bits` bits through the file's curve."""
    table = _table(found, VOI_LUTS)
    if table is None:
        (center, width), highest = _sigmoid(found), 2**bits - 1  # PS3.3 C.11.2.1.3.1
        exponent = np.clip(-4 * (values - center) / width, -700, 700)  # exp within float64
        return np.rint(highest / (1 + np.exp(exponent))).astype(np.int32), highest
    levels, highest = looked_up(np.rint(values), table), 2**table.bits - 1
    if bits <= 8 < table.bits:  # the lake of such files has 8 bits
        levels, highest = np.rint(levels * (255 / highest)).astype(np.int32), 255
    return levels, highest


def modality_table(found: dict[int, Element]) -> Table | None:
    return _table(found, MODALITY_LUTS)


def looked_up(values: np.ndarray, table: Table) -> np.ndarray:
    """Outputs of values; those outside the table take its first or last."""
    places = np.clip(values - float(table.first), 0, len(table.outputs) - 1)
    return table.outputs[places.astype(np.int32)]


def first(values: list[float], default: float) -> float:
    return values[0] if values else default


def _sigmoid(found: dict[int, Element]) -> tuple[float, ...]:
    """(center, width) where they are sound, else ()."""
    center = first(elements.numbers(found, WINDOW_CENTER), math.nan)
    width = first(elements.numbers(found, WINDOW_WIDTH), math.nan)
    is_sound = math.isfinite(center) and math.isfinite(width) and width > 0
    return (center, width) if is_sound else ()


def _table(found: dict[int, Element], tag: int) -> Table | None:
    """The first table of the sequence `tag` (PS3.3 C.11.1.1), None without one."""
    lut = elements.item(found, tag, 0, (LUT_DESCRIPTOR, LUT_DATA))
    descriptor, data = elements.numbers(lut, LUT_DESCRIPTOR), lut.get(LUT_DATA)
    if len(descriptor) != 3 or data is None or data.start == data.end:
        return None
    count, start, bits = (int(number) for number in descriptor)
    count = count % 2**16 or 2**16
    if not 1 <= bits <= 16:
        raise elements.Malformed(f"a lookup table of {bits} bits, expected at most 16")
    is_packed = bits <= 8 and data.end - data.start in (count, count + 1)  # one byte an output
    outputs = np.frombuffer(data.value, np.uint8 if is_packed else data.order + "u2", count)
    # Implicit elements leave the sign of the first value open; no table starts that high.
    if lut[LUT_DESCRIPTOR].vr is None and start >= 2**15:
        start -= 2**16
    return Table(np.minimum(outputs, 2**bits - 1).astype(np.int32), start, bits)
