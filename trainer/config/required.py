"""What a config asks of its lake, as far as the lake's manifest alone can answer, and of the
packages that are installed. Raises InputError for what is not there; launchers ask for the lake
before they rent a machine."""

from lake import InputError
from lake.records import manifest
from lake.terminal import extras
from trainer.config.network import ALL
from trainer.config.run import Config


def check(content: dict, folder: str, config: Config) -> None:
    """Raise InputError where the lake lacks classes, splits or the fold of a run or of a stage of
    it; `content`: the lake's manifest, `folder`: what messages call it."""
    for stage in config.as_stages():
        check_classes(content, folder, stage)
        if stage.data.fold is None:
            for name in (stage.data.train_split, stage.data.val_split):
                shards_of(content, folder, name)
        else:
            check_fold(content, folder, stage.data.fold)


def check_classes(content: dict, folder: str, config: Config) -> None:
    """Raise InputError where a classifier has another number of classes than the lake, or a finding
    that the lake lacks."""
    if not config.is_classifier:
        return
    findings = manifest.findings(content)
    if findings or config.findings:
        check_findings(findings, folder, config)
        return
    classes = manifest.num_classes(content)
    if config.model.classes != classes:
        names = f": {', '.join(manifest.class_titles(content['classes']))}" if classes > 2 else ""
        raise InputError(
            f"{folder} has {classes} classes{names}; model.classes={config.model.classes} should "
            f"be {classes}"
        )


def check_findings(findings: list[str], folder: str, config: Config) -> None:
    """Raise InputError where a classifier does not learn from findings, and the lake has some, or
    where the lake lacks one of the classifier's."""
    if not config.findings:
        raise InputError(
            f"{folder} has findings: {', '.join(findings)}; give model.findings=all, or a list of "
            f"some of them, in place of model.classes"
        )
    if not findings:
        raise no_findings_error(folder)
    absent_names = [name for name in config.findings if name not in (*findings, ALL)]
    if absent_names:
        raise InputError(
            f"{folder} has no finding {', '.join(absent_names)}, which model.findings names; it "
            f"has {', '.join(findings)}"
        )


def no_findings_error(folder: str) -> InputError:
    """Return the error for a lake without findings that a classifier should learn from."""
    return InputError(
        f"{folder} has no findings, model.findings asks for some; convert it with --findings, or "
        f"leave model.findings out"
    )


def with_findings(config: Config) -> Config:
    """Return the config with the lake's findings by their names in place of `all`, so that a run
    knows which of its logits is which; raise InputError where the lake has none."""
    content = config.model_dump()
    models = [content["model"], *(stage.get("model", {}) for stage in content["stages"])]
    models = [model for model in models if model.get("findings") == ALL]
    if not models:
        return config
    findings = manifest.findings(manifest.load(config.lake))
    if not findings:
        raise no_findings_error(config.lake)
    for model in models:
        model["findings"] = findings
    return Config.model_validate(content)


def shards_of(content: dict, folder: str, name: str) -> list[dict]:
    """Return the manifest's shards of a split that have records; raise InputError when there is
    none."""
    shards = [shard for shard in content["shards"] if shard["split"] == name and shard["records"]]
    if not shards:
        names = ", ".join(sorted(content["counts"]["splits"]))
        raise InputError(
            f"{folder}: no records in split {name!r}; it has {names}: use one of these, or convert "
            f"to a version that has it (--splits, --split_column)"
        )
    return shards


def check_fold(content: dict, folder: str, fold: int) -> None:
    """Raise InputError where the lake has no such fold."""
    num_folds = content["options"]["folds"]
    if not num_folds:
        raise InputError(
            f"{folder} has no folds, data.fold={fold} asks for one; convert it again with --folds 5"
        )
    if fold >= num_folds:
        raise InputError(
            f"data.fold={fold}: {folder} has the folds 0 to {num_folds - 1}; give one of them"
        )


def check_tracker(config: Config) -> None:
    """Raise InputError where the package of a tracker is not installed."""
    for tool in {stage.train.tracker for stage in config.as_stages()} - {None}:
        extras.check_installed(f"train.tracker={tool}", tool, extra=tool)
