"""HD95 and surface dice equal what outlines of another library and a search of nearest points
give; lengths are in mm where they can be."""

import csv
import io
import math

import numpy as np
import pytest
from makers import predictions
from scipy.spatial import cKDTree
from skimage import measure

from trainer.evaluation import image_table, scores, surfaces
from trainer.evaluation.outcomes import decide, with_outlines
from trainer.evaluation.predictions import BOTTOMS, _source_spacing_mm
from trainer.inference.decision import Decision, Triplet

DECISION = Decision(Triplet(0.5, 0.004, 0.3), 0.3)


def outline(mask: np.ndarray, spacing) -> np.ndarray:
    """Return points of the outline, [K, 2], equally far apart: a tenth of a pixel or less."""
    points = []
    for contour in measure.find_contours(np.pad(mask, 1).astype(float), 0.5):
        corners = (contour - 1) * spacing
        lengths = np.linalg.norm(np.diff(corners, axis=0), axis=1)
        ends = np.concatenate([[0], lengths.cumsum()])
        steps = np.arange(0, ends[-1], min(spacing) / 10)
        points.append(np.stack([np.interp(steps, ends, part) for part in corners.T], axis=1))
    return np.concatenate(points)


def slow_compare(truth, mask, spacing, tolerance) -> tuple[float, float]:
    """Return HD95 and surface dice from points of both outlines."""
    one, other = outline(truth, spacing), outline(mask, spacing)
    there, back = cKDTree(other).query(one)[0], cKDTree(one).query(other)[0]
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    near = (there <= tolerance).sum() + (back <= tolerance).sum()
    return hd95, near / (len(there) + len(back))


def smooth_mask(generator, height: int, width: int) -> np.ndarray:
    """Return one to three ellipses."""
    rows, columns = np.ogrid[:height, :width]
    mask = np.zeros((height, width), bool)
    for _ in range(generator.integers(1, 4)):
        row, column = generator.uniform(0.2, 0.8, 2) * (height, width)
        tall, wide = generator.uniform(0.08, 0.2, 2) * (height, width)
        mask |= ((rows - row) / tall) ** 2 + ((columns - column) / wide) ** 2 < 1
    return mask


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.2, 0.5)])
def test_outlines_equal_a_search_of_nearest_points(spacing):
    generator = np.random.default_rng(3)
    for _ in range(8):
        truth, mask = (smooth_mask(generator, 90, 120) for _ in range(2))
        tolerance = 8 * spacing[0]
        hd95, near = surfaces.compare(truth, mask, spacing, tolerance)
        expected, share = slow_compare(truth, mask, spacing, tolerance)
        assert hd95 == pytest.approx(expected, abs=max(spacing))
        assert near == pytest.approx(share, abs=0.05)


def test_a_square_that_is_moved():
    truth = np.zeros((64, 64), bool)
    truth[20:40, 20:40] = True
    assert surfaces.compare(truth, truth, (1, 1), 0.1) == (0, 1)
    moved = np.roll(truth, 3, axis=1)
    assert surfaces.compare(truth, moved, (1, 1), 3)[1] == 1
    hd95, near = surfaces.compare(truth, moved, (1, 0.5), 0.4)
    assert hd95 == pytest.approx(1.5) and near == pytest.approx(2 * 17 * 0.5 / 60, abs=0.03)


def test_what_is_empty():
    lesion, empty = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    lesion[2:4, 3] = True
    assert surfaces.compare(lesion, empty, (1, 1), 1) == (math.inf, 0)
    assert np.isnan(surfaces.compare(empty, lesion, (1, 1), 1)).all()
    assert np.isnan(surfaces.compare(empty, empty, (1, 1), 1)).all()
    one = np.zeros((9, 9), bool)
    one[2, 3] = True  # a single pixel has an outline, too
    hd95, near = surfaces.compare(lesion, one, (1, 1), 2)
    assert 0 < hd95 <= 1 and near == 1


