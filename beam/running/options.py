"""Options that every pipeline has: Beam's own arguments, and the folder of its work. Beam, which
takes seconds to import, comes in only to check its own options."""

import argparse
import functools
import importlib.util
import re
from pathlib import Path

from lake import InputError
from lake.records.manifest import SIDECARS
from lake.terminal import cli

BEAM_OPTIONS = "Beam's own options (--runner, --direct_num_workers, --project, …) pass through."
WORK = SIDECARS  # the folder in the output that a repeated command goes on from
# The runners of this machine: Beam's DirectRunner becomes the last in the end.
LOCAL_RUNNERS = (None, "DirectRunner", "FnApiRunner")
LOCAL = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"


def is_beams(name: str) -> bool:
    """Return whether an option may be one of Beam's, by its name alone."""
    names = names_in_source()
    return not names or name in names


@functools.cache
def names_in_source() -> frozenset[str]:
    """Return the options that Beam's source names, which takes milliseconds to read and seconds to
    import; none where it is not there."""
    package = importlib.util.find_spec("apache_beam")
    source = package and Path(package.origin).parent / "options" / "pipeline_options.py"
    text = source.read_text() if source and source.exists() else ""
    return frozenset(re.findall(r"""['"](--[\w-]+)['"]""", text))


def is_local_runner(arguments: list[str]) -> bool:
    """Return whether Beam's arguments name a runner of this machine, or none."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--runner")
    return parser.parse_known_args(arguments)[0].runner in (*LOCAL_RUNNERS, LOCAL)


def check_beam_arguments(arguments: list[str], command: str = "beam.convert") -> None:
    """Raise InputError for an argument that Beam does not have; Beam itself would ignore it, and
    with it a mistyped option of ours."""
    from apache_beam.options.pipeline_options import PipelineOptions

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    _, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise InputError(
            f"unknown options {' '.join(unknown)}; see {cli.typed_command(command)} --help"
        )
