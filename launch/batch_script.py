"""The batch script of one command on Slurm. In: the flags of launch.slurm. Out: its text, which
sbatch takes and people read.

Slurm tells each process to stop before the time limit, and starts the job again where the command
is saved; this script sees to what is between the two.
"""

import argparse
import re
import shlex
from pathlib import Path

from lake.signals import GOES_ON

# Which number of --array a job of it has.
ARRAY_NUMBER = "$SLURM_ARRAY_TASK_ID"
# After the first worker has ended; one that does not end would use up the time limit.
LONGEST_END_SECONDS = 600
# The lines after the options.
STEP = """\
logs={logs}-$job
mkdir -p "$logs"
export PYTHONUNBUFFERED=1

command=(
{command}
)

# A process per node, each with its log. bash waits while its command saves, as it has a trap. srun
# ends with the highest exit code: a mistake, 1 or 2, is put above 42 and those of signals.
srun {options} \\
  --output="$logs/worker-%t.log" --open-mode=append bash -c '
    trap : TERM
    "$@"; code=$?
    case $code in 1 | 2) exit $((code + 200)) ;; *) exit $code ;; esac' worker "${{command[@]}}"
code=$?
case $code in 201 | 202) code=$((code - 200)) ;; esac
echo "exit code $code"

# {reasons}: the same command goes on.
if {condition}; then
  if [ "${{SLURM_RESTART_COUNT:-0}}" -ge {restarts} ]; then
    echo "not started again: --restarts={restarts}"
  elif scontrol requeue "$job"; then
    echo "to be started again"
  fi
fi
exit "$code"
"""


def text(flags: argparse.Namespace, name: str) -> str:
    """Return the script of the job `name`."""
    if flags.array:
        job, pattern = f"${{SLURM_ARRAY_JOB_ID}}_{ARRAY_NUMBER}", "%A_%a"
    else:
        job, pattern = "$SLURM_JOB_ID", "%j"
    options = ["--kill-on-bad-exit=0"]  # the others of a lost worker notice it by themselves
    if flags.nodes > 1:
        options.append(f"--wait={LONGEST_END_SECONDS}")
    if flags.cpus_per_node:
        options.append(f"--cpus-per-task={flags.cpus_per_node}")  # srun does not take sbatch's
    if flags.nodes > 1:
        reason, condition = "above 128: a worker was lost", "[ $code -gt 128 ]"
    else:
        reason, condition = "143: ended by SIGTERM", "[ $code = 143 ]"
    step = STEP.format(
        logs=shlex.quote(str(flags.logs / name)),
        command="\n".join(f"  {line}" for line in _lines(flags)),
        options=" ".join(options),
        reasons=f"{GOES_ON}: saved; {reason}",
        condition=f"[ $code = {GOES_ON} ] || {condition}",
        restarts=flags.restarts,
    )
    lines = [f"#SBATCH {option}" for option in _options(flags, name, pattern)]
    number = [f"# {flags.array.name}: {ARRAY_NUMBER}"] if flags.array else []
    return "\n".join(["#!/bin/bash", *lines, "", *number, f"job={job}", step])


def _options(flags: argparse.Namespace, name: str, pattern: str) -> list[str]:
    """Return the options of sbatch; `pattern`: for the job's number in the name of its log."""
    values = {
        "job-name": name,
        "nodes": flags.nodes,
        "ntasks-per-node": 1,
        "gres": flags.gpus_per_node and f"gpu:{flags.gpus_per_node}",
        "cpus-per-task": flags.cpus_per_node,
        "mem": flags.memory_gb and f"{flags.memory_gb}G",
        "time": flags.time,
        "partition": flags.partition,
        "account": flags.account,
        "array": flags.array and flags.array.numbers,
        "chdir": shlex.quote(str(Path.cwd())),
        "output": shlex.quote(str(flags.logs / f"{name}-{pattern}.log")),
        "open-mode": "append",  # where it is started again
        "signal": f"TERM@{flags.save_seconds}",
    }
    options = [f"--{key}={value}" for key, value in values.items() if value]
    return [*options, "--requeue", *flags.sbatch]


def _lines(flags: argparse.Namespace) -> list[str]:
    """Return the command's words for bash, an option with its values per line."""
    words = [*_container(flags), *flags.command]
    quoted = [_quoted(word, flags.array.name if flags.array else None) for word in words]
    lines = [quoted[0]]
    for word in quoted[1:]:
        if word.startswith("--"):
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return lines


def _container(flags: argparse.Namespace) -> list[str]:
    """Return the words that run the command in the image; none without one."""
    if not flags.container:
        return []
    nvidia = ["--nv"] if flags.gpus_per_node else []
    binds = [f"--bind={path}" for path in flags.bind]
    return ["apptainer", "exec", *nvidia, *binds, flags.container]


def _quoted(word: str, name: str | None) -> str:
    """Return a word for bash, in which {name} is the job's number of an array."""
    if name is None:
        return shlex.quote(word)
    parts = re.split(rf"\{{{name}\}}", word)
    return f'"{ARRAY_NUMBER}"'.join(shlex.quote(part) if part else "" for part in parts)
