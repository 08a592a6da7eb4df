"""The reference in docs/ is what the code says, and the pages' commands are ones that it takes."""

import argparse
import functools
import importlib
import re
import runpy
import shlex
from pathlib import Path

import pytest

from beam.running import options
from radlake import __main__ as radlake
from radlake import shipped
from radlake.words import WORDS
from trainer.config import files

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "docs" / "reference.py"
PAGES = "README.md", "docs/getting_started.md", "docs/launch.md", "docs/scale.md"
LAUNCHERS = {  # {module: a part of the plan that it prints}
    "launch.dataflow": "beam.convert",
    "launch.vertex": "workerPoolSpecs",
    "launch.tpu_vm": "queued-resources",
}
OTHERS = {"curl", "docker", "echo", "export", "gcloud", "kaggle", "source", "tensorboard"}


def test_the_reference_is_up_to_date():
    text = runpy.run_path(str(SCRIPT))["text"]()
    assert text == SCRIPT.with_suffix(".md").read_text(), "run python docs/reference.py"
    # Each comment stands beside its own field.
    assert (
        "| `data.side` | `1024` | a whole number ≥ 16, a multiple of 16 | the network's input"
        in text
    )
    assert "| `train.keep` | `1` | a whole number ≥ 1 | The number of best epochs whose" in text


def commands(page: str) -> list[list[str]]:
    """Return the words of each line of a page's code blocks that have no language."""
    fenced = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
    blocks = [
        block for language, block in fenced.findall((ROOT / page).read_text()) if not language
    ]
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@functools.cache
def parser_of(module: str) -> argparse.ArgumentParser:
    [name] = {entry.module for entry in WORDS.values()} & {module, f"{module}.__main__"}
    return importlib.import_module(name).parser()


def check(words: list[str]) -> None:
    """Raise if the program would refuse the words, as far as that does not depend on files."""
    match words:
        case ["radlake", *arguments]:
            entry, rest = radlake.find(arguments)
            module = entry.module.removesuffix(".__main__")
            check(["python", "-m", module, *entry.leading, *rest])
        case [program, "-m", module, *arguments] if program.endswith("python"):
            flags, rest = parser_of(module).parse_known_args(arguments)
            if module == "launch.dataflow":
                check(["python", "-m", "beam.convert", *rest])
            elif module == "launch.cluster":
                check(flags.command)
            elif module in ("beam.convert", "beam.predict"):
                options.check_beam_arguments(rest)
            elif "config" in flags:
                files.load(ROOT / shipped.find(flags.config), rest, lake=flags.lake)
            else:
                assert not rest, rest
        case ["python", script, *_]:
            assert (ROOT / script).exists()
        case ["make", target, *_]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        case ["docker", "build", *arguments] if "-f" in arguments:
            assert (ROOT / arguments[arguments.index("-f") + 1]).exists()
        case ["pip", "install", *_, package]:
            extras = re.fullmatch(r"(?:radlake|\.)\[(.+)\]", package)[1].split(",")
            assert all(f'"{extra}": ' in (ROOT / "setup.py").read_text() for extra in extras)
        case [program, *_]:
            assert program in OTHERS or words == ["python3", "-m", "venv", ".venv"]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_one_that_its_program_takes(page):
    lines = commands(page)
    assert len(lines) > 3
    for words in lines:
        check(words)


LAUNCHES = [words for words in commands("docs/launch.md") if {*words[2:3]} & LAUNCHERS.keys()]


@pytest.mark.parametrize("words", LAUNCHES, ids=lambda words: words[2])
def test_the_dry_runs_of_the_how_to_print_and_do_nothing(words, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    _, _, module, *arguments = words
    assert arguments[-1] == "--dry_run"
    assert importlib.import_module(module).main(arguments) == 0
    assert LAUNCHERS[module] in capsys.readouterr().out


def test_there_is_a_dry_run_of_every_launcher():
    assert {words[2] for words in LAUNCHES} == LAUNCHERS.keys()
