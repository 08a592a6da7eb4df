"""report.html: whole in itself, and in Chromium its sliders give the scores of scores.py."""

import dataclasses
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from makers.members import CLASSIFIER, UNET, member
from makers.predictions import example

from trainer.config import files
from trainer.evaluation import bootstrap, curves, evaluate, gallery, report, scores
from trainer.evaluation.gallery import Shown
from trainer.evaluation.results import Scored, Scores
from trainer.inference import decision
from trainer.inference.decision import Decision, Triplet
from trainer.inference.ensemble import Ensemble

CHOSEN = Decision(Triplet(0.5, 0.002, 0.3), 0.2)
NASTY = "</script><img src=x onerror=alert(1)>"
OPTIONS = evaluate.Options(replicates=20)
CONTENT = {
    "dataset": "phantoms",
    "version": "1.0.0",
    "created": "2026-11-21",
    "counts": {"splits": {"test": {"records": 40, "positives": 14, "patients": 20}}},
}
# Moves each slider to its place, as a hand does, and writes down what the page then says.
MOVES = """
<script>
const told = [];
for (const places of MOVES) {
  if (places === "reset") document.getElementById("reset").click();
  else for (const [name, place] of Object.entries(places)) {
    const slider = document.getElementById(`slider-${name}`);
    slider.value = place;
    slider.dispatchEvent(new Event("input", {bubbles: true}));
  }
  const cells = [...document.querySelectorAll("#now td, .sliders output")];
  told.push(Object.fromEntries(cells.map((cell) => [cell.id, cell.textContent])));
}
document.getElementById("show-truth").click();
const hidden = [...document.querySelectorAll(".overlay")].map(
  (one) => [one.classList[1], getComputedStyle(one).visibility]);
const pre = document.createElement("pre");
pre.id = "told";
pre.textContent = JSON.stringify({told, hidden});
document.body.append(pre);
</script>
"""


def page_of(predicted, chosen: Decision, folder: Path) -> str:
    """The page of predictions that no network made; the run's folder and ids are nasty."""
    folder = folder / "<b>run"
    folder.mkdir()
    model = UNET if chosen.triplet else CLASSIFIER
    one = member(str(folder), model, 1, side=16)
    files.save(one.run, folder / "config.yaml")
    system = Ensemble(*([one], []) if chosen.triplet else ([], [one]))
    measure = scores.measures(predicted, chosen, None)
    ends = bootstrap.intervals(measure, predicted.groups, 20, 0)
    found = Scores(scores.of(predicted, chosen, None), ends)
    scored = Scored(predicted, found, {"view": {NASTY: found}}, curves.of(predicted, chosen))
    places = {p for row in gallery.choose(predicted, chosen).values() for p in row}
    mask = np.zeros((24, 32), bool)
    mask[4:12, 6:20] = True
    one_shown = Shown(np.full((24, 32), 0.5, np.float32), mask, np.roll(mask, 5, axis=1))
    shown = dict.fromkeys(places, one_shown)
    return report.page(system, CONTENT, "lakes/<i>", chosen, OPTIONS, {"test": scored}, shown)


@pytest.fixture(scope="module")
def chromium() -> str:
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if not found:
        pytest.skip(f"no browser: none of {', '.join(names)} is on the PATH")
    return found


def after_moves(chromium: str, page: str, moves: list, folder: Path) -> dict:
    """What the page says after each of the moves."""
    script = MOVES.replace("MOVES", json.dumps(moves))
    (folder / "moved.html").write_text(page.replace("</body>", f"{script}</body>"))
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={folder / 'profile'}", f"file://{folder / 'moved.html'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    (told,) = re.findall(r'<pre id="told">(.*?)</pre>', done.stdout, re.DOTALL)
    return json.loads(html.unescape(told))


def compare(told: dict, expected: dict, prefix: str) -> None:
    for name in ("dice_mean", "dice_positives", "sensitivity", "specificity", "ppv", "npv"):
        if name in expected:
            value = expected[name]
            said = "-" if np.isnan(value) else f"{value:.4f}"
            assert told[f"{prefix}-{name}"] == said, name


