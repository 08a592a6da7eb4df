"""FROC and CPM of nodule candidates, against numbers worked by hand and a plain loop."""

import csv
import json
import re

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from lake import InputError
from lake.records import index
from trainer import task
from trainer.evaluation import candidate_scores, froc


def spheres(*balls):
    """Return spheres (x, y, z, radius) in mm."""
    rows = np.array(balls, float).reshape(-1, 4)
    return froc.Spheres(rows[:, :3], rows[:, 3])


def candidates(*points):
    """Return candidates (x, y, z, probability)."""
    rows = np.array(points, float).reshape(-1, 4)
    return froc.Candidates(rows[:, :3], rows[:, 3])


# Four scans, four nodules. Above each candidate: what it is.
SCANS = [
    # hit, again the same nodule, false, on the surface and so outside: false
    (
        [(0, 0, 1, 0.9), (2, 2, 2, 0.8), (90, 0, 0, 0.7), (50, 5, 0, 0.5)],
        [(0, 0, 0, 5), (50, 0, 0, 5)],
    ),
    # hit, irrelevant
    ([(1, 0, 0, 0.6), (30, 0, 0, 0.95)], [(0, 0, 0, 4)], [(30, 1, 0, 3)]),
    # no nodule: two false
    ([(0, 0, 0, 0.85), (9, 9, 9, 0.3)], []),
    # a nodule without a candidate
    ([], [(0, 0, 0, 10)]),
]


def marks_of(scans):
    return [
        froc.match(
            candidates(*points), spheres(*nodules), spheres(*irrelevant[0] if irrelevant else ())
        )
        for points, nodules, *irrelevant in scans
    ]


