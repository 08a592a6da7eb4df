"""What a run is: frozen sections with every default, read from YAML plus --section.field=value; no
TensorFlow.

Every wrong key and value is reported at once, as one InputError.
"""

import difflib
from pathlib import Path
from typing import Annotated, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lake import InputError, storage
from trainer.models import parts
from trainer.transforms import Augment

DEEPEST_ENCODER = 5  # the deepest features of keras.applications are at 1/2^5 of the side
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# Of the lake: one logit an image for 2, lesion or none; one a class for more.
Classes = Annotated[int, Field(ge=2)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Blocks(Section):
    """What the networks are built of (trainer/models/blocks.py)."""

    norm: Literal[tuple(parts.NORMS)] = "none"
    order: Literal["conv_norm_act", "conv_act_norm"] = "conv_norm_act"
    activation: Literal[tuple(parts.ACTIVATIONS)] = "relu"
    negative_slope: float = Field(0.01, ge=0)  # of leaky_relu
    convolutions: Literal[1, 2] = 2  # 3x3 convolutions in a block of the encoder
    residual: bool = False  # a block's input is added before its last activation


class Encoded(Blocks):
    """An encoder: of our own blocks (plain), or from keras.applications (parts.ENCODERS)."""

    encoder: Literal[("plain", *parts.ENCODERS)] = "plain"
    # "imagenet" (downloaded), a keras.applications file without the top (.weights.h5 or .h5), or
    # another radlake network's .weights.h5, whose layers of the same name and shapes are taken.
    weights: str | None = None
    # Of an encoder of keras.applications: none, all, or its first N stages, down to 1/2^N.
    freeze: Literal["none", "all", 1, 2, 3, 4, 5] = "none"

    @model_validator(mode="after")
    def _something_to_freeze(self) -> "Encoded":
        if self.freeze != "none" and self.encoder == "plain":
            raise ValueError(f"freeze={self.freeze}: encoder=plain is not frozen; use another one")
        if self.freeze != "none" and self.weights is None:
            raise ValueError(f"freeze={self.freeze} keeps random weights; give weights, too")
        return self


class Decoder(Encoded):
    """What U-Net and U-Net++ share."""

    depth: int = Field(4, ge=1, le=8)  # number of poolings
    # Of the first level, doubled at each level below; or of each level: depth + 1 numbers, depth of
    # them with an encoder of keras.applications, whose features have the widths they have there.
    filters: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=1)], ...] = 32
    max_filters: int | None = Field(None, ge=1)  # no level is wider
    decoder_filters: tuple[Annotated[int, Field(ge=1)], ...] | None = None  # where they differ
    decoder_convolutions: Literal[1, 2] = 2  # 3x3 convolutions in a block of the decoder
    # *_conv: a 3x3 convolution behind it; transposed_3x3 and *_conv have activation and norm.
    upsampling: Literal[tuple(parts.UPSAMPLINGS)] = "transposed_2x2"
    dropout: float = Field(0.0, ge=0, lt=1)  # on what enters each block of the decoder
    empty_head: bool = False  # a logit "there is a lesion" from the encoder's deepest features

    @model_validator(mode="after")
    def _levels(self) -> "Decoder":
        if self.encoder != "plain" and self.depth > DEEPEST_ENCODER:
            raise ValueError(
                f"depth={self.depth}: encoder={self.encoder} has features down to 1/32; use "
                f"depth={DEEPEST_ENCODER} or less"
            )
        if isinstance(self.filters, tuple) and len(self.filters) != self._num_levels():
            raise ValueError(
                f"filters={list(self.filters)} has {len(self.filters)} levels; depth={self.depth} "
                f"with encoder={self.encoder} needs {self._num_levels()}"
            )
        if self.decoder_filters and len(self.decoder_filters) != self.depth:
            raise ValueError(
                f"decoder_filters={list(self.decoder_filters)} has {len(self.decoder_filters)} "
                f"levels; depth={self.depth} needs {self.depth}"
            )
        return self

    def _num_levels(self) -> int:
        return self.depth + (self.encoder == "plain")

    def widths(self) -> tuple[int, ...]:
        """Filters of each level of our own blocks, the first level first."""
        listed = self.filters
        if isinstance(listed, int):
            listed = [listed * 2**i for i in range(self._num_levels())]
        return tuple(min(filters, self.max_filters or filters) for filters in listed)

    def decoder_widths(self) -> tuple[int, ...]:
        return self.decoder_filters or self.widths()[: self.depth]


