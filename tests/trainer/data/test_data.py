"""Batches: every record in its turn, the right pixels, the same again after a resume."""

import dataclasses
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from makers.marks import exhaustive
from makers.runs import SMALL, task
from PIL import Image

from beam import synthetic
from lake import InputError
from lake.records import example, manifest
from trainer.config.run import Config, Data
from trainer.data import order, splits
from trainer.data.batches import Split, evaluation_batches, training_batches
from trainer.data.record import box_within, parse_record

SETTINGS = Data(side=128, batch_size=4, group_shards=2)


@pytest.fixture(scope="module")
def train_split(lake) -> Split:
    return splits.named_split(manifest.load(str(lake)), str(lake), "train")


@pytest.fixture(scope="module")
def records(train_split) -> list[dict]:
    """The training records in the order of their shards."""
    dataset = tf.data.TFRecordDataset(train_split.paths)
    return [
        {name: value.numpy() for name, value in parse_record(record, example.FIELDS).items()}
        for record in dataset
    ]


def rows(split, seed: int, epochs: int, first_step: int = 0, settings=SETTINGS) -> list[dict]:
    batches = training_batches(split, settings, seed, epochs, first_step, num_draws=8)
    return [{name: v.numpy() for name, v in batch.items()} for batch in batches]


def fingerprints(batches: list[dict]) -> list[int]:
    return [image.tobytes().__hash__() for batch in batches for image in batch["image"]]


def test_batches_have_the_stated_shapes_and_types(train_split):
    batch = rows(train_split, 0, 1)[0]
    assert {name: (value.shape, value.dtype.name) for name, value in batch.items()} == {
        "image": ((4, 128, 128, 1), "uint8"),
        "mask": ((4, 128, 128, 1), "uint8"),
        "window": ((4, 2), "float32"),
        "label": ((4,), "float32"),
        "has_mask": ((4,), "float32"),
        "weight": ((4,), "float32"),
        "uniforms": ((4, 8), "float32"),
    }


def test_at_stored_size_pixels_and_masks_are_the_records(train_split, records):
    expected = {}
    for record in records:
        pixels = tf.io.decode_jpeg(
            record["image"], channels=1, dct_method="INTEGER_ACCURATE"
        ).numpy()
        mask = np.asarray(Image.open(io.BytesIO(record["mask"])))
        expected[pixels.tobytes()] = (mask, record["label"])
    positives = 0
    for batch in rows(train_split, 0, 1):
        for image, mask, label in zip(batch["image"], batch["mask"], batch["label"], strict=True):
            true_mask, true_label = expected[image.tobytes()]
            assert (mask[..., 0] == true_mask).all() and label == true_label
            positives += label
    assert positives > 0


def test_an_epoch_shows_each_record_at_most_once_and_epochs_differ(train_split):
    per_epoch = order.steps_per_epoch(train_split, SETTINGS)
    batches = rows(train_split, 0, 2)
    assert len(batches) == 2 * per_epoch
    first, second = fingerprints(batches[:per_epoch]), fingerprints(batches[per_epoch:])
    assert max(Counter(first).values()) == 1 == max(Counter(second).values())
    assert first != second and len(set(first)) == per_epoch * 4
    assert fingerprints(rows(train_split, 1, 1)) != first


def test_draws_belong_to_the_record_and_differ_between_epochs(train_split):
    per_epoch = order.steps_per_epoch(train_split, SETTINGS)
    batches = rows(train_split, 0, 2)
    draws = [draw for batch in batches for draw in batch["uniforms"]]
    assert len({draw.tobytes() for draw in draws}) == len(draws)
    assert np.min(draws) >= 0 and np.max(draws) < 1 and abs(np.mean(draws) - 0.5) < 0.05
    # Read with other groups the order changes, but a record keeps its draws.
    other = rows(train_split, 0, 1, settings=SETTINGS.model_copy(update={"group_shards": 4}))
    pairs = [
        {
            image.tobytes(): draw.tobytes()
            for batch in part
            for image, draw in zip(batch["image"], batch["uniforms"], strict=True)
        }
        for part in (batches[:per_epoch], other)
    ]
    common = pairs[0].keys() & pairs[1].keys()
    assert common and all(pairs[0][key] == pairs[1][key] for key in common)


@pytest.mark.parametrize("first_step", [4, 11])
def test_resuming_gives_the_rest_of_the_same_batches(train_split, first_step):
    whole, rest = rows(train_split, 3, 3), rows(train_split, 3, 3, first_step)
    assert len(rest) == len(whole) - first_step
    for expected, batch in zip(whole[first_step:], rest, strict=True):
        assert all((expected[name] == batch[name]).all() for name in batch)


def test_evaluation_shows_every_record_once_and_pads(train_split, records):
    settings = SETTINGS.model_copy(update={"batch_size": 5})
    batches = list(evaluation_batches(train_split, settings, ("image_id",)).as_numpy_iterator())
    weights = np.concatenate([batch["weight"] for batch in batches])
    ids = np.concatenate([batch["image_id"] for batch in batches])
    assert all(len(batch["image"]) == 5 for batch in batches)
    assert weights.sum() == train_split.num_records == len(records)
    assert list(ids[weights > 0]) == [record["image_id"] for record in records]
    assert all(
        np.isfinite(batch["window"]).all() and np.ptp(batch["window"], axis=1).min() > 0
        for batch in batches
    )


@pytest.mark.parametrize("side", [32, 64, 80])
def test_smaller_sides_are_near_an_area_average(train_split, records, side):
    settings = SETTINGS.model_copy(update={"side": side})
    batch = next(evaluation_batches(train_split, settings).as_numpy_iterator())
    for number in range(4):
        pixels = Image.open(io.BytesIO(records[number]["image"]))
        expected = np.asarray(pixels.resize((side, side), Image.Resampling.BOX), float)
        assert np.abs(batch["image"][number, ..., 0] - expected).mean() < 6
        lesion = np.asarray(Image.open(io.BytesIO(records[number]["mask"]))).mean()
        assert abs(batch["mask"][number].mean() - lesion) < 0.01


@pytest.mark.parametrize(
    ("height", "width", "fit", "box"),
    [
        (100, 100, "pad", (0, 0, 64, 64)),
        (50, 100, "pad", (16, 0, 32, 64)),
        (100, 30, "pad", (0, 22, 64, 19)),
        (50, 100, "stretch", (0, 0, 64, 64)),
        (1, 300, "pad", (31, 0, 1, 64)),
    ],
)
def test_the_box_of_an_image_within_a_square(height, width, fit, box):
    assert box_within(height, width, 64, fit) == box
    tensors = box_within(tf.constant(height), tf.constant(width), 64, fit)
    assert tuple(int(value) for value in tensors) == box


def with_positives(lake, **fields) -> tuple[Split, Data]:
    settings = SETTINGS.model_copy(update=fields)
    lakes = splits.open_lakes(str(lake), settings)
    return splits.training_split(lakes, str(lake), settings, False), settings


def test_the_split_knows_which_records_are_positive(lake, records):
    split, _ = with_positives(lake, positives_only=True)
    assert (split.kinds == order.POSITIVE).tolist() == [
        record["lesion_px"] > 0 for record in records
    ]


def test_a_share_of_positives_is_drawn_and_repeats_get_draws_of_their_own(lake):
    split, settings = with_positives(lake, positive_share=(0.8, 0.4))
    per_epoch, epochs = order.steps_per_epoch(split, settings), 2
    assert per_epoch == 24 // 4
    batches = rows(split, 0, epochs, settings=settings)
    assert len(batches) == per_epoch * epochs
    for epoch, expected in enumerate((0.8, 0.6)):
        epoch_batches = batches[epoch * per_epoch : (epoch + 1) * per_epoch]
        share = np.mean([batch["label"] > 0 for batch in epoch_batches])
        assert share == pytest.approx(expected, abs=0.05)
    uniforms = np.concatenate([batch["uniforms"] for batch in batches])
    assert len(np.unique(uniforms, axis=0)) == len(uniforms)
    assert len(set(fingerprints(batches))) < len(uniforms)  # some were drawn more than once
    resumed = rows(split, 0, epochs, first_step=7, settings=settings)
    assert fingerprints(resumed) == fingerprints(batches[7:])


def test_positives_only_shows_each_of_them_once(lake):
    split, settings = with_positives(lake, positives_only=True, batch_size=1)
    batches = rows(split, 0, 1, settings=settings)
    assert (
        len(batches)
        == order.steps_per_epoch(split, settings)
        == (split.kinds == order.POSITIVE).sum()
    )
    assert all(batch["mask"].any() and batch["label"] > 0 for batch in batches)
    assert len(set(fingerprints(batches))) == len(batches)


@pytest.fixture(scope="module")
def folded(phantoms, convert, tmp_path_factory) -> Path:
    """24 + 8 records in four folds, whose shards hold several folds each, and 8 to test on."""
    folder = tmp_path_factory.mktemp("lakes") / "folded" / "1.0.0"
    options = ["--splits=train=0.6,val=0.2,test=0.2", "--folds=4", "--shard_images=5"]
    convert(phantoms / "dicom" / "*.dcm", phantoms / "train-rle.csv", folder, *options)
    return folder


def folds_of(folder) -> dict[bytes, int]:
    """{image_id: fold} of train and val, as the records themselves say it."""
    paths = [str(path) for path in folder.glob("*.tfrecord-*") if "-test." not in path.name]
    records = [parse_record(r, ("image_id", "fold")) for r in tf.data.TFRecordDataset(paths)]
    return {record["image_id"].numpy(): int(record["fold"]) for record in records}


def fold_splits(folder, **fields) -> tuple[Split, Split, Data]:
    settings = SETTINGS.model_copy(update=fields)
    content = manifest.load(str(folder))
    return (
        splits.training_split([content], str(folder), settings, False),
        splits.validation_split(content, str(folder), settings),
        settings,
    )


def ids_of(split) -> list[bytes]:
    batches = evaluation_batches(split, SETTINGS, ("image_id", "fold", "label"))
    items = batches.unbatch().filter(lambda item: item["weight"] > 0)
    return [item["image_id"] for item in items.as_numpy_iterator()]


@pytest.mark.parametrize("fold", [3])
def test_a_fold_is_held_out_of_train_and_val(folded, fold):
    truth = folds_of(folded)
    train, held_out, _ = fold_splits(folded, fold=fold)
    assert sorted(ids_of(held_out)) == sorted(name for name in truth if truth[name] == fold)
    assert sorted(ids_of(train)) == sorted(name for name in truth if truth[name] != fold)
    assert train.num_records + held_out.num_records == len(truth) == 32
    assert held_out.counts["records"] == held_out.num_records
    assert min(held_out.counts["positives"], held_out.counts["negatives"]) > 0


def test_an_epoch_of_the_other_folds_shows_each_of_their_records_once(folded):
    train, held_out, settings = fold_splits(folded, fold=1, batch_size=1)
    batches = rows(train, 0, 2, settings=settings)
    per_epoch = order.steps_per_epoch(train, settings)
    assert per_epoch == train.num_records and len(batches) == 2 * per_epoch
    padded_batches = evaluation_batches(train, settings).as_numpy_iterator()
    expected = Counter(fingerprints(padded_batches))
    assert Counter(fingerprints(batches[:per_epoch])) == expected
    assert Counter(fingerprints(batches[per_epoch:])) == expected
    held_out_prints = fingerprints(evaluation_batches(held_out, settings).as_numpy_iterator())
    assert not expected.keys() & set(held_out_prints)
    resumed = rows(train, 0, 2, first_step=per_epoch + 5, settings=settings)
    assert fingerprints(resumed) == fingerprints(batches[per_epoch + 5 :])


