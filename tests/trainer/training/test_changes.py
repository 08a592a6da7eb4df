"""What a resumed run may change: every field of a config, one by one, so that a new field must be
decided here and in trainer/training/changes.py."""

import pytest

from trainer.config.network import NETWORKS
from trainer.config.run import Config
from trainer.config.section import Section
from trainer.training import changes

# What shapes the network, the batches, the gradients, or what is kept of them.
KEPT = {
    "model": "kind norm order activation convolutions residual encoder freeze depth filters "
    "max_filters decoder_filters decoder_convolutions upsampling dropout empty_head classes "
    "findings skips deep_supervision blocks latent pooling hidden",
    "data": "side fit batch_size train_split val_split fold group_shards positive_share "
    "positives_only",
    "augment": "one_of fill",
    "loss": "dice bce weighted_bce focal tversky jaccard lovasz lesion_map lesion reconstruction "
    "kl_divergence smooth reduction label_smoothing head_weights",
    "optimizer": "kind learning_rate schedule cycle_epochs weight_decay clip_norm ema swa_epochs "
    "encoder_rate frozen_epochs",
    "train": "seed precision keep",
}
KEPT_NAMES = {f"{section}.{name}" for section, names in KEPT.items() for name in names.split()}
BY_THEMSELVES = {"data.more_lakes", "train.epochs", "stages"}  # tests below, and test_one_run.py
BASE = {"model": {"kind": "unet"}, "lake": "a"}


def config(**sections) -> Config:
    return Config.model_validate(BASE | sections)


def fields() -> set[str]:
    """Return section.field of every field of a config; augment's transforms are fields."""
    names = set()
    for section in Config.model_fields:
        if section == "model":
            names |= {f"model.{name}" for kind in NETWORKS.values() for name in kind.model_fields}
        elif isinstance(value := getattr(config(), section), Section):
            names |= {f"{section}.{name}" for name in type(value).model_fields}
        else:
            names.add(section)
    return names


def transforms() -> set[str]:
    augment = config().augment
    return {
        f"augment.{name}" for name in type(augment).model_fields if hasattr(augment, name)
        and isinstance(getattr(augment, name), Section)
    }  # fmt: skip


def test_every_field_is_decided_once():
    parts = (
        *(changes.FREE, changes.IDLE.keys(), changes.CONDITIONS.keys()),
        *(KEPT_NAMES, BY_THEMSELVES, transforms()),
    )
    names = [name for part in parts for name in part]
    assert sorted(names) == sorted(fields())


