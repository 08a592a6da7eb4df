"""report.html: whole in itself, and in Chromium its sliders give the scores of scores.py."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from makers.members import CLASSIFIER, UNET, member
from makers.predictions import example, scores_at

from lake import picture
from trainer.config import files
from trainer.evaluation import curves, gallery, report, results, scores
from trainer.evaluation.gallery import GalleryImage
from trainer.evaluation.outcomes import decide
from trainer.evaluation.results import Evaluation, SplitScores
from trainer.inference import decision as decisions
from trainer.inference.counts import Counts
from trainer.inference.decision import Decision, Triplet
from trainer.inference.ensemble import Ensemble

DECISION = Decision(Triplet(0.5, 0.002, 0.3), 0.2)
NASTY = "</script><img src=x onerror=alert(1)>"
OPTIONS = scores.ScoreOptions(replicates=20)
MANIFEST = {
    "dataset": "phantoms",
    "version": "1.0.0",
    "created": "2026-11-21",
    "counts": {"splits": {"test": {"records": 40, "positives": 14, "patients": 20}}},
}
# Moves each slider to a position, as a hand does, and collects what the page then shows.
MOVES = """
<script>
const shown = [];
for (const positions of MOVES) {
  if (positions === "reset") document.getElementById("reset").click();
  else for (const [name, position] of Object.entries(positions)) {
    const slider = document.getElementById(`slider-${name}`);
    slider.value = position;
    slider.dispatchEvent(new Event("input", {bubbles: true}));
  }
  const cells = [...document.querySelectorAll("#now td, .sliders output")];
  shown.push(Object.fromEntries(cells.map((cell) => [cell.id, cell.textContent])));
}
document.getElementById("show-truth").click();
const hidden = [...document.querySelectorAll(".overlay")].map(
  (one) => [one.classList[1], getComputedStyle(one).visibility]);
const pre = document.createElement("pre");
pre.id = "result";
pre.textContent = JSON.stringify({shown, hidden});
document.body.append(pre);
</script>
"""


def page_of(predictions, decision: Decision, folder: Path) -> str:
    """Return the page of predictions that no network made; the run's folder and ids are nasty."""
    folder = folder / "<b>run"
    folder.mkdir()
    model = UNET if decision.triplet else CLASSIFIER
    one = member(str(folder), model, 1, side=16)
    files.save(one.config, folder / "config.yaml")
    (folder / "best.weights.h5").touch()
    facts = results.describe(Ensemble(*([one], []) if decision.triplet else ([], [one])))
    outcomes = decide(predictions, decision)
    of_split = scores.score(outcomes, OPTIONS)
    subgroups = {"view": {NASTY: of_split}}
    split = SplitScores(outcomes, of_split, subgroups, curves.from_outcomes(outcomes))
    places = {p for row in gallery.choose(outcomes).values() for p in row}
    mask = np.zeros((24, 32), bool)
    mask[4:12, 6:20] = True
    image = GalleryImage(np.full((24, 32), 0.5, np.float32), mask, np.roll(mask, 5, axis=1))
    evaluation = Evaluation(*facts, "lakes/<i>", MANIFEST, OPTIONS, decision, {"test": split})
    return report.page(evaluation, dict.fromkeys(places, image))


@pytest.fixture(scope="module")
def chromium() -> str:
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if not browser:
        pytest.skip(f"none of {', '.join(names)} is here; make test-services installs chromium")
    return browser


def after_moves(chromium: str, page: str, moves: list, folder: Path) -> dict:
    """Return what the page shows after each of the moves."""
    script = MOVES.replace("MOVES", json.dumps(moves))
    (folder / "moved.html").write_text(page.replace("</body>", f"{script}</body>"))
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={folder / 'profile'}", f"file://{folder / 'moved.html'}"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert process.returncode == 0, process.stderr
    (result,) = re.findall(r'<pre id="result">(.*?)</pre>', process.stdout, re.DOTALL)
    return json.loads(html.unescape(result))


def compare(cells: dict, expected: dict, prefix: str) -> None:
    for name in ("dice_mean", "dice_positives", "sensitivity", "specificity", "ppv", "npv"):
        if name in expected:
            value = expected[name]
            text = "-" if np.isnan(value) else f"{value:.4f}"
            assert cells[f"{prefix}-{name}"] == text, name


