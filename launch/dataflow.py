"""python -m launch.dataflow … : beam.convert on Dataflow, with machines that fit this job. In: what
beam.convert takes, with gs:// paths; out: the job, and at its end the table of a local run.

Ctrl-C cancels the job that is waited for. Beam's own options pass through.
"""

import argparse
import os
import shlex
import sys

from lake import InputError, workers
from lake.cli import remote_folder
from launch import approval, sdist


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m launch.dataflow",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="python -m beam.convert --help has the options of a conversion",
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--project", required=True)
    add("--region", required=True, help="such as us-central1; best where the bucket is")
    add(
        "--staging",
        type=remote_folder,
        required=True,
        metavar="gs://BUCKET/FOLDER",
        help="for Dataflow's own files",
    )
    add("--image", metavar="URI", help="of launch/beam.Dockerfile, pushed; default: the sdist")
    # An image takes 1 to 190 ms of one core and a process 250 MB; more cores a machine than four
    # gain nothing, and no pixel is shuffled, so the disk holds the container and one CT volume.
    add("--machine_type", default=workers.MACHINE)
    disk, most = workers.DISK_GB, workers.MOST
    a_number = {"type": _from_1_on}
    add("--disk_gb", default=disk, metavar="GB", help=f"of a machine ({disk})", **a_number)
    add("--max_workers", default=most, metavar="N", help=f"machines, at most ({most})", **a_number)
    add("--private_ips", action="store_true", help="no public addresses; needs --image")
    add("--subnetwork", metavar="URL", help="regions/REGION/subnetworks/NAME")
    add("--service_account", metavar="EMAIL", help="that the workers run as")
    add("--name", help="of the job")
    add("--detach", action="store_true", help="do not wait for the job")
    approval.add_flags(add)
    return made


def _from_1_on(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 1 on")
    return int(text)


def command(flags: argparse.Namespace, conversion: list[str]) -> list[str]:
    """python -m beam.convert with what Dataflow needs; raises InputError."""
    if flags.private_ips and not flags.image:
        raise InputError("--private_ips needs --image: without one the workers install from PyPI")
    staging = flags.staging.rstrip("/")
    options = {
        "project": flags.project,
        "region": flags.region,
        "temp_location": f"{staging}/temp",
        "staging_location": f"{staging}/staging",
        "machine_type": flags.machine_type,
        "disk_size_gb": flags.disk_gb,
        "autoscaling_algorithm": "THROUGHPUT_BASED",
        "max_num_workers": flags.max_workers,
        "job_name": flags.name,
        "subnetwork": flags.subnetwork,
        "service_account_email": flags.service_account,
    }
    if flags.image:
        options |= {"sdk_container_image": flags.image, "sdk_location": "container"}
    else:
        options |= {"setup_file": sdist.ROOT / "setup.py"}
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    given += ["--no_use_public_ips"] * flags.private_ips + ["--detach"] * flags.detach
    python = [sys.executable, "-m", "beam.convert"]
    return [*python, *conversion, "--runner=DataflowRunner", *given]


def plan(flags: argparse.Namespace, words: list[str]) -> str:
    """What the user sees before."""
    return (
        f"# up to {flags.max_workers} x {flags.machine_type} with {flags.disk_gb} GB in "
        f"{flags.region}\n{shlex.join(words)}"
    )


def main(argv: list[str]) -> int:
    flags, conversion = parser().parse_known_args(argv)
    try:
        words = command(flags, conversion)
        is_free = "--estimate" in conversion  # which starts no machine
        if not approval.approved(plan(flags, words), flags.dry_run, flags.yes or is_free):
            return 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return os.execv(words[0], words)  # Ctrl-C is then the conversion's own


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
