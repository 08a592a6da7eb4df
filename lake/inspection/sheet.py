"""A contact sheet of a lake: images of both classes from every split, lesions outlined.

In: folder, manifest and index. Out: a PNG. The index alone decides which images are on it.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow
from PIL import Image, ImageColor

from lake import InputError, picture, storage
from lake.records import example, index, manifest, mask_png, tfrecord
from lake.terminal import cli

NUM_IMAGES, COLUMNS = 24, 6
TILE_PX, GAP_PX, LINE_PX, LETTER_PX = 320, 12, 20, 15
CAPTION_PX = 4 * LINE_PX
BACKGROUND, TEXT, OUTLINE, UNKNOWN = "#101418", "#e6e9ec", "#2ee6a8", "#ffb454"
SPECK = 1e-6  # share of a pixel of the sheet that a lesion must cover to be outlined
LABELS = ("negative", "positive", "unknown")  # by label, without class folders


def write(folder: Path, content: dict, records: pyarrow.Table, path: Path) -> int:
    """Draw the sheet of the index's rows `records` into `path`; return how many images it has.
    `content` is the manifest of the lake in `folder`. Raises InputError."""
    if not len(records):
        raise InputError(f"{folder}: no records to draw")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--sheet={path}: no folder {path.parent}")
    images = read(folder, content, records.take(choose(records)))
    names = (*manifest.class_titles(content["classes"]), "") if "classes" in content else LABELS
    findings = manifest.findings(content)
    tiles = [tile(fields, split, names, findings) for split, fields in images]
    grid = picture.grid(tiles, min(COLUMNS, len(tiles)), GAP_PX, BACKGROUND)
    title = picture.title(
        f"{content['dataset']} {content['version']}",
        f"{len(tiles)} of {len(records):,} images: both classes of every split",
        "in colour: the findings" if findings else "outlined: the true mask",
    )
    sheet = picture.with_title(grid, title, LETTER_PX, colours=(TEXT, BACKGROUND))
    with storage.whole_file(path) as unfinished_path:
        Image.fromarray(sheet).save(unfinished_path, "PNG")
    return len(tiles)


def choose(records: pyarrow.Table, num_images: int = NUM_IMAGES) -> list[int]:
    """Return the rows of the index to draw: half of them positives, spread over the splits as
    evenly as possible; in each split positives evenly along their sizes, smallest first, then the
    others evenly along the split."""
    split, label, lesion_px = (records[name].to_numpy() for name in ("split", "label", "lesion_px"))
    by_size = np.argsort(lesion_px, kind="stable")
    positives, others = [], []  # per split: rows of positives by size, rows of the others
    for name in records["split"].unique().to_pylist():
        positives.append(by_size[((split == name) & (label > 0))[by_size]])
        others.append(np.flatnonzero((split == name) & (label <= 0)))
    # Half of the sheet each; where one kind is short, the other takes its room.
    num_others = min(num_images - num_images // 2, sum(map(len, others)))
    num_positives = min(num_images - num_others, sum(map(len, positives)))
    num_others = min(num_images - num_positives, sum(map(len, others)))
    positive_counts, other_counts = shares(num_positives, positives), shares(num_others, others)
    rows = []
    for group in zip(positives, positive_counts, others, other_counts, strict=True):
        for kind, count in (group[:2], group[2:]):
            rows += kind[np.linspace(0, len(kind) - 1, count).round().astype(int)].tolist()
    return rows


def shares(total: int, groups: Sequence[Sequence]) -> list[int]:
    """Return the number of `total` that each group gives: equal ones, as far as each has enough."""
    counts = [0] * len(groups)
    while sum(counts) < total:
        open_groups = [n for n, group in enumerate(groups) if counts[n] < len(group)]
        counts[min(open_groups, key=lambda n: counts[n])] += 1
    return counts


def read(folder: Path, content: dict, records: pyarrow.Table) -> list[tuple[str, dict]]:
    """Return (split, fields) of the records in these rows of the index, in their order; raises
    InputError where a shard is damaged."""
    places = [tuple(place.values()) for place in records.select(index.PLACE).to_pylist()]
    positions_by_shard = {}  # (split, shard) -> the positions to read in it
    for split, number, position in places:
        positions_by_shard.setdefault((split, number), set()).add(position)
    num_findings = len(manifest.findings(content))
    fields_by_place, num_shards = {}, manifest.num_shards(content)
    for (split, number), positions in positions_by_shard.items():
        name = manifest.shard_name(content["dataset"], split, number, num_shards[split])
        path = folder / name
        try:
            with storage.local(path) as shard, shard.open("rb") as file:
                for position, record in tfrecord.records_at(file, positions):
                    fields_by_place[split, number, position] = example.decode(record, num_findings)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: {error}; try {cli.typed_command('lake verify')}") from None
    return [(place[0], fields_by_place[place]) for place in places]


def tile(
    fields: dict, split: str, names: Sequence[str] = LABELS, findings: Sequence[str] = ()
) -> np.ndarray:
    """Return a record's image in its default view, its lesion outlined, above its caption; RGB
    [TILE_PX + CAPTION_PX, TILE_PX, 3]."""
    pixels = np.empty((TILE_PX + CAPTION_PX, TILE_PX, 3), np.uint8)
    pixels[:] = ImageColor.getrgb(BACKGROUND)
    with Image.open(io.BytesIO(fields["image"])) as image:
        grey = to_uint8(np.asarray(image), fields["window"])
    height, width = (max(1, round(side * TILE_PX / max(grey.shape))) for side in grey.shape)
    rgb = picture.to_rgb(picture.resize(grey, height, width))
    if fields["lesion_px"] > 0:
        mask = picture.resize_mask(mask_png.decode(fields["mask"]), height, width, SPECK)
        # Around the lesion, so that it stays in sight, however small it is.
        rgb[picture.outline(mask, is_around=True)] = ImageColor.getrgb(OUTLINE)
    top, left = (TILE_PX - height) // 2, (TILE_PX - width) // 2
    pixels[top : top + height, left : left + width] = rgb
    for number, (line, colour) in enumerate(caption(fields, split, names, findings)):
        top, size = TILE_PX + number * LINE_PX, (LINE_PX, TILE_PX)
        strip = picture.caption(line, size, LETTER_PX, colours=(colour, BACKGROUND))
        pixels[top : top + LINE_PX] = strip
    return pixels


def caption(
    fields: dict, split: str, names: Sequence[str] = LABELS, findings: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Return (line, colour) pairs, at most four: the image's id, on two lines where it is long;
    split, label and lesion, or the findings that are present; view, sex, age and size."""
    label, lesion_px = fields["label"], fields["lesion_px"]
    state, colour = names[label], (TEXT, OUTLINE, UNKNOWN)[min(label, 1)]
    if label == 1 and names is LABELS:
        percent = 100 * lesion_px / (fields["height"] * fields["width"])
        state += f" · {percent:.2g}% lesion" if fields["has_mask"] else " · no mask"
    if findings and label == 1:
        state = _present(fields[example.FINDINGS], findings, f"{split} · ")
    age = "" if fields["age"] < 0 else f"{fields['age']} y"
    size = f"{fields['width']} x {fields['height']}"
    texts = filter(None, [fields["view"].decode(), fields["sex"].decode(), age, size])
    image_id = fields["image_id"].decode(errors="backslashreplace")
    is_long = picture.text_px(image_id, LETTER_PX) > TILE_PX - 2 * picture.INDENT_PX
    half = -(-len(image_id) // 2) if is_long else len(image_id)
    return [
        *((part, TEXT) for part in (image_id[:half], image_id[half:]) if part),
        (f"{split} · {state}", colour),
        (" · ".join(texts), TEXT),
    ]


def _present(values: Sequence[int], findings: Sequence[str], start: str) -> str:
    """Return the names of the findings that are 1, as many as fit a line behind its `start`, and
    the number of the others."""
    names = [name for name, value in zip(findings, values, strict=True) if value == 1]
    for count in range(len(names), 0, -1):
        more = f" +{len(names) - count}" if count < len(names) else ""
        text = ", ".join(names[:count]) + more
        if picture.text_px(start + text, LETTER_PX) <= TILE_PX - 2 * picture.INDENT_PX:
            break
    return text


def to_uint8(pixels: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Return stored values as they look through a window (low, high): 0 to 255."""
    low, high = window
    return picture.to_uint8(np.clip((pixels - np.float32(low)) / max(high - low, 1e-6), 0, 1))
