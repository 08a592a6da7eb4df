"""python -m launch.dataflow …: runs beam.convert on Dataflow, on machines that fit this job.

Takes the options of beam.convert, with gs:// paths, and Beam's own. Prints the job's page, and when
the job has ended the same table as a local conversion. Ctrl-C cancels the job.
"""

if __name__ == "__main__":  # before the rest is imported, which takes a while
    from lake import signals

    signals.arm()

import argparse
import os
import shlex
import sys

from lake import InputError
from lake.terminal import cli
from launch import approval, roles, sdist

# Converting an image takes 1 to 190 ms of one core, and a process 250 MB. More than four cores per
# machine gain nothing. No pixels are shuffled, so the disk holds the container and one CT volume.
MACHINE_TYPE, MAX_WORKERS, DISK_GB = "e2-standard-4", 20, 50

EXAMPLE = (
    "--project my-project --region us-central1 --staging gs://my-bucket/dataflow "
    "--images 'gs://my-bucket/dicom/**.dcm' --labels gs://my-bucket/masks.csv "
    "--output gs://my-bucket/lakes/hospital/1.0.0 --deidentify_key_file gs://my-bucket/key"
)


def parser() -> argparse.ArgumentParser:
    """Return the parser of launch.dataflow."""
    epilog = f"{cli.typed_command('beam.convert')} --help lists the options of a conversion"
    parser = cli.parser("launch.dataflow", __doc__, example=EXAMPLE, epilog=epilog)
    add, number = parser.add_argument_group("job").add_argument, cli.at_least(1)
    approval.add_place(add, "region", "such as us-central1; best where the bucket is")
    folder = {"type": cli.remote_folder, "metavar": "gs://BUCKET/FOLDER"}
    add("--staging", required=True, help="for Dataflow's own files", **folder)
    add("--service_account", metavar="EMAIL", help="the account that the workers run as")
    add("--name", metavar="NAME", help="the job's name; default: one of Beam's")
    add("--detach", action="store_true", help="do not wait for the job")
    approval.add_flags(add)
    add = parser.add_argument_group("machines").add_argument
    image_help = "the image of launch/beam.Dockerfile in a registry; default: install the sdist"
    add("--image", metavar="URI", help=image_help)
    add("--machine_type", default=MACHINE_TYPE, metavar="TYPE", help="of Compute Engine")
    add("--disk_gb", type=number, default=DISK_GB, metavar="GB", help="disk per machine")
    workers_help = "the largest number of machines"
    add("--max_workers", type=number, default=MAX_WORKERS, metavar="N", help=workers_help)
    add("--private_ips", action="store_true", help="no public addresses; needs --image")
    add("--subnetwork", metavar="URL", help="regions/REGION/subnetworks/NAME")
    return parser


def command(flags: argparse.Namespace, convert_arguments: list[str]) -> list[str]:
    """Return the command line of beam.convert with the options that Dataflow needs. Raises
    InputError where --private_ips comes without --image."""
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
    arguments = [f"--{name}={value}" for name, value in options.items() if value is not None]
    if flags.private_ips:
        arguments += ["--no_use_public_ips"]
    if flags.detach:
        arguments += ["--detach"]
    convert = [sys.executable, "-m", "beam.convert", *convert_arguments]
    return [*convert, "--runner=DataflowRunner", *arguments]


def needs(flags: argparse.Namespace) -> list[str]:
    """Return the quota and the roles that the project must have for the job, a comment each."""
    cores = flags.machine_type.rpartition("-")[2]
    quota = [
        f"{int(cores) * flags.max_workers} CPUs" if cores.isdecimal() else "the machines' CPUs"
    ]
    quota += [f"{flags.disk_gb * flags.max_workers} GB of disk"]
    if not flags.private_ips:
        quota += [f"{flags.max_workers} in-use IP addresses"]
    account = flags.service_account or roles.COMPUTE_ENGINE
    launcher = [roles.DATAFLOW, roles.BUCKETS, roles.act_as(account)]
    machines = [roles.DATAFLOW_WORKER, roles.BUCKETS]
    if flags.image:
        machines += [roles.IMAGE]
    sentences = [
        f"quota: Compute Engine's for {', '.join(quota)} in {flags.region}",
        *roles.sentences(launcher, account, machines),
    ]
    return [f"# {sentence}" for sentence in sentences]


def run(flags: argparse.Namespace, convert_arguments: list[str]) -> int:
    """Print the plan, ask, and replace this process by the conversion, so that Ctrl-C reaches it;
    return 0 where nothing is launched."""
    conversion = command(flags, convert_arguments)
    machines = f"up to {flags.max_workers} x {flags.machine_type} with {flags.disk_gb} GB"
    plan = "\n".join([f"# {machines} in {flags.region}", *needs(flags), shlex.join(conversion)])
    costs_nothing = "--estimate" in convert_arguments  # as no machine is started
    if not approval.ask(plan, flags.dry_run, flags.yes or costs_nothing):
        return 0
    return os.execv(conversion[0], conversion)


def main(argv: list[str]) -> int:
    # What is not here is for beam.convert, which this package does not import.
    flags, convert_arguments = cli.parse(parser(), argv, is_passed=lambda name: True)
    return cli.exit_code(lambda: run(flags, convert_arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
