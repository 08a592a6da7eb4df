"""A contact sheet of a lake: images of both classes from every split, lesions outlined.

In: folder, manifest and index; out: a PNG. Which images is a function of the index alone.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow
from PIL import Image, ImageDraw, ImageFont

from lake import InputError, storage
from lake.records import example, manifest, mask_png, tfrecord

NUM_IMAGES, COLUMNS = 24, 6
TILE_PX, GAP_PX, CAPTION_PX = 320, 12, 80
BACKGROUND, TEXT, OUTLINE, UNKNOWN = "#101418", "#e6e9ec", "#2ee6a8", "#ffb454"
LETTER_PX, SMALLEST_LETTER_PX = 15, 10
LABELS = ("negative", "positive", "unknown")  # by label, without class folders


def write(folder: Path, content: dict, index: pyarrow.Table, path: Path) -> int:
    """Draws the sheet into `path`; returns how many images it has. Raises InputError."""
    if not len(index):
        raise InputError(f"{folder}: no records to draw")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--sheet={path}: no folder {path.parent}")
    shown = read(folder, content, index, choose(index))
    names = (*manifest.numbered(content["classes"]), "") if "classes" in content else LABELS
    tiles = [tile(fields, split, names) for split, fields in shown]
    with storage.written(path) as unfinished:
        compose(tiles).save(unfinished, "PNG")
    return len(tiles)


def choose(index: pyarrow.Table, num_images: int = NUM_IMAGES) -> list[int]:
    """Rows of the index, half of them positives, as even as may be over splits; in each split
    positives evenly along their sizes, smallest first, then the others evenly along the split."""
    names = index["split"].combine_chunks().dictionary_encode()
    codes = names.indices.to_numpy()
    label, lesion_px = index["label"].to_numpy(), index["lesion_px"].to_numpy()
    candidates = []  # of each split: rows of positives, rows of the others
    for code in range(len(names.dictionary)):
        positives = np.flatnonzero((codes == code) & (label > 0))
        positives = positives[np.argsort(lesion_px[positives], kind="stable")]
        candidates.append((positives, np.flatnonzero((codes == code) & (label <= 0))))
    positives, others = zip(*candidates, strict=True)
    num_others = min(num_images - num_images // 2, sum(map(len, others)))
    num_positives = min(num_images - num_others, sum(map(len, positives)))
    num_others = min(num_images - num_positives, sum(map(len, others)))
    quotas = zip(shared(num_positives, positives), shared(num_others, others), strict=True)
    chosen = []
    for rows, counts in zip(candidates, quotas, strict=True):
        for of_kind, count in zip(rows, counts, strict=True):
            at = np.linspace(0, len(of_kind) - 1, count).round().astype(int)
            chosen += of_kind[at].tolist()
    return chosen


def shared(total: int, groups: Sequence[Sequence]) -> list[int]:
    """How many of `total` each group gives: equal parts, as far as it has them."""
    parts = [0] * len(groups)
    while sum(parts) < total:
        open_groups = [n for n, group in enumerate(groups) if parts[n] < len(group)]
        parts[min(open_groups, key=lambda n: parts[n])] += 1
    return parts


def read(
    folder: Path, content: dict, index: pyarrow.Table, rows: list[int]
) -> list[tuple[str, dict]]:
    """(split, fields) of the chosen rows, in their order; raises InputError where a shard is
    damaged."""
    places = index.select(["split", "shard", "position"]).take(rows).to_pylist()
    wanted = {}
    for place in places:
        wanted.setdefault((place["split"], place["shard"]), set()).add(place["position"])
    found = {}
    for (split, number), positions in wanted.items():
        shards = [shard["name"] for shard in content["shards"] if shard["split"] == split]
        path = folder / manifest.shard_name(content["dataset"], split, number, len(shards))
        try:
            with storage.local(path) as shard, shard.open("rb") as file:
                for position, record in tfrecord.records_at(file, positions):
                    found[split, number, position] = example.decode(record)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: {error}; try python -m lake verify") from None
    return [(p["split"], found[p["split"], p["shard"], p["position"]]) for p in places]


def tile(fields: dict, split: str, names: Sequence[str] = LABELS) -> Image.Image:
    """One image in its default view, its lesion outlined, its caption below."""
    made = Image.new("RGB", (TILE_PX, TILE_PX + CAPTION_PX), BACKGROUND)
    grey = Image.fromarray(to_uint8(_pixels(fields["image"]), fields["window"]))
    scale = TILE_PX / max(grey.size)
    size = tuple(max(1, round(side * scale)) for side in grey.size)
    picture = np.asarray(grey.resize(size, Image.Resampling.LANCZOS).convert("RGB")).copy()
    if fields["lesion_px"] > 0:
        picture[outline(mask_png.decode(fields["mask"]), size)] = _rgb(OUTLINE)
    made.paste(Image.fromarray(picture), ((TILE_PX - size[0]) // 2, (TILE_PX - size[1]) // 2))
    draw = ImageDraw.Draw(made)
    for number, (line, colour) in enumerate(caption(fields, split, names)):
        at = (4, TILE_PX + 4 + number * (LETTER_PX + 4))
        line, font = _fitting(line, TILE_PX - 8)
        draw.text(at, line, fill=colour, font=font)
    return made


def caption(fields: dict, split: str, names: Sequence[str] = LABELS) -> list[tuple[str, str]]:
    """(line, colour): the image's id, on two lines where one is short; split, label and lesion;
    view, sex, age and size."""
    label, lesion_px = fields["label"], fields["lesion_px"]
    state, colour = names[label], (TEXT, OUTLINE, UNKNOWN)[min(label, 1)]
    if label == 1 and names is LABELS:
        percent = 100 * lesion_px / (fields["height"] * fields["width"])
        state += f" · {percent:.2g}% lesion" if fields["has_mask"] else " · no mask"
    age = "" if fields["age"] < 0 else f"{fields['age']} y"
    known = [fields["view"].decode(), fields["sex"].decode(), age]
    size = f"{fields['width']} x {fields['height']}"
    image_id = fields["image_id"].decode(errors="backslashreplace")
    is_long = ImageFont.load_default(LETTER_PX).getlength(image_id) > TILE_PX - 8
    half = -(-len(image_id) // 2) if is_long else len(image_id)
    return [
        *((part, TEXT) for part in (image_id[:half], image_id[half:]) if part),
        (f"{split} · {state}", colour),
        (" · ".join([*filter(None, known), size]), TEXT),
    ]


def to_uint8(pixels: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    low, high = window
    scaled = (pixels.astype(np.float32) - low) / max(high - low, 1e-6)
    return np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def outline(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Where to draw, bool [height, width] of `size` (width, height): the pixels around the lesion,
    so that what is inside stays in sight, however small the lesion is."""
    share = Image.fromarray((mask > 0).astype(np.float32)).resize(size, Image.Resampling.BOX)
    inside = np.pad(np.asarray(share) > 0, 1)
    around = inside.copy()
    for axis in (0, 1):
        around |= np.roll(inside, 1, axis) | np.roll(inside, -1, axis)
    return (around & ~inside)[1:-1, 1:-1]


def compose(tiles: list[Image.Image]) -> Image.Image:
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    across, down = TILE_PX + GAP_PX, TILE_PX + CAPTION_PX + GAP_PX
    sheet = Image.new("RGB", (columns * across + GAP_PX, rows * down + GAP_PX), BACKGROUND)
    for number, drawn in enumerate(tiles):
        at = (GAP_PX + number % columns * across, GAP_PX + number // columns * down)
        sheet.paste(drawn, at)
    return sheet


def _pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def _fitting(line: str, width_px: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """The line in the largest letters that fit; where none do, with its middle left out."""
    for letter_px in range(LETTER_PX, SMALLEST_LETTER_PX - 1, -1):
        font = ImageFont.load_default(letter_px)
        if font.getlength(line) <= width_px:
            return line, font
    for kept in range(len(line) - 1, 0, -1):
        shorter = f"{line[: kept // 2]}…{line[len(line) - (kept - kept // 2) :]}"
        if font.getlength(shorter) <= width_px:
            break
    return shorter, font
