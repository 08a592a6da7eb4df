"""radlake WORD …, or python -m radlake WORD …: the commands of all packages under one name.

A module is imported when its word is used, so that help and version come at once and each command
needs only its own packages.
"""

import argparse
import difflib
import importlib
import sys
from pathlib import Path

from lake import InputError, cli
from radlake import __version__, words
from radlake.words import WORDS, Word

OWN = ("beam", "lake", "launch", "radlake", "trainer")  # our packages, which no extra brings


def parser(words: dict[str, Word]) -> argparse.ArgumentParser:
    """Return the parser of what comes before one of these words."""
    width = max(map(len, words))
    lines = [f"  {word:{width}}  {entry.help}" for word, entry in words.items()]
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


def group(argv: list[str]) -> dict[str, Word]:
    """Return the words of two that begin with the first of `argv`, such as `launch vertex`."""
    beginning = f"{argv[0]} " if argv else " "
    return {word: entry for word, entry in WORDS.items() if word.startswith(beginning)}


def find(argv: list[str]) -> tuple[Word, list[str]]:
    """Return the command that `argv` begins with and what follows it; raise InputError where there
    is none."""
    length = 2 if group(argv) else 1
    typed = " ".join(argv[:length])
    if typed in WORDS:
        return WORDS[typed], argv[length:]
    words = group(argv) or [*WORDS, *(word.split()[0] for word in WORDS if " " in word)]
    most = len(words) if group(argv) else 3
    near = dict.fromkeys(difflib.get_close_matches(typed, words, n=most))
    question = f"did you mean {' or '.join(near)}? " if near else ""
    raise InputError(f"radlake {typed}: no such command; {question}radlake --help lists them all")


def call(word: Word, arguments: list[str]) -> int:
    """Call a word's command and return its exit code; raise InputError where a package of its extra
    is missing, which some modules import only when they run."""
    try:
        return importlib.import_module(word.module).main([*word.leading, *arguments])
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if word.extra is None or package in ("", *OWN):
            raise
        raise InputError(
            f"{package} is not installed, which this command needs; "
            f"pip install 'radlake[{word.extra}]'"
        ) from None


def main(argv: list[str]) -> int:
    """Run the command that `argv` names and return its exit code."""
    options = argv[1:] if group(argv) else argv
    if not options or options[0].startswith("-"):
        overview = parser(group(argv) or WORDS)
        overview.parse_args(options)
        overview.print_help(sys.stderr)
        return 2
    return cli.exit_code(lambda: call(*find(argv)))


def start() -> None:
    """Run the command line of this process; setup.py makes the script `radlake` of it."""
    program = "python -m radlake" if Path(sys.argv[0]).name == "__main__.py" else "radlake"
    cli.SPELLINGS.update(words.spellings(program))
    cli.end(main(sys.argv[1:]))


if __name__ == "__main__":
    start()
