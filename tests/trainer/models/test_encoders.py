"""Encoders of keras.applications: the same features, sizes, freezing; the table that holds them."""

import ast
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from makers import marks
from makers.networks import images
from PIL import Image

from lake import InputError
from trainer.config import parts, run
from trainer.config.network import Classifier, Unet, UnetPlusPlus
from trainer.models import encoders
from trainer.models.build import build

# All but VGG16 cost seconds each. Of the others, two that prepare pixels in other ways are compared
# as well: EfficientNet's start is cut off, MobileNetV3's preprocessing is taken over.
WITH_START = "efficientnetb0", "mobilenetv3_small"


def cases(*slow: str) -> list:
    """Return every encoder: VGG16 always runs, the slow ones do not where slow tests are left out,
    others run on demand."""

    def marks_for(name: str) -> list:
        if name == "vgg16":
            return []
        return [pytest.mark.slow, *([] if name in slow else [marks.exhaustive])]

    return [pytest.param(name, marks=marks_for(name)) for name in parts.ENCODERS]


NETWORKS_WITH_ENCODERS = "unet", "unetpp", "classifier"
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
        "efficientnetv2": keras.applications.efficientnet_v2,
        "efficientnetb": keras.applications.efficientnet,
        "resnet50v2": keras.applications.resnet_v2,
        "resnet": keras.applications.resnet,
        "mobilenetv2": keras.applications.mobilenet_v2,
        "mobilenetv3": keras.applications.mobilenet_v3,
        "convnext": keras.applications.convnext,
    }
    module = next(module for start, module in modules.items() if name.startswith(start))
    return module.preprocess_input(colour.copy())


def reference_features(network: keras.Model, layers: tuple[str | None, ...]) -> list:
    """Return the outputs that a row names; layer_9 is the tenth layer, "into x" what x takes."""

    def tensor_of(name: str):
        if name.startswith(encoders.INTO):
            return encoders.input_of(network, name.removeprefix(encoders.INTO))
        if name.startswith("layer_"):
            return network.layers[int(name.removeprefix("layer_"))].output
        return network.get_layer(name).output

    return [tensor_of(name) for name in layers if name]


def reference_network(name: str, side: int) -> keras.Model:
    """Return the network of keras.applications with random weights; its biases, scales and
    statistics are no zeros and ones, either."""
    row, rng = parts.ENCODERS[name], np.random.default_rng(2)
    network = getattr(keras.applications, row.application)(
        include_top=False, weights=None, input_shape=(side, side, 3)
    )
    for layer in network.layers:
        layer.set_weights(
            [w + 0.05 * rng.normal(size=w.shape) * (w.ndim == 1) for w in layer.get_weights()]
        )
    if row.mode and row.start:
        # As in ImageNet's weights, whose variance is the deviation, before Keras divides by the
        # root of the deviation once more: both together divide by the deviation.
        layer = next(x for x in network.layers if isinstance(x, keras.layers.Normalization))
        layer.set_weights([MEAN, DEVIATION**2, np.array(1)])
        layer.finalize_state()
    return network


@pytest.mark.parametrize("name", cases(WITH_START[0]))
def test_features_are_those_of_keras_applications(name, tmp_path):
    side, row = possible_side(name), parts.ENCODERS[name]
    reference = reference_network(name, side)
    file = str(tmp_path / "reference.weights.h5")
    reference.save_weights(file)
    expected = keras.Model(reference.input, reference_features(reference, row.layers))(
        keras_preprocessing(name, np.repeat(255 * images(side), 3, axis=-1))
    )
    grey = keras.Input((side, side, 1), name="images")
    section, names = unet(name, weights=file), [name for name in row.layers if name]
    actual = keras.Model(grey, encoders.layer_outputs(grey, side, names, section))(images(side))
    is_exact = not (row.mode and row.start)  # EfficientNet's preprocessing is computed otherwise
    for ours, theirs, layer in zip(actual, expected, names, strict=True):
        scale = 1 if is_exact else max(1, np.abs(theirs).max())
        atol = 0 if is_exact else 1e-5
        assert np.ptp(theirs) > 0
        np.testing.assert_allclose(ours / scale, theirs / scale, 0, atol, err_msg=layer)


