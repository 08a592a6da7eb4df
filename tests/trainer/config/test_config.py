"""Configs: defaults, overrides, and every mistake reported at once."""

import re
from operator import attrgetter
from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel

from lake import InputError
from trainer.config import files, network
from trainer.config.run import Config

ROOT = Path(__file__).parents[3]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.fixture
def yaml_file(tmp_path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text("model:\n  kind: unetpp\noptimizer:\n  learning_rate: 1e-4\n")
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_every_config_loads_and_opens_with_a_header(path):
    files.load(path, [])
    assert path.read_text().startswith("# ")


def test_the_two_main_configs_are_at_1024_px():
    for name in ("unetpp", "classifier"):
        assert files.load(ROOT / "configs" / f"{name}.yaml", []).data.side == 1024
    assert files.load(ROOT / "configs" / "unetpp.yaml", []).model == network.UnetPlusPlus(
        kind="unetpp", depth=4, filters=32, norm="group", deep_supervision=True
    )


def test_overrides(yaml_file):
    run = files.load(
        yaml_file, ["--data.side=128", "--train.jit=on", "--model.depth=2"], lake="gs://b/x/1.0.0"
    )
    assert (run.data.side, run.train.jit, run.model.depth, run.lake) == (
        128,
        True,
        2,
        "gs://b/x/1.0.0",
    )
    assert run.optimizer.learning_rate == 1e-4  # PyYAML reads 1e-4 as text


def optional_fields(section, prefix: str = "") -> list[str]:
    """The fields, `section.field`, of a config that may be null."""
    names = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            names += optional_fields(value, f"{prefix}{name}.")
        elif type(None) in get_args(field.annotation) and prefix:
            names.append(f"{prefix}{name}")
    return names


@pytest.mark.parametrize("value", ["None", "none", "", "null", "~"])
def test_no_value_is_null_however_it_is_written(yaml_file, tmp_path, value):
    expected = files.load(yaml_file, [])
    names = optional_fields(expected)
    assert {"data.cache", "data.fold", "model.weights", "optimizer.clip_norm"} <= {*names}
    overrides = [f"--{name}={value}" for name in names]
    nulls = dict.fromkeys(names)
    config = files.load(yaml_file, overrides)
    assert {name: attrgetter(name)(config) for name in names} == nulls
    in_yaml = tmp_path / "null.yaml"
    in_yaml.write_text(f"model: {{kind: unetpp}}\ndata:\n  cache: {value}\n")
    assert files.load(in_yaml, []).data.cache is None
    assert files.load(yaml_file, ["--model.norm=none"]).model.norm == "none"


def test_the_paths_that_a_run_keeps_are_whole(yaml_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = ["--data.more_lakes={b/1.0.0: 0.5, gs://b/c/1.0.0: 1}", "--model.weights=a.h5"]
    config = files.with_whole_paths(files.load(yaml_file, overrides, lake="a/../x/1.0.0"))
    assert (config.lake, config.model.weights) == (f"{tmp_path}/x/1.0.0", f"{tmp_path}/a.h5")
    assert config.data.more_lakes == {f"{tmp_path}/b/1.0.0": 0.5, "gs://b/c/1.0.0": 1}
    other = files.load(yaml_file, ["--model.weights=imagenet"], lake="gs://b/x/1.0.0")
    assert files.with_whole_paths(other) == other


def test_overrides_reach_into_nested_sections(yaml_file):
    run = files.load(
        yaml_file,
        [
            *("--augment.affine.rotate_deg=12", "--augment.affine.scale=[1, 1.2]"),
            *("--augment.gamma.probability=0.3", "--augment.fill=nearest"),
            "--augment.one_of=[{transforms: [contrast, gamma], probability: 0.5}]",
        ],
    )
    assert run.augment.affine.rotate_deg == (-12, 12) and run.augment.affine.scale == (1, 1.2)
    assert run.augment.affine.shift == (-0.05, 0.05)  # as it was
    assert [group.transforms for group in run.augment.one_of] == [("contrast", "gamma")]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "--augment.affine.rotate=8",
            "augment.affine.rotate: unknown key; did you mean rotate_deg?",
        ),
        ("--augment.elastik.sigma_px=8", "augment.elastik: unknown key; did you mean elastic?"),
        ("--augment.flip=0.5", "augment.flip: expected a section with fields from probability"),
        (
            "--augment.affine.scale=-0.1",
            "expected a number r, which means 1 ± r, or [low, high]; both",
        ),
        ("--augment.affine.scale=[1.2, 0.8]", "augment.affine.scale: expected a number r"),
        ("--augment.crop.share=much", "augment.crop.share: expected a number r"),
        (
            "--augment.one_of=[{transforms: [contrast, gama], probability: 1}]",
            "one_of: unknown transform gama; did you mean gamma?",
        ),
        (
            "--augment.one_of=[{transforms: [gamma, gamma], probability: 1}]",
            "one_of: gamma stands in it twice",
        ),
        (
            "--augment.one_of=[{transforms: [gamma], probabilty: 1, probability: 1}]",
            "augment.one_of.0.probabilty: unknown key; did you mean probability?",
        ),
        ("--train.epochs.more=1", "--train.epochs.more=1: train.epochs is not a section"),
        ("--augment..flip=1", "--augment..flip=1: expected --section.field=value"),
    ],
)
def test_a_mistake_in_a_nested_section_is_one_clear_line(yaml_file, override, expected):
    with pytest.raises(InputError) as caught:
        files.load(yaml_file, ["--train.epochs=3", override])
    message = str(caught.value)
    assert expected in message and len(message.splitlines()) == 2


