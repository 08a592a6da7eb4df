"""A job on a remote runner: what Dataflow needs here, where its job is, waiting or leaving.
In: the runner's result; out: whether the job has ended."""

import importlib.util
import sys

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

from beam import Stopped
from lake import InputError

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
