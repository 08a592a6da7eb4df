"""The whole of a config: every section of a run with its defaults, and what must fit between them.
No TensorFlow. trainer/config/files.py reads it from YAML."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, field_validator

from trainer.config import score_names
from trainer.config.augmentation import Augment
from trainer.config.learning import BRANCH_TERMS, CLASSIFIER_FIELDS, Loss, Optimizer
from trainer.config.network import ALL, Network
from trainer.config.section import Section, Share


class Data(Section):
    """Which images a run reads, how large, and in what order."""

    side: int = Field(1024, ge=16, multiple_of=16)  # the network's input is [side, side]
    fit: Literal["pad", "stretch"] = "pad"  # how an image that is not square becomes so
    batch_size: int = Field(16, ge=1)  # images per step of all replicas together
    train_split: str = "train"
    val_split: str = "val"
    # For a lake with folds: validate on this fold, train on all others of train and val.
    fold: int | None = Field(None, ge=0)
    # {folder: weight} of lakes to train on besides the run's own: per record of that one, an epoch
    # draws so many records of this lake, from the start again when it has drawn them all.
    more_lakes: dict[str, Annotated[float, Field(gt=0, le=1000)]] = Field({}, max_length=50)
    # So many shards are held in memory as they are stored, and their records shuffled together.
    group_shards: int = Field(4, ge=1)
    # An epoch's order is cut into so many equal parts that are read side by side, each giving its
    # part of a batch. None: the number of workers; give a number to go on with another number of
    # workers.
    streams: int | None = Field(None, ge=1)
    # Where to keep the training images decoded: memory, or a folder on a local disk. None: each
    # epoch decodes them again.
    cache: str | None = None
    # Shares of positives (images with a lesion, or with one of model.findings) among what is drawn:
    # in the first epoch and at the end, with a straight line between. The length of an epoch stays.
    # None: every image once.
    positive_share: tuple[Share, Share] | None = None
    positives_only: bool = False  # an epoch is every positive once, and nothing else

    def clashes(self) -> Iterator[str]:
        """Yield a message for each pair of fields that do not go together."""
        if self.fold is not None and (self.train_split, self.val_split) != ("train", "val"):
            yield f"fold={self.fold} divides train and val anew; leave train_split, val_split out"
        if self.batch_size % (self.streams or 1):
            yield f"streams={self.streams} must divide batch_size={self.batch_size}"
        if self.positives_only and self.positive_share:
            yield "positives_only leaves no choice to positive_share; give one of them"


class Train(Section):
    """How a run goes on its devices, when it ends, and what it keeps."""

    epochs: int = Field(40, ge=1)
    seed: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    # The replicas of a worker. None: one per device; on a CPU one.
    replicas: int | None = Field(None, ge=1)
    # How long a worker waits for the others that TF_CONFIG, or srun, names.
    worker_minutes: float = Field(10.0, gt=0)
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    # For mixed_float16: the first factor on the loss. A step whose gradients are not finite is
    # skipped and halves it.
    loss_scale: float = Field(2.0**15, ge=1)
    # For mixed_float16: the factor is doubled after so many steps with finite gradients in a row.
    loss_scale_steps: int = Field(2000, ge=1)
    # Whether XLA compiles the gradient function; auto: on GPUs.
    jit: bool | Literal["auto"] = "auto"
    # Compute the inside of a block again for its gradient instead of keeping it: less memory, more
    # time.
    rematerialise: bool = False
    steps_per_call: int = Field(10, ge=1)  # steps in one call of the compiled loop
    # Time between checkpoints; there is one at the end of each epoch as well.
    checkpoint_minutes: float = Field(10.0, gt=0)
    # After so long, a start of the run saves and exits with code 42; the same command goes on.
    max_hours: float | None = Field(None, gt=0)
    # The validation score whose best epoch gives best.weights.h5; accuracy is for more than two
    # classes, and with findings auc is the mean of theirs. last: the last epoch, for a validation
    # split so small that the best score is luck. dice_positives and dice_mean are taken for the
    # names with _at_half_network_size. None: auc of a classifier, dice_positives… of a segmenter,
    # and last with optimizer.swa_epochs.
    keep_best: (
        Literal[
            "auc",
            "accuracy",
            "dice_positives_at_half_network_size",
            "dice_mean_at_half_network_size",
            "last",
        ]
        | None
    ) = None
    # The number of best epochs whose weights are kept; more than one are in the folder best.
    keep: int = Field(1, ge=1)
    # A run (or stage) ends after so many epochs without a better score. None: it never ends early.
    patience: int | None = Field(None, ge=1)
    # Steps of each start that are traced for TensorBoard's profile plugin.
    profile: int = Field(0, ge=0)
    # Where config, curves, scores and weights go, too; the tool's environment says which server.
    tracker: Literal["mlflow", "wandb"] | None = None
    # Whether the same run gives the same numbers bit for bit; slower.
    deterministic: bool = False

    @field_validator("keep_best", mode="before")
    @classmethod
    def _with_its_name_of_today(cls, name: object) -> object:
        """Return the name that a score has today for one of earlier versions."""
        return score_names.EARLIER.get(name, name) if isinstance(name, str) else name


class Evaluate(Section):
    """What `evaluate` chooses on the validation split, where its options say nothing else."""

    # Which thresholds a segmenter's masks get. best: those with the highest mean dice. one_se: of
    # those within one standard error of the best, the ones with the highest dice of images with a
    # lesion; take it where validation has few positives, for which the best is often an empty mask.
    choose: Literal["best", "one_se"] = "best"
    # How an image's p of a lesion becomes a probability, before thresholds on it are chosen. platt:
    # a slope and an offset of its logit. temperature: a slope alone. Both are fitted on validation,
    # and predict and export use them, too.
    calibrate: Literal["none", "temperature", "platt"] = "none"


class Config(Section):
    lake: str | None = None  # the folder ROOT/NAME/VERSION of a lake; the option --lake sets it
    model: Network  # one of the sections below, by its kind
    data: Data = Data()
    augment: Augment = Augment()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    # Runs one after the other, each starting from the best weights of the one before. Each lists
    # what differs, such as [{data: {side: 512}}, {data: {side: 1024}, train: {epochs: 10}}].
    stages: tuple[dict[str, dict], ...] = ()

    @property
    def is_classifier(self) -> bool:
        """Whether the network scores images; a segmenter scores pixels."""
        return getattr(self.model, "classes", None) is not None or bool(self.findings)

    @property
    def findings(self) -> tuple[str, ...]:
        """The findings that a classifier scores, in the order of its logits; () for any other
        network."""
        names = getattr(self.model, "findings", None) or ()
        return (ALL,) if names == ALL else names

    @property
    def feature_bytes(self) -> int:
        """The bytes, in float32, of a batch's features in the network's first level; of one of
        keras.applications, whose blocks widen them inside, eight times those of our own blocks."""
        filters = self.model.filters
        first = filters if isinstance(filters, int) else filters[0]
        widening = 1 if getattr(self.model, "encoder", "plain") == "plain" else 8
        return 4 * self.data.batch_size * self.data.side**2 * first * widening

    @property
    def score(self) -> str:
        """The validation score whose best epoch is kept; "last": the epoch's own number."""
        if self.train.keep_best:
            return self.train.keep_best
        if self.optimizer.swa_epochs:  # their average exists only after the last epoch
            return "last"
        return self.compared_score

    @property
    def compared_score(self) -> str:
        """The validation score of an epoch by which one run is compared with another."""
        if self.train.keep_best not in (None, "last"):
            return self.train.keep_best
        return "auc" if self.is_classifier else score_names.EARLIER["dice_positives"]

    def as_stages(self) -> list["Config"]:
        """Return the runs that `stages` lists, or the run itself where it lists none."""
        whole = self.model_dump(exclude={"stages"})
        return [Config.model_validate(merge(whole, stage)) for stage in self.stages] or [self]

    def clashes(self) -> Iterator[str]:
        """Yield the clashes inside each section, then those between sections."""
        for name in type(self).model_fields:
            section = getattr(self, name)
            if isinstance(section, Section):
                yield from (f"{name}: {message}" for message in section.clashes())
        yield from self._terms_without_their_network()
        yield from self._network_without_its_terms()
        yield from self._paces_without_encoder()
        yield from self._averages_out_of_reach()
        kind, classes = self.evaluate.calibrate, getattr(self.model, "classes", None) or 2
        if kind != "none" and classes > 2:
            yield f"evaluate.calibrate={kind}: of two classes alone, and model.classes={classes}"
        elif kind != "none" and self.findings:
            yield f"evaluate.calibrate={kind}: of two classes alone, and not of model.findings"
        yield from self._scores_of_other_models()

    def _terms_without_their_network(self) -> Iterator[str]:
        """Yield a message per term of the loss that this network cannot learn from."""
        if self.loss.lesion_map and getattr(self.model, "pooling", None) != "lesion_map":
            yield "loss.lesion_map needs a classifier with model.pooling=lesion_map"
        if self.loss.lesion and not getattr(self.model, "empty_head", False):
            yield f"loss.lesion={self.loss.lesion} needs a segmenter with model.empty_head=true"
        branch_terms = ("reconstruction", "kl_divergence")
        names = [f"loss.{name}" for name in branch_terms if getattr(self.loss, name)]
        if names and self.model.kind != "vae":
            yield f"{', '.join(names)}: only model.kind=vae has a VAE branch"
        if self.model.kind == "classifier":  # pretraining has the config of a segmenter
            fields = Loss.model_fields.keys() - {*CLASSIFIER_FIELDS, *BRANCH_TERMS}
            defaults = {name: Loss.model_fields[name].default for name in sorted(fields)}
            changes = [
                name for name, default in defaults.items() if getattr(self.loss, name) != default
            ]
            names = [f"loss.{name}" for name in changes]
            if names:
                yield f"{', '.join(names)}: a classifier has no use for a segmenter's loss"
        if self.loss.reduction == "batch" and self.optimizer.accumulate > 1:
            yield "loss.reduction=batch needs the whole batch, which optimizer.accumulate cuts"

    def _network_without_its_terms(self) -> Iterator[str]:
        """Yield a message per part of the network that would learn nothing."""
        if getattr(self.model, "empty_head", False):
            if self.is_classifier:
                field = "model.findings" if self.findings else "model.classes"
                yield f"model.empty_head: with {field} the whole network is a classifier"
            elif not self.loss.lesion:
                yield "model.empty_head=true learns nothing with loss.lesion=0; give loss.lesion"
        # The divergence alone would leave the branch's decoder without a gradient.
        if self.model.kind == "vae" and not self.loss.reconstruction:
            cause = "model.kind=vae with loss.reconstruction=0 does not train its VAE branch"
            yield f"{cause}; its paper has 0.1, and 0.1 for loss.kl_divergence"
        if self.is_classifier and self.data.positives_only:
            yield "data.positives_only leaves a classifier nothing to tell apart"

    def _paces_without_encoder(self) -> Iterator[str]:
        """Yield a message where an encoder's own rate, or its frozen epochs, have no effect."""
        optimizer, epochs = self.optimizer, self.optimizer.frozen_epochs
        names = [f"optimizer.encoder_rate={optimizer.encoder_rate:g}"] * (
            optimizer.encoder_rate != 1
        )
        names += [f"optimizer.frozen_epochs={epochs}"] * bool(epochs)
        if not names:
            return
        if getattr(self.model, "encoder", "plain") == "plain":
            yield f"{', '.join(names)}: needs a model.encoder of keras.applications"
        elif self.model.freeze == "all":
            yield f"{', '.join(names)}: model.freeze=all leaves nothing of the encoder to learn"
        elif epochs and self.model.weights is None and not self.stages:
            yield f"optimizer.frozen_epochs={epochs} would keep random weights; give model.weights"
        if epochs >= self.train.epochs and epochs and not self.stages:
            cause = f"optimizer.frozen_epochs={epochs} of train.epochs={self.train.epochs}"
            yield f"{cause} leaves the encoder frozen; use model.freeze=all, or fewer"

    def _averages_out_of_reach(self) -> Iterator[str]:
        """Yield a message where a run does not reach the epochs that SWA averages."""
        swa_epochs, train = self.optimizer.swa_epochs, self.train
        if swa_epochs and train.patience:
            cause = (
                f"train.patience={train.patience}: a run that ends early does not reach the last"
            )
            yield f"{cause} epochs, which optimizer.swa_epochs averages; use optimizer.ema with it"
        if swa_epochs > train.epochs and not self.stages:
            cause = f"optimizer.swa_epochs={swa_epochs} averages the last epochs"
            yield f"{cause}, and train.epochs={train.epochs}; use fewer of them"

    def _scores_of_other_models(self) -> Iterator[str]:
        """Yield a message where the run waits for, or keeps, a score that the model does not
        have."""
        scores = ["auc"]
        if not self.is_classifier:
            scores += [score_names.EARLIER[name] for name in ("dice_positives", "dice_mean")]
        elif (self.model.classes or 2) > 2:
            scores += ["accuracy"]
        scores += ["last"]
        if self.score not in scores:
            keep_best = f"train.keep_best={self.score}, model.kind={self.model.kind}"
            yield f"{keep_best}: this model has {' and '.join(scores)}"
        if self.score != "last":
            return
        cause = "train.keep_best=last" if self.train.keep_best else "optimizer.swa_epochs"
        reason = f"waits for a better score, and with {cause} every epoch has a better one"
        if self.train.patience and not self.optimizer.swa_epochs:  # else a message above says so
            yield f"train.patience={self.train.patience} {reason}"
        if self.optimizer.schedule == "plateau":
            yield f"optimizer.schedule=plateau {reason}"


def merge(content: dict, changes: dict) -> dict:
    """Return the content with the values of the changes in place of its own, section by section."""
    result = dict(content)
    for key, value in changes.items():
        is_section = isinstance(value, dict) and isinstance(content.get(key), dict)
        result[key] = merge(content[key], value) if is_section else value
    return result