def test_save_and_load_give_the_same_run(yaml_file, tmp_path):
    run = files.load(yaml_file, ["--augment.flip.probability=0"])
    files.save(run, tmp_path / "saved.yaml")
    assert files.load(tmp_path / "saved.yaml", []) == run


def test_differences_name_each_value(yaml_file):
    old, new = (files.load(yaml_file, [f"--data.side={side}"]) for side in (128, 256))
    assert files.changed_fields(old, new) == {"data.side": (128, 256)}


def test_all_mistakes_are_reported_at_once(yaml_file):
    overrides = [
        *("--model.depht=3", "--data.batch_size=0", "--train.device=npu", "--trian.epochs=3"),
        *("--nonsense", "--loss.dice=0", "--loss.bce=0", "--data.side=["),
    ]
    with pytest.raises(InputError) as caught:
        files.load(yaml_file, overrides)
    message = str(caught.value)
    for expected in (
        "model.depht: unknown key; did you mean depth?",
        "data.batch_size: Input should be greater than or equal to 1, got 0",
        "train.device: Input should be 'auto', 'cpu', 'gpu' or 'tpu', got 'npu'; did you mean ",
        "trian: unknown key; did you mean train?",
        "--nonsense: expected --section.field=value",
        "loss: no term learns from masks",
        "--data.side=[: the value is not YAML",
    ):
        assert expected in message
    assert len(message.splitlines()) == 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a\n- b\n", "expected sections"),
        ("model: [", "not YAML"),
        ("model:\n  kind: vgg\n", "model"),
    ],
)
def test_files_that_are_no_config(tmp_path, text, expected):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(InputError, match=expected):
        files.load(tmp_path / "x.yaml", [])
    with pytest.raises(InputError, match="no such file"):
        files.load(tmp_path / "nowhere.yaml", [])


def test_sections_that_do_not_fit_together(yaml_file):
    with pytest.raises(InputError, match="loss.lesion_map needs a classifier"):
        files.load(yaml_file, ["--loss.lesion_map=1"])


