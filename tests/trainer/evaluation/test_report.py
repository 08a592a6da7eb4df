"""report.html: whole in itself, with the scores of scores.py at every position of its sliders."""

import base64
import hashlib
import html
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from makers.predictions import example, scores_at
from makers.reports import NASTY, evaluation_of, without_masks

from lake import picture
from trainer.display import event_files
from trainer.evaluation import charts, choice, diagrams, gallery, image_table, outlines, report
from trainer.evaluation import threshold_grid as grid
from trainer.evaluation.charts import Axis, Chart, Series
from trainer.evaluation.gallery import GalleryImage
from trainer.evaluation.outcomes import decide
from trainer.inference import decision as decisions
from trainer.inference.decision import Decision, Triplet

ROOT = Path(__file__).parents[3]
DECISION = Decision(Triplet(0.5, 0.002, 0.3), 0.2)
MASKS_ALONE = DECISION._replace(lesion_threshold=None)
NOTHING = Decision(Triplet(0.99, 0.016, 0.9), 0.9)


def data_of(page: str) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def attribute_names(page: str) -> set[str]:
    names = set()
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: names.update(name for name, _ in attributes)
    parser.feed(page)
    return names


# --- the whole page ---


def test_the_page_is_whole_and_what_comes_from_data_is_text(tmp_path):
    predictions, pairs = example()
    nasty = predictions._replace(ids=np.array([NASTY] * 40))
    page = report.page(*evaluation_of(nasty, pairs, DECISION, tmp_path))
    assert NASTY not in page and "<b>run" not in page and "<i>" not in page
    assert html.escape(NASTY, quote=False) in page and "&lt;b&gt;run/config.yaml" in page
    # Nothing is fetched: all there is of an address is the name of SVG.
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert set(re.findall(r"https?://[^\s\"']*", page)) == {"http://www.w3.org/2000/svg"}
    # No script runs but the page's, not even one in an attribute.
    policy = re.search(r'content="(default-src .*?)"', page)[1]
    [script] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in policy and f"script-src 'sha256-{digest}'" in policy
    names = attribute_names(page)
    assert "aria-label" in names and not [name for name in names if name.startswith("on")]
    for text in ("phantoms 1.0.0", "kind: unet", "With a lesion, lowest dice", "Square brackets"):
        assert text in page, text
    for text in ("HD95 in mm, median", "HD95 in px, median", "within 2 mm", "within 4 px"):
        assert text in page, text
    assert "bootstrap draws of patients" in page and "1 min 15 s for predicting" in page
    assert data_of(page)["columns"][0]["values"] == [NASTY] * 40


def test_intervals_are_of_what_was_drawn(tmp_path):
    predictions, pairs = example()
    groups = np.array([f"image_id/{n}" for n in range(40)])
    page = report.page(
        *evaluation_of(predictions._replace(groups=groups), pairs, DECISION, tmp_path)
    )
    assert "bootstrap draws of images" in page and "draws of patients" not in page


def test_a_section_without_data_says_why_and_has_no_control(tmp_path):
    predictions, pairs = example()
    empty = without_masks(predictions)
    classes = empty._replace(
        scores=np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32), lesion=None
    )
    page = report.page(*evaluation_of(classes, pairs, None, tmp_path))
    assert "No images are shown for classifiers of more than two classes." in page
    assert '<input type="range"' not in page and "<aside" not in page and 'id="charts"' not in page
    assert 'href="#charts"' not in page and 'id="heat-map"' not in page
    assert "class 2" in page  # of the counts
    assert "has no event files of its training any more" in page
    columns = {column["name"] for column in data_of(page)["columns"]}
    assert {"class", "predicted_class", "p"} <= columns and "dice" not in columns
    # A menu leads to what is there.
    for anchor in re.findall(r'href="#(.*?)"', page):
        assert f'id="{anchor}"' in page, anchor


def test_a_network_that_marks_nothing(tmp_path):
    predictions, pairs = example()
    page = report.page(*evaluation_of(predictions, pairs, NOTHING, tmp_path))
    assert "No false alarm to show" in page and "no better than one that never marks" in page


