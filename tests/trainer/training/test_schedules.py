"""Learning rates by step against their formulas; which weights decay; the positives' share."""

import keras
import numpy as np
import pytest

from trainer.config import learning, run
from trainer.data import order
from trainer.training.optimizer import build_optimizer, learning_rate, lower_on_plateau


def rates(steps, epochs: int = 40, per_epoch: int = 1, **settings) -> list[float]:
    fields = {"learning_rate": 1e-3, "warmup_epochs": 0} | settings
    schedule = learning_rate(learning.Optimizer(**fields), epochs, per_epoch)
    return [float(schedule(step)) for step in steps]


def test_cosine_goes_through_the_published_values():
    expected = [1e-3, 8.535534e-4, 5e-4, 1.541333e-6]
    assert rates([0, 10, 20, 39]) == pytest.approx(expected, rel=1e-4)


def test_a_warm_up_is_a_line_and_the_schedule_starts_behind_it():
    actual = rates([0, 5, 10, 30, 50], epochs=10, per_epoch=5, warmup_epochs=2)
    assert actual == pytest.approx([0, 5e-4, 1e-3, 5e-4, 0], abs=1e-9)
    assert rates([0, 4, 8, 20], warmup_epochs=8, schedule="constant") == pytest.approx(
        [0, 5e-4, 1e-3, 1e-3]
    )


def test_cosine_restarts_each_longer_and_lower_by_the_config():
    actual = rates([0, 5, 10, 20, 30], cycle_epochs=10, cycle_growth=2, cycle_decay=0.5)
    assert actual == pytest.approx([1e-3, 5e-4, 5e-4, 2.5e-4, 2.5e-4], rel=1e-4)


def test_cyclic_goes_up_and_down_in_lines():
    actual = rates(range(0, 13, 2), schedule="cyclic", cycle_epochs=8, final_share=0.2)
    assert actual == pytest.approx(np.array([0.2, 0.6, 1, 0.6, 0.2, 0.6, 1]) * 1e-3, rel=1e-5)


def test_polynomial_has_its_power():
    actual = rates([0, 10, 30, 40], schedule="polynomial", final_share=0.1)
    expected = [1e-3 * (0.1 + 0.9 * (1 - t) ** 0.9) for t in (0, 0.25, 0.75, 1)]
    assert actual == pytest.approx(expected, rel=1e-5)


def test_a_plateau_lowers_the_rate_each_time_the_score_stays_where_it_is():
    settings = learning.Optimizer(schedule="plateau", plateau_epochs=3, warmup_epochs=0)
    rate = learning_rate(settings, 40, 10)
    actual = []
    for stale_epochs in (0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3):
        lower_on_plateau(settings, rate, stale_epochs)
        actual.append(float(rate(100)))
    factors = [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.125]
    assert actual == pytest.approx(np.array(factors) * 1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cycle_epochs": 5, "schedule": "plateau"}, "needs schedule=cosine or cyclic"),
        ({"schedule": "cyclic"}, "schedule=cyclic needs cycle_epochs"),
        ({"ema": 0.9, "swa_epochs": 3}, "give one of them"),
    ],
)
def test_settings_that_do_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        learning.Optimizer(**settings)


@pytest.mark.parametrize(
    ("settings", "decay"),
    [({}, 1e-4), ({"kind": "adam"}, None), ({"kind": "sgd", "weight_decay": 0.01}, 0.01)],
)
def test_kernels_decay_but_no_biases_and_norms(settings, decay):
    layers = [keras.layers.Dense(2, name="a"), keras.layers.BatchNormalization(name="b")]
    network = keras.Sequential([keras.Input((4,)), *layers])
    section = learning.Optimizer(**settings)
    optimizer = build_optimizer(section, learning_rate(section, 1, 1))
    optimizer.build(network.trainable_variables)
    assert optimizer.weight_decay == decay
    if decay:
        decays = {v.name: optimizer._use_weight_decay(v) for v in network.trainable_variables}
        assert decays == {"kernel": True, "bias": False, "gamma": False, "beta": False}


def test_sgd_takes_nesterovs_step():
    section = learning.Optimizer(
        kind="sgd", learning_rate=0.1, warmup_epochs=0, schedule="constant", clip_norm=None
    )
    weight = keras.Variable([1.0])
    optimizer = build_optimizer(section, learning_rate(section, 1, 1))
    optimizer.build([weight])
    expected, velocity = 1.0, 0.0
    for gradient in (1.0, -2.0, 0.5):
        optimizer.apply([np.array([gradient], "float32")], [weight])
        velocity = 0.9 * velocity - 0.1 * gradient
        expected += 0.9 * velocity - 0.1 * gradient
        assert float(weight.numpy()[0]) == pytest.approx(expected, rel=1e-5)


KERAS_KINDS = {
    "adamw": (keras.optimizers.AdamW, {}),
    "adam": (keras.optimizers.Adam, {}),
    "sgd": (keras.optimizers.SGD, {"momentum": 0.9, "nesterov": True}),
}


@pytest.mark.parametrize("kind", KERAS_KINDS)
def test_steps_are_those_of_keras(kind):
    """Behind a warm-up, with decay and clipping, over gradients of all sizes."""
    section = learning.Optimizer(
        kind=kind, learning_rate=0.1, warmup_epochs=1, weight_decay=0.1, clip_norm=0.5
    )
    rate = learning_rate(section, 4, 3)
    keras_kind, options = KERAS_KINDS[kind]
    theirs = keras_kind(rate, weight_decay=0.1, global_clipnorm=0.5, **options)
    theirs.exclude_from_weight_decay(var_names=["bias"])
    results = []
    for optimizer in (build_optimizer(section, rate), theirs):
        rng = np.random.default_rng(0)
        weights = [
            keras.Variable(rng.normal(size=shape).astype("float32"), name=name)
            for name, shape in (("kernel", (3, 3, 4, 9)), ("bias", (9,)))
        ]
        optimizer.build(weights)
        for exponent in (-6, -3, 0, 3, -9, 1, 0, -4):
            sizes = [10.0**exponent * rng.normal(size=weight.shape) for weight in weights]
            optimizer.apply([size.astype("float32") for size in sizes], weights)
        results.append([variable.numpy() for variable in (*weights, *optimizer.variables)])
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_the_share_of_positives_falls_in_a_line():
    settings = run.Data(positive_share=(0.8, 0.22))
    for epoch in (0, 1, 30, 59):
        expected = 0.8 - (0.8 - 0.22) * epoch / 60
        assert order.positive_share(settings, epoch, 60) == pytest.approx(expected)
    assert order.positive_share(run.Data(), 3, 60) is None
    assert order.positive_share(run.Data(positives_only=True), 3, 60) == 1
