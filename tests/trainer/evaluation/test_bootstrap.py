"""Intervals by patient: they cover the truth as often as they say, and draw patients whole."""

import numpy as np
import pytest

from trainer.evaluation import bootstrap


def mean_of(values: np.ndarray):
    return lambda weights: {"mean": weights @ values / weights.sum(axis=1)}


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Patients of one to four images that are alike, so that images are no independent draws."""
    generator, num_covered, data_sets = np.random.default_rng(7), 0, 800
    for seed in range(data_sets):
        images = generator.integers(1, 5, size=150)
        patients = np.repeat(np.arange(150), images)
        # Of mean 0.3; two thirds of the variance are the patient's.
        patient_effect, rest = generator.gamma(2, 0.1, 150), generator.gamma(1, 0.1, len(patients))
        measure = mean_of(patient_effect[patients] + rest)
        low, high = bootstrap.intervals(measure, patients, replicates=400, seed=seed)["mean"]
        num_covered += low <= 0.3 <= high
    assert 0.93 <= num_covered / data_sets <= 0.97


def test_a_patient_is_drawn_with_all_images():
    groups = [f"p{n // 3}" for n in range(36)]
    blocks = list(bootstrap.draws(groups, replicates=50, seed=0))
    weights = np.concatenate(blocks).reshape(50, 12, 3)
    assert (weights == weights[:, :, :1]).all()
    assert (weights[:, :, 0].sum(axis=1) == 12).all()  # as many patients as there are
    assert weights.max() > 1 and weights.min() == 0


def test_blocks_do_not_change_the_draws(monkeypatch):
    groups = np.arange(20)
    whole = np.concatenate(list(bootstrap.draws(groups, 30, seed=3)))
    monkeypatch.setattr(bootstrap, "BLOCK_NUMBERS", 70)  # three replicates at a time
    blocks = list(bootstrap.draws(groups, 30, seed=3))
    assert len(blocks) == 10 and np.array_equal(np.concatenate(blocks), whole)


def test_undefined_replicates_are_left_out():
    values = np.array([1.0] + [np.nan] * 19)

    def measure(weights):
        return {"some": np.where(weights[:, 0] > 0, 1.0, np.nan), "none": weights @ (0 * values)}

    ends = bootstrap.intervals(measure, np.arange(20), replicates=100, seed=0)
    assert ends["some"] == (1.0, 1.0) and np.isnan(ends["none"]).all()


def test_an_interval_may_have_no_upper_end():
    """Some replicates have more than half of their lesions missed."""
    values = np.array([5.0] * 12 + [np.inf] * 10)

    def measure(weights):
        return {"median": np.where(weights @ np.isinf(values) > 11, np.inf, 5.0)}

    assert bootstrap.intervals(measure, np.arange(22), 200, 0)["median"] == (5.0, np.inf)


@pytest.mark.parametrize("groups", [[], ["a"] * 50, list("abcdefghi") * 9])
def test_few_patients_have_no_interval(groups):
    assert bootstrap.intervals(mean_of(np.ones(len(groups))), groups, 100, 0) == {}
