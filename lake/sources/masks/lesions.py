"""Which pixels of a decoded mask are lesion. In: grey levels, palette numbers or colours; out: a
bool array [H, W], or a Reject `mask-not-binary` or `transparent`.

Whatever is not 0, in whichever channel, is lesion, unless the user chose values. A mask that went
through a lossy code has values near background and near its lesion's, and is cut at half; several
values that are not that are classes, and are never merged unasked.
"""

import re
from typing import NamedTuple

import numpy as np

from lake import Reject

# JPEG of quality 75 moves a mask's values by up to 43 of 255, and none across half; quality 50
# moves them by up to 98 (60 masks of SIIM-ACR). A mask with values between these ends is refused.
STRAY = 1 / 4
# A lossless mask of so few values has none from noise, but a few from soft edges or from classes.
FEW_VALUES, FEW_STRAY = 8, 1 / 16
MIN_WHITE = 128  # where the highest value is lower, several values are classes
MOST_VALUES = 32  # of a mask that are told, besides those that were chosen
COLOUR = re.compile(r"#[0-9a-f]{6}")
NUMBER = re.compile(r"[0-9]{1,10}")
ADVICE = "name those of the lesion with --mask_values"


def parse_values(text: str) -> tuple[str, ...]:
    """Return the values of `--mask_values`: whole numbers, or colours as #ff0000; raise ValueError
    for any other text."""
    values = tuple(part.strip().lower() for part in text.split(","))
    if not all(NUMBER.fullmatch(value) or COLOUR.fullmatch(value) for value in values):
        raise ValueError(f"{text!r}: expected whole numbers or colours, such as 1,2 or #ff0000")
    return tuple(str(int(value)) if NUMBER.fullmatch(value) else value for value in values)


def numbers_of(mask_values: tuple[str, ...]) -> list[int]:
    """Return the numbers among the values of --mask_values."""
    return [int(value) for value in mask_values if not value.startswith("#")]


class Choice(NamedTuple):
    """Holds the lesion of a mask and which values are in it."""

    lesion: np.ndarray  # bool [H, W]
    values: tuple[str, ...] = ()  # as --mask_values names them, where it names any


def choose(pixels: np.ndarray, is_lossy: bool, mask_values: tuple[str, ...]) -> Choice:
    """Return the lesion of levels or numbers [H, W], or of colours uint8 [H, W, 3]; raise Reject
    where it is unclear."""
    from_pixels = from_levels if pixels.ndim == 2 else from_colours
    lesion = from_pixels(pixels, is_lossy, mask_values)
    return Choice(lesion, values_in(pixels, mask_values) if mask_values else ())


def values_in(pixels: np.ndarray, mask_values: tuple[str, ...]) -> tuple[str, ...]:
    """Return the values in a mask: colours where `mask_values` has one and the mask has colours,
    else numbers; at most MOST_VALUES of them besides those of `mask_values`."""
    if pixels.ndim == 2:
        is_bytes = pixels.dtype == np.uint8
        numbers = np.flatnonzero(np.bincount(pixels.ravel())) if is_bytes else np.unique(pixels)
        texts = [f"{value:.10g}" for value in numbers[: 2 * MOST_VALUES]]
        texts += [str(number) for number in numbers_of(mask_values) if np.isin(number, numbers)]
    else:
        texts = []
        if any(value.startswith("#") for value in mask_values):
            texts = [_colour(code) for code in np.unique(_codes(pixels))]
        if numbers_of(mask_values):
            texts += values_in(pixels.max(axis=2), mask_values)
    return tuple(dict.fromkeys([t for t in texts if t in mask_values] + texts[:MOST_VALUES]))


def from_levels(
    levels: np.ndarray, is_lossy: bool, mask_values: tuple[str, ...] = ()
) -> np.ndarray:
    """Return the lesion of a mask's levels or numbers [H, W], of any type; raise Reject where more
    than one value may be it."""
    if mask_values:
        _check_exact(is_lossy)
        return np.isin(levels, numbers_of(mask_values))
    is_bytes = levels.dtype == np.uint8  # bincount takes 4 ms per megapixel, sorting 10
    greys = np.flatnonzero(np.bincount(levels.ravel())) if is_bytes else np.unique(levels)
    is_plain = len(greys) == 1 or (len(greys) == 2 and greys[0] == 0)
    highest = int(greys[-1])
    if is_plain and (not is_lossy or highest >= MIN_WHITE or highest == 0):
        return levels != 0
    stray = highest * _stray(len(greys), is_lossy)
    is_near = (greys <= stray) | (greys >= highest - stray)
    if highest < MIN_WHITE or greys[0] < 0 or not is_near.all():
        raise Reject(
            "mask-not-binary",
            f"{len(greys)} grey values, {greys[:4].tolist()} ... {highest}; expected 0 and one "
            f"other; {ADVICE}",
        )
    return levels > highest / 2


