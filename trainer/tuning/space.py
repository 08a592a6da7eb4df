"""The values that a tuning tries. In: YAML, {section.field: range or list}. Out: distributions that
Optuna draws from, and what was drawn as overrides of a config.

    optimizer.learning_rate: {low: 1e-4, high: 1e-2, log: true}
    augment.affine.rotate_deg: {low: 0, high: 20, step: 5}     # whole numbers, as all three are
    model.filters: [8, 16, [8, 16, 32, 48, 64]]                # one of these values
"""

import json
import math
import re
from pathlib import Path

import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from lake import InputError
from trainer.config import files
from trainer.config.run import Config

Space = dict[str, BaseDistribution]
RANGE = {"low", "high", "step", "log"}
EXPECTED = (
    "expected a list of values, or a range such as {low: 1e-4, high: 1e-2, log: true} or "
    "{low: 0, high: 20, step: 5}"
)


def read(path: Path) -> Space:
    """Return the space that a YAML file describes; raise InputError with a line per mistake."""
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise InputError(f"--space={path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        raise InputError(f"--space={path} is not YAML: {error}") from None
    if not isinstance(content, dict) or not content:
        raise InputError(
            f"--space={path}: expected section.field: values; for each field {EXPECTED}"
        )
    space, messages = {}, []
    for name, values in content.items():
        try:
            space[str(name)] = _distribution(values)
        except ValueError as error:
            messages.append(f"{name}: {error}")
    if messages:
        raise InputError(f"--space={path}:\n  " + "\n  ".join(messages))
    return space


def _distribution(values: object) -> BaseDistribution:
    """Return what a field is drawn from; raise ValueError for what is no list and no range."""
    if isinstance(values, list):
        texts = [json.dumps(_with_number(value)) for value in values]
        if len(set(texts)) != len(texts) or len(texts) < 2:
            raise ValueError(f"{values}: expected at least two values, all different")
        return CategoricalDistribution(texts)
    if not isinstance(values, dict) or not {"low", "high"} <= values.keys() <= RANGE:
        raise ValueError(f"{values}: {EXPECTED}")
    low, high = _number(values["low"]), _number(values["high"])
    step = None if values.get("step") is None else _number(values["step"])
    is_log = values.get("log", False)
    if not isinstance(is_log, bool) or not low < high or (step is not None and not step > 0):
        raise ValueError(f"{values}: expected low < high, a positive step, and log: true or false")
    if is_log and (step is not None or low <= 0):
        raise ValueError(f"{values}: a range with log has a positive low and no step")
    numbers = [number for number in (low, high, step) if number is not None]
    if all(isinstance(number, int) for number in numbers):
        return IntDistribution(low, high, log=is_log, step=step or 1)
    return FloatDistribution(low, high, log=is_log, step=step)


def _with_number(value: object) -> object:
    """Return a value of a list; of a text such as 1e-4, which PyYAML takes for none, the number."""
    is_number = isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value)
    return float(value) if is_number else value


def _number(value: object) -> int | float:
    """Return a number of a range, also of 1e-4, which PyYAML takes for text."""
    try:
        number = (
            value if type(value) in (int, float) else float(value if type(value) is str else "")
        )
    except ValueError:
        raise ValueError(f"{value!r}: expected a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{value!r}: expected a finite number")
    return number


def overrides(params: dict[str, object], space: Space) -> list[str]:
    """Return what was drawn as `--section.field=value`."""
    return [f"--{name}={value_text(name, value, space)}" for name, value in params.items()]


def value_text(name: str, value: object, space: Space) -> str:
    """Return a drawn value as YAML; PyYAML takes 1e-05, without a point, for text."""
    if isinstance(space[name], CategoricalDistribution):
        return value  # JSON, which is YAML
    text = repr(value)
    mantissa, letter, exponent = text.partition("e")
    return f"{mantissa}.0e{exponent}" if letter and "." not in mantissa else text


def check(space: Space, config: Config, config_path: str, overrides_of_all: list[str]) -> None:
    """Raise InputError where the config does not take the ends of a range or a value of a list,
    before the first run; what clashes only together fails in its own trial."""
    for name, distribution in space.items():
        if any(text.startswith(f"--{name}=") for text in overrides_of_all):
            raise InputError(f"--{name} is given, and --space has it, too; leave one of them out")
        is_list = isinstance(distribution, CategoricalDistribution)
        values = distribution.choices if is_list else (distribution.low, distribution.high)
        for value in values:
            drawn = overrides({name: value}, space)
            score = files.load(config_path, [*overrides_of_all, *drawn]).compared_score
            if score != config.compared_score:
                raise InputError(
                    f"{drawn[0]} makes {score} of the score, and the config's is "
                    f"{config.compared_score}; trials are compared by one score"
                )