def test_large_boxes_are_coarser_and_lose_nothing(monkeypatch):
    truth, mask = np.zeros((300, 400), bool), np.zeros((300, 400), bool)
    truth[10:290, 20:200], mask[30:290, 60:380] = True, True
    exact = surfaces.compare(truth, mask, (0.2, 0.2), 2)
    monkeypatch.setattr(surfaces, "MOST_PIXELS", 300 * 400 // 9)
    coarse = surfaces.compare(truth, mask, (0.2, 0.2), 2)
    assert coarse != exact and coarse[0] == pytest.approx(exact[0], abs=4 * 0.2)
    mask[:] = False
    mask[299, 399] = True  # one pixel stays one
    assert math.isfinite(surfaces.compare(truth, mask, (1, 1), 2)[0])


def test_packed_maps_hold_every_threshold():
    _, pairs = predictions.example(images=6)
    for p, truth in pairs:
        packed = surfaces.pack(p, truth, BOTTOMS)
        for number, bottom in enumerate(BOTTOMS):
            truth_again, mask = surfaces.unpack(packed, number)
            assert (truth_again == truth).all() and (mask == (p > bottom)).all()


def test_scores_are_medians_of_the_images_with_a_lesion_by_their_unit():
    outputs, pairs = predictions.example()
    outcomes = with_outlines(decide(outputs, DECISION), 1.0, 2.0)
    expected = {"mm": [], "px": []}
    for number, (p, truth) in enumerate(pairs):
        if not truth.any():
            assert np.isnan(outcomes.outlines[number]).all()
            continue
        mask = predictions.slow_mask(p, outputs.lesion[number], DECISION)
        unit = "mm" if outputs.spacing_mm[number].all() else "px"
        spacing = tuple(outputs.spacing_mm[number]) if unit == "mm" else (1, 1)
        expected[unit].append(surfaces.compare(truth, mask, spacing, {"mm": 1, "px": 2}[unit]))
    actual, rests_on = scores.score_values(outcomes, None), scores.samples(outcomes)
    for unit, pairs_of_unit in expected.items():
        hd95, near = np.array(pairs_of_unit).T
        assert actual[f"hd95_{unit}"] == np.median(hd95)
        assert actual[f"surface_dice_{unit}"] == pytest.approx(np.median(near))
        assert rests_on[f"hd95_{unit}"] == len(hd95) > 3
    # Units are never mixed: where all pixels have a size there are no pixels.
    in_mm = outputs._replace(spacing_mm=np.full((40, 2), 0.2))
    names = scores.score_values(with_outlines(decide(in_mm, DECISION), 1.0, 2.0), None)
    assert "hd95_mm" in names and "hd95_px" not in names


def test_the_spacing_is_the_source_s():
    """The lake stores an image of 2,000 x 1,000 px at a quarter: its pixels are 4 times as far
    apart."""
    sizes = {"height": 500, "width": 250, "original_height": 2000, "original_width": 1000}
    record = {"pixel_spacing_mm": np.float32([0.6, 0.8]), **sizes}
    assert _source_spacing_mm(record) == pytest.approx((0.15, 0.2))
    for unknown in ([0, 0], [0.2, 0], [np.nan, 0.2], [-1, -1], [np.inf, 1]):
        assert _source_spacing_mm(record | {"pixel_spacing_mm": np.float32(unknown)}) == (0, 0)


def test_a_row_per_image():
    outputs, pairs = predictions.example()
    outcomes = with_outlines(decide(outputs, DECISION), 1.0, 2.0)
    rows = list(csv.DictReader(io.StringIO(image_table.csv_text(outcomes))))
    assert [row["image_id"] for row in rows] == outputs.ids.tolist()
    for number, row in enumerate(rows):
        p, truth = pairs[number]
        mask = predictions.slow_mask(p, outputs.lesion[number], DECISION)
        assert (int(row["truth_px"]), int(row["predicted_px"])) == (truth.sum(), mask.sum())
        assert float(row["dice"]) == pytest.approx(predictions.slow_dice(truth, mask), abs=5e-5)
        shares = 100 * truth.mean(), 100 * mask.mean()
        areas = (float(row[f"{name}_area_percent"]) for name in ("truth", "predicted"))
        assert tuple(areas) == pytest.approx(shares, abs=5e-5)
        assert row["image_px"] == str(truth.size)
        assert row["truth"] == ("lesion" if truth.any() else "none")
        results = ("true negative", "false positive"), ("false negative", "true positive")
        assert row["result"] == results[int(truth.any())][int(mask.any())]
        units = ("mm", "px") if number % 2 else ("px", "mm")
        hd95, other_hd95 = (row[f"hd95_{unit}"] for unit in units)
        assert (hd95 == "") == (not truth.any()) and other_hd95 == ""
        assert (hd95 == "inf") == bool(truth.any() and not mask.any())
    classes = decide(outputs._replace(scores=np.ones((40, 3))), None)
    rows = list(csv.DictReader(io.StringIO(image_table.csv_text(classes))))
    assert list(rows[0]) == [
        "image_id",
        "class",
        "predicted_class",
        "p",
        "view",
        "sex",
        "age_years",
    ]
    assert {(row["predicted_class"], row["p"]) for row in rows} == {("0", "0.3333")}


def test_a_number_that_is_not_quite_0_or_1_does_not_become_it():
    """In the CSV; 1 itself is written as page/table.js writes it."""
    outputs, _ = predictions.example(6)
    dice = np.array([0, 1, 1 - 1e-9, 1e-9, 0.5, np.nan])
    outcomes = decide(outputs, DECISION)._replace(dice=dice)
    rows = csv.DictReader(io.StringIO(image_table.csv_text(outcomes)))
    assert [row["dice"] for row in rows] == ["0", "1", "0.9999", "0.0001", "0.5", ""]
