"""run.json in the workdir: the command, versions, commit and devices of each start of a run.

It has no name of a user or a machine: the home folder is written as ~.
"""

import importlib.metadata
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import keras
import tensorflow as tf

from lake import clock
from lake.records.identity import identity, title
from trainer.workdir import read_json, write_json

RUN = "run.json"
PACKAGES = ("tensorflow", "keras", "numpy", "radlake")
ROOT = Path(__file__).parent.parent


def add_start(
    workdir: Path, lakes: list[dict], strategy: tf.distribute.Strategy, step: int
) -> None:
    """Add an entry to run.json; `step`: the training step from which this start goes on."""
    starts = read_json(workdir / RUN).get("starts", [])
    starts.append(
        {
            "time": clock.now(),
            "step": step,
            "command": command(),
            "packages": packages(),
            "commit": commit(),
            "strategy": type(strategy).__name__,
            "devices": _devices(strategy),
            "precision": keras.mixed_precision.dtype_policy().name,
            "lakes": [identity(lake) for lake in lakes],
        }
    )
    write_json(workdir / RUN, {"starts": starts})


def origin(lakes: list[dict]) -> dict[str, str]:
    """Return the origin of a run in words, for TensorBoard: command, lakes, versions and time."""
    versions = ", ".join(f"{name} {version}" for name, version in packages().items())
    return {
        "command": command(),
        "lake": ", ".join(title(identity(lake)) for lake in lakes),
        "versions": versions,
        "started": clock.now(),
    }


def command() -> str:
    """Return the command that runs, as a shell takes it; the home folder is written as ~."""
    script = Path(sys.argv[0])
    arguments = [script.name, *sys.argv[1:]]
    if script.name == "__main__.py":  # of a package
        arguments[:1] = ["python", "-m", script.parent.name]
    return shlex.join(argument.replace(str(Path.home()), "~") for argument in arguments)


def packages(*further_names: str) -> dict[str, str | None]:
    """Return the versions of PACKAGES and of these further ones; radlake's is None in a checkout
    that is not installed, where `commit` says what runs."""
    versions = {"python": platform.python_version()}
    for name in (*PACKAGES, *further_names):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            # TensorFlow may be installed as tensorflow-cpu.
            versions[name] = tf.__version__ if name == "tensorflow" else None
    return versions


def commit() -> dict | None:
    """Return the commit of the checkout that runs, and whether tracked files differ from it; None
    without a checkout."""
    if not (ROOT / ".git").exists():
        return None
    try:
        sha = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain", "--untracked-files=no")
    except (FileNotFoundError, subprocess.CalledProcessError):  # no git, or another user's checkout
        return None
    return {"sha": sha, "is_dirty": bool(changes)}


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _devices(strategy: tf.distribute.Strategy) -> list[str]:
    """Return the device of each replica, such as `GPU:0 NVIDIA …` or `CPU:0 x86_64`."""
    gpus = tf.config.list_physical_devices("GPU")
    models = [tf.config.experimental.get_device_details(gpu).get("device_name") for gpu in gpus]
    devices = []
    for device in strategy.extended.worker_devices:
        kind, number = device.rpartition("device:")[2].split(":")
        model = models[int(number)] if kind == "GPU" else platform.machine()
        devices.append(f"{kind}:{number} {model}")
    return devices
