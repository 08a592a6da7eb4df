"""From workdirs to metrics.json, on the lake of phantoms, with networks of random weights."""

import csv
import json
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import tensorflow as tf
from makers.marks import exhaustive
from makers.members import CLASSIFIER, UNET, member
from makers.predictions import scores_at
from PIL import Image

from lake import InputError
from lake.picture import title, with_title
from lake.records import example, manifest
from trainer import task
from trainer.config import files
from trainer.data import batches, splits
from trainer.display import panel
from trainer.evaluation import choice, evaluate, threshold_grid
from trainer.evaluation.outcomes import decide
from trainer.evaluation.predictions import Predictions, predict
from trainer.evaluation.scores import ScoreOptions
from trainer.inference import calibration, decision, ensemble
from trainer.inference.decision import Decision, Triplet
from trainer.training.ownership import claim

FAST = ScoreOptions(replicates=50)


def workdir(folder: Path, lake: Path, model: dict, seed: int, **sections) -> Path:
    """What a run of one epoch leaves that evaluate reads."""
    folder.mkdir(parents=True)
    segmenter = member("", model, seed, **sections)
    config = segmenter.config.model_copy(update={"lake": str(lake)})
    if lake.is_dir():
        claim(folder, config, [manifest.load(str(lake))])
    files.save(config, folder / "config.yaml")
    segmenter.network.save_weights(folder / "best.weights.h5")
    return folder


@pytest.fixture(scope="module")
def runs(lake, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        "segmenter": workdir(folder / "segmenter", lake, UNET, 1),
        "second": workdir(folder / "second", lake, UNET | {"filters": 6}, 2),
        "classifier": workdir(folder / "classifier", lake, CLASSIFIER, 3, side=16),
    }


@pytest.fixture(scope="module")
def evaluated(runs) -> tuple[ensemble.Ensemble, str, dict]:
    """The segmenter, the table of its evaluation, and the entry of its metrics.json."""
    system = ensemble.load([runs["segmenter"]])
    return system, evaluate.evaluate(system, None, FAST), entry_of(runs["segmenter"])


def entry_of(folder: Path, label: str = "evaluate") -> dict:
    return json.loads((folder / "metrics.json").read_text())[label]


def records(lake: Path, split: str):
    """Every record of a split, read without TensorFlow."""
    for path in sorted(lake.glob(f"*-{split}.tfrecord*")):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            yield example.decode(content[place + 12 : place + 12 + length])
            place += 16 + length


def paint(rle: str, height: int, width: int) -> np.ndarray:
    """The challenge's code: a gap, a length, …, down the columns."""
    mask, place = np.zeros(height * width, bool), 0
    numbers = [] if rle == "-1" else list(map(int, rle.split()))
    for gap, length in zip(numbers[::2], numbers[1::2], strict=True):
        mask[place + gap : place + gap + length] = True
        place += gap + length
    return mask.reshape(width, height).T


def slow_dices(
    lake: Path, split: str, trained_member: ensemble.Member, chosen: Decision
) -> list[float]:
    """One image at a time; they are square, so without padding."""
    shards = splits.named_split(manifest.load(str(lake)), str(lake), split)
    items = (
        batches.evaluation_batches(shards, trained_member.config.data).unbatch().as_numpy_iterator()
    )
    dices = []
    for record, item in zip(records(lake, split), items, strict=False):  # padding follows
        low, high = item["window"]
        unit = np.clip((np.float32(item["image"]) - low) / (high - low), 0, 1)
        logits = trained_member.network(unit[None], training=False).numpy()[0]
        height, width = record["original_height"], record["original_width"]
        p = tf.image.resize(tf.sigmoid(logits), (height, width)).numpy()[..., 0]
        mask = p > np.float32(chosen.triplet.bottom)
        area = chosen.triplet.area_share * height * width
        if (p > np.float32(chosen.triplet.top)).sum() < area:
            mask = np.zeros_like(mask)
        truth = paint(record["original_rle"].decode(), height, width)
        total = int(mask.sum()) + int(truth.sum())
        dices.append(2 * int((mask & truth).sum()) / total if total else 1.0)
    return dices


def predictions_for(system: ensemble.Ensemble, lake: Path, split: str) -> Predictions:
    split = splits.named_split(manifest.load(str(lake)), str(lake), split)
    return predict(system, split).predictions


