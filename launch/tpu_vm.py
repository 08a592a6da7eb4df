"""python -m launch.tpu_vm: rents a TPU VM of one host for one training run, and deletes it at the
run's end, on an error and on Ctrl-C. Takes what trainer.task train takes; prints the run's log and
ends with its exit code.

The machine waits for its turn as a queued resource; with --now it is there at once or refused. A
run that ends with exit code 42, or whose connection is lost, is started again, on a new machine
where this one is gone. --dry_run prints every gcloud command.
"""

if __name__ == "__main__":  # before the rest is imported, which takes a while
    from lake import signals

    signals.arm()

import argparse
import contextlib
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from lake import InputError, signals
from lake.terminal import cli
from launch import approval, detached, gcloud, machines, roles, sdist, training_run
from trainer.training import interruption

REQUIREMENTS = sdist.ROOT / "requirements" / "tpu.txt"
# The machines come with Python 3.10; uv downloads a newer one.
UV_VERSION = "uv==0.13.9"
UV, PYTHON = ["python3", "-m", "uv"], "radlake/bin/python"
LOST = 255  # ssh's exit code where the connection breaks; gcloud's is 1
STATE_TRIES = 30  # failed questions for the machine's state before giving up
ENDINGS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP  # SIGHUP: the terminal was closed
REPEAT = "the same command goes on from the newest checkpoint, on another machine"
POLL_SECONDS = 30.0


def parser() -> argparse.ArgumentParser:
    """Return the parser of launch.tpu_vm."""
    example = "--project my-project --zone us-west4-a --accelerator v5litepod-8 --dry_run"
    parser = training_run.parser("launch.tpu_vm", __doc__, example)
    add = parser.add_argument_group("machine").add_argument
    approval.add_place(add, "zone", "such as us-west4-a; best in the bucket's region")
    add("--accelerator", required=True, choices=machines.TPU_VMS, help="kind")
    add("--runtime", metavar="VERSION", help="default: the accelerator's base image")
    add("--now", action="store_true", help="do not wait in the queue")
    add("--spot", action="store_true", help="cheaper, and may be taken away at any time")
    hours = {"type": cli.at_least(1), "default": 24, "metavar": "N"}
    add("--queue_hours", help="the longest wait in the queue, in hours", **hours)
    restarts = {"type": cli.at_least(0), "default": 20, "metavar": "N"}
    add("--restarts", help="starts of an interrupted run before giving up", **restarts)
    add("--internal_ips", action="store_true", help="no public address; launch from its network")
    add("--network", metavar="NAME", help="default: the project's default network")
    add("--subnetwork", metavar="NAME", help="of the network")
    add("--service_account", metavar="EMAIL", help="the account that the machine runs as")
    approval.add_flags(add)
    return parser


def plan(machine: gcloud.TpuVm, files: list[Path], job: list[str], restarts: int) -> str:
    """Return every command that may be run, with comments that say when."""

    def block(comment: str, *commands: list[str]) -> list[str]:
        return [f"# {comment}", *(shlex.join(command) for command in commands)]

    lines = block(f"rent {machine.name}, {machine.flags.accelerator}", machine.create())
    lines += block(f"every {POLL_SECONDS:g} s, until it prints ACTIVE or READY", machine.state())
    lines += block("install", machine.copy(files), machine.ssh(*installation(files)))
    lines += block(
        f"train; up to {restarts} times again after exit code 42 or a lost connection, and on a "
        f"new machine where this one is gone",
        machine.ssh(job),
    )
    lines += block("at the end, on an error and on Ctrl-C", machine.delete())
    return "\n".join(lines)


def needs(flags: argparse.Namespace) -> list[str]:
    """Return the quota and the roles that the project must have for the machine, a sentence
    each."""
    kind, _, number = flags.accelerator.partition("-")
    spot = "preemptible " if flags.spot else ""
    account = flags.service_account or roles.COMPUTE_ENGINE
    return [
        f"quota: the Cloud TPU API's for {spot}{kind} in {flags.zone}, at least {number}",
        *roles.sentences([roles.TPU, roles.act_as(account)], account, [roles.BUCKETS]),
    ]


def installation(files: list[Path]) -> list[list[str]]:
    """Return the commands that install radlake on the machine, whose home folder has the files."""
    package, requirements = files[0].name, files[1].name
    install = [*UV, "pip", "install", "--quiet", f"--python={PYTHON}"]
    return [
        ["python3", "-m", "pip", "install", "--quiet", "--user", UV_VERSION],
        [*UV, "venv", "--quiet", "--clear", "--python=3.12", "radlake"],
        [*install, f"--requirements={requirements}"],
        [*install, "--no-deps", "--no-build-isolation", package],
    ]


def training_command(flags: argparse.Namespace) -> list[str]:
    """Return the command that trains, on the machine."""
    arguments = ["--config=config.yaml", f"--lake={flags.lake}", f"--workdir={flags.workdir}"]
    trainer = [PYTHON, "-m", "trainer.task", "train", *arguments, "--train.device=tpu"]
    return [PYTHON, "-m", "launch.detached", "--folder=radlake/run", "--", *trainer]