def test_a_page_of_10_000_images_is_bounded(tmp_path):
    """Ids as long as DICOM's, images and maps that are noise."""
    predictions, pairs = example()
    evaluation, _ = evaluation_of(predictions, pairs, DECISION, tmp_path)
    many = predictions.take(np.arange(10_000) % 40)
    outcomes = decide(
        many._replace(ids=np.array([f"1.2.{n:060d}" for n in range(10_000)])), DECISION
    )
    split = evaluation.splits["test"]._replace(outcomes=outcomes)
    evaluation = evaluation._replace(splits={"test": split})
    noise = np.random.default_rng(0).random((gallery.SIDE, gallery.SIDE), np.float32)
    mask = np.zeros(noise.shape, bool)
    image = GalleryImage(noise, mask, mask, outlines.shrink(noise))
    images = {place: image for row in gallery.choose(outcomes).values() for place in row}
    page = report.page(evaluation, images)
    most_outlines = len(images) * 2 * 2 * 12 * outlines.LONGEST_BORDER
    assert len(images) == 16 and len(page) + most_outlines < report.MOST_MEGABYTES * 1e6
    assert len(data_of(page)["columns"][0]["values"]) == 10_000


# --- its parts ---


@pytest.mark.parametrize("frozen", [DECISION, MASKS_ALONE])
def test_the_grid_has_the_scores_of_all_thresholds(frozen):
    predictions, _ = example(with_lesion=frozen.lesion_threshold is not None)
    outcomes = decide(predictions, frozen)
    sliders, scores = grid.sliders(frozen), grid.scores(outcomes)
    shape = [len(sliders[name].values) if name in sliders else 1 for name in ["lesion", "top"]]
    shape += [len(sliders[name].values) for name in ("area", "bottom")]
    arrays = {name: np.reshape(values, shape) for name, values in scores.items()}
    positives, generator = (predictions.labels > 0).sum(), np.random.default_rng(0)
    for _ in range(30):
        gate, top, area, bottom = place = tuple(int(generator.integers(n)) for n in shape)
        triplet = Triplet(
            *(
                sliders[n].values[p]
                for n, p in zip(("top", "area", "bottom"), place[1:], strict=True)
            )
        )
        lesion = sliders["lesion"].values[gate] if "lesion" in sliders else None
        expected = scores_at(predictions, Decision(triplet, lesion))
        for name in ("dice_mean", "dice_positives"):
            assert arrays[name][place] == pytest.approx(expected[name], abs=1e-6)
        assert arrays["hits"][place] == round(expected["sensitivity"] * positives)
        alarms = (1 - expected["specificity"]) * (len(predictions.ids) - positives)
        assert arrays["alarms"][place] == round(alarms)
    frozen_place = [sliders[name].position for name in ("top", "area", "bottom")]
    assert [grid.TOPS[frozen_place[0]], grid.BOTTOMS[frozen_place[2]]] == [0.5, 0.3]


def test_a_classifiers_grid_has_every_percent_and_the_frozen_threshold():
    predictions = without_masks(example()[0])
    frozen = choice.choose_for_classifier(predictions.lesion, predictions.labels)
    values = grid.sliders(frozen)["lesion"].values
    assert set(grid.PERCENT) <= set(values) and frozen.lesion_threshold in values
    scores = grid.scores(decide(predictions, frozen))
    for threshold, hits, alarms in zip(values, scores["hits"], scores["alarms"], strict=True):
        called = predictions.lesion >= np.float32(threshold)
        assert hits == (called & (predictions.labels > 0)).sum()
        assert alarms == (called & (predictions.labels == 0)).sum()


def test_galleries_hold_the_best_the_worst_and_the_false_alarms():
    predictions, _ = example()
    outcomes = decide(predictions, DECISION)
    rows, dices = list(gallery.choose(outcomes).values()), outcomes.dice
    positives = sorted(dices[p] for p in np.flatnonzero(predictions.labels > 0))
    worst, median, best, alarms = ([dices[p] for p in row] for row in rows)
    assert best == positives[::-1][:4] and worst == positives[:4]
    assert min(median) <= np.median(positives) <= max(median)
    assert alarms and not any(alarms) and all(predictions.labels[p] == 0 for p in rows[3])


