"""The pages say what the code says: the reference, every command, the tables of reasons and of the
record's fields. They are short, in the site's navigation, and their links lead somewhere."""

import argparse
import ast
import functools
import importlib
import re
import runpy
import shlex
from pathlib import Path

import pytest
import yaml

from beam.running import options
from lake.records import example
from radlake import command as radlake
from radlake import shipped
from radlake.words import WORDS
from trainer.config import files

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "docs" / "reference.py"
PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))
# Pages of the site outside docs/.
ABOUT = ["README.md", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "SECURITY.md", "CHANGELOG.md"]
LONG = {"docs/reference.md", "docs/benchmarks.md"}  # to look things up, not to read
LAUNCHERS = {  # {launcher: a part of the plan that it prints}
    "dataflow": "beam.convert",
    "vertex": "workerPoolSpecs",
    "tpu_vm": "queued-resources",
}
OTHERS = {"curl", "docker", "echo", "export", "gcloud", "kaggle", "openssl", "source"}
OTHERS |= {"tensorboard"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def read(page: str) -> str:
    return (ROOT / page).read_text()


def test_the_reference_is_up_to_date():
    text = runpy.run_path(str(SCRIPT))["text"]()
    assert text == read("docs/reference.md"), "run python docs/reference.py"
    # Each comment stands beside its own field.
    assert (
        "| `data.side` | `1024` | a whole number ≥ 16, a multiple of 16 | the network's input"
        in text
    )
    assert "| `train.keep` | `1` | a whole number ≥ 1 | The number of best epochs whose" in text


# --- commands ---


def commands(page: str) -> list[list[str]]:
    """Return the words of each line of a page's code blocks that have no language."""
    blocks = [block for language, block in FENCE.findall(read(page)) if not language]
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@functools.cache
def parser_of(module: str) -> argparse.ArgumentParser:
    [name] = {entry.module for entry in WORDS.values()} & {module, f"{module}.__main__"}
    return importlib.import_module(name).parser()


def check(words: list[str]) -> None:
    """Raise if the program would refuse the words, as far as that does not depend on files."""
    match words:
        case ["radlake", "--version"]:
            pass
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
            elif module == "launch.slurm":
                number = {f"{{{flags.array.name}}}": "0"} if flags.array else {}
                check([replaced(word, number) for word in flags.command])
            elif module in ("beam.convert", "beam.predict"):
                options.check_beam_arguments(rest)
            elif "config" in flags:
                files.load(ROOT / shipped.find(flags.config), rest, lake=flags.lake)
            else:
                assert not rest, rest
        case ["python", script, *_]:
            assert (ROOT / script).exists()
        case ["make", target, *_]:
            assert re.search(rf"^{target}:", read("Makefile"), re.MULTILINE)
        case ["docker", "build", *arguments] if "-f" in arguments:
            assert (ROOT / arguments[arguments.index("-f") + 1]).exists()
        case ["pip", "install", *_, package] if "[" in package:
            extras = re.fullmatch(r"(?:radlake|\.)\[(.+)\]", package)[1].split(",")
            assert all(f'"{extra}": ' in read("setup.py") for extra in extras)
        case [program, *_]:
            assert program in OTHERS or words == ["python3", "-m", "venv", ".venv"]


def replaced(word: str, values: dict[str, str]) -> str:
    """Return a word with the values of what stands in it."""
    for name, value in values.items():
        word = word.replace(name, value)
    return word


WITH_COMMANDS = [*ABOUT, *sorted({*PAGES} - {"docs/reference.md"})]


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_every_command_of_a_page_is_one_that_its_program_takes(page):
    for words in commands(page):
        check(words)


def test_the_pages_have_commands():
    counts = {page: len(commands(page)) for page in WITH_COMMANDS}
    assert sum(counts.values()) > 80 and sum(count > 3 for count in counts.values()) > 10


LAUNCHES = [
    words[2:] for words in commands("docs/google_cloud.md") if words[:2] == ["radlake", "launch"]
]
LAUNCHES = [words for words in LAUNCHES if words[0] in LAUNCHERS]


@pytest.mark.parametrize("words", LAUNCHES, ids=lambda words: words[0])
def test_the_dry_runs_of_the_how_to_print_and_do_nothing(words, one_sdist, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert words[-1] == "--dry_run"
    assert radlake.main(["launch", *words]) == 0
    assert LAUNCHERS[words[0]] in capsys.readouterr().out


def test_there_is_a_dry_run_of_every_launcher():
    assert {words[0] for words in LAUNCHES} == LAUNCHERS.keys()


SLURM = [words[1:] for words in commands("docs/slurm.md") if words[1:3] == ["launch", "slurm"]]


@pytest.mark.parametrize("words", SLURM, ids=range(len(SLURM)))
def test_the_dry_runs_on_slurm_print_a_script(words, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert "--dry_run" in words
    assert radlake.main(words) == 0
    assert "\n#SBATCH --nodes=" in capsys.readouterr().out


# --- tables ---


def reasons() -> set[str]:
    """Return the reasons that the code gives for rejects."""
    calls = [
        node
        for path in (*(ROOT / "lake").rglob("*.py"), *(ROOT / "beam").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    firsts = [call.args[0] for call in calls if call.func.id in ("Reject", "reject_damage")]
    return {first.value for first in firsts if isinstance(first, ast.Constant)}


def test_the_reasons_for_rejects_are_those_of_the_code():
    table = read("docs/troubleshooting.md").split("## Reasons for rejects\n")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    table_reasons = {name for cell in cells for name in re.findall(r"`(.+?)`", cell)}
    assert len(table_reasons) > 40 and table_reasons == reasons()


def test_the_page_of_the_lake_has_every_field_of_a_record():
    table = read("docs/lake.md").split("## The record\n")[1]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert [name for cell in cells for name in re.findall(r"`(.+?)`", cell)] == [*example.FIELDS]


# --- pages ---


def test_readme_is_short():
    assert len(read("README.md").split()) <= 1700
    assert max(map(len, read("README.md").splitlines())) <= 120


@pytest.mark.parametrize("page", sorted({*PAGES} - LONG))
def test_a_page_is_read_in_minutes(page):
    assert len(read(page).split()) <= 1500


def test_every_page_is_in_the_navigation_once():
    def pages(entry) -> list[str]:
        entries = entry.values() if isinstance(entry, dict) else entry
        return [entry] if isinstance(entry, str) else sum(map(pages, entries), [])

    about = ["readme.md", *ABOUT[1:]]  # as docs/outside.py names them in the site
    expected = [*about, *(Path(page).name for page in PAGES)]
    assert sorted(pages(yaml.safe_load(read("mkdocs.yml"))["nav"])) == sorted(expected)


def links(page: str) -> list[str]:
    """Return where a page's links and pictures lead, but for the web."""
    text = re.sub(r"`[^`\n]+`", "", FENCE.sub("", read(page)))
    pairs = re.findall(r'\]\(([^)\s]+)\)|\bsrc="([^"]+)"', text)
    return [link for pair in pairs for link in pair if link and "://" not in link]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@pytest.mark.parametrize("page", [*ABOUT, *PAGES])
def test_links_lead_to_files_and_headings(page):
    for link in links(page):
        name, _, anchor = link.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.is_file(), link
        assert not anchor or anchor in anchors(path), link


def test_pictures_are_small_and_used():
    pictures = {path for path in (ROOT / "docs").rglob("*") if path.suffix in (".png", ".jpg")}
    assert all(path.stat().st_size < 200_000 for path in pictures)
    targets = {
        ((ROOT / page).parent / link).resolve() for page in (*ABOUT, *PAGES) for link in links(page)
    }
    assert pictures <= targets
