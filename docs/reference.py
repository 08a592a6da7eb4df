"""python docs/reference.py: writes docs/reference.md, every option of every command, every field of
a config and every field of a record, from the code; tests/test_docs.py holds that it is up to date.
"""

import argparse
import ast
import inspect
import sys
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

sys.path.insert(0, str(Path(__file__).parent.parent))

from beam import synthetic, synthetic_ct
from beam import table as table_again
from beam.conversion import options as convert_options
from beam.prediction import options as prediction_options
from lake import __main__ as lake
from lake.records import example
from launch import cluster, dataflow, tpu_vm, vertex
from trainer import task
from trainer.config import run

OUTPUT = Path(__file__).with_name("reference.md")
PARSERS = (
    convert_options.parser,
    prediction_options.parser,
    table_again.parser,
    synthetic.parser,
    synthetic_ct.parser,
    lake.parser,
    task.parser,
    dataflow.parser,
    vertex.parser,
    tpu_vm.parser,
    cluster.parser,
)
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "multiple_of": "a multiple of"}


def text() -> str:
    parts = [
        "# Reference",
        "Made by `python docs/reference.py`; do not edit.",
        "## Commands",
        *(help_of(parser) for make in PARSERS for parser in with_commands(make())),
        "## Configs",
        "A YAML file, and `--section.field=value` on the command line. Unknown keys are errors.",
        *(table_of(prefix, section) for prefix, section in sections("", run.Config)),
        "## The record",
        "One `tf.train.Example` an image; [README.md](../README.md) says what is put there.",
        table(
            ("field", "type", "values"),
            [(f"`{name}`", kind.__name__, str(n)) for name, (kind, n) in example.FIELDS.items()],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def with_commands(parser) -> Iterator:
    """The parser, and those of its commands."""
    yield parser
    for action in parser._actions:  # argparse shows its commands nowhere else
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


def help_of(parser: argparse.ArgumentParser) -> str:
    """Own tables: how argparse wraps differs from one Python to the next."""
    shown = [action for action in parser._actions if action.help is not argparse.SUPPRESS]
    rows = [(f"`{named(one)}`", default_text(one), expanded(parser, one)) for one in shown]
    said = f"```\n{inspect.cleandoc(parser.description)}\n```" if parser.description else ""
    cells = table(("option", "default", "meaning"), rows)
    return "\n\n".join(part for part in (f"### {parser.prog}", said, cells) if part)


def named(action: argparse.Action) -> str:
    """As it is typed: with what follows it, required or in brackets."""
    values = [action.metavar] if isinstance(action.metavar, str) else list(action.metavar or ())
    if action.choices is not None:
        values = ["|".join(map(str, action.choices))]
    elif not values and action.nargs != 0:
        values = [action.dest.upper()]
    many = " …" if action.nargs in ("+", "*") else ""
    option = ", ".join(action.option_strings)
    said = " ".join([option, *(values if action.nargs != 0 else [])]).strip() + many
    return said if action.required else f"[{said}]"


def default_text(action: argparse.Action) -> str:
    if any(action.default is none for none in (None, False, argparse.SUPPRESS)):
        return ""
    values = action.default if isinstance(action.default, (list, tuple)) else [action.default]
    return f"`{' '.join(map(str, values))}`" if values else ""


def expanded(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return " ".join((action.help or "").split()) % (vars(action) | {"prog": parser.prog})


def sections(prefix: str, section: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """A section and those inside it, each with what goes before its fields' names."""
    yield prefix, section
    for name, field in section.model_fields.items():
        for kind in kinds_in(field.annotation):
            yield from sections(f"{prefix}{name}.", kind)


def kinds_in(annotation) -> list[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for part in typing.get_args(annotation) for kind in kinds_in(part)]


def table_of(prefix: str, section: type[BaseModel]) -> str:
    rows = {}
    for base in reversed(section.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            rows |= {name: (f"`{prefix}{name}`", *cells) for name, *cells in fields_of(base)}
    title = f"### {prefix.rstrip('.') or 'the whole'}: {section.__name__}"
    said = inspect.cleandoc(section.__doc__ or "")
    return "\n\n".join(
        [title, said, table(("field", "default", "may be", "meaning"), [*rows.values()])]
    )


def fields_of(section: type[BaseModel]) -> Iterator[tuple[str, str, str, str]]:
    """(name, default, what it may be, meaning) of the fields in a class's own source, whose
    comments say what they mean."""
    source = textwrap.dedent(inspect.getsource(section))
    lines = source.splitlines()
    for node in ast.parse(source).body[0].body:
        if isinstance(node, ast.AnnAssign):
            default, bounds = default_of(node.value)
            kind = ast.unparse(node.annotation).replace("|", "or")
            yield node.target.id, default, f"`{kind}`{bounds}", meaning(lines, node)


def default_of(value: ast.expr | None) -> tuple[str, str]:
    """(default, bounds); a field without a default has to be given."""
    if value is None:
        return "to be given", ""
    if not (isinstance(value, ast.Call) and getattr(value.func, "id", "") == "Field"):
        return f"`{ast.unparse(value)}`", ""
    default = f"`{ast.unparse(value.args[0])}`" if value.args else "to be given"
    bounds = [
        f"{BOUNDS[word.arg]} {ast.unparse(word.value)}"
        for word in value.keywords
        if word.arg in BOUNDS
    ]
    return default, f", {', '.join(bounds)}" if bounds else ""


def meaning(lines: list[str], node: ast.AnnAssign) -> str:
    """The comment lines above a field and the comment behind it."""
    said, above = [], node.lineno - 2
    while above >= 0 and lines[above].strip().startswith("#"):
        said.insert(0, lines[above].strip(" #"))
        above -= 1
    _, _, behind = lines[node.end_lineno - 1].partition("  # ")
    return " ".join([*said, behind]).strip()


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


if __name__ == "__main__":
    OUTPUT.write_text(text())
