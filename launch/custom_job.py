"""A training run as Vertex AI's CustomJob. In: the flags of launch.vertex. Out: the request as the
JSON of the service, and as the YAML that gcloud takes.

Vertex AI mounts each bucket below /gcs (Cloud Storage FUSE), so a folder of a bucket is a local
folder there.
"""

import argparse
import shlex

import yaml

from lake import InputError
from launch import machines, roles, training_run

# The container's command. The user's arguments arrive as "$0" and "$@", which the shell does not
# parse, so this text needs no quoting. A run that ended with 42 (interrupted and saved, for example
# because another machine was lost) is started again here, as the service would count it as failed;
# but not after SIGTERM, which means that this machine is being taken away. A signal ends `wait`
# early, hence the second loop.
START = """\
python -m pip install -q --no-deps --no-build-isolation "$0" || exit
trap 'terminated=yes; kill -TERM "$child"' TERM
code=42
while [ "$code" = 42 ] && [ -z "$terminated" ]; do
  python -m trainer.task "$@" & child=$!
  wait "$child"; code=$?
  while kill -0 "$child" 2> /dev/null; do wait "$child"; code=$?; done
done
exit "$code"
"""
# The folder of the container into which the service puts the driver's libraries.
DRIVER = "/usr/local/nvidia/lib64"


def request(flags: argparse.Namespace, package: str) -> dict:
    """Return the CustomJob; `package`: the sdist's file name. Raises InputError for what the
    service would refuse."""
    machine = machines.vertex(flags.accelerator, flags.gpus, flags.machines)
    # The first machine is the chief, which needs a pool for itself.
    counts = [1, flags.machines - 1] if flags.machines > 1 else [1]
    if flags.tensorboard and not flags.service_account:
        raise InputError("--tensorboard needs --service_account, the account that writes to it")
    spec = {
        "workerPoolSpecs": [
            {
                "machineSpec": {**machine},  # a copy, as YAML would write the same dict as an alias
                "replicaCount": count,
                "diskSpec": {"bootDiskType": "pd-ssd", "bootDiskSizeGb": flags.disk_gb},
                "containerSpec": _container(flags, package),
            }
            for count in counts
        ],
        "scheduling": {
            "timeout": f"{round(86400 * flags.max_days)}s",
            "strategy": "SPOT" if flags.spot else "STANDARD",
            # Workers find each other at their start, so all start again when one does.
            "restartJobOnWorkerRestart": flags.machines > 1,
        },
        "baseOutputDirectory": {"outputUriPrefix": base(flags)},
    }
    optional = {
        "serviceAccount": flags.service_account,
        "tensorboard": flags.tensorboard,
        "network": flags.network,
    }
    return {
        "displayName": flags.name or training_run.name(flags.config)[:63].rstrip("-"),
        "labels": {"program": "radlake"} | dict(label.split("=") for label in flags.label),
        "jobSpec": spec | {key: value for key, value in optional.items() if value},
    }


def _container(flags: argparse.Namespace, package: str) -> dict:
    """Return the ContainerSpec of one machine: the image, the shell that runs START, its arguments
    and environment."""
    is_tpu = flags.accelerator in machines.TPUS
    staging_path = mounted_path(staging(flags))
    arguments = {
        "config": f"{staging_path}/config.yaml",
        "lake": flags.lake,
        # A TensorBoard of Vertex AI reads the folder logs.
        "workdir": mounted_path(f"{base(flags)}/logs"),
        # Without this, a machine whose accelerator does not work would train on its CPUs.
        "train.device": "tpu" if is_tpu else "gpu",
    }
    container = {
        "imageUri": flags.image,
        "command": ["sh", "-c", START, f"{staging_path}/{package}"],
        "args": ["train", *(f"--{key}={value}" for key, value in arguments.items())],
    }
    if is_tpu:
        return container
    return container | {"env": [{"name": "LD_LIBRARY_PATH", "value": DRIVER}]}


def needs(flags: argparse.Namespace, num_replicas: int) -> list[str]:
    """Return the quota and the roles that the project must have for the job, a sentence each."""
    quota = machines.vertex_quota(flags.accelerator, flags.spot)
    launcher, machine = [roles.VERTEX, roles.BUCKETS], [roles.BUCKETS, roles.IMAGE]
    if flags.service_account:
        launcher += [roles.act_as(flags.service_account)]
    if flags.tensorboard:
        machine += [roles.TENSORBOARD]
    account = flags.service_account or "the project's Vertex AI Custom Code Service Agent"
    return [
        f"quota: {quota} in {flags.region}, at least {num_replicas}",
        *roles.sentences(launcher, account, machine),
    ]


class _Yaml(yaml.SafeDumper):
    """Writes a text of several lines as one would by hand, not with backslashes."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Yaml.add_representer(str, _text)


def as_yaml(job: dict, flags: argparse.Namespace, package: str) -> str:
    """Return the YAML for `gcloud ai custom-jobs create --config`; comments say what else this
    command does, and how to do it by hand."""
    machine = machines.vertex(flags.accelerator, flags.gpus, flags.machines)
    labels = ",".join(f"{key}={value}" for key, value in job["labels"].items())
    command = ["gcloud", "ai", "custom-jobs", "create", f"--project={flags.project}"]
    command += [f"--region={flags.region}", f"--display-name={job['displayName']}"]
    command += [f"--labels={labels}", "--config=job.yaml"]
    lines = [
        f"# {flags.machines} x {machine['machineType']}{' (spot)' if flags.spot else ''} in "
        f"{flags.region}, at most {flags.max_days:g} days",
        f"# uploads {package} and config.yaml to {staging(flags)}",
        f"# the rest by hand: {shlex.join(command)}",
        yaml.dump(job["jobSpec"], Dumper=_Yaml, sort_keys=False, width=1000).rstrip(),
    ]
    return "\n".join(lines)


def base(flags: argparse.Namespace) -> str:
    return flags.workdir.rstrip("/")


def staging(flags: argparse.Namespace) -> str:
    """Return the folder into which the sdist and the config are uploaded."""
    return f"{base(flags)}/launch"


def mounted_path(uri: str) -> str:
    """Return the path of gs://BUCKET/NAME on a machine of Vertex AI."""
    return f"/gcs/{uri.removeprefix('gs://')}"