MISTAKES = """
model: {kind: vae, empty_head: true, filtres: 8}
data: {batch_size: 16, streams: 3, fold: 1, val_split: holdout, side: 100}
loss: {dice: 0, bce: 0, lesion_map: 1, reduction: batch}
optimizer: {ema: 0.9, swa_epochs: 5, accumulate: 2, kind: adamax}
train: {patience: 3, keep_best: accuracy}
augment: {elastik: {}, one_of: [{transforms: [gamma, gamma, blurr], probability: 1}]}
stages:
- {data: {streams: 5}, train: {epoch: 2}}
- {loss: {dice: 1}, optimizer: {schedule: cyclic, warmup_epochs: -1}}
"""
LINES = [  # where each mistake is, and the beginning of what is said about it
    "model.filtres: unknown key; did you mean filters?",
    "data.side: Input should be a multiple of 16, got 100",
    "augment.elastik: unknown key; did you mean elastic?",
    "optimizer.kind: Input should be 'adamw', 'adam' or 'sgd', got 'adamax'; did you mean adam?",
    "data: fold=1 divides train and val anew",
    "data: streams=3 must divide batch_size=16",
    "augment: one_of: gamma stands in it twice",
    "augment: one_of: unknown transform blurr; did you mean blur?",
    "loss: no term learns from masks",
    "optimizer: ema and swa_epochs are two averages",
    "loss.lesion_map needs a classifier",
    "loss.reduction=batch needs the whole batch",
    "model.empty_head=true learns nothing with loss.lesion=0",
    "model.kind=vae with loss.reconstruction=0 does not train",
    "train.patience=3: a run that ends early",
    "train.keep_best=accuracy, model.kind=vae: this model has auc and dice_positives_at_half",
    "stages.0.train.epoch: unknown key; did you mean epochs?",
    "stages.0.data: streams=5 must divide batch_size=16",
    "stages.1.optimizer.warmup_epochs: Input should be greater than or equal to 0, got -1",
    "stages.1.optimizer: schedule=cyclic needs cycle_epochs",
]


def test_every_mistake_of_a_config_is_one_plain_line(tmp_path):
    """Unknown keys, wrong values, clashes within and between sections, and those of stages."""
    path = tmp_path / "run.yaml"
    path.write_text(MISTAKES)
    with pytest.raises(InputError) as caught:
        files.load(path, [])
    _, *lines = str(caught.value).splitlines()
    pairs = list(zip(lines, LINES, strict=True))
    assert [line for line, begin in pairs if not line.startswith(f"  {begin}")] == []
    assert "Value error" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Without a wrong value its field has the default; a clash with that is no mistake of ours.
        (
            ["--optimizer.schedule=cyclic", "--optimizer.cycle_epochs=-2"],
            "optimizer.cycle_epochs: Input should be greater than 0, got -2",
        ),
        (
            ["--model.depht=2", "--model.decoder_filters=[8, 16]"],
            "model.depht: unknown key; did you mean depth?",
        ),
        # A network that there is not has no clashes with the rest.
        (
            ["--model.kind=vgg", "--loss.lesion=1", "--train.keep_best=accuracy"],
            "model.kind: expected one of unet, unetpp, vae, classifier, got 'vgg'",
        ),
        # A field that is one of two types is one line.
        (
            ["--model.filters=0"],
            "model.filters: Input should be greater than or equal to 1, or a valid tuple, got 0",
        ),
        (["--data=3"], "--data=3: expected --section.field=value"),
    ],
)
def test_a_mistake_does_not_bring_another_line(yaml_file, options, expected):
    with pytest.raises(InputError) as caught:
        files.load(yaml_file, options)
    assert str(caught.value).splitlines()[1:] == [f"  {expected}"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data: {}", "model: missing; this field has no default"),
        ("model: 3", "model: Input should be a valid dictionary"),
        ("model: {kind: unet}\ndata: 3", "data: expected a section with fields from side, fit"),
        ("model: {kind: unet}\n1: 2", "1: unknown key; expected lake, model, data"),
        ("model: {kind: unet}\nstages: [{data: 3}]", "stages.0.data: Input should be a valid"),
    ],
)
def test_sections_that_are_none(tmp_path, text, expected):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        files.load(tmp_path / "run.yaml", [])
    _, line = str(caught.value).splitlines()
    assert line.startswith(f"  {expected}")


