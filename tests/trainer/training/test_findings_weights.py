"""Weights of networks that learnt findings: into a segmenter, and never into other findings."""

import numpy as np
import pytest
from makers.marks import exhaustive
from makers.networks import classifier, plain, plus, with_random_weights
from makers.runs import scalars, task

from trainer.models import weight_files
from trainer.models.build import build
from trainer.models.classifier import findings_head

NAMES = ("Edema", "Mass")


def same_weights(one, other) -> bool:
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    return all(np.array_equal(*pair) for pair in pairs)


@pytest.mark.parametrize("section", [plain, plus])
def test_a_pretrained_u_net_gives_a_segmenter_all_but_its_last_layer(section, tmp_path, capsys):
    file = str(tmp_path / "findings.weights.h5")
    source = with_random_weights(build(section(findings=NAMES, norm="batch"), 16))
    source.save_weights(file)
    capsys.readouterr()
    segmenter = build(section(weights=file, norm="batch"), 16)
    head = "head" if section is plain else "head_2"
    layers = weight_files.layers_with_weights(segmenter)
    for (name,), layer in layers.items():
        assert name == head or same_weights(layer, source.get_layer(name))
    assert capsys.readouterr().out.splitlines() == [
        f"weights {file}: {len(layers) - 1} of {len(layers)} layers loaded",
        f"  not in the file: {head}",
        f"  in the file only: {findings_head(NAMES)}",
    ]


def test_a_classifier_of_findings_gives_a_u_net_its_encoder(tmp_path):
    file = str(tmp_path / "findings.weights.h5")
    source = with_random_weights(build(classifier(findings=NAMES, depth=2, norm="batch"), 16))
    source.save_weights(file)
    target = build(plain(weights=file, norm="batch"), 16)
    names = [name for (name,) in weight_files.layers_with_weights(target)]
    encoder = [name for name in names if name.startswith("level_")]
    assert len(encoder) == 3 * 2 * 2
    for name in encoder:
        assert same_weights(source.get_layer(name), target.get_layer(name))


def test_the_last_layer_is_that_of_these_findings_in_this_order(tmp_path):
    file = tmp_path / "findings.weights.h5"
    source = with_random_weights(build(classifier(findings=NAMES), 16))
    source.save_weights(file)
    kernel = source.layers[-1].get_weights()[0]
    for findings, is_same in ((NAMES, True), (NAMES[::-1], False), (("Edema", "Hernia"), False)):
        target = build(classifier(findings=findings, weights=str(file)), 16)
        assert np.array_equal(target.layers[-1].get_weights()[0], kernel) == is_same
        misfit = weight_files.first_misfit(target, file)
        assert ("the file has none of that name" in misfit) != is_same
    other = build(classifier(classes=2), 16)  # a logit per image is no finding
    one = with_random_weights(build(classifier(findings=("Edema",)), 16))
    one.save_weights(file)
    assert "head expects weights" in weight_files.first_misfit(other, file)


def test_a_run_on_findings_has_curves_of_each(findings_run):
    train, val = (scalars(findings_run / curve) for curve in ("train", "val"))
    names = {"loss", "auc", "auc/Effusion", "auc/Mass/Nodule"}
    assert names <= val.keys() and {"loss", "auc"} <= train.keys()
    assert "auc/Hernia" not in val  # no positive: a gap
    best = scalars(findings_run)
    assert "best/auc" in best and "best/auc/Effusion" in best


@exhaustive
def test_a_run_starts_from_these_weights_and_says_what_is_not_known(
    findings_run, lake_of_findings, tmp_path
):
    config, workdir = findings_run.parent / "findings.yaml", tmp_path / "run"
    arguments = ["train", "--config", config, "--lake", lake_of_findings, "--workdir", workdir]
    arguments += ["--model.findings=[Hernia, Effusion]", "--train.epochs=1"]
    arguments += [f"--model.weights={findings_run / 'best.weights.h5'}"]
    process = task(*arguments, config_name=None)
    assert process.returncode == 0, process.stderr
    assert "classifier of 2 findings with" in process.stdout
    assert "of their findings are not known and weigh nothing" in process.stdout
    assert "8 of 9 layers loaded" in process.stdout
    assert task(*arguments, config_name=None).returncode == 0  # its epoch is done
    process = task(*arguments[:-2], "--model.findings=all", config_name=None)
    assert process.returncode == 2 and "model.findings" in process.stderr


def test_another_network_than_the_lake_s_is_refused(findings_run, lake, lake_of_findings, tmp_path):
    config = findings_run.parent / "findings.yaml"
    for one, option, message in (
        (lake, "--train.epochs=1", "has no findings, model.findings asks for some"),
        (lake_of_findings, "--model.findings=null", "has findings: Effusion, Mass/Nodule"),
        (lake_of_findings, "--model.findings=[Edema]", "has no finding Edema"),
    ):
        arguments = ["train", "--config", config, "--lake", one, "--workdir", tmp_path / "run"]
        process = task(*arguments, option, config_name=None)
        assert process.returncode == 2 and message in process.stderr, process.stderr
        assert not (tmp_path / "run" / "config.yaml").exists()
