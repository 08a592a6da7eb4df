"""What a run is: frozen sections with every default, read from YAML plus --section.field=value; no
TensorFlow.

Every wrong key and value is reported at once, as one InputError.
"""

import difflib
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lake import InputError

Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class UnetPlusPlus(Section):
    """U-Net++ (trainer/models/unetpp.py): one logit a pixel."""

    kind: Literal["unetpp"]
    depth: int = Field(4, ge=1, le=4)  # L: number of poolings
    filters: int = Field(32, ge=1)  # of the first level; doubled at each level below
    norm: Literal["none", "batch", "sync_batch", "group"] = "none"
    deep_supervision: bool = False  # a head on X(0,1) … X(0,L), each with its own loss


class Classifier(Section):
    """An image classifier (trainer/models/classifier.py): one logit an image."""

    kind: Literal["classifier"]
    encoder: Literal["plain", "densenet121", "densenet169", "densenet201"] = "densenet121"
    filters: int = Field(16, ge=1)  # of the plain encoder's first level; doubled at each below
    depth: int = Field(4, ge=1)  # number of poolings of the plain encoder
    norm: Literal["none", "batch", "sync_batch", "group"] = "batch"  # of the plain encoder
    weights: str | None = None  # of a DenseNet: "imagenet" (downloaded), or a .weights.h5 file
    pooling: Literal["average", "lesion_map"] = "average"
    dropout: Share = 0.0


class Data(Section):
    side: int = Field(1024, ge=16, multiple_of=16)  # the network's input is [side, side]
    fit: Literal["pad", "stretch"] = "pad"  # how an image that is not square gets there
    batch_size: int = Field(16, ge=1)  # over all replicas together
    train_split: str = "train"
    val_split: str = "val"
    # Shards whose records are shuffled together, in memory as they are stored.
    group_shards: int = Field(4, ge=1)


class Augment(Section):
    """Ranges are symmetric: ± the value, drawn uniformly for each example."""

    flip: Share = 0.5  # probability of exchanging left and right
    rotate_deg: float = Field(8.0, ge=0, le=180)
    scale: float = Field(0.15, ge=0, lt=1)  # share, rows and columns apart
    shift: Share = 0.05  # share of the side, rows and columns apart
    brightness: Share = 0.04  # added to an image in [0, 1]
    contrast: Share = 0.2  # share, about the image's mean


class Loss(Section):
    """Weights of the terms; 0 leaves a term out. A classifier's are the image's BCE, which weighs
    1, and lesion_map."""

    dice: float = Field(1.0, ge=0)
    bce: float = Field(1.0, ge=0)
    # Positive pixels weigh 1/β; β is the manifest's share of positive pixels in positive images.
    weighted_bce: float = Field(0.0, ge=0)
    # Weighted BCE between a classifier's lesion map and the masks, where they are known.
    lesion_map: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _some_term(self) -> "Loss":
        if not (self.dice or self.bce or self.weighted_bce):
            raise ValueError("every weight is 0; give at least one of dice, bce, weighted_bce")
        return self


class Optimizer(Section):
    learning_rate: float = Field(1e-3, gt=0)
    warmup_epochs: float = Field(1.0, ge=0)
    final_share: Share = 0.0  # the cosine ends at this share of learning_rate
    weight_decay: float = Field(1e-4, ge=0)
    clip_norm: float = Field(1.0, gt=0)  # of the gradient over all replicas


class Train(Section):
    epochs: int = Field(40, ge=1)
    seed: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "gpu"] = "auto"
    replicas: int | None = Field(None, ge=1)  # None: every device; on a CPU: 1
    precision: Literal["auto", "float32", "mixed_bfloat16"] = "auto"
    jit: bool | Literal["auto"] = "auto"  # XLA for the gradient function; auto: on GPUs
    steps_per_call: int = Field(10, ge=1)  # steps in one call of the compiled loop
    checkpoint_minutes: float = Field(10.0, gt=0)  # and at the end of each epoch
    # The epoch whose weights are kept: the highest of these validation scores; None: AUC or dice on
    # positives.
    keep_best: Literal["auc", "dice_positives", "dice_mean"] | None = None
    deterministic: bool = False


