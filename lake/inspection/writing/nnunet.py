"""A lake as a data set of nnU-Net v2: dataset.json, imagesTr, labelsTr, imagesTs, labelsTs, and
splits_final.json, which keeps patients together.

train and val become cases to train on, other splits those to test on. A case to train on needs a
mask, so an image whose mask is unknown is left out there, and a row of table.csv without a file.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from lake import InputError, picture
from lake.inspection.writing import table
from lake.inspection.writing.counts import Counts
from lake.inspection.writing.shards import Record, Shard
from lake.records import manifest

FOLDER = re.compile(r"Dataset\d{3}_\w[\w-]*", re.ASCII)
CHANNEL = "_0000"  # behind the name of a case
ENDING = ".png"
READER = "NaturalImage2DIO"
CT = "CT"  # the name of a channel that nnU-Net normalises as Hounsfield units


def check(output: Path, content: dict, splits: Sequence[str]) -> None:
    """Raise InputError where nnU-Net would not take the folder, or has nothing to train on."""
    if not FOLDER.fullmatch(output.name):
        raise InputError(
            f"--output={output}: nnU-Net takes a folder DatasetNNN_NAME in nnUNet_raw, such as "
            f"Dataset501_{re.sub(r'[^A-Za-z0-9_-]', '_', content['dataset'])}"
        )
    counts = content["counts"]["splits"]
    if not any(counts[split].get("with_mask", 1) for split in splits if split in manifest.FOLDED):
        names = " or ".join(manifest.FOLDED)
        raise InputError(
            f"--split: nnU-Net needs cases to train on, images of {names} whose mask is known"
        )


def write(output: Path, content: dict, shards: Iterable[Shard]) -> Counts:
    """Write the records of the shards into the folder; return how many."""
    counts, modalities = Counts(), set()
    cases = []  # (name, split, fold) of each case to train on, as nnU-Net itself holds them
    with table.create(output, content) as add_row:
        for shard in shards:
            is_to_train = shard.split in manifest.FOLDED
            for record in shard.records:
                has_mask = record.mask is not None
                is_left_out = is_to_train and not has_mask
                counts.add(shard.split, record, is_left_out)
                paths = ("", "") if is_left_out else _write_case(output, record, is_to_train)
                add_row(record, shard.split, *paths)
                if is_to_train and has_mask:
                    name = table.file_name(record, "")
                    cases.append((name, shard.split, record.fields["fold"]))
                    modalities.add(record.fields["modality"].decode())
    _write_json(output / "dataset.json", _dataset(content, len(cases), modalities))
    if splits := _splits(cases):
        _write_json(output / "splits_final.json", splits)
    return counts


def _write_case(output: Path, record: Record, is_to_train: bool) -> tuple[str, str]:
    """Write the image of a case, and its mask where it is known; return their paths, "" where there
    is none."""
    part = "Tr" if is_to_train else "Ts"
    image = f"images{part}/{table.file_name(record, CHANNEL + ENDING)}"
    contents, mask = {image: record.to_png()}, ""
    if record.mask is not None:
        mask = f"labels{part}/{table.file_name(record, ENDING)}"
        contents[mask] = picture.to_png((record.mask > 0).astype(np.uint8))
    for path, data in contents.items():
        (output / path).parent.mkdir(exist_ok=True)
        (output / path).write_bytes(data)
    return image, mask


def _dataset(content: dict, num_cases: int, modalities: set[str]) -> dict:
    """Return the content of dataset.json."""
    title = f"{content['dataset']} {content['version']}"
    return {
        "channel_names": {"0": CT if modalities == {CT} else "grey"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": num_cases,
        "file_ending": ENDING,
        "overwrite_image_reader_writer": READER,
        "name": title,
        "description": f"{title}, written by radlake",
    }


def _splits(cases: list[tuple[str, str, int]]) -> list[dict]:
    """Return nnU-Net's folds of the cases (name, split, fold): the lake's folds, or else one with
    its train and val; none where that leaves one side empty."""
    folds = sorted({fold for _, _, fold in cases} - {-1})
    if len(folds) > 1:
        sides = [[fold == number for _, _, fold in cases] for number in folds]
    else:
        sides = [[split == "val" for _, split, _ in cases]]
    result = []
    for is_val in sides:
        if any(is_val) and not all(is_val):
            pair = {"train": [], "val": []}
            for (name, _, _), is_in_val in zip(cases, is_val, strict=True):
                pair["val" if is_in_val else "train"].append(name)
            result.append(pair)
    return result


def _write_json(path: Path, content: dict | list) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
