"""Where a pipeline runs: Beam's own options -> a runner; a local run to its end."""

import contextlib
import importlib.util
import logging
import sys
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
)

from lake import InputError, Stopped

# DirectRunner first looks for another runner on the internet.
LOCAL = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"


def chosen(beam_arguments: list[str]) -> tuple[PipelineOptions, str]:
    """(Beam's options, the runner's name: LOCAL where it is this machine); raises InputError where
    it is not installed."""
    found = PipelineOptions(beam_arguments)
    standard = found.view_as(StandardOptions)
    if standard.runner in (None, "DirectRunner", "FnApiRunner"):
        standard.runner = LOCAL
    check_installed(standard.runner)
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
        return has_ended(pipeline.run(), runner, found, detach)


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


DATAFLOW = "DataflowRunner"


def check_installed(runner: str) -> None:
    if runner == DATAFLOW and importlib.util.find_spec("apitools") is None:
        raise InputError(f"--runner={runner} needs more: pip install 'radlake[cloud]'")


def has_ended(result, runner: str, options: PipelineOptions, detach: bool) -> bool:
    """Waits for the job unless told to `detach`; Ctrl-C cancels it. Raises Stopped where it
    failed."""
    if runner != DATAFLOW:
        if not detach:
            result.wait_until_finish()
        return not detach
    cloud = options.view_as(GoogleCloudOptions)
    if not result.has_job:
        print(f"a template, not a job: {cloud.template_location}")
        return False
    print(f"job: {url(cloud.project, cloud.region, result.job_id())}", flush=True)
    if not detach:
        _wait(result)
    return not detach


def _wait(result) -> None:
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException

    try:
        result.wait_until_finish()
    except DataflowRuntimeException as error:
        raise Stopped(Stopped.message_in(str(error)) or str(error)) from None
    except KeyboardInterrupt:
        print("cancelling the job", file=sys.stderr, flush=True)
        result.cancel()
        raise Stopped(
            f"cancelled {result.job_id()}; the same command goes on with the shards that are there"
        ) from None


def url(project: str, region: str, job_id: str) -> str:
    """Of the job's page."""
    return f"https://console.cloud.google.com/dataflow/jobs/{region}/{job_id}?project={project}"