# Grey 0, 0.5 and 1 as each family of ImageNet's weights expects them, from the papers and the docs
# of keras.applications: in red, green, blue, but blue, green, red for caffe.
CAFFE = [[x - mean for mean in (103.939, 116.779, 123.68)] for x in (0, 127.5, 255)]
TORCH = [((x - MEAN) / DEVIATION).tolist() for x in (0, 0.5, 1)]
TF = [[-1] * 3, [0] * 3, [1] * 3]
BY_128 = [[-1] * 3, [127.5 / 128 - 1] * 3, [255 / 128 - 1] * 3]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, CAFFE) for name in ("vgg16", "resnet50", "resnet101")),
        *((name, TORCH) for name in ("densenet121", "efficientnetb0")),
        *((name, TF) for name in ("xception", "resnet50v2", "mobilenetv2", "mobilenetv3_small")),
        *(
            pytest.param(name, TORCH, marks=marks.exhaustive)
            for name in ("efficientnetv2b0", "efficientnetv2b3", "convnext_tiny")
        ),
        *(
            pytest.param(name, BY_128, marks=marks.exhaustive)
            for name in ("efficientnetv2s", "efficientnetv2m")
        ),
    ],
)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_grey_becomes_what_each_familys_weights_expect(name, expected, policy, request):
    row = parts.ENCODERS[name]
    keras.config.set_dtype_policy(policy)
    request.addfinalizer(lambda: keras.config.set_dtype_policy("float32"))
    whole = None if row.mode else encoders.build_application(row, 32, None)
    grey = keras.Input((1, 3, 1))
    prepared = keras.Model(grey, encoders.preprocess(grey, row, whole))
    actual = prepared(np.array([0, 0.5, 1], np.float32).reshape(1, 1, 3, 1))
    assert actual.dtype == "float32"
    np.testing.assert_allclose(actual[0, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", cases())
def test_an_encoder_has_features_of_every_size_under_both_decoders(name):
    side = possible_side(name)
    has_half_size = parts.ENCODERS[name].layers[0] is not None
    sections = [(unet(name), 1, 5)]
    if has_half_size:
        options = {"encoder": name, "depth": 3, "filters": 4, "deep_supervision": True}
        sections.append((UnetPlusPlus(kind="unetpp", **options), 3, 3))
    for section, heads, depth in sections:
        network = build(section, side)
        assert network.output.shape == (None, side, side, heads)
        features = network.get_layer(name).outputs[-(depth - (not has_half_size)) :]
        # Without padding a few pixels are missing.
        for i, feature in enumerate(features, 1 if has_half_size else 2):
            assert side / 2**i - 5 <= feature.shape[1] <= side / 2**i


@pytest.mark.parametrize("name", cases())
def test_a_classifier_has_a_hidden_layer_of_44_or_a_plain_head(name):
    side = possible_side(name)
    section = Classifier(kind="classifier", encoder=name)
    network = build(section, side)
    channels = network.get_layer(name).output[0].shape[-1]
    in_encoder = network.get_layer(name).count_params()
    assert network.count_params() == in_encoder + channels + 1
    page = (Path(__file__).parents[3] / "docs/encoders.md").read_text()
    assert f"\n| `{name}` | {in_encoder / 1e6:.1f} | 1/" in page
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
    "norm", ["sync_batch", *(pytest.param(x, marks=marks.exhaustive) for x in ("group", "batch"))]
)
def test_a_norm_is_the_decoders_and_leaves_the_encoders_weights(norm, tmp_path):
    """The encoder keeps the batch norm that its weights were trained with; with sync_batch its
    statistics are those of all replicas, too."""
    file = str(tmp_path / "encoder.weights.h5")
    reference = reference_network("mobilenetv3_small", 32)
    reference.save_weights(file)
    network = build(unet("mobilenetv3_small", norm=norm, weights=file, filters=8, depth=1), 32)
    encoder = network.get_layer("mobilenetv3_small")
    norms = [x for x in encoder.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert norms and {x.momentum for x in norms} == {parts.MOMENTUM}
    assert {x.synchronized for x in norms} == {norm == "sync_batch"}
    for ours, theirs in zip(encoder.get_weights(), reference.get_weights(), strict=False):
        np.testing.assert_array_equal(ours, theirs)
    expected = {"group": "GroupNormalization"}.get(norm, "BatchNormalization")
    assert type(network.get_layer("decoder_0_norm1")).__name__ == expected


def test_an_encoders_statistics_follow_the_images():
    """After 30 steps they are those of the images, not those that the weights came with."""
    network = build(unet("mobilenetv3_small", depth=1), 32)
    encoder = network.get_layer("mobilenetv3_small")
    [norm] = [x for x in encoder.layers if isinstance(x, keras.layers.BatchNormalization)]
    before = keras.Model(network.input, network.get_layer("layer_1").output)(images(32))
    statistics = np.asarray(encoder.get_layer("conv")(before)).mean(axis=(0, 1, 2))
    for _ in range(30):
        network(images(32), training=True)
    np.testing.assert_allclose(norm.moving_mean, statistics * (1 - 0.9**30), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "unet", "depth": 1}, "depth=1: encoder=convnext_tiny has no features at 1/2"),
        ({"kind": "unetpp"}, r"encoder=convnext_tiny has no features at 1/2.*use kind=unet"),
        (
            {"kind": "classifier", "freeze": 1, "weights": "imagenet"},
            "freeze=1: encoder=convnext_tiny has no features at 1/2; use 2 to 5, or all",
        ),
    ],
)
def test_what_an_encoder_without_features_at_half_size_cannot_do(fields, message):
    with pytest.raises(ValueError, match=message):
        run.Config.model_validate({"model": fields | {"encoder": "convnext_tiny"}})


