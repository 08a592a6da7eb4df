"""How many images of each split a folder has, with and without a mask, and how many were left
out."""

from collections import Counter

IMAGES, WITHOUT_MASK, LEFT_OUT = "images", "without_mask", "left_out"


class Counts:
    """Counts records as they are written."""

    def __init__(self):
        self.splits: dict[str, Counter] = {}

    def add(self, split: str, has_mask: bool, is_left_out: bool = False) -> None:
        """Count a record, which is left out or written with or without a mask."""
        name = LEFT_OUT if is_left_out else IMAGES
        self.splits.setdefault(split, Counter({IMAGES: 0}))[name] += 1
        self.splits[split][WITHOUT_MASK] += not (has_mask or is_left_out)

    def lines(self, table: str) -> list[str]:
        """Return a line per split for the user; `table` lists what was left out."""
        lines = []
        for split, numbers in self.splits.items():
            parts = [f"{split}: {numbers[IMAGES]:,} images"]
            if number := numbers[WITHOUT_MASK]:
                parts.append(f"{number:,} of them without a mask, as theirs is unknown")
            if number := numbers[LEFT_OUT]:
                parts.append(f"{number:,} left out, as their mask is unknown ({table} lists them)")
            lines.append(", ".join(parts))
        return lines
