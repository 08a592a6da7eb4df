"""A config as a file. In: YAML and `--section.field=value` texts. Out: a Config, or every mistake
in one InputError; and a Config as YAML again."""

from pathlib import Path

import yaml

from lake import InputError, storage
from lake.terminal import cli
from radlake import shipped
from trainer.config import mistakes
from trainer.config.network import NETWORKS
from trainer.config.run import Config


def load(path: str | Path, overrides: list[str], lake: str | None = None) -> Config:
    """Return the run that a YAML file, or a config of radlake by its name, describes, with
    `--section.field=value` overrides.

    Raises InputError with a line per mistake: malformed overrides, unknown keys, wrong values,
    clashes between values, and those of each stage.
    """
    try:
        content = yaml.safe_load(storage.path_of(shipped.find(path)).read_text()) or {}
    except FileNotFoundError:
        raise InputError(
            f"--config={path}: no such file; give a YAML of your own, or a name that "
            f"`{cli.typed_command('radlake configs')}` lists"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: expected sections such as model: and train:, not {type(content).__name__}"
        )
    messages = [message for text in overrides if (message := _override(content, text))]
    if lake is not None:
        content["lake"] = lake
    messages += mistakes.messages(content)
    if messages:
        raise InputError(f"{path}:\n  " + "\n  ".join(messages))
    return Config.model_validate(content)


def with_whole_paths(config: Config) -> Config:
    """Return the config with whole paths of its lakes and weights: it is used from other folders
    later."""

    def whole(path: str | None) -> str | None:
        return path if path in (None, "imagenet") else storage.whole_path(path)

    more_lakes = {whole(lake): weight for lake, weight in config.data.more_lakes.items()}
    sections = {
        "lake": whole(config.lake),
        "data": config.data.model_copy(update={"more_lakes": more_lakes}),
        "model": config.model.model_copy(update={"weights": whole(config.model.weights)}),
    }
    return config.model_copy(update=sections)


def save(config: Config, path: Path) -> None:
    """Write every value of the run, defaults included, as YAML that `load` reads."""
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def hyperparameters(config: Config) -> dict[str, bool | int | float | str]:
    """Return {section.field: value} with lists and None as text, as TensorBoard's HParams takes
    them."""
    plain_types = (bool, int, float, str)
    return {
        name: value if isinstance(value, plain_types) else str(value)
        for name, value in _flat(config.model_dump(mode="json", exclude={"stages"})).items()
    }


def hyperparameter_names(config: Config) -> list[str]:
    """Return the names of the hyperparameters of runs with any kind of network, and of this run."""
    networks = (network(kind=kind) for kind, network in NETWORKS.items())
    runs = [config, *(config.model_copy(update={"model": network}) for network in networks)]
    return sorted(set().union(*map(hyperparameters, runs)))


def changed_fields(old: Config, new: Config) -> dict[str, tuple]:
    """Return {section.field: (old, new)} of the values that differ, None for a field that one of
    the two lacks."""
    before, after = _flat(old.model_dump()), _flat(new.model_dump())
    pairs = {name: (before.get(name), after.get(name)) for name in sorted({*before, *after})}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _flat(values: dict, prefix: str = "") -> dict:
    """Return {section.field: value} for the fields of nested sections."""
    flat = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def _override(content: dict, text: str) -> str | None:
    """Put one `--section.field=value` into the content; return a message if it is none."""
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
