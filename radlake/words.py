"""The words of the command `radlake`. A new command is a line in WORDS."""

from typing import NamedTuple


class Word(NamedTuple):
    """A word's command: `main` of a module, called with the `leading` words and the user's."""

    module: str
    leading: tuple[str, ...]
    help: str
    extra: str | None = None  # of setup.py, without which the command does not start


WORDS = {
    "convert": Word("beam.convert", (), "image files and labels -> a lake"),
    "convert_table": Word("beam.table", (), "print again what a conversion printed at its end"),
    "synthetic": Word("beam.synthetic", (), "draw phantom chest X-rays"),
    "synthetic_ct": Word("beam.synthetic_ct", (), "draw phantom CT volumes"),
    "show": Word("lake.__main__", ("show",), "what a lake holds"),
    "verify": Word("lake.__main__", ("verify",), "check every byte of a lake"),
    "find": Word("lake.__main__", ("find",), "the records of a patient or an image"),
    "erase": Word("lake.__main__", ("erase",), "take patients or images out of a lake"),
    "write_lake": Word("lake.__main__", ("write",), "a lake -> files for nnU-Net, COCO, Grain …"),
    "configs": Word("radlake.shipped", (), "list the configs that --config takes by name"),
    "train": Word("trainer.task", ("train",), "lake + config -> a trained network", "train"),
    "find_lr": Word("trainer.task", ("find_lr",), "suggest a learning rate", "train"),
    "tune": Word("trainer.task", ("tune",), "search for better values of a config", "train"),
    "average": Word("trainer.task", ("average",), "the mean of a run's kept weights", "train"),
    "evaluate": Word("trainer.task", ("evaluate",), "score trained networks", "train"),
    "predict": Word("trainer.task", ("predict",), "masks of a lake's split or of files", "train"),
    "export": Word("trainer.task", ("export",), "trained networks -> a SavedModel", "train"),
    "predict_files": Word("beam.predict", (), "an export over any number of files", "train"),
    "vote": Word("trainer.task", ("vote",), "several predictions -> one submission", "train"),
    "froc": Word("trainer.task", ("froc",), "score nodule candidates of CT scans", "train"),
    "augment": Word("trainer.task", ("augment",), "draw images before and after", "train"),
    "benchmark": Word("trainer.task", ("benchmark",), "where time and memory go", "train"),
    "launch dataflow": Word("launch.dataflow", (), "convert on Dataflow"),
    "launch vertex": Word("launch.vertex", (), "train on Vertex AI", "train"),
    "launch tpu_vm": Word("launch.tpu_vm", (), "train on a rented TPU VM", "train"),
    "launch slurm": Word("launch.slurm", (), "train, convert, predict on Slurm", "train"),
    "launch cluster": Word("launch.cluster", (), "several workers on this machine"),
}


def spellings(program: str) -> dict[str, str]:
    """Return {what follows `python -m`: what to type for it}, for lake.terminal.cli; `program`:
    "radlake", or "python -m radlake" where that has started the process."""
    modules = {
        entry.module.removesuffix(".__main__"): program if entry.leading else f"{program} {word}"
        for word, entry in WORDS.items()
    }
    others = {  # whose word is another one than that of their module
        f"{entry.module.removesuffix('.__main__')} {' '.join(entry.leading)}": f"{program} {word}"
        for word, entry in WORDS.items()
        if entry.leading and entry.leading != (word,)
    }
    return modules | others | {"radlake": program}