def test_a_share_of_positives_is_drawn_of_the_other_folds_alone(folded):
    train, held_out, settings = fold_splits(
        folded, fold=1, positive_share=(0.6, 0.6), group_shards=8
    )
    batches = rows(train, 0, 4, settings=settings)
    assert len(batches) == 4 * (train.num_records // 4)
    shares = [batch["label"] > 0 for batch in batches]
    assert np.mean(shares) == pytest.approx(0.6, abs=0.06)
    held_out_prints = fingerprints(evaluation_batches(held_out, SETTINGS).as_numpy_iterator())
    assert not set(fingerprints(batches)) & set(held_out_prints)
    assert fingerprints(rows(train, 0, 4, 9, settings)) == fingerprints(batches[9:])
    only, _, settings = fold_splits(folded, fold=1, positives_only=True, batch_size=1)
    assert order.steps_per_epoch(only, settings) == train.counts["positives"]


@pytest.mark.slow
@exhaustive
def test_a_run_with_a_fold_is_scored_on_it(folded, tmp_path):
    workdir = tmp_path / "run"
    process = task("train", "--lake", folded, "--workdir", workdir, *SMALL, "--data.fold=2")
    assert process.returncode == 0, process.stderr
    sizes = Counter(folds_of(folded).values())
    parts = f"; {32 - sizes[2]} images to train on; {sizes[2]} images to validate on"
    assert parts in process.stdout
    evaluation = task("evaluate", "--workdir", workdir)
    assert evaluation.returncode == 0, evaluation.stderr
    splits = json.loads((workdir / "metrics.json").read_text())["evaluate"]["splits"]
    assert {name: split["images"] for name, split in splits.items()} == {
        "fold 2": sizes[2],
        "test": 8,
    }


def test_folds_that_are_not_there_are_input_errors(lake, folded):
    with pytest.raises(InputError, match="has no folds, data.fold=2 .* convert it again with --fo"):
        fold_splits(lake, fold=2)
    with pytest.raises(InputError, match="data.fold=4: .* has the folds 0 to 3; give one of them"):
        fold_splits(folded, fold=4)


@pytest.fixture(scope="module")
def other_lake(convert, tmp_path_factory) -> Path:
    """24 other phantoms, all of them to train on but two."""
    folder = tmp_path_factory.mktemp("others")
    synthetic.write(folder, images=24, seed=7, side=128, positive_share=0.4)
    lake = folder / "others" / "1.0.0"
    options = ["--splits=train=0.9,val=0.1", "--shard_images=3"]
    convert(folder / "dicom" / "*.dcm", folder / "train-rle.csv", lake, *options)
    return lake


def two_lakes(lake, other_lake, weight: float, **fields) -> tuple[Split, Data]:
    return with_positives(lake, more_lakes={str(other_lake): weight}, batch_size=1, **fields)


@pytest.mark.parametrize("weight", [pytest.param(0.5, marks=exhaustive), 2.75])
def test_an_epoch_draws_from_two_lakes_by_weight(lake, other_lake, train_split, weight):
    split, settings = two_lakes(lake, other_lake, weight)
    batches = rows(split, 0, 2, settings=settings)
    first_lake = set(fingerprints(evaluation_batches(train_split, SETTINGS).as_numpy_iterator()))
    others = splits.named_split(manifest.load(str(other_lake)), str(other_lake), "train")
    per_epoch = 24 + round(24 * weight)
    assert len(batches) == 2 * per_epoch and others.num_records == 22
    for epoch in range(2):
        counts = Counter(fingerprints(batches[epoch * per_epoch : (epoch + 1) * per_epoch]))
        first_counts = [count for name, count in counts.items() if name in first_lake]
        other_counts = [count for name, count in counts.items() if name not in first_lake]
        assert first_counts == [1] * 24 and sum(other_counts) == per_epoch - 24
        # All as often, but for what a group's part of the draws is rounded to.
        assert len(other_counts) == (22 if weight > 1 else 12)
        assert set(other_counts) <= ({2, 3, 4} if weight > 1 else {1})
    uniforms = np.concatenate([batch["uniforms"] for batch in batches])
    assert len(np.unique(uniforms, axis=0)) == len(uniforms)
    resumed = rows(split, 0, 2, first_step=per_epoch + 7, settings=settings)
    assert fingerprints(resumed) == fingerprints(batches[per_epoch + 7 :])


def test_two_lakes_alternate_within_an_epoch_and_share_positives(lake, other_lake, train_split):
    split, settings = two_lakes(lake, other_lake, 1, positive_share=(0.5, 0.5), group_shards=3)
    batches = rows(split, 0, 1, settings=settings)
    first_lake = set(fingerprints(evaluation_batches(train_split, SETTINGS).as_numpy_iterator()))
    is_first = np.array([name in first_lake for name in fingerprints(batches)])
    assert len(batches) == 48 and is_first.sum() == 24
    assert 6 <= is_first[:24].sum() <= 18  # neither lake waits for the other's end
    assert np.mean([batch["label"] for batch in batches]) == pytest.approx(0.5, abs=0.1)
    assert split.counts["records"] == 46 == split.num_records
    only, settings = two_lakes(lake, other_lake, 0.5, positives_only=True)
    positives = train_split.counts["positives"]
    assert order.steps_per_epoch(only, settings) == positives + round(positives / 2)


def test_lakes_that_do_not_go_together_are_input_errors(lake, tmp_path):
    deep, classes = tmp_path / "deep", tmp_path / "classes"
    for folder, other_fields in (
        (deep, {"dtype": "uint16"}),
        (classes, {"classes": ["a", "b", "c"]}),
    ):
        folder.mkdir()
        content = json.loads((lake / "manifest.json").read_text()) | other_fields
        (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"{deep} has uint16 images, {lake} uint8; convert"):
        two_lakes(lake, deep, 1)
    with pytest.raises(InputError, match=f"{classes} has the classes a, b, c, {lake} 0, 1"):
        two_lakes(lake, classes, 1)


def test_bad_lakes_and_batches_are_input_errors(lake, tmp_path, train_split):
    with pytest.raises(InputError, match="no manifest.json"):
        manifest.load(str(tmp_path))
    message = "no records in split 'holdout'; it has test, train, val: use one of these, or convert"
    with pytest.raises(InputError, match=message):
        splits.named_split(manifest.load(str(lake)), str(lake), "holdout")
    message = "batch_size=64, but the training split has 24 records; give a --data.batch_size of 24"
    with pytest.raises(InputError, match=message):
        order.steps_per_epoch(train_split, SETTINGS.model_copy(update={"batch_size": 64}))


def val_split_with(split: Split, negatives: int, positives: int) -> Split:
    counts = {"negatives": negatives, "positives": positives, "lesion_pixels": 50 * positives}
    return dataclasses.replace(split, name="val", counts=counts)


def test_a_split_of_one_kind_of_images_is_an_error_or_is_said(train_split, capsys):
    segmenter, classifier = (Config(model={"kind": kind}) for kind in ("unet", "classifier"))
    only_negatives, only_positives = (
        val_split_with(train_split, 3, 0),
        val_split_with(train_split, 0, 3),
    )
    message = "split 'val' has no mask with a lesion to choose epochs and thresholds on"
    with pytest.raises(InputError, match=message):
        splits.check_labels(segmenter, train_split, only_negatives)
    for split, numbers in ((only_negatives, "3, 0"), (only_positives, "0, 3")):
        with pytest.raises(InputError, match=f"images of each class, 0 to 1; it has {numbers}"):
            splits.check_labels(classifier, train_split, split)
    splits.check_labels(segmenter, train_split, val_split_with(train_split, 3, 3))
    assert not capsys.readouterr().out
    splits.check_labels(segmenter, train_split, only_positives)
    assert capsys.readouterr().out.startswith("every image of val shows a lesion: its AUC has no")
