"""The folders that Vertex AI names in the environment of a custom job with a baseOutputDirectory
(BASE/logs, BASE/checkpoints and BASE/model on gs://). No TensorFlow.

A run is one folder, so the first that is named is the workdir where none is given, curves,
checkpoints and all; what evaluate, predict and export need is copied into BASE/model at the end.
"""

import os
from pathlib import Path

from lake import InputError, storage

WORKDIRS = "AIP_TENSORBOARD_LOG_DIR", "AIP_CHECKPOINT_DIR"
MODEL = "AIP_MODEL_DIR"


def workdir(given: str | None) -> Path:
    """Of a training run; raises InputError where neither the user nor the job says it."""
    if given is not None:
        return storage.path_of(given)
    for name in WORKDIRS:
        if text := os.environ.get(name):
            print(f"no --workdir: {name} says {text}", flush=True)
            return storage.path_of(text)
    raise InputError(
        f"--workdir is required: the folder of the run. Only a job of Vertex AI with a "
        f"baseOutputDirectory says it another way ({WORKDIRS[0]})"
    )


def model() -> Path | None:
    """Where the trained network goes besides; None: nowhere else."""
    text = os.environ.get(MODEL)
    return storage.path_of(text) if text else None