@pytest.mark.services
@pytest.mark.parametrize("has_lesion", [True, False])
def test_moved_sliders_give_the_scores_of_their_thresholds(has_lesion, chromium, tmp_path):
    predictions, _ = example(with_lesion=has_lesion)
    decision = DECISION if has_lesion else DECISION._replace(lesion_threshold=None)
    page = page_of(predictions, decision, tmp_path)
    generator, moves = np.random.default_rng(0), []
    grid = {"top": decisions.TOPS, "area": decisions.AREAS_SHARE, "bottom": decisions.BOTTOMS}
    grid |= {"lesion": decisions.LESIONS} if has_lesion else {}
    for _ in range(25):
        moves.append({name: int(generator.integers(len(v))) for name, v in grid.items()})
    result = after_moves(chromium, page, [*moves, "reset"], tmp_path)
    assert len(result["shown"]) == len(moves) + 1
    means = set()
    for positions, cells in zip(moves, result["shown"], strict=False):
        values = {name: grid[name][position] for name, position in positions.items()}
        triplet = Triplet(values["top"], values["area"], values["bottom"])
        compare(cells, scores_at(predictions, Decision(triplet, values.get("lesion"))), "now")
        means.add(cells["now-dice_mean"])
        assert cells["value-top"] == f"{values['top']:g}"
        assert cells["value-area"] == f"{values['area']:.2%}"
    for prefix in ("now", "frozen"):
        compare(result["shown"][-1], scores_at(predictions, decision), prefix)
    assert len(means) > 10
    # Its checkbox hides the truth and leaves the prediction.
    assert set(map(tuple, result["hidden"])) == {("truth", "hidden"), ("predicted", "visible")}


@pytest.mark.services
def test_a_classifiers_slider(chromium, tmp_path):
    predictions, _ = example()
    no_rows = Counts(predictions.counts.thresholds, *(part[:0] for part in predictions.counts[1:]))
    predictions = predictions._replace(has_mask=np.zeros(40, bool), counts=no_rows)
    decision = decisions.choose_for_classifier(predictions.lesion, predictions.labels)
    page = page_of(predictions, decision, tmp_path)
    values = sorted({*report.PERCENT, decision.lesion_threshold})
    moves = [{"lesion": position} for position in range(0, len(values), 9)]
    result = after_moves(chromium, page, [*moves, "reset"], tmp_path)
    assert len(result["shown"]) == len(moves) + 1
    for positions, cells in zip(moves, result["shown"], strict=False):
        threshold = values[positions["lesion"]]
        compare(cells, scores_at(predictions, Decision(None, threshold)), "now")
    compare(result["shown"][-1], scores_at(predictions, decision), "frozen")


def test_the_page_is_whole_and_what_comes_from_data_is_text(tmp_path):
    predictions, _ = example()
    page = page_of(predictions._replace(ids=np.array([NASTY] * 40)), DECISION, tmp_path)
    assert NASTY not in page and "<b>run" not in page and "<i>" not in page
    assert html.escape(NASTY) in page and "&lt;b&gt;run/config.yaml" in page
    # Nothing is fetched: all there is of an address is the name of SVG.
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert set(re.findall(r"https?://[^\s\"']*", page)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in page
    for text in ("phantoms 1.0.0", "kind: unet", "With a lesion, lowest dice", "Beside each value"):
        assert text in page, text


def test_galleries_hold_the_best_the_worst_and_the_false_alarms():
    predictions, _ = example()
    outcomes = decide(predictions, DECISION)
    rows, dices = list(gallery.choose(outcomes).values()), outcomes.dice
    positives = sorted(dices[p] for p in np.flatnonzero(predictions.labels > 0))
    best, median, worst, alarms = ([dices[p] for p in row] for row in rows)
    assert best == positives[::-1][:4] and worst == positives[:4]
    assert min(median) <= np.median(positives) <= max(median)
    assert alarms and not any(alarms) and all(predictions.labels[p] == 0 for p in rows[3])


def test_an_overlay_lies_on_its_mask():
    mask = np.zeros((20, 30), bool)
    mask[5:15, 3:9] = True
    resized = picture.resize_mask(np.kron(mask, np.ones((7, 5), bool)), 20, 30)
    assert np.array_equal(resized, mask)
