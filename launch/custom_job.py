"""A training run as Vertex AI's CustomJob. In: the flags of launch.vertex; out: the request as the
service's JSON says it, or as the YAML that gcloud takes.

Vertex AI mounts every bucket under /gcs (Cloud Storage FUSE), so that a folder of a bucket is a
local one there.
"""

import argparse
import re
import shlex
from pathlib import Path

import yaml

from lake import InputError
from launch import machines

# The text is constant: what a user gives comes in "$0" and "$@", which no shell reads again. The
# service calls few exit codes transient, and 42 is none of them: what was interrupted, by the loss
# of another machine, say, goes on from here, unless it is this machine that is taken (SIGTERM).
START = """
python -m pip install -q --no-deps --no-build-isolation "$0" || exit
trap 'taken=yes; kill -TERM "$child"' TERM
code=42
while [ "$code" = 42 ] && [ -z "$taken" ]; do
  python -m trainer.task "$@" & child=$!
  wait "$child"; code=$?
  while kill -0 "$child" 2> /dev/null; do wait "$child"; code=$?; done  # behind the signal
done
exit "$code"
"""
# Where the service puts the driver's libraries into a container.
DRIVER = "/usr/local/nvidia/lib64"


def request(flags: argparse.Namespace, package: str) -> dict:
    """The CustomJob; `package`: the sdist's file name. Raises InputError."""
    machine = machines.vertex(flags.accelerator, flags.gpus, flags.machines)
    counts = [1] + [flags.machines - 1] * (flags.machines > 1)  # the chief has a pool of its own
    if flags.tensorboard and not flags.service_account:
        raise InputError("--tensorboard needs --service_account: the service writes as it")
    spec = {
        "workerPoolSpecs": [
            {
                "machineSpec": _machine_spec(machine),
                "replicaCount": count,
                "diskSpec": {"bootDiskType": "pd-ssd", "bootDiskSizeGb": flags.disk_gb},
                "containerSpec": _container(flags, package),
            }
            for count in counts
        ],
        "scheduling": {
            "timeout": f"{round(86400 * flags.max_days)}s",
            "strategy": "SPOT" if flags.spot else "STANDARD",
            # The others would wait in vain for a worker that was started again by itself.
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
        "displayName": flags.name or _default_name(flags.config),
        "labels": {"program": "radlake"} | dict(flags.label),
        "jobSpec": spec | {key: value for key, value in optional.items() if value},
    }


def _machine_spec(machine: machines.Vertex) -> dict:
    spec = {"machineType": machine.machine_type}
    if machine.accelerator:
        spec |= {"acceleratorType": machine.accelerator, "acceleratorCount": machine.count}
    if machine.topology:
        spec |= {"tpuTopology": machine.topology}
    return spec


def _container(flags: argparse.Namespace, package: str) -> dict:
    is_tpu = flags.accelerator in machines.TPUS
    staged = mounted(staging(flags))
    arguments = {
        "config": f"{staged}/config.yaml",
        "lake": flags.lake,
        # The folder under BASE that a TensorBoard instance of Vertex AI reads.
        "workdir": mounted(f"{base(flags)}/logs"),
        # A missing accelerator is an error, not a slow run on the machine's CPUs.
        "train.device": "tpu" if is_tpu else "gpu",
    }
    container = {
        "imageUri": flags.image,
        "command": ["sh", "-c", START, f"{staged}/{package}"],
        "args": ["train", *(f"--{key}={value}" for key, value in arguments.items())],
    }
    if is_tpu:
        return container
    return container | {"env": [{"name": "LD_LIBRARY_PATH", "value": DRIVER}]}


def as_yaml(job: dict, flags: argparse.Namespace, package: str) -> str:
    """What `gcloud ai custom-jobs create --config` takes; as comments, what else is to be done."""
    machine = machines.vertex(flags.accelerator, flags.gpus, flags.machines)
    labels = ",".join(f"{key}={value}" for key, value in job["labels"].items())
    by_hand = ["gcloud", "ai", "custom-jobs", "create", f"--project={flags.project}"]
    by_hand += [f"--region={flags.region}", f"--display-name={job['displayName']}"]
    by_hand += [f"--labels={labels}", "--config=job.yaml"]
    lines = [
        f"# {flags.machines} x {machine.machine_type}{' (spot)' if flags.spot else ''} in "
        f"{flags.region}, at most {flags.max_days:g} days",
        f"# uploads {package} and config.yaml to {staging(flags)}",
        f"# the rest by hand: {shlex.join(by_hand)}",
        yaml.safe_dump(job["jobSpec"], sort_keys=False, width=1000).rstrip(),
    ]
    return "\n".join(lines)


def base(flags: argparse.Namespace) -> str:
    return flags.workdir.rstrip("/")


def staging(flags: argparse.Namespace) -> str:
    """Where the sdist and the config are put."""
    return f"{base(flags)}/launch"


def mounted(uri: str) -> str:
    """gs://BUCKET/NAME as a path on a machine of Vertex AI."""
    return f"/gcs/{uri.removeprefix('gs://')}"


def _default_name(config: str) -> str:
    stem = re.sub("[^a-z0-9]+", "-", Path(config).stem.lower())
    return f"radlake-{stem}"[:63].rstrip("-")