@pytest.mark.parametrize("has_lesion", [True, False])
def test_moved_sliders_give_the_scores_of_their_thresholds(has_lesion, chromium, tmp_path):
    predicted, _ = example(with_lesion=has_lesion)
    chosen = CHOSEN if has_lesion else CHOSEN._replace(lesion_threshold=None)
    page = page_of(predicted, chosen, tmp_path)
    generator, moves = np.random.default_rng(0), []
    grid = {"top": decision.TOPS, "area": decision.AREAS_SHARE, "bottom": decision.BOTTOMS}
    grid |= {"lesion": decision.LESIONS} if has_lesion else {}
    for _ in range(25):
        moves.append({name: int(generator.integers(len(v))) for name, v in grid.items()})
    found = after_moves(chromium, page, [*moves, "reset"], tmp_path)
    means = set()
    for places, told in zip(moves, found["told"], strict=False):
        values = {name: grid[name][place] for name, place in places.items()}
        triplet = Triplet(values["top"], values["area"], values["bottom"])
        expected = scores.of(predicted, Decision(triplet, values.get("lesion")), None)
        compare(told, expected, "now")
        means.add(told["now-dice_mean"])
        assert told["value-top"] == f"{values['top']:g}"
        assert told["value-area"] == f"{values['area']:.2%}"
    frozen = scores.of(predicted, chosen, None)
    for prefix in ("now", "frozen"):
        compare(found["told"][-1], frozen, prefix)
    assert len(means) > 10
    # Its checkbox hides the truth and leaves the prediction.
    assert set(map(tuple, found["hidden"])) == {("truth", "hidden"), ("predicted", "visible")}


def test_a_classifiers_slider(chromium, tmp_path):
    predicted, _ = example()
    nothing = predicted.counted._replace(**{n: v[:0] for n, v in masks_of(predicted).items()})
    predicted = dataclasses.replace(predicted, masked=np.array([], int), counted=nothing)
    chosen = decision.choose_for_classifier(predicted.lesion, predicted.labels)
    page = page_of(predicted, chosen, tmp_path)
    values = sorted({*report.PERCENT, chosen.lesion_threshold})
    moves = [{"lesion": place} for place in range(0, len(values), 9)]
    found = after_moves(chromium, page, [*moves, "reset"], tmp_path)
    for places, told in zip(moves, found["told"], strict=False):
        threshold = values[places["lesion"]]
        compare(told, scores.of(predicted, Decision(None, threshold), None), "now")
    compare(found["told"][-1], scores.of(predicted, chosen, None), "frozen")


def masks_of(predicted) -> dict:
    return {name: getattr(predicted.counted, name) for name in predicted.counted._fields[1:]}


def test_the_page_is_whole_and_what_comes_from_data_is_text(tmp_path):
    predicted, _ = example()
    predicted = dataclasses.replace(predicted, ids=[NASTY] * 40)
    page = page_of(predicted, CHOSEN, tmp_path)
    assert NASTY not in page and "<b>run" not in page and "<i>" not in page
    assert html.escape(NASTY) in page and "&lt;b&gt;run/config.yaml" in page
    # Nothing is fetched: all there is of an address is the name of SVG.
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert set(re.findall(r"https?://[^\s\"']*", page)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in page
    for said in ("phantoms 1.0.0", "kind: unet", "With a lesion, lowest dice", "Beside each value"):
        assert said in page, said


def test_galleries_hold_the_best_the_worst_and_the_false_alarms():
    predicted, _ = example()
    rows = list(gallery.choose(predicted, CHOSEN).values())
    dices = scores.dices_by_place(predicted, CHOSEN)
    positives = sorted(dices[p] for p in np.flatnonzero(predicted.labels > 0))
    best, median, worst, alarms = ([dices[p] for p in row] for row in rows)
    assert best == positives[::-1][:4] and worst == positives[:4]
    assert min(median) <= np.median(positives) <= max(median)
    assert alarms and not any(alarms) and all(predicted.labels[p] == 0 for p in rows[3])


def test_an_overlay_lies_on_its_mask():
    mask = np.zeros((20, 30), bool)
    mask[5:15, 3:9] = True
    shown = gallery._fitted(np.kron(mask, np.ones((7, 5), bool)), (20, 30))
    assert np.array_equal(shown, mask)
