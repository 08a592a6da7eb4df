"""Several processes that train one network: who they are, when all are there, what they agree on.
In: TF_CONFIG, or the variables of Slurm's srun; out: a Worker.

    TF_CONFIG='{"cluster": {"worker": ["host-a:2222", "host-b:2222"]},
                "task": {"type": "worker", "index": 0}}'

Worker 0 (the chief, where TF_CONFIG names one) writes the workdir and prints. The others do the
same at the same time, because a checkpoint may need all of them, but write into a temporary folder.
"""

import contextlib
import json
import os
import socket
import time
import zlib
from typing import NamedTuple

import tensorflow as tf

from lake import InputError
from trainer.devices import slurm

VARIABLE, SRUN = "TF_CONFIG", "srun"
PROBE_SECONDS, DYING_SECONDS, POLL_SECONDS = 2.0, 5.0, 0.2
BACKLOG = 1024  # workers that connect at the same time


class Worker(NamedTuple):
    """One of the processes, counted from 0."""

    number: int = 0
    addresses: tuple[str, ...] = ("",)  # host:port of each
    source: str = VARIABLE  # or SRUN: where all this is from
    # Of those that srun has started on the same machine.
    local_number: int = 0
    num_local: int = 1

    @property
    def count(self) -> int:
        return len(self.addresses)

    @property
    def address(self) -> str:
        return self.addresses[self.number]

    @property
    def reachable_addresses(self) -> tuple[str, ...]:
        """The addresses that workers connect to."""
        if self.source != SRUN:
            return self.addresses
        return tuple(map(slurm.reachable, self.addresses))

    @property
    def is_chief(self) -> bool:
        return self.number == 0

    @property
    def start_rule(self) -> str:
        """How all workers have to be started, in messages."""
        return "with one srun" if self.source == SRUN else f"with the same {VARIABLE}"


ALONE = Worker()


def from_environment() -> Worker:
    """Return the worker that TF_CONFIG, or without one srun, says this process is; ALONE where
    neither names another. Raises InputError for what they say that cannot be used."""
    text = os.environ.get(VARIABLE, "")
    if text.strip():
        return _from_tf_config(text)
    if (step := slurm.read_step(os.environ)) is None:
        return ALONE
    return Worker(step.number, step.addresses, SRUN, step.local_number, step.num_local)


def _from_tf_config(text: str) -> Worker:
    """Return the worker of a TF_CONFIG."""
    try:
        content = json.loads(text)
        cluster, task = content["cluster"], content["task"]
        jobs = {job: list(addresses) for job, addresses in cluster.items() if addresses}
        kind, index = task["type"], int(task["index"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{VARIABLE} is malformed ({type(error).__name__}: {error}); expected "
            f'{{"cluster": {{"worker": ["host:port", …]}}, "task": {{"type": "worker", '
            f'"index": 0}}}}, or no {VARIABLE} for one worker'
        ) from None
    if other := jobs.keys() - {"chief", "worker"}:
        raise InputError(
            f"{VARIABLE} names {', '.join(sorted(other))}; only chief and worker take part"
        )
    if kind not in jobs or not 0 <= index < len(jobs[kind]):
        raise InputError(
            f"{VARIABLE}: this process is {kind} {index}, but the cluster has "
            f"{', '.join(f'{len(jobs[job])} {job}' for job in jobs) or 'nobody'}"
        )
    chiefs, others = jobs.get("chief", []), jobs.get("worker", [])
    number = index + len(chiefs) if kind == "worker" else index  # chiefs are numbered first
    return Worker(number, (*chiefs, *others)) if len(chiefs + others) > 1 else ALONE


def silent_workers(worker: Worker) -> list[str]:
    """Return the other workers that do not answer, with their addresses."""
    silent = []
    pairs = zip(worker.addresses, worker.reachable_addresses, strict=True)
    for number, (address, reachable_address) in enumerate(pairs):
        host, _, port = reachable_address.rpartition(":")
        try:
            if number != worker.number:
                socket.create_connection((host, int(port)), PROBE_SECONDS).close()
        except (OSError, ValueError):
            silent.append(f"worker {number} ({address})")
    return silent


def wait_for_all(worker: Worker, minutes: float) -> None:
    """Wait until each of the others answers at its address; raise InputError after so many minutes.

    TensorFlow would wait for an hour, and no Python would run meanwhile. While a worker waits here,
    it answers at its own address; once it has seen all others, TensorFlow answers at the same port.
    """
    deadline, is_announced = time.monotonic() + 60 * minutes, False
    with _listen(worker) as listener:
        while silent := silent_workers(worker):
            if not is_announced:
                print(f"waiting up to {minutes:g} minutes for {', '.join(silent)}", flush=True)
                is_announced = True
            if time.monotonic() > deadline:
                raise InputError(
                    f"worker {worker.number} waited {minutes:g} minutes (train.worker_minutes) for "
                    f"{', '.join(silent)}; start all {worker.count} workers {worker.start_rule}, "
                    f"and let them reach each other's ports"
                )
            with contextlib.suppress(BlockingIOError):  # no more connections now
                while True:
                    listener.accept()[0].close()
            time.sleep(POLL_SECONDS)


def _listen(worker: Worker) -> socket.socket:
    """Return a socket that listens at the worker's port; raise InputError where it cannot."""
    _, _, port = worker.address.rpartition(":")
    try:
        listener = socket.create_server(("", int(port)), backlog=BACKLOG)
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(
            f"worker {worker.number} cannot listen at {worker.address}: {error}; is the port free, "
            f"and were all workers started {worker.start_rule}?"
        ) from None
    listener.setblocking(False)
    return listener


class Agreement:
    """Lets all workers do the same at the same step, although only one of them has a reason to.

    Every worker must call its methods at the same point of the run.
    """

    def __init__(self, strategy: tf.distribute.Strategy, worker: Worker):
        self.worker = worker
        replicas = strategy.num_replicas_in_sync // worker.count  # each has the value

        @tf.function
        def sum_over_workers(value):
            values = strategy.run(tf.identity, args=(value,))
            return strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None) // replicas

        self._sum_over_workers = sum_over_workers

    def any(self, value: bool) -> bool:
        """Return whether the value is true on at least one of the workers."""
        return bool(self._sum(int(value)))

    def chief_value(self, number: int) -> int:
        """Return the chief's number, on all workers."""
        return self._sum(number if self.worker.is_chief else 0)

    def is_same(self, text: str) -> bool:
        """Return whether all workers have the same text."""
        number = zlib.crc32(text.encode())
        return not self.any(self.chief_value(number) != number)

    def wait(self) -> None:
        """Return when all workers have come here."""
        self._sum(0)

    def _sum(self, number: int) -> int:
        if self.worker.count == 1:
            return number
        return int(self._sum_over_workers(tf.constant(number, tf.int64)))


def check_is_one_run(strategy: tf.distribute.Strategy, worker: Worker, run: str) -> None:
    """Raise InputError where the tasks of one srun were given different runs, which would become
    one; a TF_CONFIG says by itself that they are one. `run`: all that a run is."""
    if worker.source == SRUN and not Agreement(strategy, worker).is_same(run):
        raise InputError(
            f"the {worker.count} tasks of this srun were given different runs (config or "
            f"--workdir), and would train one together; start each run by an srun of its own with "
            f"one task, or as a job of an array"
        )
