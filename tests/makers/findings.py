"""Labels of many findings for the phantoms, written as CheXpert writes them."""

import csv
from pathlib import Path

NAMES = ("Lung Lesion", "Edema", "Pleural Effusion")
CELLS = {1: "1.0", 0: "0.0", -1: "-1.0", None: ""}


def cells_of(phantoms: Path) -> dict[str, tuple[int | None, ...]]:
    """Return image id -> what its cells say of NAMES, None being an empty cell: the first is true,
    the others follow the number of the image."""
    with (phantoms / "train-rle.csv").open(newline="") as file:
        texts = {row[0]: row[1].strip() for row in list(csv.reader(file))[1:]}
    rows = {}
    for number, image_id in enumerate(sorted(texts)):
        lesion = int(texts[image_id] != "-1")
        rows[image_id] = (lesion, (1, 0, -1, None)[number % 4], (None, None, 1)[number % 3])
    return rows


def values_of(phantoms: Path) -> dict[str, tuple[int, ...]]:
    """Return image id -> what its record has: -1 is unknown, an empty cell says that there is
    none."""
    return {
        image_id: tuple(0 if cell is None else cell for cell in row)
        for image_id, row in cells_of(phantoms).items()
    }


def chexpert_csv(phantoms: Path) -> str:
    """Return the text of a CSV with CheXpert's columns, in which age and sex are no findings."""
    lines = [f"Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,{','.join(NAMES)}"]
    for number, (image_id, row) in enumerate(cells_of(phantoms).items()):
        is_none = all(cell in (0, None) for cell in row)
        fields = [image_id, str(number % 2), str(40 + number), "Frontal", "AP"]
        fields.append("1.0" if is_none else "")
        lines.append(",".join([*fields, *(CELLS[cell] for cell in row)]))
    return "\n".join(lines) + "\n"
