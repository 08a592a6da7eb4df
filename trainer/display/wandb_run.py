"""A run in Weights & Biases. In: rows of numbers, scores, files. Out: a run on the server that the
environment names (WANDB_MODE=online, a WANDB_API_KEY or a WANDB_BASE_URL), else files in the
workdir, which `wandb sync` sends.

W&B's own watching is off (SETTINGS): console, git, code, packages, and the machine and its name
stay here.
"""

import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from lake import InputError, storage
from lake.terminal import console
from trainer.display.event_files import Row

PROJECT = "radlake"  # where WANDB_PROJECT names no other
MODES = {"online": "online", "offline": "offline", "dryrun": "offline"}
NAMES = ("WANDB_API_KEY", "WANDB_BASE_URL")  # either of these says where to send
FINISH_SECONDS = 600  # for what is not uploaded yet at the end of a run
SETTINGS = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "finish_timeout": FINISH_SECONDS,
    "finish_timeout_raises": True,
    "host": "-",
    "save_code": False,
    "symlink": False,  # but a hard link to each file as it is now, which is sent later
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}
EXIT_CODES = {"finished": 0, None: 0, "failed": 1, "stopped": 42}


class WandbRun:
    """A run, begun or gone on with. What its server does not take W&B sends again by itself, and
    keeps; its methods raise one of `errors`.

    Without a server the rows of a start are written when it ends: W&B's file is seconds behind what
    it was given, and a kill would take these, where TensorBoard's files have all."""

    def __init__(self, workdir: Path, entry: dict, name: str, values: dict, is_training: bool):
        """`entry`: what tracker.json has of the run, empty before its first start; `values`: its
        config. Raises InputError."""
        mode = mode_of_environment()
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to W&B's own makers
        if not console.is_verbose():
            os.environ.setdefault("WANDB_SILENT", "true")  # what fails is raised
        import wandb

        # OSError: of a disk.
        self.errors = (wandb.Error, TimeoutError, OSError)
        self.is_live = mode == "online"
        self.identity = {"id": entry.get("id") or secrets.token_hex(4)}
        self.place = f"W&B's run {self.identity['id']}, offline: files come when this start ends"
        self.options = {
            "project": os.environ.get("WANDB_PROJECT") or PROJECT,
            "id": self.identity["id"],
            "name": name,
            "mode": mode,
            "resume": "allow" if self.is_live else None,  # of files `wandb sync` does it
            "config": values,
            "allow_val_change": True,
            "settings": wandb.Settings(**SETTINGS),
        }
        if "WANDB_DIR" not in os.environ and not storage.is_remote(workdir):
            self.options["dir"] = workdir
        self.run = self.step = None
        if not self.is_live:
            return
        try:
            # W&B's server knows best up to which step it has all rows, which come in order.
            self.step = max(self._open().step - 1, 0)
        except self.errors as error:
            raise InputError(
                f"train.tracker=wandb: W&B does not take the run ({' '.join(str(error).split())}); "
                f"see WANDB_API_KEY and WANDB_BASE_URL, or log into files with WANDB_MODE=offline"
            ) from None

    def _open(self):
        """Return W&B's own run."""
        import wandb

        if self.run is None:
            self.run = wandb.init(**self.options)
            folder = Path(self.run.dir).parent
            place = self.run.url if self.is_live else f"offline: `wandb sync {folder}` sends it"
            self.place = f"W&B's run {self.identity['id']}, {place}"
        return self.run

    def log(self, rows: list[Row], is_doubtful: bool) -> None:
        """Log rows, beyond the steps that W&B has."""
        run = self._open()
        for row in rows:
            if row.step >= run.step:
                run.log(row.values | {"_timestamp": row.time}, step=row.step, commit=True)

    def add_scores(self, values: dict[str, float]) -> None:
        self._open().summary.update(values)

    def add_files(self, paths: Iterable[Path]) -> None:
        for path in paths:
            with storage.local(path) as file:
                # In a folder, as W&B has a config.yaml of its own.
                whole_path = Path(storage.whole_path(str(file)))
                self._open().save(whole_path, base_path=whole_path.parent.parent, policy="now")

    def end(self, status: str | None) -> None:
        """Say how the run ended, and wait until all is sent, or in the file."""
        if self.run is None:  # nothing was logged
            return
        if status == "stopped":
            self.run.mark_preempting()
        self.run.finish(EXIT_CODES[status])


def mode_of_environment() -> str:
    """Return online or offline: nothing is sent unless the environment says so. Raises InputError
    for a WANDB_MODE that logs nothing."""
    mode = os.environ.get("WANDB_MODE")
    if not mode:
        return "online" if any(os.environ.get(name) for name in NAMES) else "offline"
    if mode not in MODES:
        raise InputError(f"WANDB_MODE={mode}: train.tracker=wandb takes {' or '.join(MODES)}")
    return MODES[mode]
