"""Which of a job's workers this process is, where Slurm's `srun` has started them. In: the
variables SLURM_… of its step. Out: a Step, or None. No TensorFlow.

TensorFlow's SlurmClusterResolver does not fit: it sorts hosts as text, so that n10 comes before n9
and each takes the other's address; it gives all jobs of a machine the same ports; it knows no
brackets within a name; and without nvidia-smi it raises.
"""

import contextlib
import functools
import itertools
import re
import socket
import subprocess
from collections.abc import Mapping
from typing import NamedTuple

from lake import InputError

COUNT = "SLURM_STEP_NUM_TASKS"
HOSTS, TASKS_PER_HOST = "SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE"
# One of them is there where srun gives each task GPUs of its own (--gpus-per-task, --gpu-bind …).
BOUND_GPUS = (
    "SLURM_GPUS_PER_TASK",
    "SLURM_TRES_PER_TASK",
    "SLURM_NTASKS_PER_GPU",
    "SLURM_GPU_BIND",
)
# Each task listens at a port of its own, and jobs that share a machine at others. They lie below
# 32768, from where Linux deals ports to connections.
FIRST_PORT, NUM_PORTS, PORTS_PER_JOB = 15000, 16000, 16
_HOST = re.compile(r"(?:[^,\[\]]|\[[\d,-]+\])+")  # a name, of which parts may be in brackets


class Step(NamedTuple):
    """A task of srun among all of its step."""

    number: int  # from 0
    addresses: tuple[str, ...]  # host:port of each task
    local_number: int  # among the tasks of the same machine
    num_local: int


def read_step(environment: Mapping[str, str]) -> Step | None:
    """Return this process's place in its step; None where srun has started it alone, or not at all.
    Raises InputError where the variables do not fit together."""
    try:
        count = int(environment.get(COUNT, "1"))
        if count == 1:
            return None
        counts = tasks_per_host(environment[TASKS_PER_HOST])
        names = hosts(environment[HOSTS])
        places = [
            (host_number, local_number)
            for host_number, num_local in enumerate(counts)
            for local_number in range(num_local)
        ]
        variables = "SLURM_PROCID", "SLURM_NODEID", "SLURM_LOCALID", "SLURM_JOB_ID", "SLURM_STEP_ID"
        number, host_number, local_number, job, step = (int(environment[n]) for n in variables)
        is_in_order = places[number] == (host_number, local_number)
        addresses = [
            f"{names[place[0]]}:{port(job, step, task)}" for task, place in enumerate(places)
        ]
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(
            f"the variables of this step of Slurm are malformed ({type(error).__name__}: {error}); "
            f"expected {COUNT}, {HOSTS}, {TASKS_PER_HOST} and others as srun sets them"
        ) from None
    if len(places) != count or not is_in_order:
        raise InputError(
            f"srun has not dealt its {count} tasks to the machines one after the other; start them "
            f"with srun --distribution=block, best one per machine (--ntasks-per-node=1)"
        )
    return Step(number, tuple(addresses), local_number, counts[host_number])


def hosts(text: str) -> list[str]:
    """Return the hosts of a node list in its order: `n[08-10],gpu` is n08, n09, n10 and gpu. Raises
    ValueError for another text."""
    if not re.fullmatch(rf"{_HOST.pattern}(?:,{_HOST.pattern})*", text):
        raise ValueError(f"{text!r} is no list of hosts")
    names = []
    for part in _HOST.findall(text):
        pieces = re.split(r"\[(.+?)\]", part)  # those at odd places stood in brackets
        choices = [_numbers(piece) if n % 2 else [piece] for n, piece in enumerate(pieces)]
        names += map("".join, itertools.product(*choices))
    return names


def _numbers(text: str) -> list[str]:
    """Return the numbers of a bracket, such as `08-10,12`, with the zeros in front."""
    numbers = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        values = range(int(first), int(last or first) + 1)
        numbers += [str(value).zfill(len(first)) for value in values]
    return numbers


def tasks_per_host(text: str) -> list[int]:
    """Return the number of tasks on each host: `2(x3),1` is 2, 2, 2 and 1. Raises ValueError for
    another text."""
    counts = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if not match:
            raise ValueError(f"{text!r} is no list of numbers of tasks")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def port(job: int, step: int, task: int) -> int:
    """Return the port of a task of a job's step."""
    return FIRST_PORT + (PORTS_PER_JOB * (31 * job + step) + task) % NUM_PORTS


@functools.cache
def reachable(address: str) -> str:
    """Return an address, host:port, with the host that Slurm itself connects to where the node's
    name is not the name of a host."""
    host, _, port_text = address.rpartition(":")
    with contextlib.suppress(OSError):
        socket.getaddrinfo(host, None)
        return address
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # as in a container
        command = ["scontrol", "show", "node", host, "--oneliner"]
        output = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout
        if match := re.search(r" NodeAddr=(\S+)", output):
            return f"{match[1]}:{port_text}"
    return address


def gpus_of_task(
    num_visible: int, local_number: int, num_local: int, environment: Mapping[str, str]
) -> range:
    """Return the numbers of the GPUs that this task takes of those that it sees: all, or an equal
    part where all tasks of its machine see the same. Raises InputError where that does not work."""
    if num_local == 1 or any(name in environment for name in BOUND_GPUS):
        return range(num_visible)
    if num_visible % num_local:
        raise InputError(
            f"the {num_local} tasks of this machine cannot share its {num_visible} GPUs; start one "
            f"per machine (srun --ntasks-per-node=1), which takes all of its GPUs"
        )
    num_gpus = num_visible // num_local
    return range(local_number * num_gpus, (local_number + 1) * num_gpus)
