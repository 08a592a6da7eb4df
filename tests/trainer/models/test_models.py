"""Every network, whatever its kind: precision, one step, saving, compiling, another backend."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from makers import marks, networks
from makers.networks import ALBERTSOKOL, images, plain, plus

from lake import InputError
from trainer.config import parts
from trainer.models.build import build
from trainer.scoring import objective

ROOT = Path(__file__).parents[3]


@pytest.fixture
def mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(
    "config, shape",
    [
        (plus(), (2, 32, 32, 1)),
        (plus(depth=1, deep_supervision=True), (2, 32, 32, 1)),
        (plus(depth=3, deep_supervision=True, norm="group"), (2, 32, 32, 3)),
        (plus(norm="batch"), (2, 32, 32, 1)),
        (plus(norm="sync_batch"), (2, 32, 32, 1)),
        (plain(upsampling="bilinear", norm="instance"), (2, 32, 32, 1)),
        (plain(encoder="vgg16"), (2, 32, 32, 1)),
        (networks.classifier(), (2, 1)),
        (networks.classifier(depth=4, dropout=0.5), (2, 1)),
        (networks.classifier(hidden=44), (2, 1)),
        (plus(deep_supervision=True, empty_head=True), (2, 32, 32, 2)),
        (networks.vae(empty_head=True), (2, 32, 32, 1)),
    ],
    ids=str,
)
def test_logits_are_float32_under_mixed_precision(config, shape, mixed_precision):
    network = build(config, side=32)
    logits = network(images(32))
    assert (logits.shape, logits.dtype) == (shape, tf.float32)
    assert all(weight.dtype == "float32" for weight in network.weights)
    inner = [*network.layers]
    for layer in network.layers:
        inner += getattr(layer, "layers", [])
    convolutions = [x for x in inner if isinstance(x, keras.layers.Conv2D)]
    assert any(convolution.compute_dtype == "bfloat16" for convolution in convolutions)


def test_convolutions_see_images_about_zero():
    network = build(plus(), side=16)
    inside = keras.Model(network.inputs[0], network.get_layer("x_0_0_conv1").input)
    assert np.unique(inside(np.linspace(0, 1, 3).repeat(256).reshape(3, 16, 16, 1))).tolist() == [
        -1,
        0,
        1,
    ]


SEEDED = [plus(norm="batch"), plain(), networks.classifier()]


@pytest.mark.parametrize("config", SEEDED, ids=lambda config: config.kind)
def test_a_seed_fixes_the_first_weights(config):
    def first_logits(seed):
        keras.utils.set_random_seed(seed)
        return build(config, side=16)(images(16)).numpy()

    assert (first_logits(3) == first_logits(3)).all()
    assert (first_logits(3) != first_logits(4)).any()


# Each option once, and each kind of network and of encoder.
ARCHITECTURES = {
    "unet": plain(),
    "unet, batch, residual": plain(norm="batch", residual=True, dropout=0.2),
    "unet, albertsokol": plain(**ALBERTSOKOL),
    "unet, bilinear_conv": plain(upsampling="bilinear_conv", norm="group", activation="swish"),
    "unet, jchen42703": plain(
        depth=3,
        filters=6,
        max_filters=20,
        norm="instance",
        activation="leaky_relu",
        negative_slope=0.3,
        upsampling="nearest",
    ),
    "unetpp": plus(deep_supervision=True, upsampling="bilinear", activation="elu"),
    "unetpp, albertsokol": plus(**ALBERTSOKOL),
    "unetpp, nearest_conv": plus(upsampling="nearest_conv", norm="sync_batch", convolutions=1),
    "unet, empty head": plain(empty_head=True, norm="batch"),
    "unetpp, empty head": plus(empty_head=True, deep_supervision=True),
    "vae, empty head": networks.vae(blocks=(1, 2), empty_head=True),
    "classifier": networks.classifier(hidden=44, dropout=0.2),
    "classifier, map": networks.classifier(pooling="lesion_map"),
}
# One of each family; test_encoders.py builds them all.
FAMILIES = ("vgg16", "densenet121", "xception", "inception_resnet_v2", "efficientnetb0")
ENCODED = {
    f"{kind.kind}, {encoder}": kind.model_copy(update={"encoder": encoder})
    for encoder in FAMILIES
    for kind in (
        plain(filters=4, depth=5, norm="batch"),
        plus(filters=4, depth=3, deep_supervision=True),
        networks.classifier(hidden=44),
    )
}
FAST = {("unet", "float32"), ("unetpp", "mixed_bfloat16")}
# One of each kind; the others, which cost up to half a minute each, run on demand.
KINDS = ("unetpp, empty head", "vae, empty head", "classifier, map")
TURNS = {
    name: ("float32", "mixed_bfloat16")[number % 2]
    for names in (ARCHITECTURES, ENCODED)
    for number, name in enumerate(sorted(names))
}


def marks_for(name: str, policy: str) -> list:
    if (name, policy) in FAST:
        return []
    is_rest = name not in KINDS or TURNS[name] != policy
    return [pytest.mark.slow, *([marks.exhaustive] if is_rest else [])]


STEPS = [
    pytest.param(config, policy, id=f"{name}, {policy}", marks=marks_for(name, policy))
    for name, config in (ARCHITECTURES | ENCODED).items()
    for policy in ("float32", "mixed_bfloat16")
]


@pytest.mark.parametrize("config, policy", STEPS)
def test_a_step_a_save_and_a_reload(config, policy, tmp_path, request):
    # At 32 px the deepest map is one pixel, and batch norm of two of those has huge gradients.
    row = parts.ENCODERS.get(getattr(config, "encoder", "plain"))
    side = 32 if row is None else max(64, 96 * (row.min_side > 64))
    x = images(side)
    keras.config.set_dtype_policy(policy)
    request.addfinalizer(lambda: keras.config.set_dtype_policy("float32"))
    network = build(config, side)
    forward = keras.Model(network.input, networks.all_outputs(network))
    optimizer = keras.optimizers.SGD(1e-3, global_clipnorm=1.0)
    before = network.get_weights()

    @tf.function(autograph=False)
    def step(x):
        with tf.GradientTape() as tape:
            outputs = keras.tree.flatten(forward(x, training=True))
            loss = tf.add_n([tf.reduce_mean(tf.square(y - 1)) for y in outputs])
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply(gradients, network.trainable_variables)
        return loss, gradients

    optimizer.build(network.trainable_variables)
    loss, gradients = step(x)
    assert np.isfinite(loss) and all(np.isfinite(gradient).all() for gradient in gradients)
    assert any((old != new).any() for old, new in zip(before, network.get_weights(), strict=True))
    network.save_weights(tmp_path / "network.weights.h5")
    copy = build(config, side)
    assert np.abs(copy(x) - network(x)).max() > 1e-6
    copy.load_weights(tmp_path / "network.weights.h5")
    np.testing.assert_array_equal(copy(x), network(x))
    assert np.isfinite(network(x)).all()


# --- XLA ---

UPSAMPLINGS, NORMS = list(parts.UPSAMPLINGS), list(parts.NORMS)
POLICIES = "mixed_bfloat16", "float32"
# Every norm and every way up, with no more compilations than needed; one of each precision here,
# the others on demand.
COMPILED_HERE = {("nearest", "mixed_bfloat16")}
COMPILED = [
    pytest.param(
        *(upsampling, NORMS[number % len(NORMS)], policy),
        marks=[pytest.mark.slow] + [marks.exhaustive] * ((upsampling, policy) not in COMPILED_HERE),
    )
    for number, upsampling in enumerate(UPSAMPLINGS)
    for policy in POLICIES
]


def forward_and_backward(network):
    def outputs(x):
        with tf.GradientTape() as tape:
            logits = network(x, training=True)
            loss = tf.reduce_mean(tf.square(logits - 1))
        return logits, tape.gradient(loss, network.trainable_variables)

    return outputs


def distance(actual, expected) -> float:
    """Return the length of the difference of all numbers, as a share of the expected length."""
    actual, expected = (np.concatenate([np.ravel(x) for x in part]) for part in (actual, expected))
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("upsampling, norm, policy", COMPILED)
def test_unetpp_compiles_forwards_and_backwards(upsampling, norm, policy, request):
    keras.config.set_dtype_policy(policy)
    request.addfinalizer(lambda: keras.config.set_dtype_policy("float32"))
    # ELU's gradient has no jump; ReLU's changes where XLA rounds a sum to the other side of 0.
    keras.utils.set_random_seed(1)
    network = build(plus(depth=1, upsampling=upsampling, norm=norm, activation="elu"), 16)
    outputs = forward_and_backward(network)
    logits, gradients = outputs(images(16))
    compiled_logits, compiled_gradients = tf.function(outputs, jit_compile=True, autograph=False)(
        images(16)
    )
    tolerance = 1e-5 if policy == "float32" else 0.1  # XLA adds up bfloat16 in another order
    assert distance([compiled_logits], [logits]) < tolerance
    assert distance(compiled_gradients, gradients) < tolerance


@marks.exhaustive
@pytest.mark.parametrize(  # every norm's gradient is compiled above
    "norm", [n if n == "group" else pytest.param(n, marks=marks.exhaustive) for n in NORMS]
)
def test_a_deeper_unetpp_compiles_with_each_norm(norm):
    network = build(plus(deep_supervision=True, norm=norm, dropout=0.2, residual=True), 16)
    logits, gradients = tf.function(
        forward_and_backward(network), jit_compile=True, autograph=False
    )(images(16))
    assert np.isfinite(logits).all() and all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize(
    "config", [plain(norm="group"), networks.classifier()], ids=lambda c: c.kind
)
def test_compiled_networks_give_the_same_logits(config):
    network = build(config, side=16)
    compiled = tf.function(network, jit_compile=True, autograph=False)
    np.testing.assert_allclose(compiled(images(16)), network(images(16)), atol=1e-4)


# --- another backend ---

ON_JAX = """
import json, sys
import keras, numpy as np
from trainer.config.run import Config
from trainer.models.build import build
assert keras.backend.backend() == "jax"
for name, text in json.loads(sys.argv[1]).items():
    section = Config.model_validate(text).model
    network = build(section, 16)
    network.load_weights(f"{name}.weights.h5")
    last = network.layers[-1]
    outputs = last.input if last.name == "answer" else [network.output]
    whole = keras.Model(network.input, outputs)
    outputs = keras.tree.flatten(whole.predict(np.load("images.npy"), verbose=0))  # compiled
    with np.load(f"{name}.npz") as expected:
        for output, name in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(output, expected[name], atol=1e-4, rtol=1e-4)
