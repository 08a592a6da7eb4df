"""python -m launch.slurm --nodes 4 --gpus_per_node 8 -- COMMAND …: runs a command on a Slurm
cluster: train on one machine or several, convert, predict and others on one.

Writes the batch script and prints it, submits it, prints the job's logs and ends with its exit
code; Ctrl-C cancels the job. A run that is interrupted (by the time limit, or because a worker is
lost) saves, and the job is queued again; it goes on from its checkpoint.

--array fold=0..4 runs the command once for each number, which it has where it says {fold}.
"""

if __name__ == "__main__":  # before the rest is imported, which takes a while
    from lake import signals

    signals.arm()

import argparse
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from lake import InputError, signals, storage
from lake.terminal import cli, console
from launch import batch_script, slurm_job

# What a command writes into, which the jobs of an array must not share: the first that it has, as
# predict and export only read their --workdir.
OUTPUTS = ("--output", "--workdir")


class Array(NamedTuple):
    """The jobs of --array."""

    name: str
    numbers: str  # as sbatch takes them
    values: list[int]


def array(text: str) -> Array:
    """Return the Array of a text such as fold=0..4 or seed=1,2,5%2; an argparse type."""
    match = re.fullmatch(r"([a-z]\w*)=(\d+)(?:\.\.(\d+)|((?:,\d+)*))(%[1-9]\d*)?", text)
    if not match or (match[3] and int(match[3]) < int(match[2])):
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=0..4 or NAME=0,1,2")
    name, first, last, others, limit = match.groups()
    values = [*map(int, (first + (others or "")).split(","))]
    if last:
        values = [*range(int(first), int(last) + 1)]
    numbers = f"{first}-{last}" if last else f"{first}{others}"
    return Array(name, numbers + (limit or ""), values)


def parser() -> argparse.ArgumentParser:
    """Return the parser of launch.slurm."""
    train = "radlake train --config unetpp --lake lakes/siim/1.0.0 --workdir"
    example = f"--nodes 4 --gpus_per_node 8 --time 1-00:00:00 -- {train} runs/unetpp"
    example += f"\n--array fold=0..4 -- {train} runs/fold_{{fold}} --data.fold={{fold}}"
    parser = cli.parser("launch.slurm", __doc__, example=example)
    number = {"type": cli.at_least(1), "metavar": "N"}
    add = parser.add_argument_group("machines").add_argument
    add("--nodes", default=1, help="how many machines; several are for train alone", **number)
    gpus = cli.matching(r"([\w.-]+:)?[1-9]\d*", "a number, or a kind and a number as in a100:8")
    add("--gpus_per_node", type=gpus, metavar="[KIND:]N", help="default: none")
    add("--cpus_per_node", help="cores; default: Slurm's, often one", **number)
    add("--memory_gb", help="per node; default: Slurm's", **number)
    add("--container", metavar="IMAGE.sif", help="run the command in it, by apptainer exec")
    bind = "a folder that the container sees, too; may be repeated"
    add("--bind", action="append", default=[], metavar="FOLDER", help=bind)
    add = parser.add_argument_group("job").add_argument
    name = cli.matching(r"[\w.-]+", "letters, digits, _, . and -")
    add("--name", type=name, metavar="NAME", help="default: radlake- and the command's word")
    time = cli.matching(r"(\d+-)?\d+(:\d+){0,2}", "minutes, H:MM:SS or D-HH:MM:SS")
    add("--time", type=time, metavar="D-HH:MM:SS", help="limit of a start; default: Slurm's")
    add("--partition", metavar="NAME", help="default: Slurm's")
    add("--account", metavar="NAME", help="that pays; default: yours")
    sbatch = cli.matching(r"--[a-z]\S*", "an option such as --qos=long")
    sbatch_help = "another option of sbatch, as --sbatch=--qos=long; may be repeated"
    add("--sbatch", type=sbatch, action="append", default=[], metavar="OPTION", help=sbatch_help)
    add(
        "--array",
        type=array,
        metavar="NAME=0..4",
        help="a job per number; a %%2 behind: two at a time",
    )
    save = "how long before the limit of --time the command is told to save and end"
    add("--save_seconds", default=300, type=cli.at_least(1), metavar="S", help=save)
    restarts = {"type": cli.at_least(0), "default": 20, "metavar": "N"}
    add("--restarts", help="how often the job is queued again before it gives up", **restarts)
    logs = "for the script and the logs; default: slurm"
    add("--logs", type=cli.local_path, default=Path("slurm"), metavar="FOLDER", help=logs)
    add("--detach", action="store_true", help="do not wait for the job")
    add("--dry_run", action="store_true", help="only print the script")
    add("command", nargs="+", metavar="COMMAND", help="what is run, after --")
    return parser


def radlake_words(command: list[str]) -> list[str]:
    """Return what follows `radlake` in a command, such as train --config …, however it is typed;
    nothing for another program."""
    match [Path(command[0]).name, *command[1:]]:
        case ["radlake", *words] | [_, "-m", "radlake" | "trainer.task", *words]:
            return words
        case [_, "-m", "beam.convert", *words]:
            return ["convert", *words]
        case [_, "-m", "beam.predict", *words]:
            return ["predict_files", *words]
    return []