def test_a_fold_leaves_no_choice_of_splits(yaml_file):
    with pytest.raises(InputError, match="fold=1 divides train and val anew; leave train_split"):
        files.load(yaml_file, ["--data.fold=1", "--data.val_split=holdout"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--loss.dice_form=-log", "--loss.smooth=0"], "dice_form=-log with smooth=0 is infinite"),
        (["--loss.tversky=1", "--loss.tversky_alpha=0", "--loss.tversky_beta=0"], "punish nothing"),
        (["--loss.head_weights=[0, 0]"], "head_weights=[0.0, 0.0] leaves no head"),
        (["--loss.head_weights=[]"], "head_weights=[] leaves no head"),
        (["--loss.head_weights=[1, -1]"], "loss.head_weights.1: Input should be greater than or"),
        (["--loss.focal=.inf"], "loss.focal: Input should be a finite number"),
        (["--loss.label_smoothing=1"], "loss.label_smoothing: Input should be less than 1"),
        (["--loss.reduction=sum"], "loss.reduction: Input should be 'image' or 'batch', got 'sum'"),
    ],
)
def test_losses_that_teach_nothing_or_are_infinite(yaml_file, options, message):
    with pytest.raises(InputError) as caught:
        files.load(yaml_file, options)
    assert message in str(caught.value)


def test_a_segmenters_loss_is_refused_for_a_classifier(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("model:\n  kind: classifier\nloss:\n  dice: 2\n")
    run = files.load(path, ["--loss.label_smoothing=0.1"])
    files.save(run, tmp_path / "saved.yaml")  # which has every value
    assert files.load(tmp_path / "saved.yaml", []) == run
    with pytest.raises(InputError, match="loss.focal, loss.reduction: a classifier has no use"):
        files.load(path, ["--loss.focal=1", "--loss.reduction=batch"])


def test_weights_of_heads_are_saved_and_loaded(yaml_file, tmp_path):
    run = files.load(yaml_file, ["--loss.head_weights=[1, 0, 2.5]"])
    files.save(run, tmp_path / "saved.yaml")
    assert run.loss.head_weights == (1, 0, 2.5)
    assert files.load(tmp_path / "saved.yaml", []) == run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.classes=1"], "model.classes: Input should be greater than or equal to 2, got 1"),
        (
            ["--model.classes=2", "--train.keep_best=accuracy"],
            "keep_best=accuracy, model.kind=unetpp: this model has",
        ),
        (["--model.classes=2", "--data.positives_only=true"], "nothing to tell apart"),
        (["--model.classes=3", "--train.keep_best=dice_mean"], "this model has auc and accuracy"),
        (["--train.keep_best=accuracy"], "has auc and dice_positives_at_half_network_size and d"),
        (["--train.keep_best=last", "--train.patience=2"], "train.patience=2 waits for a better"),
        (["--train.keep_best=last", "--optimizer.schedule=plateau"], "plateau waits for a better"),
    ],
)
def test_pretraining_is_a_classifiers_run(yaml_file, options, message):
    with pytest.raises(InputError) as caught:
        files.load(yaml_file, options)
    assert message in str(caught.value)
    run = files.load(yaml_file, ["--model.classes=3", "--loss.focal=1"])  # the segmenter's own
    assert run.is_classifier and run.score == "auc"
    assert not files.load(yaml_file, []).is_classifier


def test_the_config_of_siim_md_is_one():
    text = (ROOT / "docs" / "siim.md").read_text()
    [block] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    first, last = Config.model_validate(yaml.safe_load(block)).as_stages()
    assert first.optimizer.frozen_epochs == 2 and last.optimizer.frozen_epochs == 0
    assert last.data.positives_only and last.loss.lovasz == 1 and last.optimizer.encoder_rate == 0.1
    assert {"crop", "clahe"} < last.augment.possible_transforms().keys()
    assert all(stage.evaluate.calibrate == "platt" for stage in (first, last))
