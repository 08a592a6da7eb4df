"""Batches: every record in its turn, the right pixels, the same again after a resume."""

import io
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from lake import InputError, example
from trainer import config, data

SETTINGS = config.Data(side=128, batch_size=4, group_shards=2)


@pytest.fixture(scope="module")
def train_split(lake) -> data.Split:
    return data.split_of(data.open_lake(str(lake)), str(lake), "train")


@pytest.fixture(scope="module")
def stored(train_split) -> list[dict]:
    """The training records in the order of their shards."""
    dataset = tf.data.TFRecordDataset(train_split.paths)
    return [
        {name: value.numpy() for name, value in example.parse(record, example.FIELDS).items()}
        for record in dataset
    ]


def rows(split, seed: int, epochs: int, first_step: int = 0, settings=SETTINGS) -> list[dict]:
    batches = data.training_batches(split, settings, seed, epochs, first_step, num_draws=8)
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


def test_at_stored_size_pixels_and_masks_are_the_records(train_split, stored):
    expected = {}
    for record in stored:
        pixels = tf.io.decode_jpeg(
            record["image"], channels=1, dct_method="INTEGER_ACCURATE"
        ).numpy()
        mask = np.asarray(Image.open(io.BytesIO(record["mask"]))) // 255
        expected[pixels.tobytes()] = (mask, record["label"])
    positives = 0
    for batch in rows(train_split, 0, 1):
        for image, mask, label in zip(batch["image"], batch["mask"], batch["label"], strict=True):
            true_mask, true_label = expected[image.tobytes()]
            assert (mask[..., 0] == true_mask).all() and label == true_label
            positives += label
    assert positives > 0


def test_an_epoch_shows_each_record_at_most_once_and_epochs_differ(train_split):
    per_epoch = data.steps_per_epoch(train_split, SETTINGS)
    batches = rows(train_split, 0, 2)
    assert len(batches) == 2 * per_epoch
    first, second = fingerprints(batches[:per_epoch]), fingerprints(batches[per_epoch:])
    assert max(Counter(first).values()) == 1 == max(Counter(second).values())
    assert first != second and len(set(first)) == per_epoch * 4
    assert fingerprints(rows(train_split, 1, 1)) != first


def test_draws_belong_to_the_record_and_differ_between_epochs(train_split):
    per_epoch = data.steps_per_epoch(train_split, SETTINGS)
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


@pytest.mark.parametrize("first_step", [1, 4, 7, 11])
def test_resuming_gives_the_rest_of_the_same_batches(train_split, first_step):
    whole, rest = rows(train_split, 3, 3), rows(train_split, 3, 3, first_step)
    assert len(rest) == len(whole) - first_step
    for expected, batch in zip(whole[first_step:], rest, strict=True):
        assert all((expected[name] == batch[name]).all() for name in batch)


def test_evaluation_shows_every_record_once_and_pads(train_split, stored):
    settings = SETTINGS.model_copy(update={"batch_size": 5})
    batches = list(
        data.evaluation_batches(train_split, settings, ("image_id",)).as_numpy_iterator()
    )
    weights = np.concatenate([batch["weight"] for batch in batches])
    ids = np.concatenate([batch["image_id"] for batch in batches])
    assert all(len(batch["image"]) == 5 for batch in batches)
    assert weights.sum() == train_split.num_records == len(stored)
    assert list(ids[weights > 0]) == [record["image_id"] for record in stored]
    assert all(
        np.isfinite(batch["window"]).all() and np.ptp(batch["window"], axis=1).min() > 0
        for batch in batches
    )


@pytest.mark.parametrize("side", [32, 64, 80])
def test_smaller_sides_are_near_an_area_average(train_split, stored, side):
    settings = SETTINGS.model_copy(update={"side": side})
    batch = next(data.evaluation_batches(train_split, settings).as_numpy_iterator())
    for number in range(4):
        pixels = Image.open(io.BytesIO(stored[number]["image"]))
        expected = np.asarray(pixels.resize((side, side), Image.Resampling.BOX), float)
        assert np.abs(batch["image"][number, ..., 0] - expected).mean() < 6
        lesion = np.asarray(Image.open(io.BytesIO(stored[number]["mask"]))).mean() / 255
        assert abs(batch["mask"][number].mean() - lesion) < 0.01


@pytest.mark.parametrize(
    ("height", "width", "fit", "box"),
    [
        (100, 100, "pad", (0, 0, 64, 64)),
        (50, 100, "pad", (16, 0, 32, 64)),
        (100, 30, "pad", (0, 22, 64, 19)),
        (50, 100, "stretch", (0, 0, 64, 64)),
    ],
)
def test_fitted_box(height, width, fit, box):
    assert data.fitted_box(height, width, 64, fit) == box
    tensors = data.fitted_box(tf.constant(height), tf.constant(width), 64, fit)
    assert tuple(int(value) for value in tensors) == box


def with_positives(lake, **fields) -> tuple[data.Split, config.Data]:
    settings = SETTINGS.model_copy(update=fields)
    return data.training_split(data.open_lake(str(lake)), str(lake), settings, False), settings


def test_the_split_knows_which_records_are_positive(lake, stored):
    split, _ = with_positives(lake, positives_only=True)
    assert split.is_positive.tolist() == [record["lesion_px"] > 0 for record in stored]


def test_a_share_of_positives_is_drawn_and_repeats_get_draws_of_their_own(lake):
    split, settings = with_positives(lake, positive_share=(0.8, 0.4))
    per_epoch, epochs = data.steps_per_epoch(split, settings), 2
    assert per_epoch == 24 // 4
    batches = rows(split, 0, epochs, settings=settings)
    assert len(batches) == per_epoch * epochs
    for epoch, expected in enumerate((0.8, 0.6)):
        own = batches[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert np.mean([batch["label"] > 0 for batch in own]) == pytest.approx(expected, abs=0.05)
    uniforms = np.concatenate([batch["uniforms"] for batch in batches])
    assert len(np.unique(uniforms, axis=0)) == len(uniforms)
    assert len(set(fingerprints(batches))) < len(uniforms)  # some were drawn more than once
    resumed = rows(split, 0, epochs, first_step=7, settings=settings)
    assert fingerprints(resumed) == fingerprints(batches[7:])


def test_positives_only_shows_each_of_them_once(lake):
    split, settings = with_positives(lake, positives_only=True, batch_size=1)
    batches = rows(split, 0, 1, settings=settings)
    assert len(batches) == data.steps_per_epoch(split, settings) == split.is_positive.sum()
    assert all(batch["mask"].any() and batch["label"] > 0 for batch in batches)
    assert len(set(fingerprints(batches))) == len(batches)


def test_bad_lakes_and_batches_are_input_errors(lake, tmp_path, train_split):
    with pytest.raises(InputError, match="no manifest.json"):
        data.open_lake(str(tmp_path))
    with pytest.raises(InputError, match="no records in split 'holdout'; it has test, train, val"):
        data.split_of(data.open_lake(str(lake)), str(lake), "holdout")
    with pytest.raises(InputError, match="batch_size=64, but the training split has"):
        data.steps_per_epoch(train_split, SETTINGS.model_copy(update={"batch_size": 64}))