def from_colours(
    colours: np.ndarray, is_lossy: bool, mask_values: tuple[str, ...] = ()
) -> np.ndarray:
    """Return the lesion of colours uint8 [H, W, 3]; raise Reject where more than one may be it."""
    if mask_values:
        return _from_chosen_colours(colours, is_lossy, mask_values)
    levels = colours.max(axis=2)  # a channel is enough
    highest = int(levels.max())
    codes, counts = np.unique(_codes(colours)[levels > 0], return_counts=True)
    if len(codes) <= 1 and (not is_lossy or highest >= MIN_WHITE or highest == 0):
        return levels > 0
    colours_present = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1)  # [N, 3]
    stray = highest * _stray(1 + len(codes), is_lossy)
    is_dark = colours_present.max(axis=1) <= stray
    # The lesion's own colour is the commonest of the bright ones.
    lesion_colour = colours_present[np.argmax(np.where(is_dark, 0, counts))]
    is_near = np.abs(colours_present - lesion_colour).max(axis=1) <= stray
    if highest < MIN_WHITE or not (is_near | is_dark).all():
        texts = [_colour(code) for code in codes[np.argsort(-counts)][:4]]
        raise Reject(
            "mask-not-binary",
            f"{len(codes)} colours besides black, {', '.join(texts)} ...; expected one; {ADVICE}",
        )
    return levels > highest / 2


def colours_on_black(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return the colours [H, W, 3] of a mask as they look on black; raise Reject where it cannot be
    told whether the transparent pixels or the others are the lesion."""
    if not alpha.any():  # no picture is meant to be invisible: the channel says nothing
        return colours
    is_clear = alpha == 0
    if is_clear.any():
        if len(np.unique(_codes(colours)[is_clear])) > 1:
            raise Reject("transparent", "transparent pixels of several colours; save without alpha")
        if not colours[~is_clear].any():
            raise Reject("transparent", "black pixels on a transparent ground; save without alpha")
    # Rounded up, because a faint colour is one.
    return -(-colours.astype(np.uint16) * alpha[..., None] // 255)


def check_palette(numbers: np.ndarray, colours: np.ndarray) -> None:
    """Raise Reject where it is unclear which of a palette's numbers [H, W] is the background, whose
    colour [H, W, 3] should be black: all are black, or none is."""
    is_black = ~colours.any(axis=2)
    if is_black.all() and numbers.any():
        raise Reject("mask-not-binary", f"every colour of its palette is black; {ADVICE}")
    if not is_black.any() and (numbers == 0).any():
        raise Reject(
            "mask-not-binary",
            f"its background is unclear: number 0 of its palette is {_colour_at(numbers, colours)} "
            f"and no pixel is black; {ADVICE}",
        )


def _colour_at(numbers: np.ndarray, colours: np.ndarray) -> str:
    """Return the colour of a palette's number 0."""
    return _colour(int(_codes(colours)[numbers == 0][0]))


def _from_chosen_colours(
    colours: np.ndarray, is_lossy: bool, mask_values: tuple[str, ...]
) -> np.ndarray:
    """Return the pixels of the colours that --mask_values names; its numbers are levels, where only
    one channel has any, or all are alike. Raises Reject where numbers are given for colours."""
    _check_exact(is_lossy)
    codes = _codes(colours)
    colour_codes = [int(value[1:], 16) for value in mask_values if value.startswith("#")]
    lesion = np.isin(codes, colour_codes)
    if numbers := numbers_of(mask_values):
        is_grey = (colours == colours[..., :1]).all()
        if not is_grey and colours.any(axis=(0, 1)).sum() > 1:
            raise Reject(
                "mask-not-binary",
                "a mask in colour; expected --mask_values with colours, such as #ff0000",
            )
        lesion |= np.isin(colours.max(axis=2), numbers)
    return lesion


def _check_exact(is_lossy: bool) -> None:
    if is_lossy:
        raise Reject(
            "mask-not-binary", "a lossy code, whose values are not exact; --mask_values needs PNG"
        )


def _stray(num_values: int, is_lossy: bool) -> float:
    """Return by what share of the highest value noise may move a mask's values."""
    return FEW_STRAY if num_values <= FEW_VALUES and not is_lossy else STRAY


def _codes(colours: np.ndarray) -> np.ndarray:
    """Return colours [H, W, 3] as one number each [H, W]."""
    red, green, blue = (colours[..., channel].astype(np.int64) for channel in range(3))
    return red << 16 | green << 8 | blue


def _colour(code: int) -> str:
    return f"#{int(code):06x}"
