"""python docs/reference.py writes docs/reference.md: every option of every command, every field of
a config and of a record, from the code. tests/test_docs.py checks that it is up to date.
"""

import argparse
import ast
import importlib
import inspect
import itertools
import re
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

sys.path.insert(0, str(Path(__file__).parent.parent))

from lake.records.example import FIELDS, FINDINGS
from radlake.words import WORDS, Word
from trainer.config import run
from trainer.config.augmentation import Neutral

OUTPUT = Path(__file__).with_name("reference.md")
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "multiple_of": "a multiple of"}


def text() -> str:
    parts = [
        "# Reference",
        "Made by `python docs/reference.py`; do not edit.",
        "## Commands",
        "Each is also a module of Python, for a checkout that is not installed. Each has `--help`, "
        "`--version`, `--quiet` (results, warnings and errors, no progress) and `--verbose` (the "
        "libraries' own logs, too).",
        *(command(word, entry) for word, entry in WORDS.items()),
        "## Configs",
        "A YAML file, or the name of one that `radlake configs` lists, and `--section.field=value` "
        "on the command line. Unknown keys are errors.",
        *(section_table(prefix, section) for prefix, section in sections("", run.Config)),
        "## The record",
        "One `tf.train.Example` per image; [lake.md](lake.md#the-record) says what they hold.",
        table(
            ("field", "type", "values"),
            [
                *((f"`{name}`", kind.__name__, str(n)) for name, (kind, n) in FIELDS.items()),
                (f"`{FINDINGS}`", "int", "one per finding; of a multi-label lake alone"),
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


# --- commands ---


def parser_of(entry: Word) -> argparse.ArgumentParser:
    """Return the parser of a word's command."""
    parser = importlib.import_module(entry.module).parser()
    for name in entry.leading:
        [choices] = [one.choices for one in parser._actions if one.dest == "command"]
        parser = choices[name]  # argparse lists its commands nowhere else
    return parser


def command(word: str, entry: Word) -> str:
    """Return a command's description and options. argparse's own help wraps differently from one
    Python to the next, so the table is ours."""
    parser = parser_of(entry)
    general = parser.general._group_actions
    options = [one for one in parser._actions if one not in general]
    rows = [(f"`{usage(one)}`", option_default(one), meaning(parser, one)) for one in options]
    description = inspect.cleandoc(parser.description or "")
    return "\n\n".join(
        [
            f"### radlake {word}",
            f"`{parser.prog}`: {entry.help}.",
            *([f"```\n{description}\n```"] if description else []),
            *([f"```text\n{example}\n```"] if (example := example_of(parser)) else []),
            table(("option", "default", "meaning"), rows),
        ]
    )


def example_of(parser: argparse.ArgumentParser) -> str:
    """Return the examples of a command's help."""
    lines = itertools.takewhile(str.strip, (parser.epilog or "").splitlines()[1:])
    is_example = (parser.epilog or "").startswith("example")
    return "\n".join(line.strip() for line in lines) if is_example else ""


def usage(action: argparse.Action) -> str:
    """Return the option as it is typed, with its values; in brackets unless it is required."""
    values = [action.metavar] if isinstance(action.metavar, str) else list(action.metavar or ())
    if action.choices is not None:
        values = ["|".join(map(str, action.choices))]
    elif not values and action.nargs != 0:
        values = [action.dest.upper()]
    many = " …" if action.nargs in ("+", "*") else ""
    option = ", ".join(action.option_strings)
    typed = " ".join([option, *(values if action.nargs != 0 else [])]).strip() + many
    return typed if action.required else f"[{typed}]"


def option_default(action: argparse.Action) -> str:
    if any(action.default is none for none in (None, False, argparse.SUPPRESS)):
        return ""
    values = action.default if isinstance(action.default, (list, tuple)) else [action.default]
    return f"`{' '.join(map(str, values))}`" if values else ""


def meaning(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return " ".join((action.help or "").split()) % (vars(action) | {"prog": parser.prog})


# --- sections of a config ---


def sections(prefix: str, section: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield a section and those inside it, each with what goes before the names of its fields."""
    yield prefix, section
    for name, field in section.model_fields.items():
        for inner in sections_in(field.annotation):
            yield from sections(f"{prefix}{name}.", inner)


def sections_in(annotation) -> list[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [inner for part in typing.get_args(annotation) for inner in sections_in(part)]


def section_table(prefix: str, section: type[BaseModel]) -> str:
    comments = {}
    for base in reversed(section.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            comments |= field_comments(base)
    rows = [
        (f"`{prefix}{name}`", field_default(field), field_values(field), comments[name])
        for name, field in section.model_fields.items()
    ]
    title = f"### {prefix.rstrip('.') or 'the whole'}: {section.__name__}"
    parts = [title, *([inspect.cleandoc(section.__doc__)] if section.__doc__ else [])]
    return "\n\n".join([*parts, table(("field", "default", "may be", "meaning"), rows)])


def field_default(field: FieldInfo) -> str:
    if field.is_required():
        return "to be given"
    if isinstance(field.default, BaseModel):
        return "as below"
    if any(isinstance(one, Neutral) for one in field.metadata) and isinstance(field.default, tuple):
        return f"`{list(field.default)}`"
    return f"`{yaml_text(field.default)}`"


def yaml_text(value) -> str:
    """Return a default as a YAML has it."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(yaml_text, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def field_values(field: FieldInfo) -> str:
    for one in field.metadata:
        if isinstance(one, Neutral):
            return f"a number r, which means {one.value:g} ± r, or `[low, high]`"
    return type_text(field.annotation, field.metadata)


def type_text(annotation, bounds=()) -> str:
    """Return what a value of this type, within these bounds, looks like."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        field = FieldInfo.from_annotation(annotation)
        return type_text(field.annotation, field.metadata)
    if origin in (typing.Union, types.UnionType):
        kinds = [type_text(part, () if part is type(None) else bounds) for part in parts]
        return " or ".join(dict.fromkeys(kinds))
    if origin is typing.Literal:
        return " ".join(f"`{yaml_text(part)}`" for part in parts)
    if origin is tuple:
        kind = re.sub(r"^a (whole number|number|text|section|map)", r"\1s", type_text(parts[0]))
        return f"a list of {kind}" if parts[-1] is Ellipsis else f"{len(parts)} {kind}"
    if origin is dict:
        return f"a map, each value {type_text(parts[1])}"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return "a section"
    names = {type(None): "`null`", int: "a whole number", float: "a number", str: "a text"}
    name = {**names, bool: "`true` `false`", dict: "a section"}[annotation]
    limits = [
        f"{sign} {getattr(one, key):g}"
        for one in bounds
        for key, sign in BOUNDS.items()
        if getattr(one, key, None) is not None
    ]
    return f"{name} {', '.join(limits)}".strip()


def field_comments(section: type[BaseModel]) -> dict[str, str]:
    """Return the comments above and behind each field in the class's own source."""
    source = textwrap.dedent(inspect.getsource(section))
    lines, comments = source.splitlines(), {}
    for node in ast.parse(source).body[0].body:
        if isinstance(node, ast.AnnAssign):
            above, line = [], node.lineno - 2
            while line >= 0 and lines[line].strip().startswith("#"):
                above.insert(0, lines[line].strip(" #"))
                line -= 1
            _, _, behind = lines[node.end_lineno - 1].partition("  # ")
            comment = " ".join([*above, behind]).strip()
            comments[node.target.id] = comment.replace("None: ", "null: ")  # as a YAML has it
    return comments


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


if __name__ == "__main__":
    OUTPUT.write_text(text())
