"""Runs of random weights, as if they were trained on the phantoms; the tables that predict
writes."""

import csv
import json
from pathlib import Path

import keras
import numpy as np

from trainer import task, workdir
from trainer.config.run import Config
from trainer.inference import ensemble, images
from trainer.inference.calibration import Calibration
from trainer.inference.decision import Decision, Triplet
from trainer.models.build import build
from trainer.training import ownership

UNET = {"kind": "unet", "filters": 2, "depth": 1}
CLASSIFIER = {"kind": "classifier", "encoder": "plain", "filters": 2, "depth": 1}
CALIBRATION = Calibration("platt", 0.6, -0.3)  # of the cascade


def workdir_of(
    folder: Path, lake: Path, model: dict, side: int, sections: dict | None = None, **stored
) -> Path:
    """Write a run of random weights; `sections` of its config beside model and data; `stored`
    replaces entries of its lake.json."""
    data = {"side": side, "batch_size": 4} | (sections or {}).get("data", {})
    run = Config.model_validate(
        {"lake": str(lake), **(sections or {}), "model": model, "data": data}
    )
    keras.utils.set_random_seed(len(str(model)))
    network = build(run.model, side)
    for weights in network.trainable_weights[-2:]:  # the head's: apart from what is rounding
        weights.assign(30 * abs(weights))
    content = json.loads((lake / "manifest.json").read_text())
    ownership.claim(folder, run, [content | stored])
    network.save_weights(folder / workdir.BEST)
    return folder


def with_thresholds(
    system: ensemble.Ensemble, lake: Path, calibration: Calibration | None = None
) -> None:
    """Write thresholds as if evaluate had chosen them, which keep a part of the masks, and about
    30 % of each; `calibration`: as if it had fitted it before."""
    system = system.with_calibration(calibration)
    inputs = images.from_lake(str(lake), "test")
    batch = next(iter(images.batches(inputs, system, ("image_id",), with_image=False)))
    outputs = system(batch)
    bottom = float(np.quantile(outputs.probabilities.numpy(), 0.7))
    gate = None if outputs.lesion is None else float(np.quantile(outputs.lesion.numpy(), 0.3))
    decision = Decision(Triplet(bottom, 0.25, bottom), gate, calibration)
    entry = decision.to_json() | {"weights_sha256": system.weights_sha256()}
    workdir.write_metrics(system.members[0].workdir, {system.label: entry})


def run_task(*arguments) -> None:
    """Run python -m trainer.task in this process; it must succeed."""
    assert exit_code(*arguments) == 0


def exit_code(*arguments) -> int:
    """Return the exit code of python -m trainer.task, run in this process."""
    try:
        return task.main([str(argument) for argument in arguments])
    except SystemExit as end:  # the parser's, for an option that there is not
        return end.code


def read_predictions(output: Path) -> dict[str, tuple[str, float, int]]:
    """Return {image id: (run lengths, p, lesion pixels)} of a folder of predictions."""
    rows = {}
    with (output / "submission.csv").open() as texts, (output / "predictions.csv").open() as facts:
        for text, fact in zip(csv.DictReader(texts), csv.DictReader(facts), strict=True):
            numbers = float(fact["probability"]), int(fact["lesion_px"])
            rows[text["ImageId"]] = (text["EncodedPixels"], *numbers)
    return rows


def write_systems(folder: Path, lake: Path) -> None:
    """Write a cascade whose classifier has an input of its own, with mirrored views too, and a
    network that learnt from 16 bits."""
    segmenter = workdir_of(folder / "segmenter", lake, UNET, 32)
    classifier = workdir_of(folder / "classifier", lake, CLASSIFIER, 48)
    deep = workdir_of(folder / "deep", lake, UNET, 32, dtype="uint16")
    cascade = ensemble.load([segmenter], [classifier], ("flip",))
    assert cascade.classifier_settings is not None
    with_thresholds(cascade, lake, CALIBRATION)
    with_thresholds(ensemble.load([deep]), lake)


def systems(folder: Path) -> dict[str, list[str | Path]]:
    """Return {name: the options of trainer.task} of what `write_systems` wrote."""
    cascade = ["--workdir", folder / "segmenter", "--classifier", folder / "classifier"]
    return {"cascade": [*cascade, "--tta", "flip"], "deep": ["--workdir", folder / "deep"]}
