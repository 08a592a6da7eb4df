"""A job of Slurm from its submission to its end. In: a batch script. Out: its logs, printed as they
grow, and its exit code.
"""

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from lake import InputError, signals
from lake.terminal import console
from launch import cluster

POLL_SECONDS, POLLS_PER_STATE = 1.0, 5  # of the logs; Slurm itself is asked less often
STATE_TRIES = 60  # failed questions for a job's state before giving up
# States that a job does not leave; one that is to be started again is PENDING.
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}
ENDED |= {"BOOT_FAIL", "DEADLINE", "PREEMPTED", "REVOKED"}
GOES_ON = "the same command goes on from where it was saved"


class Job(NamedTuple):
    """A submitted job, or an array of them."""

    number: str
    name: str
    logs: Path


class Task(NamedTuple):
    """What Slurm says of a job, or of one of an array."""

    title: str  # JOB, or JOB_NUMBER; JOB_[0-4] for those of an array that wait
    state: str
    reason: str  # why it waits
    exit_code: int

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED


class Log:
    """A file that grows; the name of its task stands in front of its lines, if there is one."""

    def __init__(self, path: Path, name: str):
        self.path, self.prefix, self.position, self.rest = path, f"{name}: " if name else "", 0, b""

    def show(self, is_whole: bool = False) -> None:
        """Print the lines that are new; a last one without an end only where the file is whole."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.position)
            new = file.read()
        self.position += len(new)
        *lines, self.rest = (self.rest + new).split(b"\n")
        if is_whole and self.rest:
            lines.append(self.rest)
        for line in lines:
            print(f"{self.prefix}{line.decode(errors='replace')}", flush=True)


def submit(script: Path, name: str, logs: Path) -> Job:
    """Submit a script; raise InputError where Slurm refuses it."""
    process = subprocess.run(["sbatch", "--parsable", script], capture_output=True, text=True)
    if process.returncode:
        raise InputError(f"Slurm refuses {script}: {process.stderr.strip()}")
    return Job(process.stdout.strip().partition(";")[0], name, logs)


class Follower:
    """Prints what a job does until it has ended."""

    def __init__(self, job: Job):
        self.job, self.tasks, self.logs = job, {}, {}

    def follow_or_cancel(self) -> int:
        """Follow the job, and return its exit code. A signal cancels it, and its end is waited for,
        as its command saves; a second one ends this process at once."""
        with signals.raising():
            try:
                return self.follow()
            except KeyboardInterrupt:
                command = ["scancel", self.job.number]
                # In a new session, which another Ctrl-C does not reach.
                if subprocess.call(command, start_new_session=True):
                    signals.set_repeat(f"NOT CANCELLED, it may go on: {shlex.join(command)}")
                    raise
                signals.set_repeat(f"job {self.job.number} is cancelled; {GOES_ON}")
                print(f"cancelling job {self.job.number}, which may save", file=sys.stderr)
                self.follow()
                raise

    def follow(self) -> int:
        """Print logs and changes of state until the job has ended; return its exit code. Raises
        InputError where Slurm does not answer, or does not know the job any more."""
        num_polls = 0
        while not self.tasks or not all(task.has_ended for task in self.tasks.values()):
            if num_polls % POLLS_PER_STATE == 0:
                self._take(read_tasks(self.job.number))
            num_polls += 1
            for log in self.logs.values():
                log.show()
            time.sleep(POLL_SECONDS)
        for log in self.logs.values():
            log.show(is_whole=True)
        return cluster.combined_code([task.exit_code for task in self.tasks.values()])

    def _take(self, tasks: dict[str, Task]) -> None:
        """Take on what Slurm says now, note changes of state, and find logs. Slurm forgets tasks
        that have ended."""
        for number, task in tasks.items():
            if number not in self.tasks or self.tasks[number].state != task.state:
                reason = f" ({task.reason})" if task.state == "PENDING" else ""
                console.note(f"job {task.title}: {task.state.lower()}{reason}", flush=True)
            if "[" not in task.title and task.title not in self.logs:
                name = task.title if "_" in task.title else ""
                base = self.job.logs / f"{self.job.name}-{task.title}"
                self.logs[task.title] = Log(base.with_name(f"{base.name}.log"), name)
                self.logs[f"{task.title}/0"] = Log(base / "worker-0.log", name)
        self.tasks |= tasks


def read_tasks(number: str) -> dict[str, Task]:
    """Return {number: task} of a job, or of all jobs of an array that Slurm remembers; ask again
    while Slurm does not answer. Raises InputError where it gives up."""
    for _ in range(STATE_TRIES):
        command = ["scontrol", "show", "job", number, "--oneliner"]
        process = subprocess.run(command, capture_output=True, text=True)
        if process.returncode == 0:
            return dict(map(read_task, filter(str.strip, process.stdout.splitlines())))
        if "Invalid job id" in process.stderr:
            break
        time.sleep(POLL_SECONDS)
    raise InputError(
        f"Slurm does not say how job {number} is ({process.stderr.strip()}); it may go on: look "
        f"with squeue --me, and at its logs"
    )


def read_task(line: str) -> tuple[str, Task]:
    """Return the number and the Task of a line of scontrol."""

    def value(key: str) -> str:
        match = re.search(rf"(?:^| ){key}=(\S*)", line)
        return match[1] if match else ""

    array, place = value("ArrayJobId"), value("ArrayTaskId")
    title = value("JobId")
    if array:
        title = f"{array}_{place}" if place.isdecimal() else f"{array}_[{place}]"
    code, _, signal_number = value("ExitCode").partition(":")
    exit_code = int(code or 0) or -int(signal_number or 0)
    state = value("JobState")
    if state in ENDED - {"COMPLETED"}:
        exit_code = exit_code or 1
    return value("JobId"), Task(title, state, value("Reason"), exit_code)
