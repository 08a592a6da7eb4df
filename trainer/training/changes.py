"""Which values of a config a run may change when it goes on: those that change neither its batches
nor its gradients, nor what the run keeps of them.

In: the config that a workdir has and that of the command. Out: the differences in words: those that
are allowed, and those that would make two runs of one. tests/trainer/training/test_changes.py has
every field of a config, so that a new one must be decided.
"""

from collections.abc import Callable
from typing import NamedTuple

from trainer.config import files
from trainer.config.run import Config

# Where things lie, on what a run works and for how long, and what it shows. The weights that it
# started from are in its checkpoints by now. What evaluate does comes after the run.
FREE = frozenset(
    (
        *("lake", "model.weights", "data.cache", "train.device", "train.replicas"),
        *("train.worker_minutes", "train.checkpoint_minutes", "train.max_hours"),
        *("train.patience", "train.profile", "train.jit", "train.rematerialise"),
        *("train.steps_per_call", "train.deterministic", "train.tracker"),
        *("evaluate.choose", "evaluate.calibrate"),
    )
)
# Fields that have no effect under this condition, on which a change has none either.
IDLE: dict[str, Callable[[Config], bool]] = {
    "model.negative_slope": lambda c: c.model.activation != "leaky_relu",
    "loss.focal_gamma": lambda c: not c.loss.focal,
    "loss.tversky_alpha": lambda c: not c.loss.tversky,
    "loss.tversky_beta": lambda c: not c.loss.tversky,
    "loss.dice_form": lambda c: not c.loss.dice,
    "loss.dice_squared": lambda c: not c.loss.dice,
    "optimizer.momentum": lambda c: c.optimizer.kind != "sgd",
    "optimizer.final_share": lambda c: c.optimizer.schedule in ("constant", "plateau"),
    "optimizer.cycle_growth": lambda c: not c.optimizer.cycle_epochs,
    "optimizer.cycle_decay": lambda c: not c.optimizer.cycle_epochs,
    "optimizer.power": lambda c: c.optimizer.schedule != "polynomial",
    "optimizer.plateau_epochs": lambda c: c.optimizer.schedule != "plateau",
    "optimizer.plateau_factor": lambda c: c.optimizer.schedule != "plateau",
    "train.loss_scale": lambda c: c.train.precision != "mixed_float16",
    "train.loss_scale_steps": lambda c: c.train.precision != "mixed_float16",
}
NORMS_OF_A_BATCH = ("batch", "sync_batch")


class Changes(NamedTuple):
    """Lines `section.field: old -> new` of the values that differ."""

    allowed: list[str]
    refused: list[str]  # some with the reason


def changes(old: Config, new: Config, num_epochs: int = 0, is_followed: bool = False) -> Changes:
    """Return the differences of two configs. `num_epochs`: those that the run has done;
    `is_followed`: a later stage has begun with what it learnt."""
    allowed, refused = [], []
    # Where further lakes lie is free; their shards are compared. How often each is drawn from is
    # not.
    weights = [[*config.data.more_lakes.values()] for config in (old, new)]
    if weights[0] != weights[1]:
        refused.append(f"data.more_lakes: {old.data.more_lakes} -> {new.data.more_lakes}")
    for name, values in files.changed_fields(old, new).items():
        line = "{}: {} -> {}".format(name, *values)
        if name.startswith("data.more_lakes."):
            if weights[0] == weights[1]:
                allowed.append(line)
            continue
        if name in FREE or _has_no_effect(name, old, new):
            allowed.append(line)
            continue
        if name == "train.epochs":
            reason = _why_epochs_stay(old, new, num_epochs, is_followed)
        else:
            reason = CONDITIONS[name](old, new) if name in CONDITIONS else None
        if reason == "":
            allowed.append(line)
        else:
            refused.append(f"{line} ({reason})" if reason else line)
    return Changes(allowed, refused)


def _has_no_effect(name: str, old: Config, new: Config) -> bool:
    """Return whether a field has no effect in either of two configs."""
    if name.startswith("augment."):
        transform = name.split(".")[1]
        return all(_is_idle_transform(transform, config) for config in (old, new))
    if name not in IDLE or old.model.kind != new.model.kind:
        return False
    return all(IDLE[name](config) for config in (old, new))


def _is_idle_transform(name: str, config: Config) -> bool:
    is_transform = hasattr(getattr(config.augment, name), "probability")
    return is_transform and name not in config.augment.possible_transforms()


def _why_epochs_stay(old: Config, new: Config, num_epochs: int, is_followed: bool) -> str:
    """Return the reason why the number of epochs cannot change; "" where a run with the new number
    from its start would have had the same epochs so far."""
    optimizer = new.optimizer
    if is_followed:
        return "the next stage has begun with what this one learnt"
    if new.train.epochs < num_epochs:
        return f"{num_epochs} are done"
    if optimizer.schedule == "polynomial" or (
        optimizer.schedule == "cosine" and not optimizer.cycle_epochs
    ):
        return f"optimizer.schedule={optimizer.schedule} ends with the last epoch"
    if new.data.positive_share:
        return "data.positive_share goes from the first epoch to the last"
    if optimizer.swa_epochs:
        return "optimizer.swa_epochs averages the last epochs"
    if _warmup_epochs(old) != _warmup_epochs(new):
        return f"optimizer.warmup_epochs={optimizer.warmup_epochs:g}: at most half of the run"
    return ""


def _warmup_epochs(config: Config) -> float:
    """Return the epochs in which the rate rises: trainer/training/optimizer.py."""
    return min(config.optimizer.warmup_epochs, config.train.epochs / 2)


def _why_warmup_stays(old: Config, new: Config) -> str | None:
    return "" if _warmup_epochs(old) == _warmup_epochs(new) else None


def _why_parts_stay(old: Config, new: Config) -> str:
    """Return why a batch cannot be cut into another number of parts; "" where their gradients add
    up to the same."""
    model = new.model
    has_norms = getattr(model, "norm", "none") in NORMS_OF_A_BATCH
    if has_norms or getattr(model, "encoder", "plain") != "plain":
        return "batch normalisation takes its statistics from a part"
    return ""


def _why_score_stays(old: Config, new: Config) -> str | None:
    """Return "" where the best epoch is chosen by the same score, be it named or left to the
    default."""
    return "" if old.score == new.score else None


def _why_streams_stay(old: Config, new: Config) -> str | None:
    """Return "" for one stream, be it named or left to the default."""
    return "" if (old.data.streams or 1) == (new.data.streams or 1) else None


# {field: (old, new) -> why it cannot change; "": it can, None: it cannot, and no more is to say}
CONDITIONS: dict[str, Callable[[Config, Config], str | None]] = {
    "optimizer.accumulate": _why_parts_stay,
    "optimizer.warmup_epochs": _why_warmup_stays,
    "train.keep_best": _why_score_stays,
    "data.streams": _why_streams_stay,
}
