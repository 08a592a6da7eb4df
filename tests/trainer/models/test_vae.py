"""The VAE-regularised network and the empty_head: the paper's table, the noise, the loss terms that
need no mask, a run from the command line."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from makers import marks
from makers.networks import all_outputs, images, plain, plus, vae, with_random_weights

from lake import InputError
from trainer import task
from trainer.config.network import Vae
from trainer.config.run import Config
from trainer.inference import decision
from trainer.models import blocks, unetpp
from trainer.models.build import build
from trainer.models.vae import LOG_VARIANCE, MEAN, RECONSTRUCTION
from trainer.scoring import objective
from trainer.scoring.sums import example_sums, scores

LOSS = {"dice_form": "-dice", "bce": 0, "reconstruction": 0.1, "kl_divergence": 0.1}


# --- the network ---


def parameters_of_the_table(f: int, counts: tuple[int, ...], latent: int, side: int) -> int:
    """Table 1 and the VAE branch of Myronenko 2018, row by row, with the kernels of two dimensions;
    every convolution has a bias, a norm two numbers per channel."""

    def conv(size, entering, leaving):
        return size * size * entering * leaving + leaving

    def block(width):
        return 2 * (2 * width + conv(3, width, width))

    widths = [f * 2**i for i in range(len(counts))]
    deepest, code = widths[-1], (side // 2 ** len(counts)) ** 2 * 16
    pairs = list(zip(widths, widths[1:], strict=False))
    encoder = conv(3, 1, f) + sum(conv(3, narrow, wide) for narrow, wide in pairs)
    encoder += sum(count * block(width) for count, width in zip(counts, widths, strict=True))
    decoder = sum(conv(1, wide, narrow) + block(narrow) for narrow, wide in pairs) + conv(1, f, 1)
    to_code = 2 * deepest + conv(3, deepest, 16) + code * 2 * latent + 2 * latent
    from_code = latent * code + code + conv(1, 16, deepest)
    return encoder + decoder + to_code + from_code + decoder


@pytest.mark.parametrize(
    "fields, side",
    [
        ({"filters": 32, "blocks": (1, 2, 2, 4), "latent": 128}, 64),  # the paper's
        ({"filters": 8, "blocks": (2, 1), "latent": 5}, 16),
    ],
)
def test_the_vae_has_as_many_parameters_as_the_papers_table(fields, side):
    expected = parameters_of_the_table(*fields.values(), side)
    assert build(vae(**fields), side).count_params() == expected


def test_the_papers_values_are_the_defaults():
    section = Vae(kind="vae")
    assert (section.filters, section.blocks, section.latent) == (32, (1, 2, 2, 4), 128)
    network = build(section, 32)
    assert network.get_layer("dropout").rate == 0.2
    assert network.get_layer("level_3_block4_conv2").output.shape == (None, 4, 4, 256)
    assert network.get_layer("vae_code_conv").output.shape == (None, 2, 2, 16)
    norms = [x for x in network.layers if isinstance(x, keras.layers.GroupNormalization)]
    assert {norm.groups for norm in norms} == {8}


def test_a_block_adds_its_input_to_norm_relu_convolution_twice():
    network = with_random_weights(build(vae(), 16))
    entry, leaving = (network.get_layer(f"level_1_block1_{x}") for x in ("norm1", "add"))
    x, actual = keras.Model(network.input, [entry.input, leaving.output])(images(16))
    expected = x
    for k in (1, 2):
        norm, conv = (network.get_layer(f"level_1_block1_{part}{k}") for part in ("norm", "conv"))
        groups = np.asarray(expected, np.float64).reshape(2, 8, 8, 8, 2)  # 16 channels, 8 groups
        mean, variance = groups.mean((1, 2, 4), keepdims=True), groups.var((1, 2, 4), keepdims=True)
        after_norm = ((groups - mean) / np.sqrt(variance + norm.epsilon)).reshape(2, 8, 8, 16)
        gamma, beta = norm.get_weights()
        expected = conv(np.maximum(after_norm * gamma + beta, 0).astype(np.float32))
    np.testing.assert_allclose(actual, x + expected, rtol=1e-4, atol=1e-4)


def test_the_noise_is_of_training_alone_and_has_the_variance():
    network = build(vae(dropout=0, latent=512), 16)
    names = [MEAN, LOG_VARIANCE, "vae_draw", RECONSTRUCTION]
    forward = objective.with_layers(network, names)
    _, mean, _, draw, first = forward(images(16), training=False)
    np.testing.assert_array_equal(draw, mean)
    np.testing.assert_array_equal(first, forward(images(16), training=False)[4])
    logits, mean, log_variance, draw, reconstruction = forward(images(16), training=True)
    again = forward(images(16), training=True)
    np.testing.assert_array_equal(logits, again[0])  # the branch disturbs no mask
    assert np.abs(reconstruction - again[4]).max() > 1e-3
    noise = (draw - mean) / np.exp(log_variance / 2)
    # 1,024 numbers of N(0, 1): their mean is within 5/32 of 0, their deviation within 5/45 of 1.
    assert abs(np.mean(noise)) < 0.16 and abs(np.std(noise) - 1) < 0.12


@pytest.mark.parametrize("section", [vae(blocks=(1, 1), empty_head=True), plain(empty_head=True)])
def test_the_answer_is_the_logits_and_the_rest_is_part_of_the_network(section):
    network = build(section, 16)
    forward = keras.Model(network.input, all_outputs(network))
    np.testing.assert_array_equal(network(images(16)), forward(images(16))[0])
    assert {w.path for w in forward.weights} == {w.path for w in network.weights}
    # A compiled prediction does not compute what it does not answer.
    predict = tf.function(network, autograph=False).get_concrete_function(
        tf.TensorSpec((1, 16, 16, 1))
    )
    whole = tf.function(forward, autograph=False).get_concrete_function(
        tf.TensorSpec((1, 16, 16, 1))
    )
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2 as frozen,
    )

    count = [
        sum(node.op == "MatMul" for node in frozen(function).graph.as_graph_def().node)
        for function in (predict, whole)
    ]
    assert count[0] == 0 < count[1]


def test_the_empty_head_reads_the_mean_of_the_deepest_features():
    network = with_random_weights(build(plus(empty_head=True, depth=2), 16))
    deepest = network.get_layer("x_2_0_relu2").output
    features, actual = keras.Model(network.input, [deepest, network.get_layer("lesion").output])(
        images(16)
    )
    kernel, bias = network.get_layer("lesion").get_weights()
    expected = np.asarray(features).mean(axis=(1, 2)) @ kernel + bias
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_an_encoder_of_keras_applications_has_an_empty_head_too():
    network = build(plain(encoder="vgg16", depth=3, empty_head=True), 32)
    lesion = keras.Model(network.input, network.get_layer("lesion").output)
    assert lesion(images(32)).shape == (2, 1)


def test_a_pruned_network_has_the_empty_head_only_at_full_depth():
    section = plus(deep_supervision=True, empty_head=True)
    network = build(section, 16)
    for level in (1, 2):
        smaller, small_network = unetpp.prune(network, section, 16, level)
        assert (
            smaller.empty_head
            == (level == 2)
            == isinstance(small_network.layers[-1], blocks.FirstOf)
        )
        np.testing.assert_allclose(
            small_network(images(16)), network(images(16))[..., level - 1 : level], atol=1e-6
        )


def test_sides_that_the_branch_cannot_halve_are_refused():
    with pytest.raises(InputError, match="side=24 cannot be halved 4 times.*multiple of 16"):
        build(vae(blocks=(1, 1, 1, 1)), 24)


# --- the loss ---


def config_with(model: dict, loss: dict) -> Config:
    return Config.model_validate({"model": model, "loss": loss})


def entropy(target, logit):
    return target * np.log1p(np.exp(-logit)) + (1 - target) * np.log1p(np.exp(logit))


def test_reconstruction_and_divergence_count_on_every_image():
    config = config_with({"kind": "vae"}, LOSS | {"reconstruction": 0.3, "kl_divergence": 0.2})
    section = vae(dropout=0)
    forward = objective.outputs(build(section, 16), config.loss)
    x = images(16)
    outputs = forward(x, training=True)
    logits, inputs, reconstruction, mean, log_variance = (
        np.asarray(y, np.float64) for y in outputs
    )
    np.testing.assert_array_equal(inputs, x)
    masks = (x > 0.7).astype(np.float32)
    batch = {"label": np.float32([1, -1]), "has_mask": np.float32([1, 0])}
    actual = np.asarray(objective.image_losses(config, 0.1)(masks, outputs, batch))
    p = 1 / (1 + np.exp(-logits[0]))
    dice = (2 * (p * masks[0]).sum() + 1) / (p.sum() + masks[0].sum() + 1)
    l2 = ((x - reconstruction) ** 2).mean(axis=(1, 2, 3))
    kl = (mean**2 + np.exp(log_variance) - log_variance - 1).sum(axis=1) / 16**2
    assert actual == pytest.approx(0.3 * l2 + 0.2 * kl - [dice, 0], rel=1e-5)


def test_the_head_learns_from_the_mask_or_else_from_the_label():
    model = {"kind": "unet", "empty_head": True}
    config = config_with(model, {"dice": 0, "bce": 1, "lesion": 2, "label_smoothing": 0.1})
    masks = np.zeros((5, 16, 16, 1), np.float32)
    masks[0, :4] = 1
    batch = {
        # A lesion; one that augmentation pushed out of the image; without a mask; nothing known.
        "label": np.float32([1, 1, 1, 0, -1]),
        "has_mask": np.float32([1, 1, 0, 0, 0]),
    }
    z = np.float32([0.3, -1, 2, 0.5, 9])
    logits = np.zeros_like(masks)  # whose BCE is log 2
    actual = np.asarray(objective.image_losses(config, 0.1)(masks, [logits, z[:, None]], batch))
    targets = np.array([0.95, 0.05, 0.95, 0.05, 0])
    expected = 2 * entropy(targets, z) * [1, 1, 1, 1, 0] + np.log(2) * batch["has_mask"]
    assert actual == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "model, loss, message",
    [
        ({"kind": "unet"}, {"reconstruction": 1}, "only model.kind=vae has a VAE branch"),
        ({"kind": "classifier"}, {"kl_divergence": 1}, "only model.kind=vae has a VAE branch"),
        ({"kind": "vae"}, {}, "loss.reconstruction=0 does not train its VAE branch"),
        ({"kind": "vae"}, {"kl_divergence": 1}, "loss.reconstruction=0 does not train its VAE"),
        ({"kind": "unetpp"}, {"lesion": 1}, "needs a segmenter with model.empty_head=true"),
        ({"kind": "classifier"}, {"lesion": 1}, "needs a segmenter with model.empty_head=true"),
        ({"kind": "unet", "empty_head": True}, {}, "learns nothing with loss.lesion=0"),
        ({"kind": "vae", "filters": 12}, {"reconstruction": 1}, "multiple of 8"),
    ],
)
def test_terms_without_their_branch_and_branches_without_their_term(model, loss, message):
    with pytest.raises(ValueError, match=message):
        config_with(model, loss)


@marks.exhaustive
@pytest.mark.parametrize(
    "policy", [pytest.param("float32", marks=marks.exhaustive), "mixed_bfloat16"]
)
def test_the_whole_loss_compiles_forwards_and_backwards(policy, request):
    keras.config.set_dtype_policy(policy)
    request.addfinalizer(lambda: keras.config.set_dtype_policy("float32"))
    config = config_with({"kind": "vae", "empty_head": True}, LOSS | {"lesion": 0.5})
    network = build(vae(blocks=(1, 1), empty_head=True), 16)
    forward, loss_of = objective.outputs(network, config.loss), objective.image_losses(config, 0.1)
    batch = {"label": tf.constant([1.0, -1.0]), "has_mask": tf.constant([1.0, 0.0])}

    @tf.function(jit_compile=True, autograph=False)
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(
                loss_of(tf.cast(x > 0.7, x.dtype), forward(x, training=True), batch)
            )
        return loss, tape.gradient(loss, network.trainable_variables)

    loss, gradients = step(images(16))
    assert np.isfinite(loss) and all(np.isfinite(g).all() for g in gradients)
    assert np.mean([np.abs(g).max() > 0 for g in gradients]) > 0.9
    # Without noise XLA and the plain graph agree.
    plain_outputs, compiled = (
        forward(images(16)),
        tf.function(forward, jit_compile=True, autograph=False)(images(16)),
    )
    for actual, expected in zip(compiled, plain_outputs, strict=True):
        tolerance = 1e-4 if policy == "float32" else 0.1
        np.testing.assert_allclose(actual, expected, atol=tolerance, rtol=tolerance)


# --- scores and runs ---


def test_the_heads_auc_is_the_image_score():
    """The maps rank the images the wrong way round, the head the right way."""
    masks = np.zeros((4, 32, 32, 1), np.float32)
    masks[2:, :8, :8] = 1
    batch = {"label": tf.constant([0.0, 0, 1, 1]), "has_mask": tf.ones(4)}
    logits = np.float32([4, 3, 2, 1])[:, None, None, None] * np.ones_like(masks)
    head = np.float32([[-1], [-2], [3], [2]])
    for lesion, auc in ((None, 0.0), (head, 1.0)):
        sums = example_sums(False, masks, logits, batch, None, lesion)
        assert scores({name: value.numpy() for name, value in sums.items()})["auc"] == auc


RUNS = {
    "vae": (
        {"kind": "vae", "filters": 8, "blocks": [1, 1], "latent": 8, "empty_head": True},
        LOSS | {"lesion": 0.5},
    ),
    "unetpp": (
        {"kind": "unetpp", "filters": 8, "depth": 2, "deep_supervision": True, "empty_head": True},
        {"lesion": 0.5},
    ),
}


@marks.exhaustive
@pytest.mark.parametrize(
    "name", ["vae", *(pytest.param(n, marks=marks.exhaustive) for n in RUNS if n != "vae")]
)
def test_a_run_from_the_command_line(name, lake, tmp_path, capsys):
    model, loss = RUNS[name]
    train = {"epochs": 1, "device": "cpu", "steps_per_call": 1}
    sections = {
        "model": model,
        "loss": loss,
        "data": {"side": 32, "batch_size": 8},
        "train": train,
        "optimizer": {"warmup_epochs": 0},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(sections))
    arguments = ["--workdir", str(tmp_path / "run")]
    command = ["train", "--config", str(tmp_path / "run.yaml"), "--lake", str(lake), *arguments]
    assert task.main(command) == 0
    assert task.main([*command, "--train.jit=off"]) == 0  # a finished run, its checkpoint restored
    assert "its epoch is done" in capsys.readouterr().out
    assert task.main(["evaluate", *arguments, "--picture", str(tmp_path / "p.png")]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    evaluation, last = metrics["evaluate"], metrics["last"]
    # The one epoch is the best: in the loop and in the evaluation, the head's AUC.
    assert evaluation["splits"]["val"]["auc"] == pytest.approx(last["val"]["auc"])
    assert np.isfinite(last["val"]["loss"]) and evaluation["lesion_threshold"] in decision.LESIONS
    assert "the image's own p " in capsys.readouterr().out
    if model["kind"] == "unetpp":
        assert task.main(["evaluate", *arguments, "--level=1"]) == 0
        small_scores = json.loads((tmp_path / "run" / "metrics.json").read_text())["evaluate_l1"]
        assert "lesion_threshold" not in small_scores