def test_four_scans_by_hand():
    scans = marks_of(SCANS)
    assert [scan.num_repeated for scan in scans] == [1, 0, 0, 0]
    assert [scan.num_irrelevant for scan in scans] == [0, 1, 0, 0]
    marks = froc.gather(scans)
    # .9 hit, .85 and .7 false, .6 hit, .5 and .3 false
    assert marks.is_hit.tolist() == [True, False, False, True, False, False]
    rates, sensitivity = froc.curve(marks)
    assert rates.tolist() == [0, 0, 0.25, 0.5, 0.5, 0.75, 1]
    assert sensitivity.tolist() == [0, 0.25, 0.25, 0.25, 0.5, 0.5, 0.5]
    # At 1/2 per scan the higher of two sensitivities; beyond the end that of the end.
    at_rates = froc.sensitivities(marks)
    assert at_rates.tolist() == [0.25, 0.25, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert froc.scores(at_rates)["cpm"] == pytest.approx(3 / 7)


def test_between_two_points_the_curve_is_a_line():
    """A hit and a false positive of one probability: no threshold lies between them."""
    marks = froc.gather(marks_of([([(0, 0, 0, 0.5), (9, 0, 0, 0.5)], [(0, 0, 0, 1)])]))
    assert froc.sensitivities(marks).tolist() == [0.125, 0.25, 0.5, 1, 1, 1, 1]
    assert froc.scores(froc.sensitivities(marks))["cpm"] == pytest.approx(4.875 / 7)


@pytest.mark.parametrize(
    ("points", "nodules", "irrelevant", "expected"),
    [
        # Inside a nodule and an irrelevant finding: a hit.
        ([(0, 0, 0, 0.5)], [(1, 0, 0, 3)], [(0, 0, 0, 3)], ([0.5], [], 0, 0)),
        # Inside two nodules: both are found.
        ([(0, 0, 0, 0.5)], [(1, 0, 0, 3), (-1, 0, 0, 3)], [], ([0.5, 0.5], [], 0, 0)),
        # The most probable of three counts.
        ([(0, 0, 0, 0.2), (0, 0, 1, 0.7), (0, 1, 0, 0.4)], [(0, 0, 0, 3)], [], ([0.7], [], 2, 0)),
        # A missed irrelevant finding costs nothing.
        ([], [(0, 0, 0, 3)], [(9, 9, 9, 3)], ([], [], 0, 0)),
        # Two candidates on one irrelevant finding are ignored.
        ([(9, 9, 9, 0.2), (9, 9, 8, 0.3)], [], [(9, 9, 9, 3)], ([], [], 0, 2)),
    ],
)
def test_what_becomes_of_a_candidate(points, nodules, irrelevant, expected):
    scan = froc.match(candidates(*points), spheres(*nodules), spheres(*irrelevant))
    actual = (scan.hits.tolist(), scan.alarms.tolist(), scan.num_repeated, scan.num_irrelevant)
    assert actual == expected and scan.num_nodules == len(nodules)


def test_a_plain_loop_over_thresholds_gives_the_same():
    rng = np.random.default_rng(0)
    scans = []
    for _ in range(12):
        points = np.c_[rng.uniform(0, 30, (9, 3)), rng.integers(1, 6, 9) / 6]  # with ties
        scans.append((points, np.c_[rng.uniform(0, 30, (2, 3)), rng.uniform(4, 12, 2)]))
    rates, sensitivity = froc.curve(froc.gather(marks_of(scans)))
    for threshold, rate, share in zip(range(5, 0, -1), rates[1:], sensitivity[1:], strict=True):
        num_found = num_false = 0
        for points, nodules in scans:
            above = [point for point in points if point[3] >= threshold / 6]
            for nodule in nodules:
                num_found += any(np.linalg.norm(x[:3] - nodule[:3]) < nodule[3] for x in above)
            for x in above:
                num_false += all(np.linalg.norm(x[:3] - n[:3]) >= n[3] for n in nodules)
        assert (rate, share) == pytest.approx((num_false / 12, num_found / 24))


def test_scans_are_drawn_for_the_intervals():
    one = ([(0, 0, 0, 0.9), (50, 0, 0, 0.5)], [(0, 0, 0, 5)])
    missed = ([(50, 0, 0, 0.7)], [(0, 0, 0, 5)])
    equal = froc.gather(marks_of([one] * 10))
    uids = [str(n) for n in range(10)]
    assert set(froc.intervals(equal, uids, 50, 0).values()) == {(1.0, 1.0)}
    assert froc.intervals(equal, uids[:9], 50, 0) == {}  # fewer than ten
    half = froc.gather(marks_of([one, missed] * 5))
    low, high = froc.intervals(half, uids, 400, 0)["sensitivity_at_8"]
    # Ten draws of one half: the binomial's 2.5% and 97.5% points are 0.2 and 0.8.
    assert (low, high) == pytest.approx((0.2, 0.8))


def test_weights_repeat_a_scan():
    marks = froc.gather(marks_of(SCANS))
    twice = froc.gather(marks_of([SCANS[0], *SCANS]))
    weighted = froc.sensitivities(marks, np.array([2.0, 1, 1, 1]))
    np.testing.assert_allclose(weighted, froc.sensitivities(twice))


# --- through the command ---


def write_csv(path, header, *rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])
    return path


NODULES = "seriesuid,coordX,coordY,coordZ,diameter_mm"


@pytest.fixture
def folder(tmp_path):
    """A folder as predict writes it, of SCANS, and the CSVs of nodules beside it."""
    predictions = tmp_path / "predictions"
    predictions.mkdir()
    uids = [f"1.2.{n}" for n in range(4)]
    slices = [[f"{uid}#{n:04d}", 0.5, 1, ""] for uid in uids for n in range(3)]
    write_csv(predictions / "predictions.csv", "ImageId,probability,lesion_px,area_mm2", *slices)
    rows = [
        [uid, *point[:3], 4.0, point[3]]
        for uid, (points, *_) in zip(uids, SCANS, strict=True)
        for point in points
    ]
    header = "seriesuid,coordX,coordY,coordZ,diameter_mm,probability"
    write_csv(predictions / "candidates.csv", header, *rows)
    balls = [
        [uid, *ball[:3], 2 * ball[3]]
        for uid, (_, nodules, *_) in zip(uids, SCANS, strict=True)
        for ball in nodules
    ]
    write_csv(tmp_path / "annotations.csv", NODULES, *balls, ["9.9", 0, 0, 0, 5])
    write_csv(tmp_path / "excluded.csv", NODULES, ["1.2.1", 30, 4, 0, -1])  # 10 mm
    return predictions


