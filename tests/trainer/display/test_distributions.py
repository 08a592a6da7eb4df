"""PR curves and histograms of sums against plain counting, and as TensorBoard reads them."""

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.pr_curve import metadata as pr_curve_metadata
from tensorboard.util import tensor_util

from trainer.display import histograms as display_histograms
from trainer.display.board import Board
from trainer.display.histograms import pr_counts
from trainer.scoring import metrics
from trainer.scoring import sums as scoring_sums
from trainer.scoring.sums import map_sums


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks and probabilities [12, 16, 16, 1], weights [12]: lesions of many sizes, none, and an
    image that does not count."""
    generator = np.random.default_rng(0)
    masks = np.zeros((12, 16, 16, 1), np.float32)
    for number, side in enumerate([0, 0, 1, 2, 3, 4, 5, 8, 12, 16, 1, 6]):
        masks[number, :side, :side] = 1
    probabilities = np.clip(0.3 * generator.normal(size=masks.shape) + 0.25 + 0.5 * masks, 0, 1)
    probabilities[3] = 0
    weights = np.array([1.0] * 11 + [0.0], np.float32)
    return masks, probabilities.astype(np.float32), weights


def sums_of(masks, probabilities, weights) -> dict:
    tensors = map_sums(masks, probabilities, weights, 0.5)
    sums = {name: keras.ops.convert_to_numpy(value) for name, value in tensors.items()}
    labels = masks.any(axis=(1, 2, 3)).astype(np.float32)
    logits = np.linspace(-6, 7, len(masks)).astype(np.float32)
    counts = metrics.pixel_counts(masks, probabilities > 0.5)
    sums["pixels"] = (weights * keras.ops.convert_to_numpy(counts)).sum(axis=1)
    sums["histogram"] = keras.ops.convert_to_numpy(metrics.score_histogram(logits, labels, weights))
    return sums | {"images": weights.sum(), "positives": (weights * labels).sum()}


def plain_dice(mask, prediction) -> float:
    total = mask.sum() + prediction.sum()
    return 2 * (mask * prediction).sum() / total if total else 1.0


def test_dice_over_thresholds_and_sizes_is_that_of_each_image(images):
    masks, probabilities, weights = images
    bars = display_histograms.bars(sums_of(*images))
    numbers = [n for n in range(12) if weights[n]]
    positive = [n for n in numbers if masks[n].any()]
    mean_dices = [
        np.mean([plain_dice(masks[n], probabilities[n] > t) for n in positive])
        for t in (0.4, 0.4 + 1 / 30)
    ]
    edges, heights = bars["dice over thresholds, network size/with a lesion"]
    assert len(heights) == 30 and edges[12] == pytest.approx(0.4)
    assert heights[12] == pytest.approx(np.mean(mean_dices))
    edges, heights = bars["dice at 0.5 by lesion size, network size"]
    of_one_pixel = [n for n in positive if masks[n].sum() == 1]
    place = np.searchsorted(edges, np.log10(1 / 256)) - 1
    expected = np.mean([plain_dice(masks[n], probabilities[n] > 0.5) for n in of_one_pixel])
    assert len(of_one_pixel) == 2 and heights[place] == pytest.approx(expected)
    shares = [masks[n].mean() for n in positive]
    edges, heights = bars["lesion size, log10 of its share/truth"]
    assert heights.tolist() == np.histogram(np.log10(shares) - 1e-6, edges)[0].tolist()
    _, prediction_bars = bars["lesion size, log10 of its share/prediction"]
    assert prediction_bars.sum() == sum((probabilities[n] > 0.5).any() for n in numbers)


def test_pr_counts_are_those_of_each_pixel_and_image(images):
    masks, probabilities, weights = images
    sums = sums_of(*images)
    counts = pr_counts(sums)
    mask, score = (values[weights > 0].ravel() for values in (masks, probabilities))
    for place in (0, 3, 15, 29, 30):
        above = score > place / 30
        expected = [(above & (mask == 1)).sum(), (above & (mask == 0)).sum()]
        expected += [(~above & (mask == 0)).sum(), (~above & (mask == 1)).sum()]
        assert counts["pixels"][:, place].tolist() == expected
    scores = 1 / (1 + np.exp(-np.linspace(-6, 7, 12)[:11]))
    labels = masks.any(axis=(1, 2, 3))[:11]
    for place in (0, 40, 100, 190, 200):
        above = scores >= place / 200
        expected = [(above & labels).sum(), (above & ~labels).sum()]
        assert counts["images"][:2, place].tolist() == expected
        assert counts["images"].sum(axis=0)[place] == 11
    bars = display_histograms.bars(sums)
    _, heights = bars["probability with lesion"]
    assert heights.tolist() == np.histogram(scores[labels], 30, (0, 1))[0].tolist()


def test_more_than_two_classes_have_a_curve_each():
    logits = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    labels = np.arange(20) % 3
    histograms = np.asarray(metrics.class_histograms(logits, labels, np.ones(20, np.float32)))
    counts = pr_counts({"histograms": histograms})
    assert list(counts) == ["images, class 0", "images, class 1", "images, class 2"]
    assert counts["images, class 1"][:, 0].tolist() == [7, 13, 0, 0]


def test_sums_of_two_halves_are_those_of_the_whole(images):
    whole = map_sums(*images, 0.5)
    halves = [map_sums(*(v[part] for v in images), 0.5) for part in (slice(5), slice(5, 12))]
    for name, value in whole.items():
        np.testing.assert_allclose(halves[0][name] + halves[1][name], value, rtol=1e-6)


def test_tensorboard_reads_them(images, tmp_path):
    board = Board(tmp_path, 0, ("val",))
    sums = sums_of(*images)
    board.distributions("val", 7, sums)
    board.flush()
    events = event_accumulator.EventAccumulator(str(tmp_path / "val"), size_guidance={"tensors": 0})
    events.Reload()
    plugins = {
        tag: events.SummaryMetadata(tag).plugin_data.plugin_name for tag in events.Tags()["tensors"]
    }
    assert plugins["pixels/pr_curves"] == pr_curve_metadata.PLUGIN_NAME
    assert plugins["dice at 0.5 by lesion size, network size"] == histogram_metadata.PLUGIN_NAME
    [event] = events.Tensors("pixels/pr_curves")
    content = events.SummaryMetadata("pixels/pr_curves").plugin_data.content
    assert event.step == 7 and pr_curve_metadata.parse_plugin_metadata(content).num_thresholds == 31
    values = tensor_util.make_ndarray(event.tensor_proto)
    assert values.shape == (6, 31)
    hits, alarms = values[:2, 15]
    pixels = images[0].shape[1] ** 2 * 11
    assert values[4, 15] == pytest.approx(hits / (hits + alarms))
    assert values[:4, 15].sum() == pixels
    scores = scoring_sums.scores(sums | {"dice": 1, "dice_of_positives": 1})
    sensitivity = scores["pixel_sensitivity_at_half_network_size"]
    assert sensitivity == pytest.approx(values[5, 15])
    [event] = events.Tensors("dice at 0.5 by lesion size, network size")
    values = tensor_util.make_ndarray(event.tensor_proto)
    assert values.shape == (30, 3) and values[0, 0] == -5 and values[-1, 1] == 0
