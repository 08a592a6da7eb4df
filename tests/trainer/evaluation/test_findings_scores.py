"""evaluate on a lake of findings: the AUC of each by its name, whatever their order in the lake;
and what table, remarks, report and CSV say of them."""

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from makers import finding_lakes as maker
from makers import predictions as example_predictions
from makers import reports, runs

from lake.records import manifest
from trainer import workdir
from trainer.data import splits
from trainer.data.batches import evaluation_batches
from trainer.evaluation import image_table, report, table
from trainer.evaluation.evaluate import Ensemble
from trainer.evaluation.outcomes import decide
from trainer.evaluation.predictions import join
from trainer.evaluation.remarks import remarks
from trainer.evaluation.scores import ScoreOptions, measures, score
from trainer.inference import ensemble
from trainer.models.window import to_unit

NAMES = ("Edema", "<i>Mass</i> {x}", "A finding whose name is longer than a line", "Hernia")


def pairwise_auc(truth: np.ndarray, scores: np.ndarray) -> float:
    """Return the share of pairs of a positive and a negative that are ranked right, ties half."""
    differences = scores[truth == 1][:, None] - scores[truth == 0][None]
    if not differences.size:
        return math.nan
    return float(np.mean((differences > 0) + 0.5 * (differences == 0)))


# --- a trained network on lakes ---


@pytest.fixture(scope="module")
def evaluated(findings_run, tmp_path_factory) -> tuple[Path, str]:
    """A copy of the run after evaluate, and what that printed."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(findings_run, folder)
    process = runs.task("evaluate", "--workdir", folder, "--picture", folder / "picture.png")
    assert process.returncode == 0, process.stderr
    return folder, process.stdout


def expected_aucs(folder: Path, lake: Path) -> dict[str, float]:
    """Return the AUC of each finding on the test split, from the network's logits, its last layer's
    columns in the order of the config, and the records' own findings."""
    config, network = workdir.load_network(folder)
    split = splits.named_split(manifest.load(str(lake)), str(lake), "test")
    [batch] = evaluation_batches(split, config.data.model_copy(update={"batch_size": 8}))
    logits = np.asarray(network(to_unit(batch["image"], batch["window"])))
    truth = np.array([fields["findings"] for fields in maker.records_of(lake, "test")])
    names = manifest.findings(manifest.load(str(lake)))
    return {
        name: pairwise_auc(truth[:, names.index(name)], logits[:, number])
        for number, name in enumerate(config.findings)
    }


def scores_of(folder: Path, label: str = "evaluate") -> dict:
    return json.loads((folder / "metrics.json").read_text())[label]["splits"]["test"]


