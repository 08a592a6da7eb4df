"""One workdir holds one run: whose a folder is. In: a workdir and the stages of a run. Out: leave
to train there, before any file changes, or InputError that names another run's file.
"""

import json
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from lake import InputError, storage
from lake.records import manifest
from lake.records.identity import shards_sha256
from lake.terminal import console
from trainer import provenance
from trainer.config import files
from trainer.config.run import Config
from trainer.data import splits
from trainer.display import board, tracker
from trainer.training.changes import changes
from trainer.workdir import (
    BEST,
    CHECKPOINTS,
    CONFIG,
    FURTHER,
    LAKE,
    METRICS,
    SEEN,
    checkpoint_steps,
    describe_lake,
    read_config,
    read_json,
)

EVENTS = "events"  # in lake.json: what the names of the run's event files hold
# What only a run writes, or evaluate beside one.
PARTS = (BEST, FURTHER, CHECKPOINTS, LAKE, METRICS, SEEN, provenance.RUN, tracker.FILE)


def stage_folders(workdir: Path, count: int) -> list[Path]:
    """Return the folders of a run's stages: the last is the workdir, the others are inside it."""
    return [*(workdir / f"stage_{number}" for number in range(1, count)), workdir]


def check(workdir: Path, stages: Sequence[Config], model_folder: Path | None = None) -> None:
    """Raise InputError where the workdir, or the folder that the trained network is copied to,
    holds what is not of this run; write nothing."""
    if (workdir / manifest.MANIFEST).exists():
        raise InputError(f"{workdir} is a lake; give another --workdir")
    folders = stage_folders(workdir, len(stages))
    _check_number_of_stages(workdir, folders)
    for number, (folder, config) in enumerate(zip(folders, stages, strict=True), 1):
        is_followed = any((later / CONFIG).exists() for later in folders[number:])
        _check_config(folder, config, is_followed)
        _check_events(folder)
        _check_checkpoints(folder)
    _check_order_of_stages(folders)
    if model_folder:
        _check_config(model_folder, stages[-1])


def claim(workdir: Path, config: Config, lakes: list[dict]) -> str | None:
    """Write what the run and its lakes are; return what the names of its event files hold, None
    for a run of before there was such a text."""
    old_identity = read_json(workdir / LAKE)
    if checkpoint_steps(workdir) and (workdir / CONFIG).exists():
        # Whatever the command names now, the run has started from these.
        weights = read_config(workdir).model.weights
        model = config.model.model_copy(update={"weights": weights})
        config = config.model_copy(update={"model": model})
    identity = {
        "lake": config.lake,
        "shards": shards_sha256(lakes),
        "dtype": lakes[0]["dtype"],
        "options": lakes[0]["options"],
        "lakes": [
            {"lake": folder} | describe_lake(lake)
            for folder, lake in zip((config.lake, *config.data.more_lakes), lakes, strict=True)
        ],
        EVENTS: old_identity.get(EVENTS) if old_identity else _new_events(),
    }
    storage.make_folder(workdir)
    with storage.whole_file(workdir / CONFIG) as unfinished_path:
        files.save(config, unfinished_path)
    storage.write(workdir / LAKE, json.dumps(identity).encode() + b"\n")
    return identity[EVENTS]


def _new_events() -> str:
    """Return a text for the names of a new run's event files; with a letter, because a number would
    look like the counter at the end of a name without this text."""
    return f"r{secrets.token_hex(4)}"


def _check_number_of_stages(workdir: Path, folders: list[Path]) -> None:
    """Raise InputError for folders of more stages than the run has."""
    paths = workdir.iterdir() if workdir.exists() else []
    names = sorted(path.name for path in paths if re.fullmatch(r"stage_\d+", path.name))
    if others := [name for name in names if workdir / name not in folders]:
        raise InputError(
            f"{workdir} holds {', '.join(others)}, and this run has {_stages(len(folders))}: "
            f"another run's; use another --workdir"
        )


def _check_order_of_stages(folders: list[Path]) -> None:
    """Raise InputError where a stage has begun although one before it has not ended."""
    for number, folder in enumerate(folders[:-1]):
        later = [path for path in folders[number + 1 :] if (path / CONFIG).exists()]
        if later and not (folder / BEST).exists():
            raise InputError(
                f"{later[0]} holds a run, and {folder}, the stage before it, has no {BEST}: put it "
                f"back, or use another --workdir"
            )


def _stages(count: int) -> str:
    return f"{count} stages" if count > 1 else "no stages"


def _check_config(folder: Path, config: Config, is_followed: bool = False) -> None:
    """Raise InputError where a folder holds another config or another lake, or files of a run
    without its config; say what differs and may. `is_followed`: a later stage has begun."""
    if not (folder / CONFIG).exists():
        if parts := [name for name in PARTS if (folder / name).exists()]:
            raise InputError(
                f"{folder} holds {', '.join(parts)} and no {CONFIG}, so nobody can tell whose they "
                f"are; put back their {CONFIG}, or use another --workdir"
            )
        return
    # An unreadable one would end the run after its next epoch.
    num_epochs = read_json(folder / METRICS).get("last", {}).get("epoch", 0)
    # An older run kept relative paths.
    old_config = files.with_whole_paths(read_config(folder))
    allowed, refused = changes(old_config, config, num_epochs, is_followed)
    lake, shards = read_json(folder / LAKE), None
    if lake or checkpoint_steps(folder):  # a kill may have come between the two files
        shards = shards_sha256(splits.open_lakes(config.lake, config.data))
    if lake.get("shards") != shards:
        refused.append(f"lake: the shards of {lake.get('lake')} -> others in {config.lake}")
    if not refused:
        if allowed:
            console.note(f"{folder}: goes on with what no result depends on: {'; '.join(allowed)}")
        return
    if (folder / BEST).exists():
        way = f", where --model.weights={folder / BEST} starts from what this one learnt"
    else:
        way = ", or delete this one: it has learnt nothing yet"
    raise InputError(
        f"{folder} holds another run; repeat its values, or use another --workdir{way}:\n  "
        + "\n  ".join(refused)
    )


def _check_events(folder: Path) -> None:
    """Raise InputError for TensorBoard's files of another run: its curves and this run's would be
    one in every chart."""
    identity = read_json(folder / LAKE)
    is_begun = (folder / CONFIG).exists()
    run = identity.get(EVENTS)
    for path in board.event_files(folder):
        if not (is_begun and board.is_event_file_of(run, path)):
            raise InputError(
                f"{path} is not of this run: TensorBoard would show two runs as one; move it away, "
                f"or use another --workdir"
            )


def _check_checkpoints(folder: Path) -> None:
    """Raise InputError where a run has finished epochs and no checkpoint to go on from: it would
    start anew, over the weights that it has."""
    epoch = read_json(folder / METRICS).get("last", {}).get("epoch", 0)
    if epoch > 1 and not checkpoint_steps(folder):
        raise InputError(
            f"{folder} holds a run of {epoch} epochs without its {CHECKPOINTS}/, so it cannot go "
            f"on; put them back, or use another --workdir"
        )