def test_mean_dice_equals_an_independent_implementation(lake, evaluated):
    system, _, entry = evaluated
    frozen = Decision(Triplet(**entry["triplet"]))
    for split in ("val", "test"):
        actual = entry["splits"][split]
        dices = slow_dices(lake, split, system.members[0], frozen)
        assert len(dices) == actual["images"] == 8
        assert actual["dice_mean"] == pytest.approx(np.mean(dices), abs=1e-9)
        negatives = [record["label"] == 0 for record in records(lake, split)]
        assert actual["dice_all_empty"] == np.mean(negatives)
    # Thresholds that keep something, too: the chosen ones may empty every mask.
    keeping = Decision(Triplet(0.3, 0.0, 0.3))
    dices = slow_dices(lake, "test", system.members[0], keeping)
    assert np.std(dices) > 0.01
    actual = decide(predictions_for(system, lake, "test"), keeping).dice
    np.testing.assert_allclose(actual, dices, atol=1e-9)


def test_the_table_and_metrics_json_say_what_to_keep_in_mind(evaluated):
    """Eight images of eight patients: one digit, no interval, and sentences that say so."""
    _, table, entry = evaluated
    for split in ("val", "test"):
        assert entry["drawn"][split] == {"unit": "patients", "number": 8}
        assert entry["samples"][split]["dice_positives"] == 3 and not entry["intervals"][split]
    lines = table.splitlines()
    assert max(map(len, lines[1:-1])) <= 80  # but the paths of the run and of its report
    dices = [f"{entry['splits'][split]['dice_mean']:.1f}" for split in ("val", "test")]
    assert f"{'mean dice':<33}{dices[0]:<23}{dices[1]}" in lines
    text = " ".join(line.strip() for line in lines)
    assert {"no_intervals", "few_positives"} <= {one["about"] for one in entry["remarks"]}
    assert all(one["text"] in text for one in entry["remarks"])
    origin = entry["provenance"]
    assert origin["lake"]["dataset"] == "phantoms" and origin["lake"]["version"] == "1.0.0"
    assert origin["time"].endswith("Z") and origin["seconds"] > 0 and origin["command"]
    assert any("were chosen on val" in text for text in origin["limits"])


def test_thresholds_of_validation_are_frozen_for_test(lake, runs, evaluated, monkeypatch):
    """With a grid where the test split would choose others."""
    for module in (choice, threshold_grid):
        monkeypatch.setattr(module, "BOTTOMS", (0.2, 0.3, 0.4))
        monkeypatch.setattr(module, "TOPS", (0.5, 0.6, 0.7))
        monkeypatch.setattr(module, "AREAS_SHARE", (0.0, 0.004, 0.016, 0.064))
        monkeypatch.setattr(module, "LESIONS", (0.0,))
    system, *_ = evaluated
    parts = {name: predictions_for(system, lake, name) for name in ("val", "test")}
    decisions = {name: choice.choose(part.counts, None) for name, part in parts.items()}
    assert decisions["val"].triplet != decisions["test"].triplet
    evaluate.evaluate(system, None, FAST)
    entry = entry_of(runs["segmenter"])
    assert Decision.from_json(entry) == decisions["val"]
    frozen = scores_at(parts["test"], decisions["val"])["dice_mean"]
    assert entry["splits"]["test"]["dice_mean"] == frozen
    assert scores_at(parts["test"], decisions["test"])["dice_mean"] > frozen