def check(flags: argparse.Namespace) -> None:
    """Raise InputError for a command that several machines, or the jobs of an array, would run
    against each other, and for paths that Slurm would read otherwise."""
    words = radlake_words(flags.command)
    if flags.nodes > 1 and words and words[0] != "train":
        raise InputError(
            f"--nodes={flags.nodes}: only train works on several machines together; give "
            f"{words[0]} one with many cores (--cpus_per_node), or its files in parts"
        )
    if "%" in f"{flags.logs}{Path.cwd()}":
        raise InputError(f"{flags.logs.absolute()}: Slurm replaces % in names; give other --logs")
    if flags.bind and not flags.container:
        raise InputError("--bind is for the folders of a --container")
    if flags.array:
        _check_array(flags.array, flags.command)


def _check_array(jobs: Array, command: list[str]) -> None:
    """Raise InputError where the jobs of an array would do the same, or write into one folder."""
    place = f"{{{jobs.name}}}"
    if not any(place in word for word in command):
        raise InputError(
            f"--array {jobs.name}=…: the command has no {place}, so all jobs would do the same; "
            f"write for example --data.fold={place}"
        )
    folders = {}
    for word, following_word in zip(command, [*command[1:], ""], strict=True):
        name, is_one_word, rest = word.partition("=")
        folders[name] = rest if is_one_word else following_word
    for name in filter(folders.get, OUTPUTS):
        if place not in folders[name]:
            raise InputError(
                f"{name} {folders[name]}: the jobs of --array would all write there; give each its "
                f"own, such as {name} {folders[name]}_{place}"
            )
        break


def facts(flags: argparse.Namespace) -> list[str]:
    """Return what is known of a training run before it starts, a line each; none of another
    command. Raises InputError for what the run would refuse."""
    if radlake_words(flags.command)[:1] != ["train"]:
        return []
    values = flags.array.values if flags.array else [0]
    name = f"{{{flags.array.name}}}" if flags.array else ""
    lines = []
    for value in values:
        command = [word.replace(name, str(value)) if name else word for word in flags.command]
        lines = _run_facts(radlake_words(command), flags)  # they differ in folds and seeds
    return lines


def _run_facts(words: list[str], flags: argparse.Namespace) -> list[str]:
    """Return the facts of one run, after its options and config have been checked."""
    from lake.records import manifest
    from launch import preflight  # pydantic takes 0.3 s to import
    from trainer import options
    from trainer.config.files import load

    volume = console.is_verbose() - console.is_quiet()  # of this command, not of the run
    arguments, overrides = cli.parse(
        options.parser(""), words, is_passed=lambda option: "." in option
    )
    console.set_volume(volume)
    config = load(arguments.config, overrides, lake=arguments.lake)
    num_gpus = int((flags.gpus_per_node or "0").rpartition(":")[2])
    if config.train.device == "cpu":
        num_gpus = 0
    devices = f"{flags.nodes} nodes" if flags.nodes > 1 else "1 node"
    devices += f" with {num_gpus} GPUs each" if num_gpus else ", on CPUs"
    num_replicas = flags.nodes * (num_gpus or 1)
    if flags.nodes == 1:
        num_replicas = config.train.replicas or num_replicas
    if storage.is_remote(config.lake) or not Path(config.lake).exists():
        content = "it is not on this machine"
    else:
        content = manifest.load(config.lake)
    return [*preflight.batches(config, num_replicas, devices), preflight.lake(config, content)]


def run(flags: argparse.Namespace) -> int:
    """Write the script, print it, submit it and follow the job; return the exit code."""
    flags.logs = flags.logs.absolute()
    check(flags)
    word = (radlake_words(flags.command) or [Path(flags.command[0]).name])[0]
    name = flags.name or "radlake-" + re.sub(r"[^\w.-]", "-", word)
    comments = [f"# {line}" for line in facts(flags)]
    text = batch_script.text(flags, name)
    path = flags.logs / f"{name}.sbatch"
    if flags.dry_run:
        print("\n".join([*comments, text]), end="")
        return 0
    _check_programs(flags)
    storage.make_folder(flags.logs)
    storage.write(path, text.encode())
    print("\n".join([f"# {path}", *comments, text]), end="", flush=True)
    signals.set_repeat("a job may have been submitted: look with squeue --me")
    job = slurm_job.submit(path, name, flags.logs)
    print(f"job {job.number}: scancel {job.number} cancels it; its logs: {job.logs}", flush=True)
    if flags.detach:
        return 0
    return slurm_job.Follower(job).follow_or_cancel()


def _check_programs(flags: argparse.Namespace) -> None:
    """Raise InputError where Slurm or the command is not there. The job finds it on this PATH."""
    if not shutil.which("sbatch"):
        raise InputError("there is no sbatch on the PATH; launch on a machine of a Slurm cluster")
    if not flags.container and not shutil.which(flags.command[0]):
        raise InputError(f"{flags.command[0]}: no such command")


def main(argv: list[str]) -> int:
    flags, _ = cli.parse(parser(), argv)
    return cli.exit_code(lambda: run(flags))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
