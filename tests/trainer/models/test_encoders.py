"""Encoders of keras.applications: the same features, sizes, freezing; the table that holds them."""

import ast
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from makers import marks
from makers.networks import images

from lake import InputError
from trainer.config import parts, run
from trainer.config.network import Classifier, Unet, UnetPlusPlus
from trainer.models import encoders
from trainer.models.build import build

# All but VGG16 cost seconds each; EfficientNet has a start of its own, which is compared as well.
WITH_START = "efficientnetb0"


def cases(*slow: str) -> list:
    """Return every encoder: VGG16 always runs, the slow ones do not where slow tests are left out,
    others run on demand."""

    def marks_for(name: str) -> list:
        if name == "vgg16":
            return []
        return [pytest.mark.slow, *([] if name in slow else [marks.exhaustive])]

    return [pytest.param(name, marks=marks_for(name)) for name in parts.ENCODERS]


# ImageNet's red, green and blue in [0, 1].
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def possible_side(name: str) -> int:
    return 96 if parts.ENCODERS[name].min_side > 64 else 64


def unet(encoder, **fields):
    return Unet(kind="unet", encoder=encoder, **{"filters": 4, "depth": 5} | fields)


def keras_preprocessing(name: str, colour: np.ndarray) -> np.ndarray:
    """Apply preprocess_input of the application's own module to RGB in [0, 255]."""
    modules = {
        "vgg16": keras.applications.vgg16,
        "xception": keras.applications.xception,
        "inception_resnet_v2": keras.applications.inception_resnet_v2,
        "densenet": keras.applications.densenet,
        "efficientnet": keras.applications.efficientnet,
    }
    module = next(module for start, module in modules.items() if name.startswith(start))
    return module.preprocess_input(colour.copy())


@pytest.mark.parametrize("name", cases(WITH_START))
def test_features_are_those_of_keras_applications(name, tmp_path):
    side, row = possible_side(name), parts.ENCODERS[name]
    reference = getattr(keras.applications, row.application)(
        include_top=False, weights=None, input_shape=(side, side, 3)
    )
    if row.start:
        # As in ImageNet's weights, whose variance is the deviation, before Keras divides by the
        # root of the deviation once more: both together divide by the deviation.
        layer = next(x for x in reference.layers if isinstance(x, keras.layers.Normalization))
        layer.set_weights([MEAN, DEVIATION**2, np.array(1)])
        layer.finalize_state()
    file = str(tmp_path / "reference.weights.h5")
    reference.save_weights(file)
    layers = [
        reference.layers[int(layer.removeprefix("layer_"))]
        if layer.startswith("layer_")
        else reference.get_layer(layer)
        for layer in row.layers
    ]
    expected = keras.Model(reference.input, [layer.output for layer in layers])(
        keras_preprocessing(name, np.repeat(255 * images(side), 3, axis=-1))
    )
    grey = keras.Input((side, side, 1), name="images")
    actual = keras.Model(grey, encoders.layer_outputs(grey, side, name, row.layers, file, "none"))
    for i, (ours, theirs) in enumerate(zip(actual(images(side)), expected, strict=True), 1):
        scale = max(1, np.abs(theirs).max())
        np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-5, err_msg=f"1/{2**i}")


@pytest.mark.parametrize("name", cases())
def test_an_encoder_has_features_of_every_size_under_both_decoders(name):
    side = possible_side(name)
    unetpp = UnetPlusPlus(kind="unetpp", encoder=name, depth=3, filters=4, deep_supervision=True)
    for section, heads, depth in ((unet(name), 1, 5), (unetpp, 3, 3)):
        network = build(section, side)
        assert network.output.shape == (None, side, side, heads)
        features = network.get_layer(name).outputs[-depth:]
        for i, feature in enumerate(features, 1):  # without padding a few pixels are missing
            assert side / 2**i - 5 <= feature.shape[1] <= side / 2**i


@pytest.mark.parametrize("name", cases())
def test_a_classifier_has_a_hidden_layer_of_44_or_a_plain_head(name):
    side = possible_side(name)
    section = Classifier(kind="classifier", encoder=name)
    network = build(section, side)
    channels = network.get_layer(name).output[0].shape[-1]
    in_encoder = network.get_layer(name).count_params()
    assert network.count_params() == in_encoder + channels + 1
    with_hidden = build(section.model_copy(update={"hidden": 44}), side)
    assert with_hidden.count_params() == in_encoder + 44 * channels + 44 + 44 + 1
    assert with_hidden(images(side)).shape == (2, 1)


