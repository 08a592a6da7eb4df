"""python -m launch.tpu_vm: one training run on a TPU VM of one host, rented for it and deleted at
its end, on an error and on Ctrl-C. In: what trainer.task train takes; out: its log, its exit code.

The machine is a queued resource, or with --now one that is there at once or refused. A run that
ends with exit code 42 is started again; so is one whose connection is lost, and where the machine
is gone, on a new one. --dry_run prints every gcloud command.
"""

import argparse
import contextlib
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from lake import InputError
from lake.cli import remote_folder
from launch import approval, detached, gcloud, machines, sdist
from trainer.config.files import load, save
from trainer.training import interruption

REQUIREMENTS = sdist.ROOT / "requirements" / "tpu.txt"
# The machines come with Python 3.10; uv fetches a newer one.
UV_VERSION = "uv==0.13.9"
UV, PYTHON = ["python3", "-m", "uv"], "radlake/bin/python"
LOST = 255  # ssh's own exit code where the connection breaks; gcloud's is 1
ASKED_TIMES = 30  # for the state of a machine, before giving it up
ENDINGS = signal.SIGTERM, signal.SIGHUP
POLL_SECONDS = 30.0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m launch.tpu_vm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="--section.field=value overrides a value of the config, as in trainer.task train",
        allow_abbrev=False,
    )
    add = made.add_argument_group("run").add_argument
    add("--config", required=True, metavar="YAML")
    add("--lake", type=remote_folder, required=True, metavar="gs://BUCKET/ROOT/NAME/VERSION")
    add("--workdir", type=remote_folder, required=True, metavar="gs://BUCKET/FOLDER")
    add = made.add_argument_group("machine").add_argument
    add("--project", required=True)
    add("--zone", required=True, help="such as us-west4-a; best in the bucket's region")
    add("--accelerator", required=True, choices=machines.TPU_VMS)
    add("--runtime", metavar="VERSION", help="default: the accelerator's base image")
    add("--now", action="store_true", help="no queue")
    add("--spot", action="store_true", help="cheaper, and may be taken at any time")
    add("--queue_hours", type=int, default=24, metavar="N", help="then give up waiting (24)")
    add("--restarts", type=int, default=20, metavar="N", help="then give up (20)")
    add("--internal_ips", action="store_true", help="no public address; launch from its network")
    add("--network")
    add("--subnetwork")
    add("--service_account", metavar="EMAIL", help="that the machine runs as")
    approval.add_flags(made.add_argument)
    return made


def plan(machine: gcloud.TpuVm, files: list[Path], job: list[str], restarts: int) -> str:
    def lines(comment: str, *commands: list[str]) -> list[str]:
        return [f"# {comment}", *(shlex.join(command) for command in commands)]

    texts = lines(f"rent {machine.name}, {machine.accelerator}", machine.create())
    texts += lines(f"every {POLL_SECONDS:g} s, until it says ACTIVE or READY", machine.state())
    texts += lines("install", machine.copy(files), machine.ssh(*installation(files)))
    texts += lines(
        f"train; up to {restarts} times again after exit code 42 or a lost connection, and on a "
        f"new machine where this one is gone",
        machine.ssh(job),
    )
    texts += lines("at the end, on an error and on Ctrl-C", machine.delete())
    return "\n".join(texts)


def installation(files: list[Path]) -> list[list[str]]:
    """What is run on the machine, with the files in its home folder."""
    package, requirements = files[0].name, files[1].name
    install = [*UV, "pip", "install", "--quiet", f"--python={PYTHON}"]
    return [
        ["python3", "-m", "pip", "install", "--quiet", "--user", UV_VERSION],
        [*UV, "venv", "--quiet", "--clear", "--python=3.12", "radlake"],
        [*install, f"--requirements={requirements}"],
        [*install, "--no-deps", "--no-build-isolation", package],
    ]


def training(flags: argparse.Namespace) -> list[str]:
    arguments = ["--config=config.yaml", f"--lake={flags.lake}", f"--workdir={flags.workdir}"]
    trainer = [PYTHON, "-m", "trainer.task", "train", *arguments, "--train.device=tpu"]
    return [PYTHON, "-m", "launch.detached", "--folder=radlake/run", "--", *trainer]