"""


@marks.exhaustive  # test_backends.py asks JAX about losses
def test_jax_gives_the_same_numbers(tmp_path):
    pytest.importorskip("jax")
    alike = {"filters": (8, 8, 8)}  # JAX compiles the first weights of each shape anew
    sections = {
        "unet": plain(**alike, norm="batch", upsampling="bilinear", residual=True, empty_head=True),
        "unetpp": plus(**alike, norm="group", deep_supervision=True, upsampling="transposed_3x3"),
        "vae": networks.vae(blocks=(1, 1)),
    }
    terms = {"unet": {"lesion": 1}, "vae": {"reconstruction": 1}}
    np.save(tmp_path / "images.npy", images(16))
    for name, section in sections.items():
        network = build(section, 16)
        network.save_weights(tmp_path / f"{name}.weights.h5")
        outputs = keras.Model(network.input, networks.all_outputs(network))(images(16))
        np.savez(tmp_path / f"{name}.npz", *keras.tree.flatten(outputs))
    texts = json.dumps(
        {
            name: {"model": section.model_dump(), "loss": terms.get(name, {})}
            for name, section in sections.items()
        }
    )
    environment = os.environ | {
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    process = subprocess.run(
        [sys.executable, "-c", ON_JAX, texts],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr


# --- learning ---


@pytest.mark.slow
@pytest.mark.parametrize(
    "config, side, rate, steps",
    [
        (plain(norm="batch"), 32, 1e-2, 80),
        pytest.param(
            *(plus(norm="batch", deep_supervision=True), 48, 1e-2, 80), marks=marks.exhaustive
        ),
        pytest.param(
            *(plain(encoder="vgg16", depth=3, norm="batch"), 32, 1e-3, 240), marks=marks.exhaustive
        ),
        pytest.param(
            *(plain(norm="batch", empty_head=True), 48, 1e-2, 160), marks=marks.exhaustive
        ),
        pytest.param(
            *(networks.vae(blocks=(1, 1, 2), dropout=0), 48, 5e-3, 150), marks=marks.exhaustive
        ),
    ],
    ids=["unet", "unetpp", "vgg16", "empty head", "vae"],
)
def test_four_phantoms_are_learned_by_heart(config, side, rate, steps):
    """Dice is above 0.95 on the images that it was trained with, by Keras's own Adam."""
    from beam.phantoms import xray

    phantoms = []
    for number in range(4):
        person, scene = (np.random.default_rng([number, part]) for part in (0, 1))
        phantoms.append(xray.draw(person, scene, "M", False, 1, side=side))
    x = np.stack([view for view, _ in phantoms])[..., None].astype(np.float32)
    masks = np.stack([parts[0] for _, parts in phantoms])[..., None].astype(np.float32)
    keras.utils.set_random_seed(0)
    network = build(config, side)
    # An empty_head learns that each of them has a lesion, a VAE branch to reconstruct them.
    truth = {"lesion": tf.ones([4, 1]), "reconstruction": x}
    names = [name for name in truth if any(layer.name == name for layer in network.layers)]
    forward = objective.with_layers(network, names)
    optimizer = keras.optimizers.Adam(rate)
    optimizer.build(network.trainable_variables)

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            logits, *extra = forward(x, training=True)
            p = tf.sigmoid(logits)
            overlap = tf.reduce_sum(masks * p, axis=(1, 2))
            dice = 2 * overlap / tf.reduce_sum(masks + p, axis=(1, 2))
            entropy = tf.nn.sigmoid_cross_entropy_with_logits(masks + 0 * logits, logits)
            loss = tf.reduce_mean(entropy) + tf.reduce_mean(1 - dice)
            for name, output in zip(names, extra, strict=True):
                loss += 0.1 * tf.reduce_mean(tf.square(output - truth[name]))
        optimizer.apply(tape.gradient(loss, network.trainable_variables))

    for _ in range(steps):
        step()
    output_masks = np.asarray(network(x))[..., -1:] > 0
    overlap = (output_masks * masks).sum(axis=(1, 2, 3))
    dice = 2 * overlap / (output_masks.sum(axis=(1, 2, 3)) + masks.sum(axis=(1, 2, 3)))
    assert dice.mean() > 0.95, dice


def test_a_missing_weights_file_is_one_message():
    with pytest.raises(InputError, match="/none.weights.h5: no such file"):
        build(networks.classifier(encoder="densenet121", weights="/none.weights.h5"), 32)