class Unet(Decoder):
    """U-Net (trainer/models/unet.py): one logit a pixel."""

    kind: Literal["unet"]
    classes: Classes | None = None  # a number: pretraining, see UnetPlusPlus
    skips: bool = True  # false: the decoder sees the deepest features alone


class UnetPlusPlus(Decoder):
    """U-Net++ (trainer/models/unetpp.py): one logit a pixel, or one a head."""

    kind: Literal["unetpp"]
    depth: int = Field(4, ge=1, le=5)  # L: number of poolings
    deep_supervision: bool = False  # a head on X(0,1) … X(0,L), each with its own loss
    # None: it segments. A number: pretraining; all of it up to X(0,L), without the heads, is a
    # classifier, whose weights a segmenter of the same section then takes.
    classes: Classes | None = None


class Vae(Section):
    """The VAE-regularised network (trainer/models/vae.py): one logit a pixel."""

    kind: Literal["vae"]
    filters: int = Field(32, ge=1, multiple_of=parts.GROUPS)  # of the first level; doubled below
    # Residual blocks of each level of the encoder, the first level first; three levels halve twice.
    blocks: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 2, 2, 4), min_length=2)
    dropout: float = Field(0.2, ge=0, lt=1)  # of whole channels, behind the first convolution
    latent: int = Field(128, ge=1)  # numbers that the VAE branch draws
    empty_head: bool = False  # as a U-Net's
    weights: str | None = None  # another radlake network's .weights.h5


class Classifier(Encoded):
    """An image classifier (trainer/models/classifier.py): one logit an image, or one a class."""

    kind: Literal["classifier"]
    classes: Classes = 2
    encoder: Literal[("plain", *parts.ENCODERS)] = "densenet121"
    filters: int = Field(16, ge=1)  # of the plain encoder's first level; doubled at each below
    depth: int = Field(4, ge=1)  # number of poolings of the plain encoder
    norm: Literal[tuple(parts.NORMS)] = "batch"  # of the plain encoder
    pooling: Literal["average", "lesion_map"] = "average"
    hidden: int = Field(0, ge=0)  # units of a layer between the average and the logit; 0: none
    dropout: Share = 0.0

    @model_validator(mode="after")
    def _needs_the_average(self) -> "Classifier":
        if self.hidden and self.pooling != "average":
            raise ValueError(f"hidden={self.hidden} needs pooling=average")
        if self.classes > 2 and self.pooling != "average":
            raise ValueError(f"classes={self.classes} needs pooling=average")
        return self


class Data(Section):
    side: int = Field(1024, ge=16, multiple_of=16)  # the network's input is [side, side]
    fit: Literal["pad", "stretch"] = "pad"  # how an image that is not square gets there
    batch_size: int = Field(16, ge=1)  # over all replicas together
    train_split: str = "train"
    val_split: str = "val"
    # Of a lake with folds: validates on this one and trains on all others of train and val.
    fold: int | None = Field(None, ge=0)
    # {folder: weight} of lakes to train on besides the run's own: for each record of that one, an
    # epoch draws so many of these, as long as there are any and then again.
    more_lakes: dict[str, Annotated[float, Field(gt=0, le=1000)]] = Field({}, max_length=50)
    # Shards whose records are shuffled together, in memory as they are stored.
    group_shards: int = Field(4, ge=1)
    # Equal parts of an epoch's order that are read side by side, each giving its part of a batch.
    # None: the number of workers; a run goes on with another number of workers when it is given.
    streams: int | None = Field(None, ge=1)
    # Where the training images lie decoded, from the start on: memory, or a folder on a local disk.
    # None: each epoch decodes them anew.
    cache: str | None = None
    # Share of positives (an image with a lesion) among what is drawn, of the first epoch and of the
    # end: it moves in a line. An epoch is as long as without it; None: every image once.
    positive_share: tuple[Share, Share] | None = None
    positives_only: bool = False  # each positive once an epoch, nothing else

    @model_validator(mode="after")
    def _folds_or_splits(self) -> "Data":
        if self.fold is not None and (self.train_split, self.val_split) != ("train", "val"):
            raise ValueError(
                f"fold={self.fold} divides train and val anew; leave train_split and val_split out"
            )
        return self

    @model_validator(mode="after")
    def _equal_streams(self) -> "Data":
        if self.batch_size % (self.streams or 1):
            raise ValueError(
                f"streams={self.streams} gives each no equal part of batch_size={self.batch_size}; "
                f"use one that divides it"
            )
        return self

    @model_validator(mode="after")
    def _one_choice_of_positives(self) -> "Data":
        if self.positives_only and self.positive_share:
            raise ValueError("positives_only leaves nothing to positive_share; give one of them")
        return self