def mobilenets(real_data: Path) -> list[Path]:
    return sorted((real_data / "weights").glob("mobilenetv2_*_notop.weights.h5"))


@pytest.mark.parametrize("number", [0, pytest.param(1, marks=marks.exhaustive)])
def test_real_weights_give_a_real_x_ray_the_features_of_keras_applications(real_data, number):
    """Trained filters on a real image: the same numbers, and not those of random weights."""
    image = Image.open(next((real_data / "siim_real/images").iterdir())).convert("L")
    grey = np.asarray(image.resize((64, 64)), np.float32)[None, ..., None] / 255
    files = mobilenets(real_data)
    assert len(files) == 2
    file = files[number]
    row = parts.ENCODERS["mobilenetv2"]
    reference = keras.applications.MobileNetV2(
        include_top=False, weights=None, input_shape=(64, 64, 3)
    )
    reference.load_weights(file)
    expected = keras.Model(reference.input, reference_features(reference, row.layers))(
        keras_preprocessing("mobilenetv2", np.repeat(255 * grey, 3, axis=-1))
    )
    section = unet("mobilenetv2", weights=str(file), freeze="all")
    network = build(section, 64)
    encoder = network.get_layer("mobilenetv2")
    actual = encoder(encoders.preprocess(grey, row, encoder))
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert encoder.trainable_variables == []
    before = encoder.get_weights()
    network(grey, training=True)
    assert all(map(np.array_equal, before, encoder.get_weights()))


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
    page = (Path(__file__).parents[3] / "docs/encoders.md").read_text()
    assert re.findall(r"^\| `(\w+)` \| \d", page, flags=re.MULTILINE) == [
        *sorted(parts.ENCODERS, key=lambda name: page.index(f"| `{name}` |"))
    ]
    for name in ("plain", *parts.ENCODERS):
        kinds = ("unet", "classifier") if name.startswith("convnext") else NETWORKS_WITH_ENCODERS
        for kind in kinds:
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
