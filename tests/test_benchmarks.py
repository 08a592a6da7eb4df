"""What the benchmarks on real data compute before and behind the training."""

import csv
import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from lake.labels import rle

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import peer
import real
import torchvision_weights

from trainer.augmentation import augment, warp
from trainer.config.augmentation import Augment


def first_layers(epsilon: float) -> keras.Model:
    """Return MobileNetV2's first convolution and its norm, with the layers' names there."""
    x = images = keras.Input((17, 17, 3))
    x = keras.layers.Conv2D(4, 3, 2, "valid", use_bias=False, name="Conv1")(x)
    x = keras.layers.BatchNormalization(epsilon=epsilon, name="bn_Conv1")(x)
    return keras.Model(images, x)


def test_weights_of_torchvision_give_the_same_features_for_keras_pixels():
    """Also where a channel's variance is as small as an epsilon."""
    theirs, ours = first_layers(1e-5), first_layers(1e-3)
    rng = np.random.default_rng(0)
    for layer in theirs.layers[1:]:
        layer.set_weights([np.float32(rng.random(w.shape)) for w in layer.get_weights()])
    gamma, beta, mean, variance = theirs.get_layer("bn_Conv1").get_weights()
    variance[0] = 2e-5
    theirs.get_layer("bn_Conv1").set_weights([gamma, beta, mean, variance])
    tensors = {layer.name: layer.get_weights() for layer in theirs.layers[1:]}
    for name, values in torchvision_weights.for_keras(tensors).items():
        ours.get_layer(name).set_weights(values)
    p = rng.random((2, 17, 17, 3))
    standardised = (p - torchvision_weights.MEAN) / torchvision_weights.DEVIATION
    expected = theirs(np.float32(standardised))
    np.testing.assert_allclose(ours(np.float32(2 * p - 1)), expected, rtol=1e-4, atol=1e-3)


def test_labels_of_real_masks_have_the_split_that_source_and_id_give(tmp_path):
    mask = np.zeros((8, 6), np.uint8)
    mask[2:5, 1:3] = 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).convert("1").save(tmp_path / "masks" / "b.png")
    lines = ["ImageId,positive,source", "a,0,train", "b,1,stage1-test", "c,0,stage1-test"]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    real.write_labels(tmp_path, tmp_path / "out" / "labels.csv")
    with (tmp_path / "out" / "labels.csv").open(newline="") as file:
        rows = {row["ImageId"]: row for row in csv.DictReader(file)}
    # SHA-256 of b, 3e23…009d, is 2 modulo 3, and that of c, 2e7d…efc6, is 1.
    assert [rows[name]["split"] for name in "abc"] == ["train", "test", "val"]
    assert rows["a"]["EncodedPixels"] == rows["c"]["EncodedPixels"] == rle.EMPTY
    assert (rle.decode(rows["b"]["EncodedPixels"], 8, 6) > 0).tolist() == (mask > 0).tolist()
    (tmp_path / "labels.csv").write_text("ImageId,positive,source\nb,0,stage1-test")
    with pytest.raises(SystemExit, match="positive=0"):
        real.write_labels(tmp_path, tmp_path / "out" / "labels.csv")


def row_of(path: Path, title: str, p: np.ndarray, dice: np.ndarray, truths: list) -> real.Row:
    """Return a row of a run whose images have these values."""
    lines = ["image_id,truth,p_of_lesion,dice"]
    lines += [f"i{n},{truths[n]},{p[n]},{dice[n]}" for n in reversed(range(len(p)))]
    path.write_text("\n".join(lines))
    return real.Row(title, [], path, {}, {})


def test_a_gain_is_the_difference_over_the_same_images(tmp_path):
    rng, truths = np.random.default_rng(0), ["lesion", "none"] * 30
    is_positive = np.array(truths) == "lesion"
    p, dice = rng.random((2, 60)).round(2), rng.random((2, 60)).round(2)
    rows = [row_of(tmp_path / f"{n}.csv", str(n), p[n], dice[n], truths) for n in range(2)]
    gains = real.gain(*rows)

    def slow_auc(values: np.ndarray) -> float:
        pairs = values[is_positive][:, None] - values[~is_positive][None]
        return np.mean((pairs > 0) + (pairs == 0) / 2)

    expected = {
        "AUC": slow_auc(p[0]) - slow_auc(p[1]),
        "mean dice": np.mean(dice[0] - dice[1]),
        "dice on positives": np.mean((dice[0] - dice[1])[is_positive]),
    }
    for name, (value, (low, high)) in gains.items():
        assert value == pytest.approx(expected[name]) and low < value < high
    assert all(
        value == ends[0] == ends[1] == 0 for value, ends in real.gain(rows[0], rows[0]).values()
    )
    others = row_of(tmp_path / "few.csv", "few", p[0][:50], dice[0][:50], truths)
    with pytest.raises(SystemExit, match="other images"):
        real.gain(rows[0], others)


def test_the_command_line_and_the_table_of_results(tmp_path):
    flags, overrides = real.parser().parse_known_args(
        ["--data", "x", "lungs", "--seeds", "3", "4", "--data.side=128"]
    )
    assert flags.tasks == ["lungs"] and flags.seeds == [3, 4] and overrides == ["--data.side=128"]
    starts = [{"seconds": {"cpu": 60, "clock": 90}}, {"seconds": {"cpu": 120, "clock": 120}}]
    (tmp_path / real.STARTS).write_text(json.dumps(starts))
    scores, ends = {"dice_mean": 0.9612, "iou_mean": 0.91}, {"dice_mean": (0.95, 0.97)}
    *_, line = real.table(
        "lungs", [real.Row("seed 3", [tmp_path], tmp_path, scores, ends)]
    ).splitlines()
    assert line == "| seed 3 | 0.961 [0.950, 0.970] | 0.910 |  | 3 / 4 |"


def test_maps_of_the_peer_say_where_the_warp_reads():
    side, settings = 16, Augment.model_validate({"crop": {"probability": 0.5}})
    uniforms = np.random.default_rng(0).random((6, augment.num_draws(settings, side)))
    values = augment.parameters(np.float32(uniforms), settings, side)
    maps = peer.maps_of(values, side, count=6)  # [6, 2, 3]
    ends = (2 * np.arange(side) + 1) / side - 1  # pixel centres in [-1, 1]
    x, y = np.meshgrid(ends, ends)
    columns, rows = (
        (part[:, 0] * x[..., None] + part[:, 1] * y[..., None] + part[:, 2]).transpose(2, 0, 1)
        for part in maps.transpose(1, 0, 2)
    )
    expected = warp.source_positions(side, values)
    for actual, positions in zip((rows, columns), expected, strict=True):
        np.testing.assert_allclose(((actual + 1) * side - 1) / 2, positions, atol=1e-4)