def test_the_frozen_vgg16_ends_at_its_fourth_pooling():
    """64 to 512 wide, ten 3x3 convolutions: 7,635,264, frozen."""
    section = unet("vgg16", depth=4, skips=False).model_copy(update={"freeze": "all"})
    network = build(section, 64)
    vgg = network.get_layer("vgg16")
    assert vgg.layers[-1].name == "block4_pool"
    assert (vgg.count_params(), len(vgg.trainable_variables)) == (7_635_264, 0)
    assert len(network.trainable_variables) > 0


def test_missing_rows_are_behind():
    feature = np.ones((1, 3, 3, 2), np.float32)
    padded = encoders.pad(keras.Input((3, 3, 2)), 6, "pad")
    assert padded.shape == (None, 6, 6, 2)
    outputs = keras.Model(x := keras.Input((3, 3, 2)), encoders.pad(x, 6, "pad"))(feature)
    assert np.asarray(outputs)[0, :, 2, 0].tolist() == [0, 1, 1, 1, 0, 0]


def frozen(encoder, freeze):
    # As workdir.load_network does: weights are loaded later, so no clash of freeze is looked for.
    return build(unet(encoder).model_copy(update={"freeze": freeze}), 32)


def test_freezing_is_by_stage():
    trainable = {}
    for freeze in ("none", 1, 2, 5, "all"):
        layers = frozen("vgg16", freeze).get_layer("vgg16").layers
        trainable[freeze] = {layer.name for layer in layers if layer.trainable_variables}
    first = {"block1_conv1", "block1_conv2", "block2_conv1", "block2_conv2"}
    assert trainable["none"] - trainable[1] == first
    assert trainable[1] - trainable[2] == {"block3_conv1", "block3_conv2", "block3_conv3"}
    assert len(trainable["none"]) == 13 and trainable[5] == trainable["all"] == set()


@marks.exhaustive
def test_frozen_statistics_stay_as_they_are():
    network = frozen("densenet121", 2)
    encoder = network.get_layer("densenet121")
    before = {layer.name: layer.get_weights() for layer in encoder.layers}
    network(images(32), training=True)
    changes = {
        layer.name
        for layer in encoder.layers
        if not all(map(np.array_equal, before[layer.name], layer.get_weights()))
    }
    assert not [name for name in changes if name.startswith(("conv1", "conv2", "pool2"))]
    assert {"conv3_block1_0_bn", "bn"} <= changes
    # And they are what normalises in training, too.
    first = keras.Model(encoder.input, encoder.get_layer("pool2_relu").output)
    x = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    np.testing.assert_array_equal(first(x, training=True), first(x, training=False))


@pytest.mark.parametrize(
    "section, side, message",
    [
        (Classifier(kind="classifier"), 16, "side=16 .* densenet121.* 32 or more"),
        (unet("xception"), 64, "side=64 .* xception.* 71 or more"),
        (unet("vgg16"), 48, "side=48 cannot be halved 5 times"),
    ],
)
def test_sides_that_an_encoder_cannot_take(section, side, message):
    with pytest.raises(InputError, match=message):
        build(section, side)


# --- the table: a row is all that a new encoder, norm, activation or upsampling needs ---


def test_every_row_is_a_name_that_the_config_takes():
    assert len(parts.ENCODERS) == 14
    for name in ("plain", *parts.ENCODERS):
        for kind in ("unet", "unetpp", "classifier"):
            assert run.Config.model_validate({"model": {"kind": kind, "encoder": name}})
    for field, rows in (
        ("norm", parts.NORMS),
        ("activation", parts.ACTIVATIONS),
        ("upsampling", parts.UPSAMPLINGS),
    ):
        for name in rows:
            section = run.Config.model_validate({"model": {"kind": "unet", field: name}}).model
            assert getattr(section, field) == name


def test_the_row_that_contributing_shows_is_enough(monkeypatch):
    text = (Path(__file__).parents[3] / "CONTRIBUTING.md").read_text()
    [row] = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    row_dict = ast.parse(f"{{{row}}}", mode="eval").body
    name, *values = map(ast.literal_eval, (*row_dict.keys, *row_dict.values[0].args))
    encoder = parts.Encoder(*values)
    monkeypatch.setitem(parts.ENCODERS, name, encoder)
    monkeypatch.setitem(parts.ACTIVATIONS, "gelu", ("Activation", {"activation": "gelu"}))
    section = unet("vgg16").model_copy(update={"encoder": name, "activation": "gelu"})
    network = build(section, 64)
    sides = [feature.shape[1] for feature in network.get_layer(name).outputs]
    assert sides == [32, 16, 8, 4, 2]
    assert network(images(64)).shape == (2, 64, 64, 1)
