"""An encoder learns at a rate of its own, and not before it is unfrozen; a run that goes on ends as
one that was not stopped."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from makers import replica_steps, trained
from makers.marks import exhaustive

from trainer import workdir
from trainer.config import learning, parts
from trainer.config.run import Config
from trainer.models import encoders
from trainer.training import averaging, frozen, loop, run
from trainer.training.interruption import Interrupted
from trainer.training.optimizer import build_optimizer, learning_rate

MODEL = {"kind": "unet", "encoder": "mobilenetv2", "depth": 1, "filters": [4], "weights": "a.h5"}
BASE = {"model": MODEL, "data": {"side": 32, "batch_size": replica_steps.BATCH}}


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_the_encoders_weights_take_a_loops_steps(kind):
    """In NumPy, weight by weight: frozen for 3 steps, then at a tenth of the rate and of the
    decay, with moving means that Adam corrects by the encoder's own number of steps."""
    section = learning.Optimizer(
        kind=kind,
        learning_rate=0.1,
        warmup_epochs=0,
        schedule="constant",
        clip_norm=None,
        weight_decay=0.2,
        momentum=0.0,
    )
    decoder, encoder = (keras.Variable([1.0, -2.0], name=name) for name in ("d", "e"))
    optimizer = build_optimizer(section, learning_rate(section, 1, 1))
    optimizer.build([encoder, decoder])
    optimizer.pace([encoder], 0.1, frozen_steps=3)
    gradients = np.random.default_rng(0).normal(size=(8, 2, 2)).astype("float32")
    values = {"e": np.array([1.0, -2.0]), "d": np.array([1.0, -2.0])}
    means = {name: [np.zeros(2), np.zeros(2)] for name in values}
    for step, pair in enumerate(gradients):
        variables = [encoder, decoder] if step >= 3 else [decoder]
        optimizer.apply(list(pair[-len(variables) :]), variables)
        for name, gradient in list(zip("ed", pair, strict=True))[-len(variables) :]:
            rate = 0.01 if name == "e" else 0.1
            values[name] -= rate * 0.2 * values[name]
            if kind == "sgd":
                values[name] -= rate * gradient
                continue
            count = step - 2 if name == "e" else step + 1
            m, v = means[name]
            m += 0.1 * (gradient - m)
            v += 0.001 * (gradient**2 - v)
            corrected = np.sqrt(v / (1 - 0.999**count)), m / (1 - 0.9**count)
            values[name] -= rate * corrected[1] / (corrected[0] + 1e-7)
        np.testing.assert_allclose(encoder.numpy(), values["e"], rtol=2e-4)
        np.testing.assert_allclose(decoder.numpy(), values["d"], rtol=2e-4)


def config_of(**optimizer) -> Config:
    section = {"learning_rate": 1e-2, "warmup_epochs": 0, "schedule": "constant", **optimizer}
    config = Config.model_validate(BASE | {"optimizer": section, "train": {"epochs": 9}})
    # Its first weights are random here.
    return config.model_copy(update={"model": config.model.model_copy(update={"weights": None})})


def run_at(config: Config, step: int):
    """Return a run at that step, and its compiled steps over batches of a fixed order."""
    built = replica_steps.build(config, tf.distribute.get_strategy())
    built = built._replace(state=SimpleNamespace(step=step), steps_per_epoch=2)
    batches = replica_steps.batches(config, 8).skip(step)
    return built, frozen.compile_phases(built, iter(batches))


def take(one, take_steps, steps: int) -> None:
    take_steps(tf.constant(steps))
    one.state.step += steps


def encoder_of(one) -> list[np.ndarray]:
    return [weight.numpy() for weight in one.network.get_layer("mobilenetv2").weights]


def small_network(section, side: int) -> keras.Model:
    """Return a network whose encoder has one convolution and one batch norm."""
    inputs = keras.Input((side, side, 1))
    outputs = keras.layers.BatchNormalization(name="norm")(
        keras.layers.Conv2D(3, 3, padding="same", name="conv")(inputs)
    )
    encoder = keras.Model(inputs, outputs, name=section.encoder)
    images = keras.Input((side, side, 1), name="images")
    return keras.Model(images, keras.layers.Conv2D(1, 1, name="head")(encoder(images)))


