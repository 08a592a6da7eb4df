"""Options that every pipeline has: Beam's own arguments, and the folder of its work."""

import argparse

from apache_beam.options.pipeline_options import PipelineOptions

from lake import InputError, cli

BEAM_OPTIONS = "Beam's own options (--runner, --direct_num_workers, --project, …) pass through."
WORK = ".work"  # the folder in the output that a repeated command goes on from


def check_beam_arguments(arguments: list[str], command: str = "beam.convert") -> None:
    """Raise InputError for an argument that Beam does not have; Beam itself would ignore it, and
    with it a mistyped option of ours."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    _, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise InputError(
            f"unknown options {' '.join(unknown)}; see {cli.typed_command(command)} --help"
        )