@pytest.mark.slow
def test_a_cascade_of_ensembles_from_the_command_line(lake, runs, tmp_path, capsys):
    picture, page = tmp_path / "deep" / "p.png", tmp_path / "r.html"
    members = [str(runs["segmenter"]), str(runs["second"])]
    options = ["--tta", "flip", "1.5", "--bootstrap=20", "--prevalence=0.1", "--choose=one_se"]
    options += ["--calibrate=platt"]
    options += ["--picture", str(picture), "--report", str(page)]
    command = ["evaluate", "--workdir", *members, "--classifier", str(runs["classifier"])]
    assert task.main([*command, *options]) == 0
    label = "evaluate_of_2_after_1_tta_flip_1.5"
    entry, output = entry_of(runs["segmenter"], label), capsys.readouterr().out
    assert entry["workdirs"] == members and entry["options"]["prevalence"] == 0.1
    rule = "thresholds chosen on val, of those within one standard error of the best: keep p >"
    assert entry["options"]["choose"] == "one_se" and rule in " ".join(output.split())
    assert "with its mirror images, also at 1.5 of its size" in " ".join(output.split())
    assert f"report: {page}" in output
    test = entry["splits"]["test"]
    share = 0.1 * test["sensitivity"] + 0.9 * (1 - test["specificity"])
    assert test["ppv"] is None or test["ppv"] == pytest.approx(0.1 * test["sensitivity"] / share)
    assert {"ece", "brier", "pixel_ece", "auc", "ap"} <= test.keys()
    assert list(entry["subgroups"]["test"]) == ["view", "sex", "age", "lesion size"]
    assert len(entry["curves"]["test"]["images"]["threshold"]) == 31
    for split in ("val", "test"):
        curves = Image.open(runs["segmenter"] / label / f"curves_{split}.png")
        assert curves.width >= 900
        with (runs["segmenter"] / label / f"images_{split}.csv").open() as file:
            rows = list(csv.DictReader(file))
        # The phantoms have a Pixel Spacing.
        assert len(rows) == 8 and sum(bool(row["hd95_mm"]) for row in rows) == 3
        assert not any(row["hd95_px"] for row in rows)
    assert "Not a medical device" in page.read_text()
    # The thresholds are read back for these members and no others.
    system = ensemble.load(list(map(Path, members)), [runs["classifier"]], ["flip", "1.5"])
    chosen = decision.read_decision(system)
    names = ("triplet", "lesion_threshold", "calibration", "positives_bottom")
    assert chosen.to_json() == {name: entry[name] for name in names}
    # The calibration is fitted on the logits of the cascade's mean.
    val = predictions_for(system, lake, "val")
    assert chosen.calibration == calibration.fit("platt", val.scores, val.labels)
    calibrated = predictions_for(system.with_calibration(chosen.calibration), lake, "val")
    assert scores_at(calibrated, chosen)["ece"] == pytest.approx(
        entry["splits"]["val"]["ece"], abs=1e-6
    )
    before = scores_at(val, Decision(chosen.triplet, 0.0))
    for name in ("ece", "brier"):
        assert entry["splits"]["val"][f"{name}_uncalibrated"] == pytest.approx(before[name])
    words = " ".join(output.split())
    for text in ("calibration error", "the same before calibration", str(chosen.calibration)):
        assert text in words and text in " ".join(page.read_text().split())
    pixels, words = np.asarray(Image.open(picture)), (system.title, "test (phantoms 1.0.0)")
    text = title(*words, str(chosen))
    strips = with_title(pixels[:0], text, panel.TITLE_PX, panel.font_file(), panel.COLOURS)
    assert (pixels[: len(strips)] == strips).all()
    with pytest.raises(InputError, match="so no thresholds were chosen"):
        decision.read_decision(ensemble.load([runs["segmenter"]], [runs["classifier"]]))


