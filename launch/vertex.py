"""python -m launch.vertex: one training run as a custom job of Vertex AI, on 1 … N machines with
GPUs or on a TPU host. In: what trainer.task train takes; out: the job, or with --dry_run its YAML.

Everything of the run is under --workdir, in the bucket: launch/ (the sdist and the config that are
uploaded), logs/ (the workdir of trainer.task, which a TensorBoard of Vertex AI reads) and at the
end model/ (what evaluate, predict and export take as a workdir). What ends
with exit code 42 starts itself again; a spot machine that is taken, the service gives anew. Both go
on from the checkpoint.
"""

import argparse
import json
import re
import shlex
import sys
import tempfile
import time
from pathlib import Path

from lake import InputError
from lake.cli import remote_folder
from launch import approval, custom_job, machines, sdist
from trainer.config.files import load, save

EXIT_CODES = {"SUCCEEDED": 0, "FAILED": 1, "CANCELLED": 1, "EXPIRED": 1, "PARTIALLY_SUCCEEDED": 1}
POLL_SECONDS = 30.0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m launch.vertex",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="--section.field=value overrides a value of the config, as in trainer.task train",
        allow_abbrev=False,
    )
    add = made.add_argument_group("run").add_argument
    add("--config", required=True, metavar="YAML")
    add("--lake", type=remote_folder, required=True, metavar="gs://BUCKET/ROOT/NAME/VERSION")
    add("--workdir", type=remote_folder, required=True, metavar="gs://BUCKET/FOLDER")
    add = made.add_argument_group("machines").add_argument
    add("--project", required=True)
    add("--region", required=True, help="such as us-central1; best where the bucket is")
    add("--image", required=True, metavar="URI", help="of launch/trainer.Dockerfile, pushed")
    add("--accelerator", choices=[*machines.GPUS, *machines.TPUS], required=True)
    add("--gpus", type=int, metavar="N", help="of a machine; default: the fewest that it has")
    add("--machines", type=int, default=1, metavar="N")
    add("--spot", action="store_true", help="cheaper machines that may be taken at any time")
    add("--max_days", type=_positive, default=7.0, metavar="DAYS", help="then it is ended (7)")
    add("--disk_gb", type=int, default=200, metavar="GB", help="of a machine (200)")
    add = made.add_argument_group("job").add_argument
    add("--name", type=_name, help="default: radlake-CONFIG")
    add("--label", type=_label, action="append", default=[], metavar="KEY=VALUE")
    add("--service_account", metavar="EMAIL", help="that the job runs as")
    add("--tensorboard", metavar="projects/P/locations/R/tensorboards/ID")
    add("--network", metavar="projects/NUMBER/global/networks/NAME", help="to peer with")
    add("--wait", action="store_true", help="until the job has ended; Ctrl-C cancels it")
    approval.add_flags(add)
    return made


def run(flags: argparse.Namespace, overrides: list[str]) -> int:
    chosen = load(flags.config, overrides, lake=flags.lake)
    with tempfile.TemporaryDirectory() as temporary:
        package, settings = sdist.build(Path(temporary)), Path(temporary, "config.yaml")
        save(chosen, settings)
        job = custom_job.request(flags, package.name)
        plan = custom_job.as_yaml(job, flags, package.name)
        if not approval.approved(plan, flags.dry_run, flags.yes):
            return 0
        return _launched(flags, job, [package, settings])


def _launched(flags: argparse.Namespace, job: dict, files: list[Path]) -> int:
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
        name = submit(client, job, f"projects/{flags.project}/locations/{flags.region}")
        print(f"job: {url(name)}", flush=True)
        if flags.wait:
            return wait(client, name)
    except (GoogleAPIError, GoogleAuthError) as error:
        raise InputError(f"Google Cloud refuses: {error}") from None
    place = [f"--project={flags.project}", f"--region={flags.region}"]
    for verb in ("stream-logs", "cancel"):
        print(shlex.join(["gcloud", "ai", "custom-jobs", verb, name.split("/")[-1], *place]))
    return 0


def upload(client, files: list[Path], folder: str) -> None:
    """Local files into gs://BUCKET/FOLDER, with a google.cloud.storage.Client."""
    bucket, _, prefix = folder.removeprefix("gs://").partition("/")
    for path in files:
        client.bucket(bucket).blob(f"{prefix}/{path.name}").upload_from_filename(str(path))


def submit(client, job: dict, parent: str) -> str:
    """The new job's name, projects/P/locations/R/customJobs/ID, with a JobServiceClient."""
    from google.cloud.aiplatform_v1.types import CustomJob

    message = CustomJob.from_json(json.dumps(job))
    return client.create_custom_job(parent=parent, custom_job=message).name


def wait(client, name: str, seconds: float = POLL_SECONDS) -> int:
    """An exit code, when the job has ended; says each new state. Ctrl-C cancels the job."""
    said = None
    try:
        while said not in EXIT_CODES:
            if said:
                time.sleep(seconds)
            job = client.get_custom_job(name=name)
            state = job.state.name.removeprefix("JOB_STATE_")
            if state != said:
                print(state.lower(), flush=True)
            said = state
    except KeyboardInterrupt:
        client.cancel_custom_job(name=name)
        print(f"cancelled {name}", file=sys.stderr)
        return 130
    if job.error.message:
        print(f"failed: {job.error.message}", file=sys.stderr)
    return EXIT_CODES[said]


def url(name: str) -> str:
    """Of the job's page; `name` as the service says it."""
    _, project, _, region, _, number = name.split("/")
    page = f"https://console.cloud.google.com/vertex-ai/locations/{region}/training/{number}"
    return f"{page}?project={project}"


def _positive(text: str) -> float:
    if not float(text) > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return float(text)


def _name(text: str) -> str:
    if not re.fullmatch("[a-z][a-z0-9-]{0,62}", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a-z, 0-9 and -, at most 63")
    return text


def _label(text: str) -> tuple[str, str]:
    if not re.fullmatch("[a-z][a-z0-9_-]{0,62}=[a-z0-9_-]{0,63}", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected key=value of a-z, 0-9, _ and -")
    key, _, value = text.partition("=")
    return key, value


def main(argv: list[str]) -> int:
    flags, overrides = parser().parse_known_args(argv)
    try:
        return run(flags, overrides)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
