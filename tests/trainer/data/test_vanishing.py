"""What a lake becomes at the network's side: lesions of which nothing is left are counted exactly,
and a run that would have none of them does not begin."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from makers.marks import exhaustive
from makers.members import CLASSIFIER, UNET
from PIL import Image

from lake import InputError
from lake.records import example, manifest, mask_png, tfrecord
from trainer.config.run import Config, Data
from trainer.data import record, splits, vanishing
from trainer.data.vanishing import Counts


def square(height: int, width: int, top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[top : top + side, left : left + side] = 255
    return mask


def is_left(mask: np.ndarray, data: Data) -> bool:
    """As a training item has it, decoded from a whole record."""
    height, width = mask.shape
    image = mask_png.encode_empty(1, 1)
    fields = {"height": height, "width": width, "mask": mask_png.encode(mask), "lesion_px": 1}
    fields |= {"image": image, "encoding": b"png", "has_mask": 1, "label": 1}
    serialised = example.encode(example.UNKNOWN | fields | {"window": (0.0, 1.0)})
    names = ("height", "width", "mask", "lesion_px")
    box = record.box_within(height, width, data.side, data.fit)
    item = record._mask(record.parse_record(serialised, names), box, data.side)
    return bool(tf.reduce_any(item > 0))


def test_a_lesion_vanishes_where_a_training_item_has_none_of_it():
    generator, numbers = np.random.default_rng(0), []
    for number in range(60):
        height, width = generator.integers(20, 300, 2)
        side = int(generator.integers(1, 2 + min(height, width) // (2 + number % 9)))
        top, left = generator.integers(0, (height - side, width - side))
        mask = square(height, width, top, left, side)
        data = Data(side=int(generator.choice([16, 32, 112])), fit=("pad", "stretch")[number % 2])
        actual = vanishing.vanishes(int(height), int(width), mask_png.encode(mask), data)
        assert actual != is_left(mask, data), (height, width, top, left, side, data)
        numbers.append(actual)
    assert 5 < sum(numbers) < 55


def write_lake(folder, masks: dict[str, list[np.ndarray]]):
    """A lake of two shards per split with these masks, its images black."""
    folder.mkdir()
    shards, counts = [], {}
    for split, of_split in masks.items():
        for number, part in enumerate((of_split[::2], of_split[1::2])):
            name = manifest.shard_name("x", split, number, 2)
            with (folder / name).open("wb") as file:
                for mask in part:
                    height, width = mask.shape
                    lesion_px = int((mask > 0).sum())
                    fields = {"height": height, "width": width, "has_mask": 1, "window": (0.0, 1.0)}
                    fields |= {"mask": mask_png.encode(mask), "lesion_px": lesion_px}
                    content = example.encode(example.UNKNOWN | fields)
                    file.writelines(tfrecord.frame(content))
            size = (folder / name).stat().st_size
            shard = dict(
                zip(manifest.SHARD_KEYS, (name, split, len(part), size, name), strict=True)
            )
            shards.append(shard)
        lesions = sum(int((mask > 0).sum()) for mask in of_split)
        counts[split] = {"records": len(of_split), "lesion_pixels": lesions, "positives": 1}
        counts[split] |= {"negatives": 1, "unknown": 0, "with_mask": len(of_split)}
    content = dict.fromkeys(manifest.KEYS, {}) | {"schema_version": 1, "shards": shards}
    content |= {"dataset": "x", "version": "1.0.0", "dtype": "uint8"}
    content["counts"] = dict.fromkeys(manifest.COUNT_KEYS, 0) | {"splits": counts}
    (folder / manifest.MANIFEST).write_text(json.dumps(content))
    return str(folder)


LARGE, SMALL, NONE = square(128, 128, 30, 40, 20), square(128, 128, 3, 3, 2), np.zeros((128, 128))
LINE = square(1, 300, 0, 100, 50)


def config_of(lake: str, model: dict = UNET, **data) -> Config:
    return Config.model_validate({"model": model, "lake": lake, "data": {"side": 32, **data}})


def test_both_splits_are_counted_before_a_run(tmp_path, capsys):
    train = [LARGE, LARGE, *[SMALL] * 6, *[NONE.astype(np.uint8)] * 3, LINE]
    lake = write_lake(tmp_path / "lake", {"train": train, "val": [SMALL, LARGE]})
    (tmp_path / "run").mkdir()
    results = vanishing.check([config_of(lake)], tmp_path / "run")
    (counts,) = results.values()
    assert counts == {"train": Counts(9, 6, 12, 1), "val": Counts(2, 1, 2)}
    printed_lines = capsys.readouterr().out.splitlines()
    assert printed_lines[0].startswith(
        "6 of 9 training masks and 1 of 2 validation masks with a lesion are empty at 32 px"
    )
    assert printed_lines[1].startswith(
        "1 of 12 training images and 0 of 2 validation images are thinner"
    )
    # A repeat counts nothing again, and another side does.
    vanishing.save(tmp_path / "run", results)
    shutil.copy(tmp_path / "lake" / manifest.MANIFEST, tmp_path)
    shutil.rmtree(tmp_path / "lake")
    (tmp_path / "lake").mkdir()
    shutil.copy(tmp_path / manifest.MANIFEST, tmp_path / "lake")
    vanishing.check([config_of(lake)], tmp_path / "run")
    assert capsys.readouterr().out.splitlines() == printed_lines
    with pytest.raises(tf.errors.NotFoundError):
        vanishing.check([config_of(lake, side=64)], tmp_path / "run")


def test_a_run_without_a_lesion_does_not_begin(tmp_path, capsys):
    lake = write_lake(tmp_path / "lake", {"train": [LARGE, SMALL], "val": [SMALL] * 4})
    with pytest.raises(InputError, match="4 of 4 validation masks .* are empty at 32 px.*scored"):
        vanishing.check([config_of(lake)], tmp_path)
    # A later stage is looked at before the first one, and labels stay for a classifier.
    with pytest.raises(InputError, match="4 of 4 validation masks .* are empty at 16 px"):
        vanishing.check([config_of(lake, side=128), config_of(lake, side=16)], tmp_path)
    assert vanishing.check([config_of(lake, CLASSIFIER)], tmp_path) == {}
    assert not capsys.readouterr().out
    other = write_lake(tmp_path / "other", {"train": [SMALL] * 3, "val": [LARGE]})
    with pytest.raises(InputError, match="3 of 3 training masks .* nothing to learn"):
        vanishing.check([config_of(other)], tmp_path)
    # What another lake has is enough, of further lakes too.
    vanishing.check([config_of(other, more_lakes={lake: 1.0})], tmp_path)
    assert "4 of 5 training masks and 0 of 1 validation masks" in capsys.readouterr().out


def test_a_large_lake_is_sampled_until_a_lesion_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(vanishing, "MOST_LESIONS", 3)
    monkeypatch.setattr(vanishing, "CHUNK", 1)
    lake = write_lake(tmp_path / "lake", {"train": [SMALL] * 9 + [LARGE], "val": [LARGE] * 8})
    content = manifest.load(lake)
    counts = [
        vanishing.count(splits.named_split(content, lake, name), config_of(lake).data)
        for name in ("train", "val")
    ]
    assert counts[0].num_lesions - counts[0].num_empty == 1  # looked for until it was there
    assert counts[1] == Counts(3, 0, 3, 0, is_sample=True)
    lines = list(vanishing.lines({"train": counts[0]._replace(is_sample=True)}, 32))
    assert f"{counts[0].num_empty} of the first {counts[0].num_lesions} training masks" in lines[0]


@exhaustive
def test_scribbles_vanish_as_training_items_do():
    generator = np.random.default_rng(1)
    for number in range(1500):
        height, width = (int(side) for side in generator.integers(8, 200, 2))
        small = generator.random((height // 4 + 1, width // 4 + 1)) < generator.choice([0.01, 0.2])
        scribble = Image.fromarray(small.astype(np.uint8) * 255).resize((width, height), 0)
        mask = np.asarray(scribble)
        if number % 2:
            mask = square(height, width, *generator.integers(0, 8, 2), 1 + number % 5)
        if not mask.any():
            continue
        side, fit = (
            int(generator.choice([16, 32, 48, 112, 256])),
            ("pad", "stretch")[number % 3 > 0],
        )
        data = Data(side=side, fit=fit)
        actual = vanishing.vanishes(height, width, mask_png.encode(mask), data)
        assert actual != is_left(mask, data), (number, height, width, data)
