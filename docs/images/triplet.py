"""python docs/images/triplet.py draws docs/images/triplet.png: how three thresholds turn a
probability map into a mask. The maps are drawn, not predicted; the masks are the program's own.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

sys.path.insert(0, str(Path(__file__).parents[2]))

from trainer.inference.decision import Decision, Triplet, mask_of

SIDE = 256
TRIPLET = Triplet(top=0.7, area_share=0.016, bottom=0.3)
TOP, BOTTOM = "#c2185b", "#1565c0"  # colours of texts and frames
TOP_LINE, BOTTOM_LINE = "#ff4081", "#40c4ff"  # on a grey map
MAPS = {  # name: its patches, (row, column, height, width, highest p)
    "a large, certain patch": [(120, 150, 58, 34, 0.96), (196, 78, 14, 20, 0.42)],
    "a small, doubtful patch": [(96, 92, 26, 30, 0.75), (178, 176, 16, 24, 0.52)],
}


def probability_map(patches: list[tuple]) -> np.ndarray:
    """Return smooth patches on a low background, [SIDE, SIDE] float32."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    total = np.full((SIDE, SIDE), 0.03)
    for row, column, height, width, highest in patches:
        radius = ((rows - row) / height) ** 2 + ((columns - column) / width) ** 2
        total = np.maximum(total, highest * np.exp(-(radius**1.5)))
    return total.astype(np.float32)


def draw(axes, image: np.ndarray, colour: str, text: str, colour_map: str = "Greys_r") -> None:
    """Draw one panel with a line of text below it, and a frame of that colour."""
    axes.imshow(image, cmap=colour_map, vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(text, color=colour, fontsize=10)
    for side in axes.spines.values():
        side.set(color=colour, linewidth=2)


def draw_row(axes, name: str, p: np.ndarray) -> None:
    """Draw a map, the pixels above the top threshold, and the mask that results."""
    top, area_share, bottom = TRIPLET
    share = (p > top).mean()
    is_kept = share >= area_share
    mask = np.asarray(mask_of(p[..., None], Decision(TRIPLET)))
    draw(axes[0], p, "black", name)
    axes[0].contour(p, [bottom], colors=BOTTOM_LINE, linestyles="dashed", linewidths=2)
    axes[0].contour(p, [top], colors=TOP_LINE, linewidths=2)
    verdict = "≥" if is_kept else "<"
    text = f"{share:.1%} of the image {verdict} {area_share:.1%}: {'keep' if is_kept else 'empty'}"
    draw(axes[1], p > top, TOP, text)
    text = f"p > {bottom}: {mask.mean():.1%} of the image" if is_kept else "an empty mask"
    draw(axes[2], mask, BOTTOM if is_kept else "black", text)


def main() -> None:
    top, area_share, bottom = TRIPLET
    figure, axes = plt.subplots(2, 3, figsize=(9.6, 6.9), layout="constrained")
    for row, (name, patches) in zip(axes, MAPS.items(), strict=True):
        draw_row(row, name, probability_map(patches))
    titles = (
        f"The probability map p (black 0, white 1);\nsolid line: p = {top}, dashed: p = {bottom}",
        f"1. Is there a lesion?\np > {top}, the top score threshold,\n"
        f"on at least {area_share:.1%}, the minimum area",
        f"2. If so, which pixels?\np > {bottom}, the bottom score threshold",
    )
    for column, title, colour in zip(axes[0], titles, ("black", TOP, BOTTOM), strict=True):
        column.set_title(title, color=colour, fontsize=11)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
