"""U-Net and U-Net++: published sizes, a loop in NumPy as the reference, every option, pruning."""

import keras
import numpy as np
import pytest
from makers import networks
from makers.marks import exhaustive
from makers.networks import ALBERTSOKOL

from lake import InputError
from trainer.config import parts
from trainer.models import unetpp
from trainer.models.build import build


def trained_and_moving(network) -> tuple[int, int]:
    return tuple(
        sum(int(np.prod(weight.shape)) for weight in weights)
        for weights in (network.trainable_variables, network.non_trainable_variables)
    )


# --- sizes that an independent source states ---


# The authors' Keras code states 9,041,601 for depth 4; the rest is counted from its layout: a block
# of two 3x3 convolutions with biases has 9(c + f)f + 2f, a transposed 2x2 one 4·2f·f + f, a head
# f + 1. Three channels instead of one: 2·9·32 more.
@pytest.mark.parametrize(
    "depth, one_head, all_heads, rgb",
    [
        (1, 100_961, 100_961, 101_537),
        (2, 511_105, 511_138, 511_681),
        (3, 2_204_961, 2_205_027, 2_205_537),
        (4, 9_041_601, 9_041_700, 9_042_177),
    ],
)
def test_unetpp_has_the_published_number_of_parameters(depth, one_head, all_heads, rgb):
    network = networks.plus(filters=32, depth=depth)
    with_heads = networks.plus(filters=32, depth=depth, deep_supervision=True)
    assert build(network, side=16).count_params() == one_head
    assert build(with_heads, side=16).count_params() == all_heads
    assert unetpp.build(network, 16, channels=3).count_params() == rgb


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({"filters": 32}, 7_759_521),  # the U-Net beside U-Net++ in the authors' code
        ({"filters": 35}, 9_282_246),  # their wide one: 35, 70, 140, 280, 560
        # JenifferWuUCLA: nearest neighbours, no convolution behind them, so that a block of the
        # decoder sees 2f + f channels: 9(3f + f)f + 2f.
        ({"filters": 32, "upsampling": "nearest"}, 7_846_081),
        # Carrasquilla: the decoder is half as wide as the encoder at 1/8 (32 against 64).
        (
            {
                "depth": 5,
                "filters": (8, 16, 32, 64, 64, 128),
                "decoder_filters": (8, 16, 32, 32, 64),
            },
            600_585,
        ),
    ],
    ids=["published", "wide", "JenifferWuUCLA", "Carrasquilla"],
)
def test_unet_has_the_published_number_of_parameters(fields, expected):
    assert build(networks.plain(**{"depth": 4} | fields), side=32).count_params() == expected


# A norm of f channels has 2f trainable numbers and 2f moving statistics; depth 1: blocks of two
# (32, 64) and one (32) convolutions and one upsampling (32): 2(32 + 32 + 64 + 64 + 32 + 32) = 512.
@pytest.mark.parametrize(
    "config, trainable, statistics",
    [
        (networks.plus(filters=32, depth=1, **ALBERTSOKOL), 102_465, 512),
        (networks.plus(filters=32, depth=2, **ALBERTSOKOL), 518_529, 1_408),
        (networks.plus(filters=32, depth=3, **ALBERTSOKOL), 2_235_585, 3_328),
        (networks.plus(filters=32, depth=4, **ALBERTSOKOL), 9_162_753, 7_296),
        (networks.plain(filters=32, depth=4, **ALBERTSOKOL), 7_851_969, 5_888),
    ],
    ids=["L1", "L2", "L3", "L4", "U-Net"],
)
def test_albertsokols_networks_have_their_number_of_parameters(config, trainable, statistics):
    assert trained_and_moving(build(config, side=16)) == (trainable, statistics)


def multiply_accumulates(network, side: int) -> int:
    """Return those of the convolutions for one image of this side: the size of each kernel times
    the pixels it is applied to, which for a transposed convolution are those of its input."""
    total = 0
    for layer in network.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Conv2DTranspose):
            is_transposed = isinstance(layer, keras.layers.Conv2DTranspose)
            height, width = (layer.input if is_transposed else layer.output).shape[1:3]
            total += height * width * int(np.prod(layer.kernel.shape))
    return total * side**2 // network.input.shape[1] ** 2