def train(machine: gcloud.TpuVm, files: list[Path], job: list[str], restarts: int) -> int:
    """Rent, install and train, again where the run is interrupted; return the run's exit code. The
    machine is not deleted here. Raises InputError where it gives up."""
    is_installed = False
    for _ in range(restarts + 1):
        if not is_installed:
            _call(machine.create())
            wait_until_ready(machine)
            _call(machine.copy(files))
            _call(machine.ssh(*installation(files)))
            is_installed = True
        # 0: the run has finished; 100 + N: it ended with N; anything else: the connection is lost.
        ssh_code = subprocess.call(machine.ssh(job), stdin=subprocess.DEVNULL)
        code = ssh_code - detached.OFFSET
        has_ended = ssh_code == 0 or (code > 0 and ssh_code != LOST)
        if has_ended and code != interruption.EXIT_CODE:
            return max(code, 0)
        is_installed = state(machine) in gcloud.READY
        _print(
            f"{'saved, exit code 42' if has_ended else 'connection lost'}; "
            f"{'going on' if is_installed else 'the machine is gone, renting another'}"
        )
        if not is_installed:
            _call(machine.delete())
    raise InputError(f"gave up after --restarts={restarts}; the same command goes on")


def wait_until_ready(machine: gcloud.TpuVm) -> None:
    """Wait and print each new state; raise InputError where the machine will not come."""
    last = None
    while (current := state(machine)) not in gcloud.READY:
        if current not in gcloud.COMING:
            raise InputError(f"{machine.name} is {current or 'gone'} instead of ready; see above")
        if current != last:
            _print(current.lower())
        last = current
        time.sleep(POLL_SECONDS)


def state(machine: gcloud.TpuVm) -> str:
    """Return the machine's state, empty where there is none; asks again while gcloud fails, as it
    does without a network. Raises InputError where it gives up."""
    for _ in range(STATE_TRIES):
        process = subprocess.run(machine.state(), capture_output=True, text=True)
        if process.returncode == 0 or "NOT_FOUND" in process.stderr:
            return process.stdout.strip()
        _print(process.stderr.strip())
        time.sleep(POLL_SECONDS)
    raise InputError(f"cannot learn the state of {machine.name}: {process.stderr.strip()}")


@contextlib.contextmanager
def delete_at_end(machine: gcloud.TpuVm) -> Iterator[None]:
    """Delete the machine when the block ends, however it ends. In the block, a closed terminal acts
    like Ctrl-C and SIGTERM, unless it is ignored, as under nohup."""
    with signals.leave_to_caller():
        numbers = [number for number in ENDINGS if signal.getsignal(number) != signal.SIG_IGN]
        handlers = {number: signal.signal(number, signals.raise_stop) for number in numbers}
        try:
            yield
        finally:
            for number in numbers:
                signal.signal(number, lambda *_: _print("deleting the machine first"))
            # In a new session, which another Ctrl-C does not reach.
            code = subprocess.call(machine.delete(), start_new_session=True)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signals.set_repeat(REPEAT)
            if code:
                _print(f"NOT DELETED, it may cost money: {shlex.join(machine.delete())}")


def run(flags: argparse.Namespace, overrides: list[str]) -> int:
    """Print the plan, ask, rent, train and delete; return the exit code. Raises InputError where
    the run cannot be started, or gives up."""
    from launch import preflight  # pydantic takes 0.3 s to import

    machine, job = machine_of(flags), training_command(flags)
    config = training_run.config(flags, overrides)
    num_replicas = machines.tpu_vm_replicas(flags.accelerator)
    rental = preflight.Rental(flags.project, num_replicas, flags.accelerator, needs(flags))
    facts = preflight.plan(config, overrides, rental)
    with training_run.files(config) as (package, config_path):
        files = [package, REQUIREMENTS, config_path]
        commands = plan(machine, files, job, flags.restarts)
        if not approval.ask(f"{facts}\n{commands}", flags.dry_run, flags.yes):
            return 0
        if not shutil.which("gcloud"):
            raise InputError("there is no gcloud on the PATH; install the Google Cloud CLI")
        with delete_at_end(machine):
            return train(machine, files, job, flags.restarts)


def machine_of(flags: argparse.Namespace) -> gcloud.TpuVm:
    """Return the machine to rent. Its name is new, so that only what was rented here is deleted."""
    name = f"{training_run.name(flags.config)[:48]}-{secrets.token_hex(3)}"
    return gcloud.TpuVm(name, flags)


def _call(command: list[str]) -> None:
    """Run a command; raise InputError where it fails."""
    if code := subprocess.call(command, stdin=subprocess.DEVNULL):
        raise InputError(f"exit code {code} of {shlex.join(command)}")


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: list[str]) -> int:
    flags, overrides = cli.parse(parser(), argv, is_passed=lambda name: "." in name)
    return cli.exit_code(lambda: run(flags, overrides))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
