"""Pictures as people look at them, drawn with Pillow.

In: grey images, masks, captions. Out: RGB uint8 arrays [H, W, 3], or PNG bytes.
"""

import datetime
import functools
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

PNG_LEVEL = 1  # 20 ms for a map of 1024 px; zlib's usual 6 takes three times that for a tenth less
TINT = 0.25  # how much of a mask's colour its inside takes
INDENT_PX, SMALLEST_LETTER_PX = 6, 10
LINE_HEIGHT = 1.5  # times a title's letters
BETWEEN = " · "  # the parts of a title


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Return an image of values in [0, 1] as uint8, 0 to 255."""
    return np.rint(image * 255).astype(np.uint8)


def to_rgb(grey: np.ndarray) -> np.ndarray:
    """Return grey pixels [H, W] as [H, W, 3]."""
    return np.repeat(grey[..., None], 3, axis=2)


def resize(grey: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return grey uint8 pixels [H, W] as [height, width], smoothed."""
    return np.asarray(Image.fromarray(grey).resize((width, height), Image.Resampling.LANCZOS))


def resize_mask(mask: np.ndarray, height: int, width: int, share: float = 0.5) -> np.ndarray:
    """Return a mask [H, W] as bool [height, width]: the pixels of which at least this share is in
    the mask."""
    shares = Image.fromarray((mask > 0).astype(np.float32))
    return np.asarray(shares.resize((width, height), Image.Resampling.BOX)) >= share


def outline(mask: np.ndarray, is_around: bool = False) -> np.ndarray:
    """Return the outline of a bool mask [H, W]: its own pixels beside others, or at the border of
    the image; with `is_around` the others beside it, so that nothing in the mask is hidden."""
    other_side = mask if is_around else ~mask  # what an outline's pixels lie beside, but are not in
    padded = np.pad(other_side, 1, constant_values=not is_around)
    sides = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return sides & ~other_side


def mark(rgb: np.ndarray, mask: np.ndarray, colour: str) -> np.ndarray:
    """Return a copy of a picture [H, W, 3] with a bool mask [H, W] tinted and outlined."""
    picture, ink = rgb.copy(), np.array(ImageColor.getrgb(colour))
    picture[mask] = ((1 - TINT) * rgb[mask] + TINT * ink).astype(np.uint8)
    picture[outline(mask)] = ink
    return picture


def caption(
    text: str,
    size: tuple[int, int],
    letter_px: int,
    font_file: str | None = None,
    colours: tuple[str, str] = ("white", "black"),
) -> np.ndarray:
    """Return a strip RGB [*size, 3] with one line of text, in `colours` (letters, background) and
    in the largest letters up to `letter_px` that fit; where none do, the text's middle is left out.
    Without a font file it is Pillow's own font, which lacks signs such as ²."""
    width_px, size_px = size[1] - 2 * INDENT_PX, letter_px
    while size_px > SMALLEST_LETTER_PX and text_px(text, size_px, font_file) > width_px:
        size_px -= 1
    text = shorten(text, width_px, size_px, font_file)
    strip = Image.new("RGB", size[::-1], colours[1])
    font = _font(size_px, font_file)
    top = (size[0] - sum(font.getmetrics())) // 2
    ImageDraw.Draw(strip).text((INDENT_PX, top), text, fill=colours[0], font=font)
    return np.asarray(strip)


def title(*parts: str) -> str:
    """Return the line above a picture: the parts that are not empty (the run or lake, the images,
    the thresholds …) and today's date."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return BETWEEN.join(filter(None, (*parts, today)))


def with_title(
    rgb: np.ndarray,
    text: str,
    letter_px: int,
    font_file: str | None = None,
    colours: tuple[str, str] = ("white", "black"),
) -> np.ndarray:
    """Return a picture [H, W, 3] below strips with its title, in as many lines as its width needs;
    all of the picture's pixels stay in sight. Font and colours are those of `caption`."""
    width_px, lines = rgb.shape[1] - 2 * INDENT_PX, [""]
    for part in text.split(BETWEEN):
        longer = f"{lines[-1]}{BETWEEN}{part}" if lines[-1] else part
        if not lines[-1] or text_px(longer, letter_px, font_file) <= width_px:
            lines[-1] = longer
        else:
            lines.append(part)
    size = (round(LINE_HEIGHT * letter_px), rgb.shape[1])
    strips = [caption(line, size, letter_px, font_file, colours) for line in lines]
    return np.concatenate([*strips, rgb])


def shorten(text: str, width_px: int, letter_px: int, font_file: str | None = None) -> str:
    """Return the text, with as much of its middle left out as it takes to fit into `width_px`."""
    shorter, length = text, len(text)
    while length > 1 and text_px(shorter, letter_px, font_file) > width_px:
        length -= 1
        shorter = f"{text[: length // 2]}…{text[len(text) - (length - length // 2) :]}"
    return shorter


def text_px(text: str, letter_px: int, font_file: str | None = None) -> float:
    """Return the width of a line of text in letters of this size."""
    return _font(letter_px, font_file).getlength(text)


@functools.cache
def _font(letter_px: int, font_file: str | None) -> ImageFont.FreeTypeFont:
    if font_file is None:
        return ImageFont.load_default(letter_px)
    return ImageFont.truetype(font_file, letter_px)


def grid(
    cells: Sequence[np.ndarray], num_columns: int, gap_px: int = 0, background: str = "black"
) -> np.ndarray:
    """Return pictures [h, w, 3] of one size in rows of so many columns, with gaps around each."""
    height, width = (side + gap_px for side in cells[0].shape[:2])
    num_rows = -(-len(cells) // num_columns)
    size = (num_columns * width + gap_px, num_rows * height + gap_px)
    picture = np.array(Image.new("RGB", size, background))
    for number, cell in enumerate(cells):
        top, left = gap_px + number // num_columns * height, gap_px + number % num_columns * width
        picture[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return picture


def to_png(pixels: np.ndarray) -> bytes:
    """Return uint8 pixels, grey [H, W] or RGB [H, W, 3], as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()