class Loss(Section):
    """Weights of the terms (trainer/losses.py); 0 leaves a term out.

    A classifier's terms are the image's cross-entropy (BCE, or softmax for more than two classes),
    which weighs 1, and lesion_map; of the rest it has label_smoothing alone.
    """

    dice: Weight = 1.0
    bce: Weight = 1.0
    # Positive pixels weigh 1/β; β is the manifest's share of positive pixels in positive images.
    weighted_bce: Weight = 0.0
    focal: Weight = 0.0
    tversky: Weight = 0.0
    jaccard: Weight = 0.0
    # Weighted BCE between a classifier's lesion map and the masks, where they are known.
    lesion_map: Weight = 0.0
    # BCE of a segmenter's empty_head; on an image without a mask its truth is the label.
    lesion: Weight = 0.0
    # Of a vae, on every image: mean squared difference between the image and what its VAE branch
    # makes of it, and the divergence of what the branch draws from N(0, 1).
    reconstruction: Weight = 0.0
    kl_divergence: Weight = 0.0

    dice_form: Literal["1-dice", "-dice", "-log"] = "1-dice"  # -log: −log(dice)
    dice_squared: bool = False  # Σy² + Σp² instead of Σy + Σp
    smooth: Weight = 1.0  # pixels, on both sides of the fraction of dice, tversky and jaccard
    focal_gamma: Weight = 2.0
    tversky_alpha: Weight = 0.3  # of false positives
    tversky_beta: Weight = 0.7  # of false negatives
    # Where dice, tversky and jaccard divide: for each image, or once for the batch of all replicas.
    reduction: Literal["image", "batch"] = "image"
    # The target of the BCE terms and focal is y·(1 − this) + this/2, of C classes + this/C; that of
    # an overlap stays y.
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    # Of deep supervision's heads, the shallowest first; divided by their sum. None: all alike.
    head_weights: tuple[Weight, ...] | None = None

    @model_validator(mode="after")
    def _some_term(self) -> "Loss":
        terms = ("dice", "bce", "weighted_bce", "focal", "tversky", "jaccard")
        if not any(getattr(self, name) for name in terms):
            raise ValueError(f"every weight is 0; give at least one of {', '.join(terms)}")
        return self

    @model_validator(mode="after")
    def _finite_terms(self) -> "Loss":
        if self.dice and self.dice_form == "-log" and not self.smooth:
            raise ValueError(
                "dice_form=-log with smooth=0 is infinite where a prediction misses the mask; "
                "give smooth=1"
            )
        if self.tversky and not (self.tversky_alpha or self.tversky_beta):
            raise ValueError(
                "tversky_alpha=0 and tversky_beta=0 punish nothing; give at least one of them"
            )
        if self.head_weights is not None and not any(self.head_weights):
            raise ValueError(
                f"head_weights={list(self.head_weights)} leaves no head to learn from; give at "
                f"least one that is not 0"
            )
        return self


# What a classifier would ignore; dice, bce and weighted_bce it may carry, a config's defaults do.
SEGMENTER_TERMS = (
    *("focal", "tversky", "jaccard", "dice_form", "dice_squared", "smooth", "focal_gamma"),
    *("tversky_alpha", "tversky_beta", "reduction", "head_weights"),
)


