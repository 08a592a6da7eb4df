"""Options that every pipeline checks: arguments that Beam would ignore, and patterns of files."""

import argparse

from apache_beam.options.pipeline_options import PipelineOptions

from beam.running import files
from lake import InputError

WORK = ".work"


def check_beam_arguments(arguments: list[str], command: str = "beam.convert") -> None:
    """PipelineOptions drops what it does not know; a mistyped flag must not be dropped in
    silence."""
    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False, conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(known)
    _, unknown = known.parse_known_args(arguments)
    if unknown:
        raise InputError(f"unknown options {' '.join(unknown)}; see python -m {command} --help")


def check_matches(name: str, pattern: str | None) -> None:
    """Raises InputError where the pattern of an option matches no file, or cannot be listed."""
    if pattern and not files.matching(name, pattern, limit=1):
        raise InputError(
            f"--{name}={pattern}: no file matches; quote the pattern so that the shell leaves it "
            f"alone"
        )