def other(value: object) -> object:
    """Return another value, be it legal or not."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return (*value, 1) if isinstance(value, tuple) else f"not {value}"


def with_other(base: Config, name: str) -> Config:
    """Return a config in which one field has another value."""
    section, _, field = name.rpartition(".")
    if not section:
        return base.model_copy(update={name: other(getattr(base, name))})
    part = getattr(base, section)
    part = part.model_copy(update={field: other(getattr(part, field))})
    return base.model_copy(update={section: part})


def bases(name: str) -> list[Config]:
    """Return a config of each kind of network that has the field."""
    configs = [
        config(model={"kind": "unet"}),
        config(model={"kind": "unetpp"}),
        config(model={"kind": "vae"}, loss={"reconstruction": 0.1}),
        config(model={"kind": "classifier"}),
    ]
    field = name.removeprefix("model.")
    return [one for one in configs if field == name or hasattr(one.model, field)]


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("name", sorted(KEPT_NAMES | changes.FREE | changes.IDLE.keys()))
def test_each_field_alone(name):
    for base in bases(name):
        new = with_other(base, name)
        section, _, field = name.rpartition(".")
        values = [getattr(getattr(c, section) if section else c, field) for c in (base, new)]
        line = "{}: {} -> {}".format(name, *values)
        # By default, final_share of the cosine and the form of dice are at work.
        is_used = name in ("optimizer.final_share", "loss.dice_form", "loss.dice_squared")
        is_kept = name in KEPT_NAMES or is_used
        expected = ([], [line]) if is_kept else ([line], [])
        assert changes.changes(base, new) == expected


@pytest.mark.parametrize(
    ("section", "field", "values", "is_used"),
    [
        ("model", "negative_slope", (0.01, 0.2), {"activation": "leaky_relu"}),
        ("loss", "focal_gamma", (2.0, 1.0), {"focal": 1.0}),
        ("loss", "tversky_alpha", (0.3, 0.5), {"tversky": 1.0}),
        ("loss", "tversky_beta", (0.7, 0.5), {"tversky": 1.0}),
        ("optimizer", "momentum", (0.9, 0.8), {"kind": "sgd"}),
        ("optimizer", "final_share", (0.0, 0.1), {"schedule": "polynomial"}),
        ("optimizer", "cycle_growth", (1.0, 2.0), {"cycle_epochs": 2}),
        ("optimizer", "cycle_decay", (1.0, 0.5), {"cycle_epochs": 2}),
        ("optimizer", "power", (0.9, 2.0), {"schedule": "polynomial"}),
        ("optimizer", "plateau_epochs", (5, 2), {"schedule": "plateau"}),
        ("optimizer", "plateau_factor", (0.5, 0.1), {"schedule": "plateau"}),
        ("train", "loss_scale", (2.0**15, 8.0), {"precision": "mixed_float16"}),
        ("train", "loss_scale_steps", (2000, 3), {"precision": "mixed_float16"}),
    ],
)
def test_what_is_at_work_stays(section, field, values, is_used):
    kind = {"kind": "unet"} if section == "model" else {}
    old, new = (config(**{section: kind | is_used | {field: value}}) for value in values)
    assert changes.changes(old, new).refused == [f"{section}.{field}: {values[0]} -> {values[1]}"]


@pytest.mark.parametrize(
    ("sections", "section", "change", "reason"),
    [
        ({}, "optimizer", {"accumulate": 2}, ""),
        ({"model": {"kind": "unet", "norm": "group"}}, "optimizer", {"accumulate": 2}, ""),
        (
            {"model": {"kind": "unet", "norm": "batch"}},
            *("optimizer", {"accumulate": 2}, "batch normalisation takes its statistics"),
        ),
        (
            {"model": {"kind": "classifier"}},
            *("optimizer", {"accumulate": 2}, "batch normalisation takes its statistics"),
        ),
        ({}, "train", {"keep_best": "dice_positives"}, ""),
        ({}, "train", {"keep_best": "last"}, "last"),
        ({}, "data", {"streams": 1}, ""),
        ({}, "data", {"streams": 2}, "2"),
        ({}, "optimizer", {"warmup_epochs": 2.0}, "2"),
        ({"train": {"epochs": 2}}, "optimizer", {"warmup_epochs": 9.0}, ""),
        ({}, "train", {"epochs": 60}, "optimizer.schedule=cosine ends with the last epoch"),
        ({"optimizer": {"schedule": "polynomial"}}, "train", {"epochs": 60}, "=polynomial ends"),
        ({"optimizer": {"schedule": "constant"}}, "train", {"epochs": 60}, ""),
        ({"optimizer": {"schedule": "plateau"}}, "train", {"epochs": 60}, ""),
        ({"optimizer": {"cycle_epochs": 3}}, "train", {"epochs": 60}, ""),
        (
            {"optimizer": {"schedule": "constant"}, "data": {"positive_share": (0.8, 0.3)}},
            *("train", {"epochs": 60}, "data.positive_share goes from the first"),
        ),
        (
            {"optimizer": {"schedule": "constant", "swa_epochs": 2}},
            *("train", {"epochs": 60}, "averages the last epochs"),
        ),
        (
            {"optimizer": {"schedule": "constant", "warmup_epochs": 30}},
            *("train", {"epochs": 60}, "warmup_epochs=30: at most half of the run"),
        ),
        ({"optimizer": {"schedule": "constant"}}, "train", {"epochs": 3}, "5 are done"),
        ({}, "data", {"more_lakes": {"b": 1.0}}, "more_lakes"),
        ({"data": {"more_lakes": {"b": 1.0}}}, "data", {"more_lakes": {"c": 1.0}}, ""),
        ({"data": {"more_lakes": {"b": 1.0}}}, "data", {"more_lakes": {"b": 2.0}}, "more_lakes"),
        ({}, "augment", {"affine": {"rotate_deg": 20}}, "affine.rotate_deg"),
        ({}, "augment", {"blur": {"sigma_px": (0.5, 2)}}, ""),
        ({}, "augment", {"blur": {"probability": 0.5}}, "blur.probability"),
    ],
)
def test_what_depends_on_other_fields(sections, section, change, reason):
    """Five epochs are done."""
    old = config(**sections)
    new = config(**sections | {section: sections.get(section, {}) | change})
    allowed, refused = changes.changes(old, new, num_epochs=5)
    assert bool(allowed) != bool(refused)
    assert not refused if not reason else reason in refused[0]
