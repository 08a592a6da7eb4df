"""workdir/run.json: what each start of a run was made with and ran on, beside config.yaml's values.

No name of a user or of a machine: the home folder is written as ~.
"""

import importlib.metadata
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path

import keras
import tensorflow as tf

from trainer.workdir import read_json, shards_sha256, write_json

RUN = "run.json"
PACKAGES = ("tensorflow", "keras", "numpy", "radlake")
ROOT = Path(__file__).parent.parent


def add_start(
    workdir: Path, lakes: list[dict], strategy: tf.distribute.Strategy, step: int
) -> None:
    """One more entry in run.json; `step`: where this start goes on."""
    starts = read_json(workdir / RUN).get("starts", [])
    starts.append(
        {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "step": step,
            "command": _command(),
            "packages": packages(),
            "commit": commit(),
            "strategy": type(strategy).__name__,
            "devices": _devices(strategy),
            "precision": keras.mixed_precision.dtype_policy().name,
            "lakes": [
                {
                    **{name: lake[name] for name in ("dataset", "version")},
                    "shards": shards_sha256([lake]),
                }
                for lake in lakes
            ],
        }
    )
    write_json(workdir / RUN, {"starts": starts})


def _command() -> str:
    parts = [Path(sys.argv[0]).name, *sys.argv[1:]]
    return shlex.join(part.replace(str(Path.home()), "~") for part in parts)


def packages(*more: str) -> dict[str, str | None]:
    """Versions of PACKAGES and `more`; of a checkout that is not installed None: `commit` tells."""
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *more):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # tensorflow-cpu is another package
            found[name] = tf.__version__ if name == "tensorflow" else None
    return found


def commit() -> dict | None:
    """Of the checkout that runs, and whether its files differ from it; None without one."""
    if not (ROOT / ".git").exists():
        return None
    try:
        sha = _git("rev-parse", "HEAD")
        is_dirty = bool(_git("status", "--porcelain", "--untracked-files=no"))
    except (FileNotFoundError, subprocess.CalledProcessError):  # no git, or not our checkout
        return None
    return {"sha": sha, "is_dirty": is_dirty}


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _devices(strategy: tf.distribute.Strategy) -> list[str]:
    """`GPU:0 NVIDIA …` or `CPU:0 x86_64` of each replica."""
    gpus = tf.config.list_physical_devices("GPU")
    models = [tf.config.experimental.get_device_details(gpu).get("device_name") for gpu in gpus]
    found = []
    for device in strategy.extended.worker_devices:
        kind, number = device.rpartition("device:")[2].split(":")
        model = models[int(number)] if kind == "GPU" else platform.machine()
        found.append(f"{kind}:{number} {model}")
    return found
