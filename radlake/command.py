"""radlake WORD …, or python -m radlake WORD …: the commands of all packages under one name.

A module is imported when its word is used, so that help and version come at once and each command
needs only its own packages.
"""

import argparse
import importlib
import sys
from pathlib import Path
from typing import NoReturn

from lake import InputError
from lake.terminal import cli, suggestions
from radlake import __version__, words
from radlake.words import WORDS, Word

OUR_PACKAGES = ("beam", "lake", "launch", "radlake", "trainer")  # no extra installs them


def parser(entries: dict[str, Word]) -> argparse.ArgumentParser:
    """Return the parser of what comes before the word of one of these entries."""
    width = max(map(len, entries))
    lines = [f"  {word:{width}}  {entry.help}" for word, entry in entries.items()]
    parser = argparse.ArgumentParser(
        prog="radlake",
        usage="radlake WORD …",
        description="From medical images to a trained segmentation network.",
        epilog="\n".join(["words:", *lines, "", "radlake WORD --help lists a word's options"]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"radlake {__version__}")
    return parser


def words_of_group(argv: list[str]) -> dict[str, Word]:
    """Return the entries of two words whose first word is that of `argv`, such as launch vertex."""
    prefix = f"{argv[0]} " if argv else " "
    return {word: entry for word, entry in WORDS.items() if word.startswith(prefix)}


def find(argv: list[str]) -> tuple[Word, list[str]]:
    """Return the command that `argv` begins with and what follows it; raise InputError where there
    is none."""
    group = words_of_group(argv)
    length = 2 if group else 1
    command = " ".join(argv[:length])
    if command in WORDS:
        return WORDS[command], argv[length:]
    first_words = (word.split()[0] for word in WORDS if " " in word)
    candidates = group or [*WORDS, *first_words]
    question = suggestions.question(command, candidates, len(group) or 3)
    advice = f"{question} radlake --help lists them all".strip()
    raise InputError(f"radlake {command}: no such command; {advice}")


def call(word: Word, arguments: list[str]) -> int:
    """Call a word's command and return its exit code; raise InputError where a package of its extra
    is missing, which some modules import only when they run."""
    try:
        return importlib.import_module(word.module).main([*word.leading, *arguments])
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if word.extra is None or package in ("", *OUR_PACKAGES):
            raise
        raise InputError(
            f"{package} is not installed, which this command needs; "
            f"pip install 'radlake[{word.extra}]'"
        ) from None


def main(argv: list[str]) -> int:
    """Run the command that `argv` names and return its exit code."""
    group = words_of_group(argv)
    options = argv[1:] if group else argv
    if not options or options[0].startswith("-"):
        overview = parser(group or WORDS)
        overview.parse_args(options)
        overview.print_help(sys.stderr)
        return 2
    return cli.exit_code(lambda: call(*find(argv)))


def run_command_line() -> NoReturn:
    """Run the command line of this process, and end it."""
    program = "python -m radlake" if Path(sys.argv[0]).name == "__main__.py" else "radlake"
    cli.SPELLINGS.update(words.spellings(program))
    if sys.argv[1:2] and WORDS.get(sys.argv[1], WORDS["show"]).extra:  # TensorFlow works in it
        cli.begin()
    cli.end(main(sys.argv[1:]))