@pytest.mark.parametrize("positives", range(15))
def test_no_image_is_in_two_rows(positives):
    predictions, _ = example(60)
    is_few = (predictions.labels == 0) | (np.cumsum(predictions.labels) <= positives)
    outcomes = decide(predictions.take(np.flatnonzero(is_few)), DECISION)
    rows = gallery.choose(outcomes)
    places = sum(rows.values(), [])
    assert len(places) == len(set(places))
    lesions = [p for p in places if outcomes.predictions.labels[p] > 0]
    assert len(lesions) == min(positives, 12)
    titles = " ".join(title for title, row in rows.items() if row)
    assert ("median" in titles) == (positives > 12)


def test_an_overlay_lies_on_its_mask():
    mask = np.zeros((20, 30), bool)
    mask[5:15, 3:9] = True
    resized = picture.resize_mask(np.kron(mask, np.ones((7, 5), bool)), 20, 30)
    assert np.array_equal(resized, mask)


def corners(path: str) -> np.ndarray:
    return np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", path), float)


def test_an_outline_is_the_border_of_its_mask():
    mask = np.zeros((20, 30), bool)
    mask[5:15, 3:9] = mask[0, 29] = True
    box, speckle = (corners(part) for part in outlines.path(mask).split("Z")[1::-1])
    # The pixels 3 to 8 and 5 to 14, as an SVG counts: from their left edge to their right one.
    assert box.min(axis=0).tolist() == [3, 5] and box.max(axis=0).tolist() == [9, 15]
    assert speckle.mean(axis=0) == pytest.approx([29.5, 0.5], abs=0.3)
    assert outlines.path(np.zeros((4, 4), bool)) == ""
    noise = np.random.default_rng(0).random((512, 512)) > 0.5
    assert 0 < len(outlines.path(noise)) <= 12 * outlines.LONGEST_BORDER


def test_eight_bits_of_p_are_exact_at_every_threshold_of_the_sliders():
    thresholds = np.float32(sorted({*decisions.BOTTOMS, *decisions.TOPS}))
    near = [np.nextafter(thresholds, np.float32(end)) for end in (0, 1)]
    p = np.concatenate([thresholds, *near, np.float32([0, 1e-9, 1])]).reshape(3, -1)
    encoded = outlines.encode(p)
    differences = np.frombuffer(zlib.decompress(base64.b64decode(encoded["codes"])), np.uint8)
    codes = np.cumsum(differences, dtype=np.uint8).reshape(encoded["height"], encoded["width"])
    for threshold in thresholds:
        code = round(float(threshold) * outlines.STEPS)
        assert np.array_equal(codes > code, p > threshold), threshold


def test_the_table_has_every_image_and_no_column_of_nothing():
    predictions, _ = example()
    unknown = predictions._replace(sexes=np.array([""] * 40))
    outcomes = decide(unknown, DECISION)
    table = image_table.from_outcomes(outcomes)
    shown = {column.name for column in table.columns if column.is_shown}
    assert "sex" not in shown and {"image_id", "view", "age_years"} <= shown
    assert not [name for name in shown if "hd95" in name or "_px" in name]
    # The CSV has all of them, whatever is known, and the same rows.
    columns = {column.name: column.values for column in table.columns}
    [header, *lines] = image_table.csv_text(outcomes).splitlines()
    assert header == ",".join(columns) and len(lines) == 40
    documented = (ROOT / "docs" / "report.md").read_text().partition("## A row per image")[2]
    places = [documented.index(f"`{name}`") for name in columns]
    assert places == sorted(places)
    assert columns["dice"] == [round(float(dice), 4) for dice in outcomes.dice]
    lesions = predictions.labels > 0
    assert columns["result"].count("true positive") == (lesions & outcomes.is_called).sum()
    assert columns["result"].count("false negative") == (lesions & ~outcomes.is_called).sum()
    assert columns["result"].count("false positive") == (~lesions & outcomes.is_called).sum()
    predicted = np.array(columns["predicted_area_percent"])
    assert np.array_equal(predicted > 0, outcomes.is_called) and predicted.max() <= 100


