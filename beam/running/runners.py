"""Where a pipeline runs: Beam's own options -> a runner; starts it and waits for its end."""

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

from beam.running import read_once
from beam.running.options import LOCAL, LOCAL_RUNNERS
from lake import InputError, Refused, Stopped, signals

DATAFLOW = "DataflowRunner"


def parse(beam_arguments: list[str]) -> tuple[PipelineOptions, str]:
    """Return Beam's options and the runner's name, LOCAL for this machine; raise InputError where
    the runner is not installed."""
    read_once.remember_signatures()
    options = read_once.Options(beam_arguments)
    standard = options.view_as(StandardOptions)
    # DirectRunner would first look for other runners on the internet.
    if standard.runner in LOCAL_RUNNERS:
        standard.runner = LOCAL
    if standard.runner == DATAFLOW and importlib.util.find_spec("apitools") is None:
        raise InputError(f"--runner={DATAFLOW} needs more: pip install 'radlake[cloud]'")
    return options, standard.runner


def pipeline(options: PipelineOptions) -> beam.Pipeline:
    """Return an empty pipeline; raise InputError where Beam refuses its options."""
    try:
        return beam.Pipeline(options=options)
    except ValueError as error:
        raise InputError(str(error)) from None


def run_locally(pipeline: beam.Pipeline) -> None:
    """Run to the end; raise Stopped where a worker stopped."""
    # The command prints Stopped's message; without this Beam would log it too, with a traceback.
    common = logging.getLogger("apache_beam.runners.common")
    common.addFilter(lambda record: _stopped_in(record.getMessage()) is None)
    with _restore_stopped(), signals.keep_from_children():
        pipeline.run().wait_until_finish()


def run_remotely(
    pipeline: beam.Pipeline, runner: str, options: PipelineOptions, detach: bool
) -> bool:
    """Start the job and wait for it unless `detach`; return whether it has ended. Raises Stopped
    where it failed."""
    signals.set_repeat("a job may have started: look before you run it again")
    with _restore_stopped():
        return wait(pipeline.run(), runner, options, detach)


@contextlib.contextmanager
def _restore_stopped() -> Iterator[None]:
    """Raise again the Stopped of a worker: a runner adds to its text, or leaves only the text in
    its own error."""
    try:
        yield
    except RuntimeError as error:
        stopped = _stopped_in(str(error))
        if stopped is None:
            raise
        raise stopped from None


def _stopped_in(text: str) -> Stopped | None:
    """Return the Stopped whose message is in the text of a runner's error, None without one."""
    for kind in (Refused, Stopped):
        message = kind.message_in(text)
        if message is not None:
            return kind(message)
    return None


def wait(result, runner: str, options: PipelineOptions, detach: bool) -> bool:
    """Wait for a job unless `detach`; return whether it has ended. Prints the page of a Dataflow
    job, which Ctrl-C cancels. Raises Stopped where the job failed or was cancelled."""
    if runner != DATAFLOW:
        if not detach:
            result.wait_until_finish()
        return not detach
    cloud = options.view_as(GoogleCloudOptions)
    if not result.has_job:
        print(f"a template, not a job: {cloud.template_location}")
        return False
    page = f"https://console.cloud.google.com/dataflow/jobs/{cloud.region}/{result.job_id()}"
    print(f"job: {page}?project={cloud.project}", flush=True)
    if not detach:
        _wait_for_dataflow(result)
    return not detach


def _wait_for_dataflow(result) -> None:
    """Wait for the end of a Dataflow job; raise Stopped where it failed. A signal cancels it."""
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException

    with signals.raising():
        try:
            result.wait_until_finish()
        except DataflowRuntimeException as error:
            raise _stopped_in(str(error)) or Stopped(str(error)) from None
        except KeyboardInterrupt:
            print("cancelling the job", file=sys.stderr, flush=True)
            result.cancel()
            signals.set_repeat(
                f"cancelled {result.job_id()}; the same command goes on with the shards that are "
                f"finished"
            )
            raise
