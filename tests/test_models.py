import keras
import numpy as np
import pytest
import tensorflow as tf

from lake import InputError
from trainer import models
from trainer.config import Classifier, UnetPlusPlus
from trainer.models import unetpp


def unet(**fields):
    return UnetPlusPlus(kind="unetpp", **{"filters": 8, "depth": 2} | fields)


def plain(**fields):
    return Classifier(kind="classifier", **{"encoder": "plain", "filters": 8, "depth": 3} | fields)


def densenet(**fields):
    return Classifier(kind="classifier", encoder="densenet121", **fields)


def images(side, batch=2):
    return np.random.default_rng(0).random((batch, side, side, 1), np.float32)


@pytest.fixture
def mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")


# The authors' Keras code states 9,041,601 for depth 4; the rest is counted from its layout.
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
    published = unet(filters=32, depth=depth)
    supervised = published.model_copy(update={"deep_supervision": True})
    assert models.build(published, side=16).count_params() == one_head
    assert models.build(supervised, side=16).count_params() == all_heads
    colour = unetpp.network(16, depth, 32, "none", deep_supervision=False, channels=3)
    assert colour.count_params() == rgb


@pytest.mark.parametrize(
    "config, shape",
    [
        (unet(), (2, 32, 32, 1)),
        (unet(depth=1, deep_supervision=True), (2, 32, 32, 1)),
        (unet(depth=3, deep_supervision=True, norm="group"), (2, 32, 32, 3)),
        (unet(norm="batch"), (2, 32, 32, 1)),
        (unet(norm="sync_batch"), (2, 32, 32, 1)),
        (plain(), (2, 1)),
        (plain(depth=5, dropout=0.5), (2, 1)),
    ],
    ids=str,
)
def test_logits_are_float32_under_mixed_precision(config, shape, mixed_precision):
    network = models.build(config, side=32)
    logits = network(images(32))
    assert (logits.shape, logits.dtype) == (shape, tf.float32)
    assert all(weight.dtype == "float32" for weight in network.weights)
    convolutions = [x for x in network.layers if isinstance(x, keras.layers.Conv2D)]
    assert any(convolution.compute_dtype == "bfloat16" for convolution in convolutions)


def test_each_head_is_the_smaller_network():
    """Zhou et al., section 3.2: cut after X(0,j), the network is a U-Net++ of depth j."""
    network = models.build(unet(depth=3, deep_supervision=True), side=16)
    logits = network(images(16))
    for j in (1, 2, 3):
        cut = models.build(unet(depth=j), side=16)
        for layer in cut.layers:
            layer.set_weights(network.get_layer(layer.name).get_weights())
        np.testing.assert_allclose(cut(images(16)), logits[..., j - 1 : j], atol=1e-6)


def test_convolutions_see_images_about_zero():
    network = models.build(unet(), side=16)
    inside = keras.Model(network.inputs[0], network.get_layer("x_0_0_conv1").input)
    assert np.unique(inside(np.linspace(0, 1, 3).repeat(256).reshape(3, 16, 16, 1))).tolist() == [
        -1,
        0,
        1,
    ]


@pytest.mark.parametrize("config", [unet(norm="batch"), plain()], ids=str)
def test_a_seed_fixes_the_first_weights(config):
    def first_logits(seed):
        keras.utils.set_random_seed(seed)
        return models.build(config, side=16)(images(16)).numpy()

    assert (first_logits(3) == first_logits(3)).all()
    assert (first_logits(3) != first_logits(4)).any()


@pytest.mark.parametrize("config", [unet(norm="batch", deep_supervision=True), plain()], ids=str)
def test_saved_weights_give_the_same_logits(config, tmp_path):
    network = models.build(config, side=16)
    network(images(16), training=True)  # moves the statistics of batch normalisation
    network.save_weights(tmp_path / "network.weights.h5")
    restored = models.build(config, side=16)
    assert np.abs(restored(images(16)) - network(images(16))).max() > 1e-4
    restored.load_weights(tmp_path / "network.weights.h5")
    np.testing.assert_array_equal(restored(images(16)), network(images(16)))


@pytest.mark.parametrize("config", [unet(norm="group"), plain()], ids=str)
def test_compiled_networks_give_the_same_logits(config):
    network = models.build(config, side=16)
    compiled = tf.function(network, jit_compile=True)
    np.testing.assert_allclose(compiled(images(16)), network(images(16)), atol=1e-4)


@pytest.mark.parametrize(
    "config, side, message",
    [
        (unet(depth=4), 40, "side=40 .*depth=4.* multiple of 16"),
        (unet(filters=12, norm="group"), 16, "filters=12 .* multiple of 8"),
        (plain(depth=5), 16, "side=16 .*depth=5.* multiple of 32"),
        (plain(weights="imagenet"), 16, "weights=imagenet: encoder=plain has none"),
        (densenet(), 16, "side=16 .* densenet121.* 32 or more"),
        (densenet(weights="/none.weights.h5"), 32, "weights=/none.weights.h5: no such file"),
    ],
)
def test_impossible_networks_are_refused(config, side, message):
    with pytest.raises(InputError, match=message):
        models.build(config, side)


def test_densenet_takes_grey_images_and_weights_from_a_file(tmp_path):
    encoder = keras.applications.DenseNet121(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    encoder.save_weights(tmp_path / "xrays.weights.h5")
    network = models.build(densenet(weights=str(tmp_path / "xrays.weights.h5")), side=32)

    colour = np.repeat(255 * images(32), 3, axis=-1)  # NumPy all the way to the encoder
    features = encoder(keras.applications.densenet.preprocess_input(colour)).numpy().mean((1, 2))
    kernel, bias = network.get_layer("head").get_weights()
    np.testing.assert_allclose(network(images(32)), features @ kernel + bias, atol=1e-5)
    assert network.count_params() == encoder.count_params() + 1024 + 1


@pytest.mark.filterwarnings("ignore:Skipping nested container")  # Keras, before it raises
def test_weights_that_do_not_fit_are_refused(tmp_path):
    text, other = tmp_path / "text.weights.h5", tmp_path / "other.weights.h5"
    text.write_text("not HDF5")
    models.build(plain(), side=16).save_weights(other)
    for path in (text, other):
        with pytest.raises(InputError, match=f"{path}: not the weights of a densenet121"):
            models.build(densenet(weights=str(path)), side=32)