def run(capsys, *arguments):
    code = task.main(["froc", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_the_command_scores_a_folder_of_predict(folder, tmp_path, capsys):
    files = "--labels", tmp_path / "annotations.csv", "--irrelevant", tmp_path / "excluded.csv"
    code, text = run(capsys, folder, *files)
    assert code == 0
    counts = "4 scans, 4 nodules, 8 candidates: 2 hits, 1 more on the same nodules, 1 on irrelevant"
    assert counts in text and "CPM, the mean of these     0.429\n" in text
    assert "0.5                        0.500\n" in text
    assert "left out: 1 nodules of scans that are not scored" in text
    entry = json.loads((folder / "froc/metrics.json").read_text())["froc"]
    assert entry["scores"]["cpm"] == pytest.approx(3 / 7) and entry["counts"]["scans"] == 4
    assert entry["curve"]["sensitivity"] == [0, 0.25, 0.25, 0.25, 0.5, 0.5, 0.5]
    assert entry["provenance"]["labels"].endswith("annotations.csv")
    assert Image.open(folder / "froc/froc.png").width == 720
    # Without the irrelevant findings its candidate is false; --scans adds one that predict lacks.
    write_csv(tmp_path / "uids.csv", "seriesuid", *([f"1.2.{n}"] for n in range(4)), ["9.9"])
    options = "--scans", tmp_path / "uids.csv", "--output", tmp_path / "scores"
    code, text = run(capsys, folder / "candidates.csv", *files[:2], *options)
    assert code == 0 and "5 scans, 5 nodules, 8 candidates: 2 hits" in text
    assert "0 on irrelevant findings, 5 false positives" in text and "left out" not in text
    assert (tmp_path / "scores/froc.png").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: write_csv(f / "candidates.csv", "ImageId,p", ["a", 1]),
            "no column seriesuid, c",
        ),
        (
            lambda f: write_csv(f.parent / "annotations.csv", NODULES, ["1.2.0", 1, "x", 3, 4]),
            "annotations.csv, row 2: .*expected seriesuid",
        ),
        (
            lambda f: write_csv(f.parent / "annotations.csv", NODULES, ["1.2.0", 1, 2, 3, -1]),
            "diameter_mm=-1 of a nodule in 1.2.0, expected more than 0",
        ),
        (
            lambda f: write_csv(f.parent / "annotations.csv", NODULES, ["other", 1, 2, 3, 4]),
            "no nodule lies in any of the 4 scans to score, such as 1.2.0; .*such as other",
        ),
        (lambda f: (f / "candidates.csv").unlink(), "candidates.csv: not a CSV: .*No such file"),
        (
            lambda f: write_csv(f / "predictions.csv", "ImageId,p", ["x_ray", 1]),
            "predictions.csv has no scan of several slices",
        ),
    ],
)
def test_mistakes_end_with_one_line(folder, tmp_path, capsys, change, message):
    change(folder)
    code, text = run(capsys, folder, "--labels", tmp_path / "annotations.csv")
    assert code == 2 and not (folder / "froc").exists()
    assert re.search(message, text)


def test_a_file_of_candidates_needs_the_scans(folder, tmp_path, capsys):
    labels = "--labels", tmp_path / "annotations.csv"
    code, text = run(capsys, folder / "candidates.csv", *labels)
    assert code == 2 and "does not say which scans were searched; give --scans" in text


def test_a_lakes_split_says_which_scans_are_scored(folder, tmp_path):
    """Its slices name their series, each once, in the lake's order; a radiograph is no scan."""
    names = {"test": ["1.2.3#0000", "1.2.3#0001", "1.2.0#0007", "x_ray"], "train": ["1.2.1#0000"]}
    rows = [
        {name: 0 for name in index.SCHEMA.names if name in ("shard", "position", "fold", "age")}
        | {"image_id": image_id, "split": split, "label": 0, "has_mask": 1, "lesion_px": 0}
        for split, image_ids in names.items()
        for image_id in image_ids
    ]
    lake = tmp_path / "lake"
    lake.mkdir()
    pyarrow.parquet.write_table(index.table(rows), lake / "index.parquet")
    files = candidate_scores.Files(folder, tmp_path, None, None, str(lake), "test")
    assert candidate_scores.scans_to_score(files, True) == ["1.2.3", "1.2.0"]
    with pytest.raises(InputError, match="the split val of .* has no scan"):
        candidate_scores.scans_to_score(files._replace(split="val"), True)