def test_a_missed_lesion_is_infinitely_far_in_the_table():
    predictions, _ = example(4)
    spacing_mm = np.array([[0.5, 0.5]] * 3 + [[0, 0]])
    outlines = np.array([[1.25, 0.5], [np.nan, np.nan], [np.nan, np.nan], [np.inf, 0]])
    outcomes = decide(predictions._replace(spacing_mm=spacing_mm), DECISION)
    table = image_table.from_outcomes(outcomes._replace(outlines=outlines))
    columns = {column.name: column.values for column in table.columns}
    assert columns["hd95_mm"] == [1.25, None, None, None]
    assert columns["hd95_px"] == [None, None, None, "inf"]
    assert columns["surface_dice_mm"][0] == 0.5 and columns["surface_dice_px"][3] == 0


def test_of_too_many_images_the_table_has_the_worst(monkeypatch):
    monkeypatch.setattr(image_table, "MOST_ROWS", 7)
    outcomes = decide(example()[0], DECISION)
    table = image_table.from_outcomes(outcomes)
    dice = next(column.values for column in table.columns if column.name == "dice")
    assert table.num_images == 40 and len(dice) == 7
    assert sorted(dice) == sorted(outcomes.dice.round(4))[:7]


# --- charts ---


def test_charts_have_round_ticks_and_gaps_where_nothing_is_defined():
    assert Axis("", 0, 1).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert Axis("", -3.1, 2.2).ticks() == pytest.approx([-3, -2, -1, 0, 1, 2])
    assert Axis("", 0.9, 9, True).ticks() == pytest.approx([1, 2, 5])
    assert Axis("", 1e-4, 10, True).ticks() == pytest.approx([1e-4, 1e-3, 1e-2, 0.1, 1, 10])
    axis = Axis("", 0, 1)
    line = Series("", [0, 0.5, 1, 1], [0, None, 0.5, 1], "line-1")
    path = Chart("", "", axis, axis, [line]).path(line)
    assert path.count("M") == 2 and path.startswith(f"M{charts.LEFT:.1f} {charts.BOTTOM:.1f}")
    assert charts.range_of([3.0], "").low < 3 < charts.range_of([3.0], "").high


def test_agreement_of_areas_is_bland_and_altmans():
    predictions, pairs = example()
    *_, chart = diagrams.masks(decide(predictions, MASKS_ALONE))
    is_kept = decide(predictions, MASKS_ALONE).is_kept
    areas = [
        (100 * mask.mean(), 100 * (p > np.float32(0.3)).mean() * kept)
        for (p, mask), kept in zip(pairs, is_kept, strict=True)
    ]
    areas = np.array([pair for pair in areas if any(pair)])
    differences = areas[:, 1] - areas[:, 0]
    dots = chart.series[-1]
    assert dots.ys == pytest.approx(differences) and dots.xs == pytest.approx(areas.mean(axis=1))
    assert chart.series[0].ys[0] == pytest.approx(differences.mean())
    assert chart.series[2].ys[0] == pytest.approx(
        differences.mean() + 1.96 * differences.std(ddof=1)
    )


def test_a_trainings_curves_are_read_from_its_event_files(tmp_path):
    for name, bias in (("train", 0.0), ("val", 0.1)):
        writer = tf.summary.create_file_writer(str(tmp_path / name))
        with writer.as_default():
            for step in (10, 20, 30):
                tf.summary.scalar("loss", 1 / step + bias, step)
                tf.summary.scalar("dice/positives", step / 100, step)
        writer.close()
    (tmp_path / "metrics.json").write_text(
        '{"last": {"epoch": 3, "step": 30}, "best": {"epoch": 2}}'
    )
    # The run was killed while it wrote.
    [path] = (tmp_path / "val").glob("events*")
    path.write_bytes(path.read_bytes() + b"\x07\x00\x00")
    assert event_files.read_events(tmp_path / "val").curves["loss"].steps == [10, 20, 30]
    drawn, seconds = diagrams.training(tmp_path)
    assert [chart.title for chart in drawn] == ["loss", "dice/positives"] and seconds >= 0
    train, val, best = drawn[0].series
    assert train.xs == val.xs == [1, 2, 3] and best.xs == [2, 2]
    assert val.ys == pytest.approx([0.2, 0.15, 1 / 30 + 0.1])
    assert diagrams.training(tmp_path / "gone") == ([], 0.0)
