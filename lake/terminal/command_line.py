"""The parser that all commands have. Out: help in groups with every default, one line for a
mistake, and for a mistyped option or value the one that was probably meant."""

import argparse
import re
from collections.abc import Iterable

from lake import __version__
from lake.terminal import suggestions

NAME = re.compile(r"--?[A-Za-z][^\s=]*")  # of an option, as argparse tells it from a value
NO_DEFAULT = (None, False, argparse.SUPPRESS)


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of descriptions, and writes defaults behind the help of options."""

    def _get_help_string(self, action: argparse.Action) -> str:
        """Return the help with its default, unless there is none, or the text has it in words."""
        text = action.help or ""
        is_plain = any(action.default is value for value in NO_DEFAULT)
        if is_plain or action.default in ([], (), "") or "default" in text:
            return text
        values = action.default if isinstance(action.default, (list, tuple)) else [action.default]
        default = " ".join(map(str, values)).replace("%", "%%")
        return f"{text} (default: {default})".strip()


class Parser(argparse.ArgumentParser):
    """Takes no abbreviated option, and has --quiet, --verbose and --version; `example`: what may
    follow the command's name, a line per example."""

    def __init__(self, *positional, example: str = "", epilog: str = "", **more):
        super().__init__(
            *positional,
            **{"formatter_class": Formatter, "allow_abbrev": False, "add_help": False} | more,
        )
        lines = [f"  {self.prog} {line}" for line in example.splitlines()]
        title = "examples:" if len(lines) > 1 else "example:"
        examples = "\n".join([title, *lines]) if lines else ""
        self.epilog = "\n\n".join(filter(None, [examples, epilog]))
        self.general = self.add_argument_group("general")
        add = self.general.add_argument
        add("-h", "--help", action="help", help="print this and exit")
        volume = self.general.add_mutually_exclusive_group().add_argument
        # Without SUPPRESS the default of a subcommand would replace what its command was given.
        switch = {"action": "store_true", "default": argparse.SUPPRESS}
        volume("--quiet", help="print results, warnings and errors, no progress", **switch)
        volume("--verbose", help="print the libraries' own logs, too", **switch)
        version = f"radlake {__version__}"
        add("--version", action="version", version=version, help="print the version and exit")

    def option_names(self) -> list[str]:
        """Return every option, with its dashes."""
        return [name for action in self._actions for name in action.option_strings]

    def subparsers(self) -> dict[str, "Parser"]:
        """Return the parsers of the subcommands by their names."""
        action_type = argparse._SubParsersAction  # argparse lists them nowhere else
        tables = [action.choices for action in self._actions if isinstance(action, action_type)]
        return tables[0] if tables else {}

    def required_names(self) -> list[str]:
        """Return the options that must be given."""
        return [name for one in self._actions if one.required for name in one.option_strings]

    def format_help(self) -> str:
        """Return the help: a usage with the required arguments alone, and the general options
        last."""
        self._action_groups.sort(key=lambda group: group is self.general)
        if self.usage is None and not self.subparsers():
            words = [_required_usage(action) for action in self._actions if action.required]
            self.usage = " ".join(["%(prog)s", *words, "[options]"])
        return super().format_help()

    def error(self, message: str) -> None:
        """Print a mistake in one line and exit with code 2."""
        end = " " if message.endswith("?") else "; "
        self.exit(2, f"error: {message}{end}{self.prog} --help lists the options\n")

    def _check_value(self, action: argparse.Action, value) -> None:
        """Raise an ArgumentError for a value that is not among the choices."""
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        question = suggestions.question(str(value), choices)
        message = f"{value!r}: expected one of {', '.join(choices)}; {question}".rstrip("; ")
        raise argparse.ArgumentError(action, message)


def _required_usage(action: argparse.Action) -> str:
    """Return a required option, or a positional value, as it is typed."""
    values = action.metavar or "|".join(map(str, action.choices or ())) or action.dest.upper()
    many = " …" if action.nargs in ("+", "*") else ""
    return " ".join([*action.option_strings[:1], f"{values}{many}"])


def unknown_options(parser: Parser, argv: list[str]) -> tuple[Parser, list[str]]:
    """Return the parser of the command line's subcommand, or this one, and the options in the line
    that it does not have."""
    unknown, names = [], set(parser.option_names())
    for word in argv:
        if word == "--":
            break
        if word in parser.subparsers():
            parser = parser.subparsers()[word]
            names |= {*parser.option_names()}
        name = NAME.match(word)
        if name and name[0] not in names and name[0] == word.partition("=")[0]:
            unknown.append(name[0])
    return parser, unknown


def refuse(parser: Parser, unknown: list[str], more_names: Iterable[str] = ()) -> None:
    """Exit with code 2 and the options that were probably meant, if there are unknown ones."""
    names = [*parser.option_names(), *more_names]
    questions = {name: suggestions.question(name, names) for name in unknown}
    if len(questions) == 1:
        [(name, question)] = questions.items()
        parser.error(f"unknown option {name}; {question}".removesuffix("; "))
    if questions:
        parts = [f"{name} ({text})" if text else name for name, text in questions.items()]
        parser.error(f"unknown options {', '.join(parts)}")
