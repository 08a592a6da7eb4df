"""The weights of several epochs of a run -> their mean, as a workdir of its own that evaluate,
predict and export take.

The statistics of batch normalisation are not averaged but estimated anew on the training images, as
SWA's paper says (Izmailov et al. 2018, arXiv:1803.05407): those of several networks are not the
statistics of their mean.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from lake import InputError, clock, storage
from lake.records.identity import shards_sha256
from trainer import provenance
from trainer.data import damage, seen
from trainer.models import weight_files
from trainer.training import averaging
from trainer.training.loop import estimate_statistics
from trainer.training.run import Run, build_run
from trainer.workdir import (
    AVERAGE,
    BEST,
    CONFIG,
    LAKE,
    METRICS,
    SEEN,
    alone_in_new,
    check_is_trained,
    check_weights,
    read_config,
    read_json,
    write_metrics,
)

LOCK = "average.lock"  # while a process writes the folder


def write(workdir: Path, files: Sequence[Path], lake: str | None, output: Path) -> str:
    """Write the new folder `output`, whole or not at all; return what to print. `files`: of
    weights; without any, those of the epochs that the run has kept. `lake`: where the run's lake
    lies now."""
    check_is_trained(workdir)
    config = read_config(workdir)
    names = {path: str(path) for path in files} or _kept_weights(workdir)
    if len(names) < 2:
        raise InputError(
            f"{workdir} keeps the weights of one epoch, of which there is no mean; train with "
            f"--train.keep=5, or name files with --weights"
        )
    # The weights that training started from are not needed, and may be gone.
    model = config.model.model_copy(update={"weights": None})
    config = config.model_copy(update={"model": model, "lake": lake or config.lake})
    seen_images = _seen_by(workdir, names)
    with damage.locate_errors(config, config.lake):
        run = build_run(config)
        _check_lake(workdir, run)
        with run.strategy.scope():
            run.network.set_weights(mean_of_files(run.network, list(names)))
        num_images = _estimate(run)
    text = _in_words(workdir, list(names.values()), num_images)
    with alone_in_new(output, LOCK, "writes"), storage.whole_folder(output, (LOCK,)) as folder:
        for name in (CONFIG, LAKE):
            storage.write(folder / name, (workdir / name).read_bytes())
        if seen_images is not None:
            seen.write(folder / SEEN, seen_images)
        facts = {"text": text, "time": clock.now(), "command": provenance.command()}
        facts["weights"] = {
            name: hashlib.sha256(path.read_bytes()).hexdigest() for path, name in names.items()
        }
        write_metrics(folder, {AVERAGE: facts})
        run.network.save_weights(folder / BEST)
    return f"{output}: {text}"


def mean_of_files(network: keras.Model, files: Sequence[Path]) -> list[np.ndarray]:
    """Return the mean of each weight over the files, in the order of network.get_weights(), added
    up in float64; the network has the last file's weights behind it. Raises InputError for a file
    of another network."""
    totals = [np.zeros(weight.shape, np.float64) for weight in network.get_weights()]
    for path in files:
        if not path.exists():
            raise InputError(f"{path}: no such file of weights")
        check_weights(path)
        with storage.local(path) as file:
            if misfit := weight_files.first_misfit(network, file):
                raise InputError(f"{path}: not of this run's network: {misfit}")
            network.load_weights(file)
        for total, weight in zip(totals, network.get_weights(), strict=True):
            total += weight
    return [(total / len(files)).astype(np.float32) for total in totals]


def _kept_weights(workdir: Path) -> dict[Path, str]:
    """Return {file: its epoch in words} of the epochs that the run has kept."""
    entries = read_json(workdir / METRICS).get("kept", [])
    return {workdir / entry["weights"]: f"epoch {entry['epoch']}" for entry in entries}


def _seen_by(workdir: Path, files: Sequence[Path]) -> seen.Seen | None:
    """Return the images that all these weights have seen; None where the run does not know it, as
    evaluate then says. Raises InputError where those of another run's file are not known."""
    folders = {workdir}
    for path in files:
        if workdir.resolve() not in path.resolve().parents:
            places = [folder for folder in path.parents[:2] if (folder / SEEN).exists()]
            if not places:
                raise InputError(
                    f"{path}: no {SEEN} of a run beside it, which says what images these weights "
                    f"have learnt from; leave them where the run wrote them"
                )
            folders.add(places[0])
    parts = [seen.read(folder / SEEN) for folder in sorted(folders)]
    return None if any(part is None for part in parts) else seen.unite(parts)


def _check_lake(workdir: Path, run: Run) -> None:
    """Raise InputError where the lake is not the one that the run learnt from."""
    expected = read_json(workdir / LAKE).get("shards")
    if expected not in (None, shards_sha256(run.lakes)):
        raise InputError(
            f"{run.config.lake} is another lake than the one that {workdir} learnt from, on whose "
            f"images batch norm's statistics are estimated; say with --lake where that one lies"
        )


def _estimate(run: Run) -> int:
    """Estimate batch norm's statistics; return on how many images, 0 where there are none."""
    if not averaging.layers_with_statistics(run.network):
        return 0
    estimate_statistics(run)
    return run.steps_per_epoch * run.config.data.batch_size


def _in_words(workdir: Path, names: list[str], num_images: int) -> str:
    """Return what was averaged, a sentence."""
    text = f"the mean of {len(names)} weights of {workdir} ({', '.join(names)})"
    if num_images:
        return f"{text}, batch norm's statistics estimated anew on {num_images:,} training images."
    return f"{text}; the network has no batch norm that learns."