@pytest.mark.slow
def test_tensorboard_has_scores_and_curves(runs, tmp_path):
    system = ensemble.load([runs["classifier"]])
    for _ in range(2):  # a repeated evaluation replaces its curves
        table = evaluate.evaluate(system, None, FAST, tmp_path / "picture.png")
    assert "\nAUC " in table
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    tags = {}
    for path in (runs["classifier"] / "evaluate" / "test").glob("events.*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                tags.setdefault(value.tag, []).append(value)
    assert len(tags["evaluate/auc"]) == 1 and "curves" in tags
    curve = tf.make_ndarray(tags["images/pr_curves"][0].tensor)
    assert tags["images/pr_curves"][0].metadata.plugin_data.plugin_name == "pr_curves"
    assert curve[0, 0] + curve[3, 0] == 3  # all positives, at the lowest threshold
    expected = entry_of(runs["classifier"])["splits"]["test"]["auc"]
    assert float(tf.make_ndarray(tags["evaluate/auc"][0].tensor)) == pytest.approx(expected)


@pytest.mark.slow
def test_thresholds_belong_to_the_weights_that_they_were_chosen_for(runs, lake, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(runs["classifier"], copy)
    if not (copy / "metrics.json").exists():
        evaluate.evaluate(ensemble.load([copy]), None, FAST)
    new_place = copy.rename(tmp_path / "moved")  # a folder's name does not matter
    assert decision.read_decision(ensemble.load([new_place])).triplet is None
    other = workdir(tmp_path / "other", lake, CLASSIFIER, 9, side=16)
    shutil.copy(other / "best.weights.h5", new_place)
    with pytest.raises(InputError, match="were chosen for other weights"):
        decision.read_decision(ensemble.load([new_place]))


@exhaustive  # test_ensemble.py has the choice alone
def test_folds_choose_on_images_that_their_members_did_not_train_on(
    phantoms, convert, tmp_path, capsys
):
    folded = tmp_path / "folded" / "1.0.0"
    csv, images = phantoms / "train-rle.csv", phantoms / "dicom" / "*.dcm"
    convert(images, csv, folded, "--folds=2", "--splits=train=0.6,val=0.2,test=0.2")
    members = [workdir(tmp_path / f"fold{n}", folded, UNET, n, data={"fold": n}) for n in (0, 1)]
    options = ["--bootstrap=20", "--calibrate=platt", "--choose=one_se"]
    assert task.main(["evaluate", "--workdir", *map(str, members), *options]) == 0
    entry = entry_of(members[0], "evaluate_of_2")
    assert list(entry["splits"]) == ["fold 0 and fold 1", "test"]
    assert entry["splits"]["fold 0 and fold 1"]["images"] == 32
    content, chosen = manifest.load(str(folded)), Decision.from_json(entry)
    dices, fold_ids, scores, labels = [], [], [], []
    for number, folder in enumerate(members):
        alone = ensemble.load([folder])
        fold = splits.fold_split(content, str(folded), number, is_held_out=True)
        predictions = predict(alone, fold).predictions
        scores += predictions.scores.tolist()
        labels += predictions.labels.tolist()
        outcomes = decide(predictions.with_calibration(chosen.calibration), chosen)
        dices += outcomes.dice.tolist()
        fold_ids.append(set(outcomes.predictions.ids.tolist()))
    actual = entry["splits"]["fold 0 and fold 1"]["dice_mean"]
    assert actual == pytest.approx(np.mean(dices), abs=1e-9)
    # The calibration, too, is fitted to what members say of images that they did not train on.
    assert chosen.calibration == calibration.fit("platt", np.float32(scores), np.float32(labels))
    # Without a test split the report shows images of all folds.
    del content["counts"]["splits"]["test"]
    (folded / "manifest.json").write_text(json.dumps(content))
    page, picture = tmp_path / "report.html", tmp_path / "picture.png"
    evaluate.evaluate(ensemble.load(members), str(folded), FAST, picture, page)
    figures = set(re.findall(r'<figcaption>\s*<b title="(.*?)">', page.read_text()))
    assert figures and picture.exists() and all(figures & ids for ids in fold_ids)


def test_a_patient_in_both_splits_is_refused(lake, runs, tmp_path):
    copy = tmp_path / "torn"
    shutil.copytree(lake, copy)
    table = pyarrow.parquet.read_table(copy / "index.parquet")
    patients, splits = table["patient"].to_pylist(), table["split"].to_pylist()
    val_patients = patients[splits.index("val")]
    patients[splits.index("test")] = val_patients
    place = table.column_names.index("patient")
    kind = table.schema.field("patient").type
    table = table.set_column(place, "patient", pyarrow.array(patients, kind))
    pyarrow.parquet.write_table(table, copy / "index.parquet")
    with pytest.raises(
        InputError, match=f"1 patient is in val and in test, such as {val_patients}"
    ):
        evaluate.evaluate(ensemble.load([runs["segmenter"]]), str(copy), FAST)


def test_members_of_different_lakes_need_to_be_told_which(runs, lake, tmp_path):
    other = workdir(tmp_path / "other", Path("elsewhere"), UNET, 4)
    system = ensemble.load([runs["segmenter"], other])
    with pytest.raises(InputError, match="say with --lake which one"):
        evaluate.evaluate(system, None, FAST)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--workdir MIXED", "config.yaml do not belong together: layer "),
        ("--workdir MOVED", "/lakes/gone/1.0.0: no lake here, and "),
        ("--workdir HALF", "no best.weights.h5: the run has not finished its first epoch"),
        ("--workdir EMPTY", "no config.yaml, so no run was trained here"),
        ("--workdir SEGMENTER --classifier HALF", "no best.weights.h5"),
        ("--workdir SEGMENTER --classifier SECOND", "holds a unet that segments; expected a class"),
        ("--workdir SEGMENTER CLASSIFIER", "expected segmenters, or classifiers alone"),
        ("--workdir CLASSIFIER --classifier CLASSIFIER", "or classifiers alone; found"),
        ("--workdir SEGMENTER --tta sideways", "expected none, flip, or a scale"),
        (
            "--workdir SEGMENTER --prevalence 30",
            "--prevalence: 30: expected a number between 0 and 1",
        ),
        ("--workdir SEGMENTER --bootstrap -1", "--bootstrap: -1: expected a number from 0 on"),
        ("--workdir SEGMENTER s3://b/run", "s3://b/run: expected a local path or gs://BUCKET/PATH"),
    ],
)
def test_bad_input_is_one_message(runs, tmp_path, capsys, arguments, message):
    half = tmp_path / "half"
    half.mkdir()
    shutil.copy(runs["segmenter"] / "config.yaml", half)
    mixed, moved = tmp_path / "mixed", tmp_path / "moved"
    for folder in (mixed, moved):
        shutil.copytree(runs["segmenter"], folder)
    shutil.copy(runs["classifier"] / "best.weights.h5", mixed)
    config = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(re.sub("^lake: .*", "lake: lakes/gone/1.0.0", config))
    folders = {name.upper(): str(folder) for name, folder in runs.items()}
    folders |= {"MIXED": str(mixed), "MOVED": str(moved)}
    folders |= {"HALF": str(half), "EMPTY": str(tmp_path / "none")}
    words = [folders.get(word, word) for word in arguments.split()]
    try:
        code = task.main(["evaluate", *words])
    except SystemExit as error:  # the parser's own
        code = error.code
    assert code == 2
    assert message in capsys.readouterr().err
