"""Every mistake in a config at once. In: what its YAML holds. Out: a line per mistake.

pydantic lists all unknown keys and wrong values of a config. Clashes between values can be looked
for only in a whole Config, so the wrong keys are first left out, and their fields have their
defaults. A clash may then be due to such a default. Its message names its fields; a clash is not
listed where one of its fields is in doubt: it was left out, or an unknown key may mean it.
"""

import re
from collections.abc import Iterable
from typing import get_args

from pydantic import ValidationError

from lake.terminal import suggestions
from trainer.config.network import NETWORKS
from trainer.config.run import Config, merge
from trainer.config.section import FIELDS_ALONE


def messages(content: dict, doubtful: tuple[str, ...] = ()) -> list[str]:
    """Return a line per mistake in a config's content; `doubtful`: patterns of clashes to leave
    out."""
    errors_at = {}  # {place of a wrong value: its errors}; a union has one error per alternative
    try:
        config = Config.model_validate(content, context=FIELDS_ALONE)
    except ValidationError as error:
        for detail in error.errors():
            errors_at.setdefault(_place(detail, content), []).append(detail)
        for place, errors in errors_at.items():
            doubtful += _clashes_in_doubt(place, _nearest(errors[0]))
        config = Config.model_validate(_without_fields(errors_at, content), context=FIELDS_ALONE)
    lines = [_message(place, errors) for place, errors in errors_at.items()]
    clashes = config.clashes()
    lines += [text for text in clashes if not any(re.search(pattern, text) for pattern in doubtful)]
    whole = config.model_dump(exclude={"stages"})
    for number, stage in enumerate(config.stages):
        in_stage = messages(merge(whole, stage), doubtful)
        lines += [f"stages.{number}.{line}" for line in in_stage if line not in lines]
    return lines


def _place(error: dict, content) -> tuple:
    """Return the keys and indices of the content that lead to what is wrong. pydantic's location
    also holds which alternative of a union it tried."""
    place = []
    for part in error["loc"]:
        is_item = isinstance(content, (list, tuple)) and isinstance(part, int)
        if is_item or (isinstance(content, dict) and part in content):
            place.append(part)
            content = content[part]
    return (*place, error["loc"][-1]) if error["type"] == "missing" else tuple(place)


def _clashes_in_doubt(place: tuple, nearest: list[str]) -> tuple[str, ...]:
    """Return patterns of the clashes that may come and go with a wrong value and with the field
    that an unknown key probably means: `section: … field …` or `… section.field …`."""
    section, *keys = place
    if not keys:  # every field of the section
        return tuple(rf"^{name}:|\b{name}\." for name in (section, *nearest))
    return tuple(rf"^{section}:.*\b{name}\b|\b{section}\.{name}\b" for name in (*keys, *nearest))


def _without_fields(places, content: dict) -> dict:
    """Return a copy of the content without the fields that these places lie in; a model that is
    wrong as a whole becomes a U-Net."""
    content = {
        key: dict(value) if isinstance(value, dict) else value for key, value in content.items()
    }
    for section, *keys in places:
        if keys and isinstance(content[section], dict):
            content[section].pop(keys[0], None)
        else:
            content.pop(section, None)
    return {"model": {"kind": "unet"}} | content


def _message(place: tuple, errors: list[dict]) -> str:
    """Return a line that says where a wrong value is, what was expected and what came."""
    where, error, value = ".".join(map(str, place)), errors[0], errors[0]["input"]
    match error["type"]:
        case "missing":
            return f"{where}: missing; this field has no default"
        case "union_tag_not_found" | "union_tag_invalid":
            kind = value.get("kind")
            text = f"{where}.kind: expected one of {', '.join(NETWORKS)}, got {kind!r}"
            return _with_question(text, kind, NETWORKS)
        case "extra_forbidden" | "invalid_key":
            fields = _fields(error["loc"][:-1])
            hint = suggestions.question(str(error["loc"][-1]), fields)
            return f"{where}: unknown key; {hint or 'expected ' + ', '.join(fields)}"
        case "model_type":
            fields = ", ".join(_fields(error["loc"]))
            return f"{where}: expected a section with fields from {fields}; got {value!r}"
    texts = [detail["msg"].removeprefix("Value error, ") for detail in errors]
    alternatives = [text.removeprefix("Input should be ") for text in texts[1:]]
    text = f"{where}: {', or '.join([texts[0], *alternatives])}, got {value!r}"
    expected = [detail["ctx"]["expected"] for detail in errors if detail["type"] == "literal_error"]
    return _with_question(text, value, re.findall(r"'([^']*)'", " ".join(expected)))


def _with_question(message: str, value, choices: Iterable[str]) -> str:
    """Return the message about a wrong value with the one that was probably meant."""
    question = suggestions.question(value, choices) if isinstance(value, str) else ""
    return f"{message}; {question}" if question else message


def _nearest(error: dict) -> list[str]:
    """Return the name that an unknown key probably means, if there is one like it."""
    if error["type"] != "extra_forbidden":
        return []
    *section, key = error["loc"]
    return suggestions.nearest(key, _fields(section))


def _fields(location) -> list[str]:
    """Return the names of the fields of the section at one of pydantic's locations."""
    section = Config
    for part in location:
        if isinstance(part, int):
            section = get_args(section)[0]  # the type of the list's elements
        else:
            section = NETWORKS.get(part) or section.model_fields[part].annotation
    return list(section.model_fields)
