"""How many images of each split a folder has, with and without a mask, and how many were left
out."""

from collections import Counter

from lake.inspection.writing.shards import Record

IMAGES, WITHOUT_MASK, VANISHED, LEFT_OUT = "images", "without_mask", "without_lesion_px", "left_out"
WORDS = {
    IMAGES: "images",
    WITHOUT_MASK: "of them without a mask, as theirs is unknown",
    VANISHED: "positives with an empty mask, as their lesion has no pixel at the stored size",
    LEFT_OUT: "left out, as their mask is unknown (table.csv lists them)",
}


class Counts:
    """Counts records as they are written."""

    def __init__(self):
        self.splits: dict[str, Counter] = {}

    def add(self, split: str, record: Record, is_left_out: bool = False) -> None:
        """Count a record, which is written or left out."""
        counts = self.splits.setdefault(split, Counter({IMAGES: 0}))
        if is_left_out:
            counts[LEFT_OUT] += 1
            return
        counts[IMAGES] += 1
        if record.mask is None:
            counts[WITHOUT_MASK] += 1
        elif record.fields["label"] > 0 and not record.mask.any():
            counts[VANISHED] += 1

    def lines(self) -> list[str]:
        """Return a line per split for the user."""
        return [
            f"{split}: "
            + ", ".join(f"{counts[key]:,} {WORDS[key]}" for key in WORDS if key in counts)
            for split, counts in self.splits.items()
        ]
