"""Where a pipeline runs: Beam's own options -> a runner; a local run to its end."""

import contextlib
import logging
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from beam import Stopped, remote
from lake import InputError

# DirectRunner first looks for another runner on the internet.
LOCAL = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"


def chosen(beam_arguments: list[str]) -> tuple[PipelineOptions, str]:
    """(Beam's options, the runner's name: LOCAL where it is this machine); raises InputError where
    it is not installed."""
    found = PipelineOptions(beam_arguments)
    standard = found.view_as(StandardOptions)
    if standard.runner in (None, "DirectRunner", "FnApiRunner"):
        standard.runner = LOCAL
    remote.check_installed(standard.runner)
    return found, standard.runner


def pipeline(found: PipelineOptions) -> beam.Pipeline:
    try:
        return beam.Pipeline(options=found)
    except ValueError as error:  # of Beam's own options
        raise InputError(str(error)) from None


def run_to_the_end(pipeline: beam.Pipeline) -> None:
    """Of a local run; raises Stopped."""
    # What Stopped has to say is said once, without the traceback that Beam logs.
    common = logging.getLogger("apache_beam.runners.common")
    common.addFilter(lambda record: Stopped.OPEN not in record.getMessage())
    with _stops():
        pipeline.run().wait_until_finish()


def run_remotely(
    pipeline: beam.Pipeline, runner: str, found: PipelineOptions, detach: bool
) -> bool:
    """Whether the job has ended; raises Stopped."""
    with _stops():
        return remote.has_ended(pipeline.run(), runner, found, detach)


@contextlib.contextmanager
def _stops() -> Iterator[None]:
    """In it, a runner's error that a worker's Stopped has become is that Stopped again."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, Stopped):
            raise
        stopped = Stopped.message_in(str(error))
        if stopped is None:
            raise
        raise Stopped(stopped) from None