@pytest.mark.parametrize("is_small", [True, pytest.param(False, marks=exhaustive)])
def test_an_encoder_is_frozen_and_then_learns(is_small, monkeypatch):
    if is_small:
        monkeypatch.setattr(run, "build", small_network)
    config = config_of(frozen_epochs=1, encoder_rate=0.5)
    one, take_steps = run_at(config, 0)
    first, decoder = encoder_of(one), one.network.get_layer("head").kernel.numpy()
    weights = one.network.get_layer("mobilenetv2").trainable_variables
    take(one, take_steps, 2)
    # Neither its weights, nor its statistics, nor what the optimizer knows of it have moved.
    for before, after in zip(first, encoder_of(one), strict=True):
        np.testing.assert_array_equal(before, after)
    assert (one.network.get_layer("head").kernel.numpy() != decoder).any()
    indices = [one.optimizer._get_variable_index(weight) for weight in weights]
    slots = [one.optimizer._momentums[index].numpy() for index in indices]
    values = [variable.numpy() for variable in (*one.network.variables, *one.optimizer.variables)]
    take(one, take_steps, 2)
    moved = [(before != after).any() for before, after in zip(first, encoder_of(one), strict=True)]
    assert sum(moved) > 0.9 * len(moved)  # the statistics, too
    assert all(
        (statistic.numpy() != 0).any() for statistic in averaging.moving_statistics(one.network)
    )
    assert slots and all((slot == 0).all() for slot in slots)
    # A run that begins behind the frozen epoch, from what was saved there, takes the same steps.
    other, take_others = run_at(config, 2)
    variables = (*other.network.variables, *other.optimizer.variables)
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    take(other, take_others, 2)
    for expected, actual in zip(one.network.weights, other.network.weights, strict=True):
        np.testing.assert_allclose(expected.numpy(), actual.numpy(), rtol=1e-5, atol=1e-7)


@exhaustive
@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(stop_after, lake, tmp_path, monkeypatch):
    """Frozen for two epochs of three; stopped among them, and where the encoder is unfrozen."""
    weights = tmp_path / "encoder.weights.h5"
    encoders.build_application(parts.ENCODERS["mobilenetv2"], 32, None).save_weights(weights)
    config = tmp_path / "config.yaml"
    config.write_text(
        f"""
        model: {{kind: unet, encoder: mobilenetv2, depth: 1, filters: [4], weights: {weights}}}
        data: {{side: 32, batch_size: 8}}
        optimizer: {{frozen_epochs: 2, encoder_rate: 0.1, learning_rate: 0.01}}
        train: {{epochs: 3, device: cpu, deterministic: true, keep_best: last}}
        """
    )
    stop_if_asked = loop.stop_if_asked

    def stop_once(run, watch, max_hours):
        if run.state.step == stop_after * run.steps_per_epoch and not (tmp_path / "done").exists():
            (tmp_path / "done").touch()
            raise Interrupted("stopped here")
        stop_if_asked(run, watch, max_hours)

    def train(folder: str) -> int:
        options = "--config", config, "--lake", lake, "--workdir", tmp_path / folder
        return trained.exit_code("train", *options)

    assert train("whole") == 0
    monkeypatch.setattr(loop, "stop_if_asked", stop_once)
    assert train("stopped") == 42 and train("stopped") == 0
    whole, stopped = (
        workdir.load_network(tmp_path / folder)[1].get_weights() for folder in ("whole", "stopped")
    )
    for one, two in zip(whole, stopped, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "optimizer", "message"),
    [
        ({"kind": "unet"}, {"encoder_rate": 0.1}, "encoder_rate=0.1: needs a model.encoder of"),
        ({"kind": "unet"}, {"frozen_epochs": 2}, "frozen_epochs=2: needs a model.encoder of"),
        (MODEL | {"freeze": "all"}, {"frozen_epochs": 2}, "model.freeze=all leaves nothing"),
        (MODEL | {"weights": None}, {"frozen_epochs": 2}, "would keep random weights"),
        (MODEL, {"frozen_epochs": 40}, "frozen_epochs=40 of train.epochs=40 leaves the encoder"),
    ],
)
def test_a_pace_without_effect_is_refused(model, optimizer, message):
    with pytest.raises(ValueError, match=message):
        Config.model_validate({"model": model, "optimizer": optimizer})
