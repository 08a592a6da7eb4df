"""model.findings: which configs may have it, and the names that it gets from a lake."""

import pytest
import yaml

from lake import InputError
from trainer.config import files, required
from trainer.config.network import num_logits
from trainer.config.run import Config
from trainer.models.build import build

SMALL = {"kind": "classifier", "encoder": "plain", "filters": 4, "depth": 1}
LAKE = {"findings": ["Effusion", "Mass/Nodule", "Pleural, Other", "Hernia"]}


def config_of(**model) -> Config:
    return Config.model_validate({"model": SMALL | model, "lake": "lakes/x"})


@pytest.mark.parametrize(
    "content, message",
    [
        ({"model": SMALL | {"findings": ["a"], "classes": 3}}, "two kinds of labels"),
        ({"model": {"kind": "unet", "findings": "all", "classes": 2}}, "two kinds of labels"),
        ({"model": SMALL | {"findings": ["a", "b", "a"]}}, "names one of them twice"),
        ({"model": SMALL | {"findings": "all", "pooling": "lesion_map"}}, "need pooling=average"),
        ({"model": {"kind": "unetpp", "findings": "all", "empty_head": True}}, "empty_head"),
        (
            {"model": SMALL | {"findings": "all"}, "evaluate": {"calibrate": "platt"}},
            "evaluate.calibrate=platt: of two classes alone",
        ),
        (
            {"model": SMALL | {"findings": "all"}, "train": {"keep_best": "accuracy"}},
            "this model has auc and last",
        ),
        ({"model": SMALL | {"findings": "Edema"}}, "findings"),
        ({"model": SMALL | {"findings": []}}, "findings"),
        ({"model": {"kind": "vae", "findings": "all"}}, "unknown key"),
    ],
)
def test_what_does_not_go_with_findings(content, message, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=message):
        files.load(file, [])


@pytest.mark.parametrize("kind", ["classifier", "unet", "unetpp"])
def test_a_network_of_findings_is_a_classifier_with_a_logit_of_each(kind):
    model = {"kind": kind, "filters": 4, "depth": 1, "findings": ["b", "a"]}
    config = Config.model_validate({"model": model | {"encoder": "plain"}})
    assert config.is_classifier and config.score == "auc" and config.findings == ("b", "a")
    assert num_logits(config.model) == 2
    assert build(config.model, 16).output.shape == (None, 2)


def test_without_a_lake_nobody_knows_how_many_all_are():
    assert config_of(findings="all").is_classifier
    with pytest.raises(InputError, match="by their names"):
        build(config_of(findings="all").model, 16)


def test_all_becomes_the_names_of_the_lake(lake_of_findings, tmp_path):
    stages = [{"data": {"side": 32}}, {"model": {"findings": "all"}}]
    content = {
        "model": SMALL | {"findings": "all"},
        "lake": str(lake_of_findings),
        "stages": stages,
    }
    config = required.with_findings(Config.model_validate(content))
    assert config.findings == tuple(LAKE["findings"])
    assert [stage.findings for stage in config.as_stages()] == [config.findings] * 2
    files.save(config, tmp_path / "config.yaml")  # commas and slashes, too
    assert files.load(tmp_path / "config.yaml", []) == config


def test_other_configs_stay_as_they_are(lake):
    for model in ({}, {"findings": ["a"]}):
        config = config_of(**model)
        assert required.with_findings(config) is config
    content = {"model": SMALL | {"findings": "all"}, "lake": str(lake)}
    with pytest.raises(InputError, match="has no findings, model.findings asks for some; convert"):
        required.with_findings(Config.model_validate(content))


def test_a_lake_has_the_findings_that_a_config_names_or_is_refused():
    for findings in ("all", ["Effusion"], ["Hernia", "Effusion"]):
        required.check_classes(LAKE, "lakes/x", config_of(findings=findings))
    message = "lakes/x has no finding Edema, which model.findings names; it has Effusion, Mass"
    with pytest.raises(InputError, match=message):
        required.check_classes(LAKE, "lakes/x", config_of(findings=["Effusion", "Edema"]))
    with pytest.raises(InputError, match="lakes/x has findings: Effusion, .*; give model.findings"):
        required.check_classes(LAKE, "lakes/x", config_of())
    with pytest.raises(InputError, match="lakes/x has no findings, model.findings asks"):
        required.check_classes({}, "lakes/x", config_of(findings=["Effusion"]))
    segmenter = Config.model_validate({"model": {"kind": "unet"}})
    required.check_classes(LAKE, "lakes/x", segmenter)  # what it lacks is masks
