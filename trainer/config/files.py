"""A configuration as a file: YAML plus --section.field=value goes in, a Config comes out, and
back."""

import difflib
from pathlib import Path
from typing import get_args

import yaml
from pydantic import ValidationError

from lake import InputError, storage
from trainer.config.network import Classifier, Unet, UnetPlusPlus, Vae
from trainer.config.run import Config


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
