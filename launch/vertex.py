"""python -m launch.vertex: starts one training run as a custom job of Vertex AI, on one or more
machines with GPUs or on a TPU host. Takes what trainer.task train takes; --dry_run prints the job's
YAML.

Everything of the run is in the bucket under --workdir: launch/ has the sdist and the config that
this command uploads, logs/ is the workdir of trainer.task, which a TensorBoard of Vertex AI reads,
and model/ is there at the end, for evaluate, predict and export to take as a workdir. A run that
ends with exit code 42 is started again on its machine; a spot machine that is taken away is
replaced by the service. Both go on from the checkpoint.
"""

if __name__ == "__main__":  # before the rest is imported, which takes a while
    from lake import signals

    signals.arm()

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from lake import InputError, signals
from lake.terminal import cli
from launch import approval, custom_job, machines, training_run

EXIT_CODES = {"SUCCEEDED": 0, "FAILED": 1, "CANCELLED": 1, "EXPIRED": 1, "PARTIALLY_SUCCEEDED": 1}
POLL_SECONDS = 30.0
REPEAT = "the same command goes on from the newest checkpoint, in another job"

EXAMPLE = (
    "--project my-project --region us-central1 --image us-docker.pkg.dev/my-project/r/trainer "
    "--accelerator a100 --dry_run"
)


def parser() -> argparse.ArgumentParser:
    """Return the parser of launch.vertex."""
    parser = training_run.parser("launch.vertex", __doc__, EXAMPLE)
    add = parser.add_argument_group("machines").add_argument
    approval.add_place(add, "region", "such as us-central1; best where the bucket is")
    image_help = "the image of launch/trainer.Dockerfile in a registry"
    add("--image", required=True, metavar="URI", help=image_help)
    add("--accelerator", choices=[*machines.GPUS, *machines.TPUS], required=True, help="kind")
    add("--gpus", type=int, metavar="N", help="per machine; default: the fewest that exist")
    add("--machines", type=cli.at_least(1), default=1, metavar="N", help="how many")
    add("--spot", action="store_true", help="cheaper machines that may be taken away at any time")
    days = {"type": cli.between(0, math.inf), "default": 7.0, "metavar": "DAYS"}
    add("--max_days", help="after which the service ends the job", **days)
    add("--disk_gb", type=cli.at_least(1), default=200, metavar="GB", help="per machine")
    add = parser.add_argument_group("job").add_argument
    name = cli.matching("[a-z][a-z0-9-]{0,62}", "a-z, 0-9 and -, at most 63")
    add("--name", type=name, metavar="NAME", help="default: radlake-CONFIG")
    label = cli.matching("[a-z][a-z0-9_-]{0,62}=[a-z0-9_-]{0,63}", "key=value of a-z, 0-9, _ and -")
    add(
        "--label",
        type=label,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="may be repeated",
    )
    add("--service_account", metavar="EMAIL", help="the account that the job runs as")
    tensorboard = {"metavar": "projects/P/locations/R/tensorboards/ID"}
    add("--tensorboard", help="that shows the curves; needs --service_account", **tensorboard)
    add("--network", metavar="projects/NUMBER/global/networks/NAME", help="to peer with")
    add("--wait", action="store_true", help="until the job has ended; Ctrl-C cancels it")
    approval.add_flags(add)
    return parser


def run(flags: argparse.Namespace, overrides: list[str]) -> int:
    """Print the plan, ask, launch; return the exit code."""
    from launch import preflight  # pydantic takes 0.3 s to import

    config = training_run.config(flags, overrides)
    num_replicas = machines.vertex_replicas(flags.accelerator, flags.gpus, flags.machines)
    rental = preflight.Rental(
        flags.project,
        num_replicas,
        f"{flags.machines} x {flags.accelerator}",
        custom_job.needs(flags, num_replicas),
    )
    facts = preflight.plan(config, overrides, rental)
    with training_run.files(config) as files:
        package = files[0].name
        job = custom_job.request(flags, package)
        text = f"{facts}\n{custom_job.as_yaml(job, flags, package)}"
        if not approval.ask(text, flags.dry_run, flags.yes):
            return 0
        return _launch(flags, job, files)


def _launch(flags: argparse.Namespace, job: dict, files: tuple[Path, ...]) -> int:
    """Upload the files, create the job and return an exit code: at once, or with --wait at the
    job's end. Raises InputError where Google Cloud refuses."""
    try:
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError
        from google.cloud import aiplatform_v1, storage
    except ImportError as error:
        raise InputError(f"{error}; pip install 'radlake[cloud]'") from None
    try:
        upload(storage.Client(project=flags.project), files, custom_job.staging(flags))
        endpoint = {"api_endpoint": f"{flags.region}-aiplatform.googleapis.com"}
        client = aiplatform_v1.JobServiceClient(client_options=endpoint)
        signals.set_repeat("a job may have started: look before you run it again")
        name = submit(client, job, f"projects/{flags.project}/locations/{flags.region}")
        print(f"job: {page(name)}", flush=True)
        if flags.wait:
            return wait(client, name)
    except (GoogleAPIError, GoogleAuthError) as error:
        raise InputError(f"Google Cloud refuses: {error}") from None
    place = [f"--project={flags.project}", f"--region={flags.region}"]
    for verb in ("stream-logs", "cancel"):
        print(shlex.join(["gcloud", "ai", "custom-jobs", verb, name.split("/")[-1], *place]))
    return 0


def upload(client, files: Iterable[Path], folder: str) -> None:
    """Upload files into gs://BUCKET/FOLDER; `client`: a google.cloud.storage.Client."""
    bucket, _, prefix = folder.removeprefix("gs://").partition("/")
    for path in files:
        client.bucket(bucket).blob(f"{prefix}/{path.name}").upload_from_filename(str(path))


def submit(client, job: dict, parent: str) -> str:
    """Create the job and return its name, projects/P/locations/R/customJobs/ID; `client`: a
    JobServiceClient."""
    from google.cloud.aiplatform_v1.types import CustomJob

    message = CustomJob.from_json(json.dumps(job))
    return client.create_custom_job(parent=parent, custom_job=message).name


def wait(client, name: str, seconds: float = POLL_SECONDS) -> int:
    """Wait for the job's end and return an exit code; prints each new state. A signal cancels the
    job."""
    state = None
    with signals.raising():
        try:
            while state not in EXIT_CODES:
                if state:
                    time.sleep(seconds)
                job = client.get_custom_job(name=name)
                last, state = state, job.state.name.removeprefix("JOB_STATE_")
                if state != last:
                    print(state.lower(), flush=True)
        except KeyboardInterrupt:
            client.cancel_custom_job(name=name)
            signals.set_repeat(f"cancelled {name}; {REPEAT}")
            raise
    if job.error.message:
        print(f"failed: {job.error.message}", file=sys.stderr)
    return EXIT_CODES[state]


def page(name: str) -> str:
    """Return the address of the job's page; `name`: as `submit` returns it."""
    _, project, _, region, _, number = name.split("/")
    jobs = f"https://console.cloud.google.com/vertex-ai/locations/{region}/training"
    return f"{jobs}/{number}?project={project}"


def main(argv: list[str]) -> int:
    flags, overrides = cli.parse(parser(), argv, is_passed=lambda name: "." in name)
    return cli.exit_code(lambda: run(flags, overrides))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