@pytest.mark.parametrize(
    "fields, expected",
    [({}, (55.6, 142.1, 279.0, 476.0)), (ALBERTSOKOL, (48.7, 121.1, 237.1, 406.2))],
    ids=["published", "albertsokol"],
)
def test_multiply_accumulates_at_1024_px(fields, expected):
    actual = [
        multiply_accumulates(build(networks.plus(filters=32, depth=depth, **fields), 16), 1024)
        / 1e9
        for depth in (1, 2, 3, 4)
    ]
    assert np.round(actual, 1).tolist() == list(expected)


def test_jchen42703s_unet_is_capped_at_320_filters():
    config = networks.plain(
        depth=6,
        filters=30,
        max_filters=320,
        norm="instance",
        activation="leaky_relu",
        negative_slope=0.3,
        upsampling="nearest",
    )
    network = build(config, side=128)
    deepest = [network.get_layer(f"level_{i}_conv2").filters for i in range(7)]
    assert deepest == [30, 60, 120, 240, 320, 320, 320]
    assert network.get_layer("level_0_leaky_relu1").negative_slope == pytest.approx(0.3)


# --- the same numbers from a loop in NumPy ---


def convolved(x, layer, stride_up: int = 1):
    """Apply a padded convolution, or a transposed one, written as sums over the kernel's cells."""
    kernel, bias = layer.get_weights()
    size = len(kernel)
    if stride_up == 2:
        batch, height, width, _ = x.shape
        out = np.zeros((batch, 2 * height + 1, 2 * width + 1, kernel.shape[2]))
        for row in range(size):
            for column in range(size):
                cell = x @ kernel[row, column].T  # transposed kernels are [h, w, out, in]
                out[:, row : row + 2 * height : 2, column : column + 2 * width : 2] += cell
        return out[:, : 2 * height, : 2 * width] + bias
    before = size // 2
    padded = np.pad(x, ((0, 0), (before, before), (before, before), (0, 0)))
    height, width = x.shape[1:3]
    return bias + sum(
        padded[:, row : row + height, column : column + width] @ kernel[row, column]
        for row in range(size)
        for column in range(size)
    )


def normalised(x, layer):
    gamma, beta, mean, variance = layer.get_weights()
    return gamma * (x - mean) / np.sqrt(variance + layer.epsilon) + beta


