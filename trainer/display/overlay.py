"""One image, its truth where that is known, and what was predicted, side by side with outlines.

In: arrays, a caption. Out: RGB pixels, uint8 [H, W, 3].
"""

import numpy as np

from lake import picture
from lake.sources import pixels
from trainer.display import panel

PANEL_PX = 640  # longest side of a panel; an image of fewer pixels is drawn as it is
CAPTION_PX, LETTER_PX, TITLE_PX = 24, 15, 14


def side_by_side(
    image: np.ndarray, truth: np.ndarray | None, prediction: np.ndarray, caption: str
) -> np.ndarray:
    """Return the image [H, W] in [0, 1] alone, with its true mask if there is one, and with the
    predicted one below the caption; [h + CAPTION_PX, 2 or 3 · w, 3].

    Masks [H', W'] may have another size than the image; they cover the same field.
    """
    height, width = pixels.shrunk_size(*image.shape, PANEL_PX)
    rgb = picture.to_rgb(pixels.shrink(picture.to_uint8(image), height, width))
    panels = {"image": rgb}
    for title, mask, colour in (
        ("truth", truth, panel.TRUTH_COLOUR),
        (caption, prediction, panel.PREDICTION_COLOUR),
    ):
        if mask is not None:
            mask = picture.resize_mask(mask, height, width)
            panels[title] = picture.mark(rgb, mask, colour)
    size, font_file = (CAPTION_PX, width), panel.font_file()
    cells = [
        np.concatenate([picture.caption(title, size, LETTER_PX, font_file), panel_rgb])
        for title, panel_rgb in panels.items()
    ]
    return picture.grid(cells, len(cells))
