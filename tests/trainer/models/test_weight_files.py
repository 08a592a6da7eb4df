"""Weights from files: what fits is taken, what does not is reported, nothing at all is an error."""

import re

import h5py
import keras
import numpy as np
import pytest
from makers.marks import exhaustive
from makers.networks import plain, plus, with_random_weights

from lake import InputError
from trainer.config.network import Classifier
from trainer.models.build import build


def classifier(**fields):
    return Classifier(kind="classifier", **{"encoder": "plain", "filters": 8, "depth": 2} | fields)


def vgg16(path):
    """Save VGG16 without its top, in a file of Keras 3 or, for .h5, of Keras 2, weights or the
    whole model; return it."""
    network = keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3))
    if path.name.endswith(".weights.h5"):
        network.save_weights(path)
    elif "model" in path.name:
        network.save(path)
    else:
        # As keras.applications' own downloads.
        from keras.src.legacy.saving import legacy_h5_format

        with h5py.File(path, "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, network)
    return network


@pytest.mark.parametrize("name", ["vgg16.weights.h5", "vgg16_notop.h5", "vgg16_model.h5"])
def test_an_applications_file_is_taken_whole(name, tmp_path, capsys):
    reference = vgg16(tmp_path / name)
    config = plain(encoder="vgg16", weights=str(tmp_path / name), freeze="all")
    encoder = build(config, side=32).get_layer("vgg16")
    for layer in [layer for layer in encoder.layers if layer.weights]:
        for ours, theirs in zip(
            layer.get_weights(), reference.get_layer(layer.name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    assert f"{name}: all 26 tensors of VGG16 loaded" in capsys.readouterr().out


def test_layers_of_the_same_name_and_shapes_are_taken(tmp_path, capsys):
    file = str(tmp_path / "shallow.weights.h5")
    shallow = with_random_weights(build(plus(depth=1, norm="batch"), 16))
    shallow.save_weights(file)
    config = plus(depth=2, norm="batch", filters=(8, 16, 8), weights=file)
    deep = build(config, 16)
    for name in ("x_0_0_conv1", "x_0_0_norm2", "x_1_0_conv2", "x_0_1_up"):
        for ours, theirs in zip(
            deep.get_layer(name).get_weights(), shallow.get_layer(name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    output = capsys.readouterr().out
    # A block has 4 layers with weights, an upsampling 1: x_0_0, x_1_0 and x_0_1 of both networks;
    # x_2_0, x_1_1, x_0_2 and head_2 of the deep one.
    assert f"weights {file}: 13 of 28 layers loaded" in output
    assert "not in the file: x_2_0_conv1, " in output and " and 3 more\n" in output
    assert "in the file only: head_1\n" in output and "another shape" not in output


def test_other_shapes_are_reported(tmp_path, capsys):
    file = str(tmp_path / "wide.weights.h5")
    build(plain(filters=(8, 16, 16)), 16).save_weights(file)
    network = build(plain(filters=(8, 8, 16), weights=file), 16)
    output = capsys.readouterr().out
    assert (
        "another shape: level_1_conv1 [(3, 3, 8, 16), (16,)] instead of [(3, 3, 8, 8), (8,)]"
        in output
    )
    with h5py.File(file) as h5:
        kernel = h5["layers/conv2d/vars/0"][:]
    np.testing.assert_array_equal(network.get_layer("level_0_conv1").get_weights()[0], kernel)


def test_a_classifiers_encoder_goes_into_a_unet(tmp_path, capsys):
    file = str(tmp_path / "classifier.weights.h5")
    for first, second, layer in (
        (classifier(), plain(norm="batch", weights=file), "level_2_conv2"),
        (classifier(encoder="vgg16"), plain(encoder="vgg16", depth=5, weights=file), "vgg16"),
    ):
        source = with_random_weights(build(first, 32))
        source.save_weights(file)
        network = build(second, 32)
        for ours, theirs in zip(
            network.get_layer(layer).get_weights(),
            source.get_layer(layer).get_weights(),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, theirs)
        assert "not in the file: decoder_" in capsys.readouterr().out


@pytest.mark.parametrize(("first", "second"), [(classifier, plus), (plain, plus), (plus, plain)])
def test_an_encoders_levels_are_found_under_both_of_their_names(first, second, tmp_path, capsys):
    file = str(tmp_path / "first.weights.h5")
    source = with_random_weights(build(first(norm="batch"), 32))
    source.save_weights(file)
    network = build(second(norm="batch", weights=file), 32)
    names = {plus: "x_{}_0_{}"}
    for level in range(3):
        for part in ("conv1", "norm1", "conv2", "norm2"):
            ours, theirs = (
                model.get_layer(names.get(kind, "level_{}_{}").format(level, part)).get_weights()
                for kind, model in ((second, network), (first, source))
            )
            for pair in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(*pair)
    output = capsys.readouterr().out
    assert f"weights {file}: 12 of " in output and not re.search(r"\b(level_\d|x_\d_0)_", output)


@exhaustive
def test_layers_that_keras_does_not_name_are_found_again(tmp_path):
    """Xception's shortcuts are conv2d_7 in one process or build and conv2d_12 in another."""
    file = str(tmp_path / "xception.weights.h5")
    section = classifier(encoder="xception")
    build(section, 71).save_weights(file)
    network = build(section.model_copy(update={"weights": file}), 71)
    source = build(section, 71)
    source.load_weights(file)
    for ours, theirs in zip(network.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_weights_that_cannot_be_downloaded(monkeypatch):
    def no_network(*args, **options):
        raise Exception("URL fetch failure on https://x: None -- Name or service not known")

    monkeypatch.setattr("keras.src.applications.vgg16.file_utils.get_file", no_network)
    message = "weights=imagenet: cannot be downloaded.*not known; download it on another machine"
    with pytest.raises(InputError, match=message):
        build(plain(encoder="vgg16", weights="imagenet"), 32)


@pytest.mark.filterwarnings("ignore:Skipping nested container")  # Keras, before it raises
def test_files_that_do_not_fit_are_refused(tmp_path):
    text, colours, other = (tmp_path / f"{name}.weights.h5" for name in ("text", "rgb", "other"))
    text.write_text("not HDF5")
    keras.applications.MobileNetV2(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    ).save_weights(colours)
    build(plus(filters=4), side=16).save_weights(other)
    cut = tmp_path / "cut.weights.h5"
    cut.write_bytes(colours.read_bytes()[: colours.stat().st_size // 2])
    for path, config, message in (
        (text, classifier(encoder="vgg16"), "text.weights.h5: not an HDF5 file"),
        (colours, classifier(encoder="vgg16"), "not the weights of VGG16 without its top"),
        (colours, classifier(encoder="vgg16"), "block1_conv1 expects weights of .*, the file has"),
        (colours, plain(), "none of the 13 layers fits.*level_0_conv1 expects"),
        (
            other,
            plain(),
            r"level_0_conv1 expects weights of \[\(3, 3, 1, 8\).*has \[\(3, 3, 1, 4\)",
        ),
        (cut, plain(), "cut.weights.h5: cut short or damaged"),
        (cut, classifier(encoder="vgg16"), "cut.weights.h5: cut short or damaged"),
        (tmp_path / "none.h5", plain(), "none.h5: no such file"),
        ("imagenet", plain(), "weights=imagenet: encoder=plain has none"),
    ):
        with pytest.raises(InputError, match=message) as refused:
            build(config.model_copy(update={"weights": str(path)}), side=32)
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 700
