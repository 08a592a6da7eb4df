"""What a run is: frozen sections with every default, read from YAML plus --section.field=value; no
TensorFlow.

Every wrong key and value is reported at once, as one InputError.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from trainer.config.augmentation import Augment
from trainer.config.learning import SEGMENTER_TERMS, Loss, Optimizer
from trainer.config.network import Classifier, Section, Share, Unet, UnetPlusPlus, Vae


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


def merged(content: dict, changes: dict) -> dict:
    """The content with the changes' values in place of its own, section by section."""
    result = dict(content)
    for key, value in changes.items():
        is_section = isinstance(value, dict) and isinstance(content.get(key), dict)
        result[key] = merged(content[key], value) if is_section else value
    return result