class Optimizer(Section):
    """Epochs count from the start of the run; the schedules are in trainer/schedules.py."""

    kind: Literal["adamw", "adam", "sgd"] = "adamw"
    momentum: float = Field(0.9, ge=0, lt=1)  # of sgd, Nesterov's
    learning_rate: float = Field(1e-3, gt=0)  # the highest
    schedule: Literal["constant", "cosine", "cyclic", "polynomial", "plateau"] = "cosine"
    # In a line from 0, for at most half of the run; the schedule starts behind it.
    warmup_epochs: float = Field(1.0, ge=0)
    final_share: Share = 0.0  # cosine, cyclic and polynomial go down to this share of learning_rate
    cycle_epochs: float | None = Field(None, gt=0)  # of cyclic, and of a cosine that restarts
    cycle_growth: float = Field(1.0, ge=1)  # a restarted cosine is this much longer than the last
    cycle_decay: float = Field(1.0, gt=0, le=1)  # and starts from this share of its rate
    power: float = Field(0.9, gt=0)  # of polynomial
    plateau_epochs: int = Field(5, ge=1)  # without a better score, and the rate is lowered
    plateau_factor: float = Field(0.5, gt=0, lt=1)
    weight_decay: float | None = Field(None, ge=0)  # None: 1e-4 with adamw, else 0
    clip_norm: float | None = Field(1.0, gt=0)  # of the gradient over all replicas
    # Parts that a replica's share of the batch goes through one after the other, for less memory.
    accumulate: int = Field(1, ge=1)
    ema: float = Field(0.0, ge=0, lt=1)  # decay of the moving average of the weights; 0: none
    swa_epochs: int = Field(0, ge=0)  # the last epochs whose weights are averaged at the end

    @model_validator(mode="after")
    def _settings_of_the_schedule(self) -> "Optimizer":
        if self.cycle_epochs and self.schedule not in ("cosine", "cyclic"):
            raise ValueError(f"cycle_epochs={self.cycle_epochs:g} needs schedule=cosine or cyclic")
        if self.schedule == "cyclic" and not self.cycle_epochs:
            raise ValueError("schedule=cyclic needs cycle_epochs, of one way up and down")
        if self.ema and self.swa_epochs:
            raise ValueError("ema and swa_epochs are two averages of the weights; give one of them")
        return self


class Train(Section):
    epochs: int = Field(40, ge=1)
    seed: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    replicas: int | None = Field(None, ge=1)  # of a worker; None: every device; on a CPU: 1
    worker_minutes: float = Field(10.0, gt=0)  # that the others of TF_CONFIG have to come
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    # Of mixed_float16, what multiplies the loss: halved at a step whose gradients are not finite,
    # which is skipped, and doubled after so many good ones in a row.
    loss_scale: float = Field(2.0**15, ge=1)
    loss_scale_steps: int = Field(2000, ge=1)
    jit: bool | Literal["auto"] = "auto"  # XLA for the gradient function; auto: on GPUs
    # A block's inside is computed again for its gradient instead of kept: less memory, more time.
    rematerialise: bool = False
    steps_per_call: int = Field(10, ge=1)  # steps in one call of the compiled loop
    checkpoint_minutes: float = Field(10.0, gt=0)  # and at the end of each epoch
    max_hours: float | None = Field(None, gt=0)  # of one start; then it saves and exits with 42
    # The epoch whose weights are kept: the highest of these validation scores; None: AUC or dice on
    # positives, and with optimizer.swa_epochs the last. accuracy: of more than two classes. last:
    # the last epoch, for a validation split so small that the highest is luck.
    keep_best: Literal["auc", "accuracy", "dice_positives", "dice_mean", "last"] | None = None
    keep: int = Field(1, ge=1)  # so many of the best epochs' weights; above 1 in the folder best
    # Epochs without a better score, and the run (or stage) has ended; None: it never does early.
    patience: int | None = Field(None, ge=1)
    profile: int = Field(0, ge=0)  # steps of each start to trace for TensorBoard's profile plugin
    deterministic: bool = False