class Loop:
    """U-Nets in NumPy: the published layout, or albertsokol's where the network has norms."""

    def __init__(self, network):
        self.layers = {layer.name: layer for layer in network.layers}

    def finished(self, x, name, k):
        x = np.maximum(x, 0)
        norm = self.layers.get(f"{name}_norm{k}")
        return normalised(x, norm) if norm else x

    def block(self, x, name):
        for k in (1, 2):
            if f"{name}_conv{k}" in self.layers:
                x = self.finished(convolved(x, self.layers[f"{name}_conv{k}"]), name, k)
        return x

    def up(self, x, name):
        layer = self.layers[f"{name}_up"]
        x = convolved(x, layer, stride_up=2)
        is_albertsokols = layer.kernel_size == (3, 3)
        return self.finished(x, f"{name}_up", "") if is_albertsokols else x

    def encoder(self, x, names):
        nodes = []
        for name in names:
            if nodes:
                batch, height, width, channels = nodes[-1].shape
                cells = nodes[-1].reshape(batch, height // 2, 2, width // 2, 2, channels)
                x = cells.max(axis=(2, 4))
            nodes.append(self.block(x, name))
        return nodes

    def unetpp(self, x, depth):
        """Return the outputs of those heads 1 … depth that the network has, [B, H, W, heads]."""
        column = self.encoder(2 * x - 1, [f"x_{i}_0" for i in range(depth + 1)])
        rows = [[node] for node in column]
        for j in range(1, depth + 1):
            for i in range(depth + 1 - j):
                name = f"x_{i}_{j}"
                entry = np.concatenate([*rows[i], self.up(rows[i + 1][j - 1], name)], axis=-1)
                rows[i].append(self.block(entry, name))
        heads = [j for j in range(1, depth + 1) if f"head_{j}" in self.layers]
        logits = [convolved(rows[0][j], self.layers[f"head_{j}"]) for j in heads]
        return np.concatenate(logits, axis=-1)

    def unet(self, x, depth):
        levels = self.encoder(2 * x - 1, [f"level_{i}" for i in range(depth + 1)])
        x = levels[-1]
        for i in reversed(range(depth)):
            name = f"decoder_{i}"
            x = self.block(np.concatenate([levels[i], self.up(x, name)], axis=-1), name)
        return convolved(x, self.layers["head"])


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(
    "fields",
    [{}, {"deep_supervision": True}, ALBERTSOKOL],
    ids=["one head", "heads", "albertsokol"],
)
def test_unetpp_is_the_papers_loop(depth, fields):
    network = networks.with_random_weights(
        build(networks.plus(depth=depth, filters=4, **fields), side=16)
    )
    expected = Loop(network).unetpp(networks.images(16).astype(np.float64), depth)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(network(networks.images(16)) / scale, expected / scale, atol=1e-5)


@pytest.mark.parametrize("fields", [{}, ALBERTSOKOL], ids=["published", "albertsokol"])
def test_unet_is_the_papers_loop(fields):
    network = networks.with_random_weights(build(networks.plain(filters=4, **fields), side=16))
    expected = Loop(network).unet(networks.images(16).astype(np.float64), depth=2)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(network(networks.images(16)) / scale, expected / scale, atol=1e-5)


# --- options ---


def network_and_layer(config, name, side=16):
    """Return (the network's input to the layer's input and output, the layer)."""
    network = networks.with_random_weights(build(config, side))
    layer = network.get_layer(name)
    return keras.Model(network.input, [layer.input, layer.output]), layer


def test_instance_norm_is_of_each_image_and_channel():
    upto, layer = network_and_layer(networks.plain(norm="instance"), "level_0_norm1")
    x, actual = (np.asarray(part, np.float64) for part in upto(networks.images(16)))
    gamma, beta = layer.get_weights()
    mean, variance = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
    expected = (x - mean) / np.sqrt(variance + layer.epsilon) * gamma + beta
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_bilinear_upsampling_is_between_pixel_centres():
    """A new pixel is a quarter of a pixel from the nearest old one: 3/4 of it, 1/4 of the next."""
    upto, _ = network_and_layer(networks.plain(upsampling="bilinear"), "decoder_0_up")
    x, actual = (np.asarray(part) for part in upto(networks.images(16)))

    def doubled(x, axis):
        first, last = np.take(x, [0], axis), np.take(x, [-1], axis)
        size = x.shape[axis]
        padded = np.concatenate([first, x, last], axis)
        earlier, later = (np.take(padded, range(k, k + size), axis) for k in (0, 2))
        pair = np.stack([0.75 * x + 0.25 * earlier, 0.75 * x + 0.25 * later], axis + 1)
        return pair.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])

    np.testing.assert_allclose(actual, doubled(doubled(x, 1), 2), rtol=1e-5, atol=1e-5)


def test_nearest_upsampling_repeats_pixels():
    upto, _ = network_and_layer(networks.plain(upsampling="nearest"), "decoder_0_up")
    x, actual = upto(networks.images(16))
    np.testing.assert_array_equal(actual, np.repeat(np.repeat(x, 2, axis=1), 2, axis=2))


def test_a_residual_block_adds_its_input_before_the_last_activation():
    network = networks.with_random_weights(build(networks.plain(residual=True, norm="batch"), 16))
    assert network.get_layer("level_0_shortcut").kernel.shape == (1, 1, 1, 8)  # 1 channel to 8
    names = ("level_0_norm2", "level_0_shortcut", "level_0_relu2")
    inner = keras.Model(network.input, [network.get_layer(name).output for name in names])
    after_norm, shortcut, block = inner(networks.images(16))
    np.testing.assert_allclose(block, np.maximum(after_norm + shortcut, 0), rtol=1e-6)
    same_width = build(networks.plain(residual=True, filters=(8, 8, 8)), 16)
    assert not [x for x in same_width.layers if x.name == "level_1_shortcut"]
    assert same_width.get_layer("level_1_add")


