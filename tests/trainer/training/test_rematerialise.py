"""Rematerialised networks: the same gradients, statistics and runs, and blocks computed twice."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from makers import marks

from trainer.config.learning import Loss
from trainer.config.network import Classifier, Unet, UnetPlusPlus
from trainer.models.build import build
from trainer.scoring import objective
from trainer.training import rematerialise

ROOT = Path(__file__).parents[3]


def plus(**fields):
    return UnetPlusPlus(kind="unetpp", **{"filters": 8, "depth": 2} | fields)


def plain(**fields):
    return Unet(kind="unet", **{"filters": 8, "depth": 2} | fields)


def classifier(**fields):
    return Classifier(kind="classifier", **fields)


def fresh(section, side: int) -> keras.Model:
    keras.utils.set_random_seed(1)
    return build(section, side)


def gradient_of(network_or_copy, network: keras.Model, jit: bool):
    """images -> the gradient of a loss of every output, and the state behind the step."""

    @tf.function(jit_compile=jit, autograph=False)
    def step(images):
        with tf.GradientTape() as tape:
            outputs = keras.tree.flatten(network_or_copy(images, training=True))
            loss = sum(tf.reduce_mean(tf.square(tf.cast(x, tf.float32) - 0.3)) for x in outputs)
        return tape.gradient(loss, network.trainable_variables)

    return step


def vector(tensors) -> np.ndarray:
    return np.concatenate([np.ravel(x).astype(np.float64) for x in tensors] or [np.zeros(1)])


def differences(network: keras.Model, jit: bool = False) -> dict[str, float]:
    """Return how far a step with it is from one without, as a share of the length of all numbers
    together."""
    side = network.input.shape[1]
    images = tf.constant(np.random.default_rng(0).random((2, side, side, 1), np.float32))
    before = [variable.numpy() for variable in network.non_trainable_variables]
    results = []
    for network_or_copy in (network, rematerialise.rematerialise(network)):
        for variable, value in zip(network.non_trainable_variables, before, strict=True):
            variable.assign(value)
        gradients = gradient_of(network_or_copy, network, jit)(images)
        results.append([vector(gradients), vector(network.non_trainable_variables)])
    (gradient, state), (again, state_again) = results
    assert np.linalg.norm(gradient) > 1e-3
    assert not before or np.abs(state - vector(before)).max() > 0  # they do move, once
    lengths = np.linalg.norm(gradient), max(np.linalg.norm(state), 1)
    state_difference = np.linalg.norm(state_again - state) / lengths[1]
    return {"gradient": np.linalg.norm(again - gradient) / lengths[0], "state": state_difference}


NETWORKS = {
    "batch norm": plus(norm="batch"),
    "group norm": plus(norm="group", residual=True),
    # The pass that computes again must drop the same values, or its gradient is another one.
    "dropout": plus(norm="batch", dropout=0.5, depth=1),
    "deep supervision": plus(norm="group", deep_supervision=True, upsampling="bilinear_conv"),
    "unet": plain(norm="batch", dropout=0.2, upsampling="transposed_3x3"),
    "classifier": classifier(encoder="plain", filters=8, depth=2, dropout=0.2),
}


ALWAYS = ("dropout",)


@pytest.mark.slow
@pytest.mark.parametrize(
    "section",
    [
        pytest.param(section, id=name, marks=[] if name in ALWAYS else marks.exhaustive)
        for name, section in NETWORKS.items()
    ],
)
def test_gradients_and_statistics_are_the_same(section):
    actual = differences(fresh(section, 16))
    assert actual == pytest.approx({"gradient": 0, "state": 0}, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "section",
    [
        pytest.param(plus(norm="batch", dropout=0.5, depth=1), marks=marks.exhaustive),
        pytest.param(plain(norm="group", depth=1), marks=marks.exhaustive),
    ],
    ids=["unetpp", "unet"],
)
def test_gradients_and_statistics_are_the_same_compiled(section):
    actual = differences(fresh(section, 16), jit=True)
    assert actual == pytest.approx({"gradient": 0, "state": 0}, abs=1e-6)


@marks.exhaustive
@pytest.mark.parametrize(
    "encoder", ["densenet121", "efficientnetb0", "mobilenetv3_small", "convnext_tiny"]
)
def test_the_blocks_inside_an_encoder_give_the_same(encoder):
    actual = differences(fresh(plain(encoder=encoder, norm="batch"), 32))
    assert actual == pytest.approx({"gradient": 0, "state": 0}, abs=1e-6)


@marks.exhaustive
def test_the_blocks_inside_a_whole_encoder_give_the_same():
    section = classifier(encoder="efficientnetb0", pooling="lesion_map", dropout=0.2)
    actual = differences(fresh(section, 32))
    # Its deepest norms see two pixels, one of each image, and enlarge what another order of
    # summation changes.
    assert actual == pytest.approx({"gradient": 0, "state": 0}, abs=1e-5)


@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=marks.exhaustive)])
def test_mixed_precision_computes_in_the_same_types(jit, request):
    keras.config.set_dtype_policy("mixed_bfloat16")
    request.addfinalizer(lambda: keras.config.set_dtype_policy("float32"))
    actual = differences(fresh(plus(norm="batch", dropout=0.5, depth=1, activation="elu"), 16), jit)
    # XLA keeps float32 between bfloat16 operations that it fuses, and fuses others here.
    assert actual == pytest.approx({"gradient": 0, "state": 0}, abs=0.05 if jit else 1e-6)


def test_a_network_of_several_outputs_gives_them_as_it_does():
    network = fresh(classifier(encoder="plain", filters=8, depth=2, pooling="lesion_map"), 16)
    images = np.random.default_rng(0).random((2, 16, 16, 1), np.float32)
    both = objective.outputs(network, Loss(lesion_map=1), rematerialise.rematerialise)
    expected = objective.outputs(network, Loss(lesion_map=1))(images, training=False)
    actual = both(images, training=False)
    assert isinstance(actual, list) and [x.shape for x in actual] == [(2, 1), (2, 4, 4, 1)]
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with_dict = keras.Model(network.input, {"map": network.get_layer("lesion_map").output})
    assert list(rematerialise.rematerialise(with_dict)(images, training=False)) == ["map"]


def block_names(network: keras.Model) -> list[list[str]]:
    blocks, _ = rematerialise._blocks(network)
    return [[x.name for x in block.model.layers if x.weights] for block in blocks]


def test_each_node_of_a_unetpp_is_one_block():
    names = block_names(fresh(plus(deep_supervision=True, depth=3), 16))
    # In the order of need: what X(0,1) takes, X(0,1), what X(0,2) takes besides, …
    order = ["x_0_0", "x_1_0", "x_0_1", "x_2_0", "x_1_1", "x_0_2", "x_3_0", "x_2_1", "x_1_2"]
    actual = [{name[:5] for name in block if "head" not in name} for block in names[1:]]
    assert actual == [{node} for node in [*order, "x_0_3"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "encoder, blocks, side",
    # Dense blocks have 6, 12, 24, 16 layers; EfficientNet-B0 has 16 blocks, VGG16 and Xception 5
    # and 14, the first of which are their first layers. Beside them: preprocessing, stem, head.
    [
        ("vgg16", 5, 32),
        *(
            pytest.param(*row, marks=marks.exhaustive)
            for row in [
                *(("densenet121", 58, 32), ("efficientnetb0", 16, 32), ("xception", 14, 71)),
                *(("mobilenetv3_small", 11, 32), ("convnext_tiny", 18, 32)),
            ]
        ),
    ],
)
def test_every_weight_is_in_one_block(encoder, blocks, side):
    network = fresh(classifier(encoder=encoder), side)
    weights = [[id(w) for w in b.model.weights] for b in rematerialise._blocks(network)[0]]
    assert Counter(w for block in weights for w in block) == Counter(map(id, network.weights))
    block = re.compile(r"((conv\d+_)?block|expanded_conv|convnext_tiny_stage)")
    names = [n for n in block_names(network) if any(map(block.match, n))]
    assert len(names) == blocks


def convolutions(network_or_copy, network: keras.Model, compiled: bool) -> int:
    """Return the number of forward convolutions in the gradient's graph; XLA's graph is read after
    its optimisation."""
    images, step = tf.ones((1, 16, 16, 1)), gradient_of(network_or_copy, network, compiled)
    if compiled:
        text = step.experimental_get_compiler_ir(images)(stage="optimized_hlo")
        return len(re.findall(r'convolution\(.*op_type="Conv2D"', text))
    operations = step.get_concrete_function(images).graph.get_operations()
    return sum(operation.type == "Conv2D" for operation in operations)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=marks.exhaustive)])
def test_each_convolution_is_computed_again(compiled):
    """XLA would save the second computation, were it not made to wait for the gradient."""
    network = fresh(plus(depth=1, norm="group", activation="elu"), 16)
    blocks = rematerialise.rematerialise(network)
    more = convolutions(blocks, network, compiled) - convolutions(network, network, compiled)
    # Three blocks of two; the head's output is not needed for a gradient, so XLA leaves it out.
    assert more == (6 if compiled else 7)


# --- through the command ---

SMALL = [
    *("--data.side=32", "--data.batch_size=8", "--model.depth=1", "--model.filters=8"),
    *("--train.epochs=2", "--train.steps_per_call=1", "--train.device=cpu"),
    *("--model.dropout=0.2", "--train.replicas=2"),
    # Adam would divide what rounding leaves of a zero gradient by its own size.
    *("--optimizer.kind=sgd", "--optimizer.learning_rate=0.1"),
]


def train(lake: Path, workdir: Path, *options: str) -> str:
    command = ["train", "--config", "configs/unetpp.yaml", "--lake", lake, "--workdir", workdir]
    process = subprocess.run(
        [sys.executable, "-m", "trainer.task", *map(str, command), *SMALL, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def last_of(workdir: Path) -> dict:
    return json.loads((workdir / "metrics.json").read_text())["last"]


@marks.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "sync_batch"])
def test_a_run_on_two_replicas_goes_on_the_same_with_it(lake, tmp_path, norm):
    workdir = tmp_path / "run"
    train(lake, workdir, f"--model.norm={norm}")
    expected = last_of(workdir)
    # As if killed after the first epoch.
    (workdir / "checkpoints" / "checkpoint").write_text(
        'model_checkpoint_path: "ckpt-3"\nall_model_checkpoint_paths: "ckpt-3"\n'
    )
    for path in (workdir / "checkpoints").glob("ckpt-6.*"):
        path.unlink()
    (workdir / "metrics.json").unlink()
    output = train(lake, workdir, f"--model.norm={norm}", "--train.rematerialise=on")
    assert "resuming at step 3" in output
    for curve in ("train", "val"):
        assert last_of(workdir)[curve] == pytest.approx(expected[curve], rel=1e-5, nan_ok=True)