class Config(Section):
    lake: str | None = None  # the folder ROOT/<name>/<version>; --lake sets it
    model: Annotated[Unet | UnetPlusPlus | Vae | Classifier, Field(discriminator="kind")]
    data: Data = Data()
    augment: Augment = Augment()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    train: Train = Train()
    # Runs one after the other, each from the best weights of the one before: what differs in each,
    # such as [{data: {side: 512}}, {data: {side: 1024}, train: {epochs: 10}}].
    stages: tuple[dict[str, dict], ...] = ()

    @model_validator(mode="after")
    def _a_map_to_teach(self) -> "Config":
        if self.loss.lesion_map and getattr(self.model, "pooling", None) != "lesion_map":
            raise ValueError("loss.lesion_map needs a classifier with model.pooling=lesion_map")
        return self

    @model_validator(mode="after")
    def _a_head_and_its_term(self) -> "Config":
        has_head = getattr(self.model, "empty_head", False)
        if has_head and self.is_classifier:
            raise ValueError(
                "model.empty_head: with model.classes the whole network is a classifier"
            )
        if self.loss.lesion and not has_head:
            raise ValueError(
                f"loss.lesion={self.loss.lesion} needs a segmenter with model.empty_head=true"
            )
        if has_head and not self.loss.lesion:
            raise ValueError(
                "model.empty_head=true learns nothing with loss.lesion=0; give loss.lesion, too"
            )
        return self

    @model_validator(mode="after")
    def _a_branch_and_its_terms(self) -> "Config":
        names = ("reconstruction", "kl_divergence")
        given = [f"loss.{name}" for name in names if getattr(self.loss, name)]
        if given and self.model.kind != "vae":
            raise ValueError(f"{', '.join(given)}: only model.kind=vae has a VAE branch")
        # The divergence alone would leave the branch's decoder without a gradient.
        if self.model.kind == "vae" and not self.loss.reconstruction:
            raise ValueError(
                "model.kind=vae with loss.reconstruction=0 does not train its VAE branch; give "
                "loss.reconstruction (and loss.kl_divergence), which are 0.1 in its paper"
            )
        return self

    @model_validator(mode="after")
    def _terms_of_the_model(self) -> "Config":
        changed = [
            f"loss.{name}"
            for name in SEGMENTER_TERMS
            if getattr(self.loss, name) != Loss.model_fields[name].default
        ]
        if self.model.kind == "classifier" and changed:  # pretraining has a segmenter's config
            raise ValueError(
                f"{', '.join(changed)}: a classifier has no use for a segmenter's loss; leave "
                f"{'them' if changed[1:] else 'it'} out"
            )
        return self

    @model_validator(mode="after")
    def _something_to_tell_apart(self) -> "Config":
        if self.is_classifier and self.data.positives_only:
            raise ValueError(
                "data.positives_only leaves a classifier nothing to tell apart; use "
                "data.positive_share"
            )
        return self

    @model_validator(mode="after")
    def _a_whole_batch(self) -> "Config":
        if self.loss.reduction == "batch" and self.optimizer.accumulate > 1:
            raise ValueError(
                f"loss.reduction=batch needs the whole batch at once, and optimizer.accumulate="
                f"{self.optimizer.accumulate} cuts it; use one of them"
            )
        return self

    @model_validator(mode="after")
    def _an_end_to_average(self) -> "Config":
        if self.optimizer.swa_epochs and self.train.patience:
            raise ValueError(
                f"train.patience={self.train.patience}: a run that ends early does not reach the "
                f"last epochs that optimizer.swa_epochs={self.optimizer.swa_epochs} averages; use "
                f"optimizer.ema with it"
            )
        if self.optimizer.swa_epochs > self.train.epochs and not self.stages:
            raise ValueError(
                f"optimizer.swa_epochs={self.optimizer.swa_epochs} averages the last epochs, and "
                f"train.epochs={self.train.epochs}; use fewer of them"
            )
        return self

    @model_validator(mode="after")
    def _every_stage_is_a_run(self) -> "Config":
        self.as_stages()
        return self

    def as_stages(self) -> list["Config"]:
        """The runs that `stages` lists, the run itself where it lists none."""
        whole = self.model_dump(exclude={"stages"})
        return [Config.model_validate(merged(whole, stage)) for stage in self.stages] or [self]

    @model_validator(mode="after")
    def _a_score_of_the_model(self) -> "Config":
        wanted, known = self.score, ["auc"]
        if not self.is_classifier:
            known += ["dice_positives", "dice_mean"]
        elif self.model.classes > 2:
            known += ["accuracy"]
        known += ["last"]
        if wanted not in known:
            raise ValueError(f"train.keep_best={wanted}: this model has {' and '.join(known)}")
        return self

    @model_validator(mode="after")
    def _a_score_to_wait_for(self) -> "Config":
        for name, waits in (
            (f"train.patience={self.train.patience}", self.train.patience),
            ("optimizer.schedule=plateau", self.optimizer.schedule == "plateau"),
        ):
            if waits and self.score == "last":
                cause = "train.keep_best=last"
                if not self.train.keep_best:
                    cause = f"optimizer.swa_epochs={self.optimizer.swa_epochs}"
                raise ValueError(
                    f"{name} waits for a better score, and with {cause} every epoch is better "
                    f"than the one before; use another train.keep_best"
                )
        return self

    @property
    def is_classifier(self) -> bool:
        """Whether the network scores images; a segmenter scores pixels."""
        return getattr(self.model, "classes", None) is not None

    @property
    def score(self) -> str:
        """The validation score whose best epoch is kept; "last": the epoch's own number."""
        if self.train.keep_best:
            return self.train.keep_best
        if self.optimizer.swa_epochs:  # whose average is there behind the last epoch
            return "last"
        return "auc" if self.is_classifier else "dice_positives"