@pytest.mark.parametrize(
    "activation, expected",
    [
        ("relu", lambda x: np.maximum(x, 0)),
        ("leaky_relu", lambda x: np.where(x > 0, x, 0.3 * x)),
        ("elu", lambda x: np.where(x > 0, x, np.expm1(x))),
        ("swish", lambda x: x / (1 + np.exp(-x))),
    ],
)
def test_activations(activation, expected):
    config = networks.plain(activation=activation, negative_slope=0.3)
    upto, _ = network_and_layer(config, f"level_1_{activation}1")
    x, actual = upto(networks.images(16))
    assert (np.asarray(x) < 0).any()
    np.testing.assert_allclose(actual, expected(np.asarray(x)), rtol=1e-5, atol=1e-6)
    assert activation in parts.ACTIVATIONS


@pytest.mark.parametrize(
    "config", [networks.plain(dropout=0.5), networks.plus(dropout=0.5)], ids=["unet", "unetpp"]
)
def test_dropout_is_of_training_alone(config):
    network = build(config, 16)
    first, second = (
        network(networks.images(16), training=True),
        network(networks.images(16), training=True),
    )
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_array_equal(network(networks.images(16)), network(networks.images(16)))


def test_without_skips_the_decoder_sees_the_deepest_level_alone():
    network = build(networks.plain(skips=False), 16)
    assert not [x for x in network.layers if isinstance(x, keras.layers.Concatenate)]
    assert network.output.shape == (None, 16, 16, 1)


@pytest.mark.parametrize(
    "config, side, message",
    [
        (networks.plus(depth=4), 40, "side=40 .*depth=4.* multiple of 16"),
        (networks.plain(depth=6), 96, "side=96 .*depth=6.* multiple of 64"),
        (networks.plus(filters=12, norm="group"), 16, "filters=12 .* multiple of 8"),
        (networks.plain(filters=(8, 8, 12), norm="group"), 16, "filters=12 .* multiple of 8"),
        (networks.plain(decoder_filters=(12, 8), norm="group"), 16, "filters=12 .* multiple of 8"),
        (networks.plain(depth=4, norm="instance"), 16, "norm=instance .* single pixel"),
    ],
)
def test_impossible_networks_are_refused(config, side, message):
    with pytest.raises(InputError, match=message):
        build(config, side)


# --- pruning ---


@pytest.mark.parametrize(
    "fields",
    [
        {"depth": 4},
        {"depth": 3, "filters": (8, 8, 16, 8), "decoder_filters": (4, 8, 8)} | ALBERTSOKOL,
        pytest.param({"depth": 4, "encoder": "vgg16", "filters": 4}, marks=exhaustive),
    ],
    ids=["published", "albertsokol", "vgg16"],
)
def test_a_pruned_network_is_its_head_of_the_whole_one(fields):
    """Zhou et al., section 3.2."""
    config = networks.plus(deep_supervision=True, **fields)
    network = build(config, side=32)
    if config.encoder == "plain":
        network = networks.with_random_weights(network)
    logits = np.asarray(network(networks.images(32)))
    for level in range(1, config.depth + 1):
        smaller, small_network = unetpp.prune(network, config, 32, level)
        expected = logits[..., level - 1 : level]
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            small_network(networks.images(32)) / scale, expected / scale, atol=1e-6
        )
        # It has no more than it needs: as many as a network built from the smaller config.
        assert small_network.count_params() == build(smaller, 32).count_params()
        assert smaller.depth == level and not smaller.deep_supervision


def test_pruning_what_has_no_head_is_refused():
    config = networks.plus(depth=3)
    network = build(config, 16)
    with pytest.raises(InputError, match=r"level=2: X\(0,2\) has a head .*deep_supervision=true"):
        unetpp.prune(network, config, 16, 2)
    for level in (0, 4):
        with pytest.raises(InputError, match=f"level={level}: expected 1 to model.depth=3"):
            unetpp.prune(network, config, 16, level)