def train(machine: gcloud.TpuVm, files: list[Path], job: list[str], restarts: int) -> int:
    """Rents, installs, trains, again and again; the run's exit code. Leaves the machine there."""
    is_installed = False
    for _ in range(restarts + 1):
        if not is_installed:
            _call(machine.create())
            wait_until_ready(machine)
            _call(machine.copy(files))
            _call(machine.ssh(*installation(files)))
            is_installed = True
        code = subprocess.call(machine.ssh(job), stdin=subprocess.DEVNULL)
        own = 0 if code == LOST else code - detached.OFFSET
        if code == 0 or (own > 0 and own != interruption.EXIT_CODE):
            return max(own, 0)
        is_installed = state(machine) in gcloud.READY
        _say(
            f"{'saved, exit code 42' if own > 0 else 'connection lost'}; "
            f"{'going on' if is_installed else 'the machine is gone, renting another'}"
        )
        if not is_installed:
            _call(machine.delete())
    raise InputError(f"given up after --restarts={restarts}; the same command goes on")


def wait_until_ready(machine: gcloud.TpuVm) -> None:
    said = None
    while (now := state(machine)) not in gcloud.READY:
        if now not in gcloud.COMING:
            raise InputError(f"{machine.name} is {now or 'nowhere'} instead of ready; see above")
        if now != said:
            _say(now.lower())
        said = now
        time.sleep(POLL_SECONDS)


def state(machine: gcloud.TpuVm) -> str:
    """Empty where there is none; asks again while gcloud cannot say, as without a network."""
    for _ in range(ASKED_TIMES):
        done = subprocess.run(machine.state(), capture_output=True, text=True)
        if done.returncode == 0 or "NOT_FOUND" in done.stderr:
            return done.stdout.strip()
        _say(done.stderr.strip())
        time.sleep(POLL_SECONDS)
    raise InputError(f"cannot learn the state of {machine.name}: {done.stderr.strip()}")


@contextlib.contextmanager
def deleted(machine: gcloud.TpuVm) -> Iterator[None]:
    """Within it SIGTERM and a terminal that is closed (unless ignored, as under nohup) are as
    Ctrl-C; at its end the machine is deleted, whatever comes."""
    numbers = [n for n in ENDINGS if signal.getsignal(n) != signal.SIG_IGN]
    before = {n: signal.signal(n, signal.default_int_handler) for n in numbers}
    try:
        yield
    finally:
        for number in (signal.SIGINT, *numbers):
            signal.signal(number, lambda *_: _say("deleting the machine first"))
        # In a session of its own, so that another Ctrl-C does not end it.
        code = subprocess.call(machine.delete(), start_new_session=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, handler in before.items():
            signal.signal(number, handler)
        if code:
            _say(f"NOT DELETED, it may cost money: {shlex.join(machine.delete())}")


def run(flags: argparse.Namespace, overrides: list[str]) -> int:
    chosen = load(flags.config, overrides, lake=flags.lake)
    machine = _machine(flags)
    with tempfile.TemporaryDirectory() as temporary:
        settings = Path(temporary, "config.yaml")
        save(chosen, settings)
        files, job = [sdist.build(Path(temporary)), REQUIREMENTS, settings], training(flags)
        shown = plan(machine, files, job, flags.restarts)
        if not approval.approved(shown, flags.dry_run, flags.yes):
            return 0
        if not shutil.which("gcloud"):
            raise InputError("there is no gcloud on the PATH; install the Google Cloud CLI")
        with deleted(machine):
            return train(machine, files, job, flags.restarts)


def _machine(flags: argparse.Namespace) -> gcloud.TpuVm:
    stem = re.sub("[^a-z0-9]+", "-", Path(flags.config).stem.lower()).strip("-")
    return gcloud.TpuVm(
        # A name that nobody has: what is deleted at the end is what was rented here.
        name=f"radlake-{stem[:40]}-{secrets.token_hex(3)}",
        project=flags.project,
        zone=flags.zone,
        accelerator=flags.accelerator,
        runtime=flags.runtime or machines.TPU_VMS[flags.accelerator],
        is_queued=not flags.now,
        is_spot=flags.spot,
        queue_hours=flags.queue_hours,
        internal_ips=flags.internal_ips,
        network=flags.network,
        subnetwork=flags.subnetwork,
        service_account=flags.service_account,
    )


def _call(command: list[str]) -> None:
    if code := subprocess.call(command, stdin=subprocess.DEVNULL):
        raise InputError(f"exit code {code} of {shlex.join(command)}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: list[str]) -> int:
    flags, overrides = parser().parse_known_args(argv)
    try:
        return run(flags, overrides)
    except InputError as error:
        _say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