class Config(Section):
    lake: str | None = None  # the folder ROOT/<name>/<version>; --lake sets it
    model: Annotated[UnetPlusPlus | Classifier, Field(discriminator="kind")]
    data: Data = Data()
    augment: Augment = Augment()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    train: Train = Train()

    @model_validator(mode="after")
    def _a_map_to_teach(self) -> "Config":
        if self.loss.lesion_map and getattr(self.model, "pooling", None) != "lesion_map":
            raise ValueError("loss.lesion_map needs a classifier with model.pooling=lesion_map")
        return self

    @property
    def score(self) -> str:
        """The validation score whose best epoch is kept."""
        return self.train.keep_best or (
            "auc" if self.model.kind == "classifier" else "dice_positives"
        )


def load(path: str | Path, overrides: list[str], lake: str | None = None) -> Config:
    """The run that a YAML file describes, with `--section.field=value` overrides; raises
    InputError."""
    try:
        content = yaml.safe_load(Path(path).read_text()) or {}
    except FileNotFoundError:
        raise InputError(f"--config={path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: expected sections such as model: and train:, not {type(content).__name__}"
        )
    problems = [problem for text in overrides if (problem := _override(content, text))]
    if lake is not None:
        content["lake"] = lake
    try:
        config = Config.model_validate(content)
    except ValidationError as error:
        problems += [_describe(one) for one in error.errors()]
    if problems:
        raise InputError(f"{path}:\n  " + "\n  ".join(problems))
    return config


def save(config: Config, path: Path) -> None:
    """Every value of the run, defaults included, as YAML that `load` reads."""
    path.write_text(yaml.safe_dump(config.model_dump(), sort_keys=False))


def differences(old: Config, new: Config) -> list[str]:
    """`section.field: old -> new` of each value that differs."""
    before, after = _flat(old.model_dump()), _flat(new.model_dump())
    keys = sorted(before.keys() | after.keys())
    return [
        f"{k}: {before.get(k)} -> {after.get(k)}" for k in keys if before.get(k) != after.get(k)
    ]


def _flat(values: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in values.items():
        flat |= (
            _flat(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else {f"{prefix}{key}": value}
        )
    return flat


def _override(content: dict, text: str) -> str | None:
    """Puts one `--section.field=value` into the content; returns what is wrong with it, if
    anything."""
    name, equals, value = text.removeprefix("--").partition("=")
    section, dot, field = name.partition(".")
    if not (text.startswith("--") and equals and dot):
        return f"{text}: expected --section.field=value"
    if not isinstance(content.setdefault(section, {}), dict):
        return f"{text}: {section} is not a section"
    try:
        content[section][field] = yaml.safe_load(value)
    except yaml.YAMLError:
        return f"{text}: the value is not YAML"
    return None


def _describe(error: dict) -> str:
    """One wrong value in a line: where, what is wrong, what came; the nearest name for an unknown
    key."""
    # The location of a field of `model` also holds the kind that was tried.
    where = [str(part) for part in error["loc"]]
    if not where:  # of several sections together
        return error["msg"]
    kinds = {"unetpp": UnetPlusPlus, "classifier": Classifier}
    section = Config.model_fields.get(where[0])
    if where[0] == "model" and len(where) > 1 and where[1] in kinds:
        known = kinds[where[1]].model_fields
        del where[1]
    elif section is not None and len(where) > 1:
        known = section.annotation.model_fields
    else:
        known = Config.model_fields
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(where[-1], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return f"{'.'.join(where)}: unknown key; {hint}"
    return f"{'.'.join(where)}: {error['msg']}, got {error['input']!r}"
