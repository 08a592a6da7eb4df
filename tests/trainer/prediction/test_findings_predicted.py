"""A network that scores findings: predict, export and predict_files give the same probabilities,
each under its finding's name."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from makers import finding_lakes as maker
from makers.marks import exhaustive
from makers.runs import task

from beam import predict as beam_predict
from lake.predictions.exported import GRAPH, RECORDS
from lake.records import manifest, tfrecord
from trainer import workdir
from trainer.data import splits
from trainer.data.batches import evaluation_batches
from trainer.inference import ensemble, images
from trainer.models.window import to_unit
from trainer.serving import export, graph


def read(folder: Path) -> dict[str, dict[str, float]]:
    """Return {image id: {finding: p}} of predictions.csv."""
    with (folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {row.pop("ImageId"): {name: float(p) for name, p in row.items()} for row in rows}


@pytest.fixture(scope="module")
def predicted(findings_run, lake_of_findings, tmp_path_factory) -> tuple[Path, str]:
    """The predictions of the lake's test split, and what the command printed."""
    output = tmp_path_factory.mktemp("predicted") / "out"
    process = task("predict", "--workdir", findings_run, "--output", output)
    assert process.returncode == 0, process.stderr
    return output, process.stdout


def test_a_probability_of_each_finding_stands_in_the_table(
    predicted, findings_run, lake_of_findings
):
    output, text = predicted
    assert "8 images predicted, a probability of each of 4 findings; 0 rejected" in text
    assert not (output / "submission.csv").exists() and (output / "rejects.csv").exists()
    header = next(csv.reader((output / "predictions.csv").open()))
    assert header == ["ImageId", *maker.NAMES]
    config, network = workdir.load_network(findings_run)
    split = splits.named_split(manifest.load(str(lake_of_findings)), str(lake_of_findings), "test")
    data = config.data.model_copy(update={"batch_size": 8})
    [batch] = evaluation_batches(split, data, ("image_id",))
    logits = np.asarray(network(to_unit(batch["image"], batch["window"])), np.float64)
    ids = [image_id.decode() for image_id in batch["image_id"].numpy()]
    actual = read(output)
    assert list(actual) == ids
    for image_id, row in zip(ids, 1 / (1 + np.exp(-logits)), strict=True):
        assert list(actual[image_id].values()) == pytest.approx(row.tolist(), abs=2e-6)
    assert np.ptp(logits) > 0.01


def test_a_finished_folder_is_left_and_other_networks_are_refused(
    predicted, findings_run, systems, tmp_path
):
    output, _ = predicted
    process = task("predict", "--workdir", findings_run, "--output", output)
    assert process.returncode == 0 and "nothing was written" in process.stdout
    assert "a probability of each of 4 findings" in process.stdout
    process = task("predict", *systems["deep"], "--output", output)
    assert process.returncode == 2


@pytest.mark.parametrize("option", ["--overlays", "--probabilities", "--candidates", "--seg"])
def test_what_needs_masks_is_refused(findings_run, tmp_path, option):
    command = ["predict", "--workdir", findings_run, "--output", tmp_path / "out", option]
    process = task(*command)
    assert process.returncode == 2 and f"{option} needs masks, and" in process.stderr
    assert not (tmp_path / "out" / "predictions.csv").exists()


def test_the_graph_gives_the_same_and_says_the_names(predicted, findings_run, lake_of_findings):
    networks = ensemble.load([findings_run])
    settings = images.reader_settings(networks)
    server = graph.Server(networks, export.check(networks), settings.storage)
    signature = graph.signatures(server, settings, GRAPH)[RECORDS]()
    records, expected = [], read(predicted[0])
    for path in sorted(lake_of_findings.glob("*-test.tfrecord-*")):
        with path.open("rb") as file:
            records += [record for record, _ in tfrecord.records(file)]
    outputs = signature(records=tf.constant([*records, b"damaged"]))
    check_outputs(outputs, expected)
    assert outputs["error"].numpy()[-1] and np.isnan(outputs["findings"].numpy()[-1]).all()
    text = export.description(networks, server.decision, settings, GRAPH, {RECORDS: signature})
    content = json.loads(text)
    assert content["findings"] == list(maker.NAMES)
    assert content["signatures"][RECORDS]["outputs"] == {
        "error": ["string", [None]],
        "findings": ["float32", [None, 4]],
        "names": ["string", [None, 4]],
    }


def check_outputs(outputs: dict, expected: dict[str, dict[str, float]]) -> None:
    """Compare the outputs of a signature with the rows of predictions.csv."""
    columns = (outputs[name].numpy() for name in ("findings", "names", "error"))
    for values, names, error, row in zip(*columns, expected.values(), strict=False):
        actual = {name.decode(): value for name, value in zip(names, values, strict=True)}
        assert actual == pytest.approx(row, abs=2e-6) and error == b""


@exhaustive
def test_files_are_predicted_alike_by_both_commands_and_an_export(findings_run, phantoms, tmp_path):
    files = tmp_path / "files"
    files.mkdir()
    for path in sorted((phantoms / "dicom").glob("*.dcm"))[:3]:
        (files / path.name).write_bytes(path.read_bytes())
    (files / "damaged.dcm").write_bytes(b"no DICOM file")
    model, ours, theirs = (tmp_path / name for name in ("model", "ours", "theirs"))
    process = task("export", "--workdir", findings_run, "--output", model)
    assert process.returncode == 0 and "; no thresholds" in process.stdout, process.stderr
    process = task("predict", "--workdir", findings_run, "--input", files, "--output", ours)
    assert process.returncode == 0, process.stderr
    arguments = [f"--model={model}", f"--images={files}/*.dcm", f"--output={theirs}"]
    arguments += ["--runner=DirectRunner", "--max_reject_fraction=1"]
    assert beam_predict.main(arguments) == 0
    expected, actual = read(ours), read(theirs)
    assert len(expected) == 3 and list(actual) == list(expected)
    for image_id, row in expected.items():
        assert actual[image_id] == pytest.approx(row, abs=2e-6)
        assert list(actual[image_id]) == list(maker.NAMES)
    assert not (theirs / "submission.csv").exists()
    counts = json.loads((theirs / "predict.json").read_text())["counts"]
    assert (counts["predicted"], counts["findings"], counts["rejected"]) == (3, 4, 1)
    assert beam_predict.main(arguments) == 0  # again: all is there
    signature = tf.saved_model.load(str(model)).signatures["dicom"]
    contents = [path.read_bytes() for path in sorted(files.glob("*.dcm")) if "dam" not in path.name]
    check_outputs(signature(files=tf.constant(contents)), expected)
    assert beam_predict.main([*arguments[:2], f"--output={tmp_path}/segs", "--seg"]) == 2