def load(path: str | Path, overrides: list[str], lake: str | None = None) -> Config:
    """The run that a YAML file describes, with `--section.field=value` overrides; raises
    InputError."""
    try:
        content = yaml.safe_load(storage.path_of(path).read_text()) or {}
    except FileNotFoundError:
        raise InputError(
            f"--config={path}: no such file; give a YAML of your own, or one of configs/ in the "
            f"checkout, which pip does not install"
        ) from None
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


def merged(content: dict, changes: dict) -> dict:
    """The content with the changes' values in place of its own, section by section."""
    result = dict(content)
    for key, value in changes.items():
        is_section = isinstance(value, dict) and isinstance(content.get(key), dict)
        result[key] = merged(content[key], value) if is_section else value
    return result


def save(config: Config, path: Path) -> None:
    """Every value of the run, defaults included, as YAML that `load` reads."""
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def hyperparameters(config: Config) -> dict[str, bool | int | float | str]:
    """{section.field: value}, lists and None as text, as TensorBoard's HParams takes them."""
    plain = (bool, int, float, str)
    return {
        name: value if isinstance(value, plain) else str(value)
        for name, value in _flat(config.model_dump(mode="json", exclude={"stages"})).items()
    }


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
    *sections, field = name.split(".")
    if not (text.startswith("--") and equals and all([*sections, field]) and sections):
        return f"{text}: expected --section.field=value"
    for depth, section in enumerate(sections, start=1):
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            return f"{text}: {'.'.join(sections[:depth])} is not a section"
    try:
        content[field] = yaml.safe_load(value)
    except yaml.YAMLError:
        return f"{text}: the value is not YAML"
    return None


def _fields(where: list[str]) -> dict:
    """The fields of the section at this place."""
    section = Config
    for name in where:
        # The place in a list leads to what it is a list of.
        is_place = name.isdigit()
        section = get_args(section)[0] if is_place else section.model_fields[name].annotation
    return section.model_fields


def _describe(error: dict) -> str:
    """One wrong value in a line: where, what is wrong, what came; the nearest name for an unknown
    key."""
    # The location of a field of `model` also holds the kind that was tried.
    where = [str(part) for part in error["loc"]]
    if not where:  # of several sections together
        return error["msg"]
    kinds = {"unet": Unet, "unetpp": UnetPlusPlus, "vae": Vae, "classifier": Classifier}
    kind = where.pop(1) if where[0] == "model" and len(where) > 1 and where[1] in kinds else None
    if error["type"] == "extra_forbidden":
        known = kinds[kind].model_fields if kind else _fields(where[:-1])
        near = difflib.get_close_matches(where[-1], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return f"{'.'.join(where)}: unknown key; {hint}"
    return f"{'.'.join(where)}: {error['msg']}, got {error['input']!r}"