def test_the_auc_of_each_finding_is_that_of_the_network_and_the_records(
    evaluated, lake_of_findings
):
    folder, text = evaluated
    expected, scores = expected_aucs(folder, lake_of_findings), scores_of(folder)
    assert len(expected) == 4 and len({round(v, 3) for v in expected.values()}) > 2
    for name, value in expected.items():
        actual = scores[f"auc/{name}"]
        assert actual is None if math.isnan(value) else actual == pytest.approx(value), name
    defined = [value for value in expected.values() if not math.isnan(value)]
    assert scores["auc"] == pytest.approx(np.mean(defined)) and scores["images"] == 8
    assert scores["auc/Hernia"] is None and "AUC, Hernia                      -" in text
    assert "thresholds" not in text
    assert (folder / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_the_loop_says_the_same_as_evaluate(evaluated):
    folder, _ = evaluated
    content = json.loads((folder / "metrics.json").read_text())
    loop, later = content["last"]["val"], content["evaluate"]["splits"]["val"]
    for name in ("auc", "auc/Effusion", "auc/Mass/Nodule"):
        assert loop[name] == pytest.approx(later[name], abs=0.05)  # in bins of 0.01 of a logit
    assert workdir.read_config(folder).findings == maker.NAMES


def test_findings_are_found_by_name_on_a_lake_with_another_order(evaluated, lake, tmp_path):
    folder, _ = evaluated
    other = tmp_path / "other" / "1.0.0"
    other.mkdir(parents=True)
    maker.write(lake, other, maker.NAMES[::-1])
    process = runs.task("evaluate", "--workdir", folder, "--lake", other)
    assert process.returncode == 0, process.stderr
    assert scores_of(folder, "evaluate_on_findings_1.0.0") == scores_of(folder)


def test_a_lake_that_lacks_a_finding_is_refused(evaluated, lake, tmp_path):
    folder, _ = evaluated
    other = tmp_path / "other" / "1.0.0"
    other.mkdir(parents=True)
    maker.write(lake, other, ("Effusion", "Hernia"))
    for one, message in (
        (other, "has no finding Mass/Nodule, Pleural, Other, which model.findings names"),
        (lake, "has no findings, model.findings asks for some"),
    ):
        process = runs.task("evaluate", "--workdir", folder, "--lake", one)
        assert process.returncode == 2 and message in process.stderr


def test_what_findings_cannot_have_is_refused(evaluated, systems):
    folder, _ = evaluated
    process = runs.task("evaluate", "--workdir", folder, "--calibrate", "platt")
    assert process.returncode == 2 and "knows 4 findings" in process.stderr
    segmenter = systems["cascade"][1]
    process = runs.task("evaluate", "--workdir", segmenter, "--classifier", folder)
    assert process.returncode == 2 and "knows 4 findings; before a segmenter" in process.stderr


def test_members_with_other_findings_are_refused(evaluated):
    one, other = (ensemble.load([evaluated[0]]).members[0] for _ in range(2))
    model = other.config.model.model_copy(update={"findings": maker.NAMES[::-1]})
    other = other._replace(config=other.config.model_copy(update={"model": model}))
    with pytest.raises(ensemble.InputError, match="model.findings=.* the members of an ensemble"):
        Ensemble([], [one, other])


# --- predictions that no network made ---


def predictions_of(images: int = 60):
    """Return predictions of NAMES; the last finding has no positive, the third few."""
    outputs, pairs = example_predictions.example(images=images)
    generator = np.random.default_rng(3)
    findings = generator.integers(-1, 2, (images, 4)).astype(np.float32)
    findings[:, 2] = -1
    findings[:9, 2] = [1, 0, 0, 0, 1, 0, 0, 0, 0]
    findings[:, 3] = np.minimum(findings[:, 3], 0)
    scores = np.round(generator.normal(size=(images, 4)) + 2 * findings, 1).astype(np.float32)
    outputs = reports.without_masks(outputs)
    names = {"findings": findings, "finding_names": NAMES}
    return outputs._replace(scores=scores, lesion=None, **names), pairs


def test_a_score_counts_an_image_as_often_as_it_is_drawn():
    outputs, _ = predictions_of()
    weights = np.random.default_rng(0).integers(0, 3, (2, 60)).astype(float)
    actual = measures(decide(outputs, None), None)(weights)
    for row, times in enumerate(weights.astype(int)):
        places = np.repeat(np.arange(60), times)
        columns = zip(outputs.findings[places].T, outputs.scores[places].T, strict=True)
        expected = [pairwise_auc(*pair) for pair in columns]
        assert [actual[f"auc/{name}"][row] for name in NAMES] == pytest.approx(
            expected, nan_ok=True
        )
        assert actual["auc"][row] == pytest.approx(np.nanmean(expected))


def test_intervals_digits_and_remarks():
    outputs, _ = predictions_of()
    outcomes, options = decide(outputs, None), ScoreOptions(replicates=100)
    result = score(outcomes, options)
    for name in ("auc", "auc/Edema"):
        low, high = result.intervals[name]
        assert 0.3 < low < result.values[name] < high < 1
    rarer = [min((column == 0).sum(), (column == 1).sum()) for column in outputs.findings.T]
    assert rarer[2:] == [2, 0] and result.samples == {
        "auc": sum(rarer),
        **{f"auc/{name}": number for name, number in zip(NAMES, rarer, strict=True)},
    }
    texts = {one.about: one.text for one in remarks({"test": outcomes}, {"test": result}, options)}
    assert texts.keys() == {"findings_without_auc", "few_of_findings"}
    assert (
        f"Hernia (0 with it, {(outputs.findings[:, 3] == 0).sum()} without)"
        in (texts["findings_without_auc"])
    )
    assert "A finding whose name is longer than a line (2 with it)" in texts["few_of_findings"]
    assert "<i>Mass</i> {x}" in texts["few_of_findings"]  # braces are the name's own


def test_parts_of_folds_are_joined_and_images_taken():
    outputs, _ = predictions_of()
    parts = [outputs.take(places) for places in (np.arange(20), np.arange(20, 60))]
    whole = join(parts)
    assert (whole.findings == outputs.findings).all() and whole.finding_names == NAMES
    assert (whole.ids == outputs.ids).all() and (whole.scores == outputs.scores).all()


def test_table_report_and_csv(tmp_path):
    outputs, pairs = predictions_of()
    evaluation, images = reports.evaluation_of(outputs, pairs, None, tmp_path)
    text = table.table(evaluation)
    assert all(len(line) <= 80 for line in text.partition("Keep in mind")[0].splitlines()[1:])
    lines = [line.partition("  ")[0].strip() for line in text.splitlines()[2:8]]
    assert lines == [
        *("images", "AUC", "AUC, Edema", "AUC, <i>Mass</i> {x}"),
        *("AUC, A finding whose name is lo…"[:32], "AUC, Hernia"),
    ] or lines[1:3] == ["AUC", "AUC, Edema"]
    page = report.page(evaluation, images)
    assert "<i>Mass</i>" not in page.replace("\\u003ci\\u003eMass\\u003c/i\\u003e", "")
    assert "No images are shown for classifiers of findings." in page
    assert "Findings, test" in page and '<tr><th scope="row">Hernia</th><td>0</td>' in page
    rows = list(csv.DictReader(image_table.csv_text(decide(outputs, None)).splitlines()))
    first = rows[0]
    for number, name in enumerate(NAMES):
        value = outputs.findings[0, number]
        assert first[f"truth: {name}"] == ("" if value < 0 else f"{value:.0f}")
        p = 1 / (1 + math.exp(-outputs.scores[0, number]))
        assert float(first[f"p: {name}"]) == pytest.approx(p, abs=1e-4)
    assert first["likeliest"] == NAMES[outputs.scores[0].argmax()]
