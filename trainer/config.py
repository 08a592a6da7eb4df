"""What a run is: frozen sections with every default, read from YAML plus --section.field=value; no TensorFlow.

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
    filters: int = Field(16, ge=8, multiple_of=8)  # of the plain encoder's first level; doubled at each level below
    depth: int = Field(5, ge=1)  # number of poolings of the plain encoder
    weights: str | None = None  # of a DenseNet: "imagenet" (downloaded), or the path of a .weights.h5 file
    dropout: Share = 0.0


class Data(Section):
    side: int = Field(1024, ge=16, multiple_of=16)  # the network's input is [side, side]
    fit: Literal["pad", "stretch"] = "pad"  # how an image that is not square gets there
    batch_size: int = Field(16, ge=1)  # over all replicas together
    train_split: str = "train"
    val_split: str = "val"
    group_shards: int = Field(4, ge=1)  # shards whose records are shuffled together, in memory as they are stored


class Augment(Section):
    """Ranges are symmetric: ± the value, drawn uniformly for each example."""

    flip: Share = 0.5  # probability of exchanging left and right
    rotate_deg: float = Field(8.0, ge=0, le=180)
    scale: float = Field(0.15, ge=0, lt=1)  # share, rows and columns apart
    shift: Share = 0.05  # share of the side, rows and columns apart
    brightness: Share = 0.04  # added to an image in [0, 1]
    contrast: Share = 0.2  # share, about the image's mean


class Loss(Section):
    """Weights of the terms; a weight of 0 leaves the term out."""

    dice: float = Field(1.0, ge=0)
    bce: float = Field(1.0, ge=0)
    weighted_bce: float = Field(0.0, ge=0)  # positives weigh 1/β; β is the manifest's share of positive pixels


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
    jit: Literal["auto", "on", "off"] = "auto"
    steps_per_call: int = Field(10, ge=1)  # steps in one call of the compiled loop
    checkpoint_minutes: float = Field(10.0, gt=0)  # and at the end of each epoch
    deterministic: bool = False


class Config(Section):
    model: Annotated[UnetPlusPlus | Classifier, Field(discriminator="kind")]
    data: Data = Data()
    augment: Augment = Augment()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    train: Train = Train()
