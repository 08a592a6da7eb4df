"""A whole Slurm on this machine: munged, slurmctld and the nodes n1 and n2, each with a core and a
slurmd of its own. Everything of it is in one folder and ends with the block."""

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
CONF = """
ClusterName=test
SlurmctldHost=localhost
AuthType=auth/munge
# A job that is queued again begins when its credentials have expired, after two minutes by default.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SchedulerParameters=sched_interval=1,bf_interval=1
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SlurmUser={user}
SlurmctldPort={ports[0]}
ReturnToService=2
MpiDefault=none
# Their names are not those of hosts, so the workers ask Slurm for their addresses.
NodeName=n1 NodeHostname=localhost Port={ports[1]} CPUs=1 RealMemory=100 State=UNKNOWN
NodeName=n2 NodeHostname=localhost Port={ports[2]} CPUs=1 RealMemory=100 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def reason_against() -> str | None:
    """Return why no Slurm can run here; None: it can."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    absent = [name for name in PROGRAMS if not shutil.which(name, path=path)]
    if absent:
        return f"no {absent[0]} here; make test-services installs slurm-wlm and munge"
    if os.geteuid():
        return "slurmd works as root alone"
    return None


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Path]:
    """Run Slurm in the block; yield its configuration, for SLURM_CONF."""
    (folder / "state").mkdir()
    key, conf = folder / "munge.key", folder / "slurm.conf"
    key.write_bytes(secrets.token_bytes(64))
    key.chmod(0o600)
    conf.write_text(CONF.format(folder=folder, user=getpass.getuser(), ports=free_ports(3)))
    names = "socket", "pid-file", "log-file", "seed-file"
    munge = [f"--{name}={folder}/munge.{name.removesuffix('-file')}" for name in names]
    environment = os.environ | {"SLURM_CONF": str(conf)}
    environment["PATH"] += ":/usr/sbin"

    with contextlib.ExitStack() as stack:

        def start(pid_file: str, *command: object) -> None:
            """Start a daemon, which goes into the background; it is ended after the block."""
            stack.callback(end, folder / pid_file)
            subprocess.run([*map(str, command)], env=environment, check=True)

        start("munge.pid", "munged", "--force", f"--key-file={key}", *munge)
        start("slurmctld.pid", "slurmctld")
        for node in ("n1", "n2"):
            start(f"{node}.pid", "slurmd", "-N", node)
        stack.callback(cancel_all, environment)
        wait_for_nodes(environment)
        yield conf


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def wait_for_nodes(environment: dict) -> None:
    """Return when both nodes wait for jobs."""
    command, states = ["sinfo", "--noheader", "--Node", "--format=%t"], []
    deadline = time.monotonic() + 60
    while states != ["idle", "idle"]:
        process = subprocess.run(command, env=environment, capture_output=True, text=True)
        states = process.stdout.split()
        assert time.monotonic() < deadline, (states, process.stderr)
        time.sleep(0.1)


def cancel_all(environment: dict) -> None:
    """Cancel all jobs, and return when their processes have ended."""
    subprocess.run(["scancel", f"--user={getpass.getuser()}"], env=environment)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not subprocess.check_output(["squeue", "--noheader"], env=environment):
            return
        time.sleep(0.2)


def end(pid_file: Path, seconds: float = 15.0) -> None:
    """End a daemon, and wait until it has ended."""
    if not pid_file.exists():
        return
    pid, deadline = int(pid_file.read_text()), time.monotonic() + seconds
    number = signal.SIGTERM
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        while "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
            os.kill(pid, number)
            time.sleep(0.1)
            number = signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL
