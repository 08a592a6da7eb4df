"""The options of python -m beam.predict, and what the export says of itself -> Options. What can be
wrong with them is said before a worker starts."""

import argparse
import hashlib
import json
import os
from dataclasses import dataclass

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions

from beam.running import files
from beam.running.options import WORK, check_matches
from lake import InputError
from lake.cli import at_least, share
from lake.predictions import seg
from lake.predictions.exported import DESCRIPTION, SAVED_MODEL, SIGNATURES

OWNER = "made_by.json"  # in .work: what all answers in the folder were made by


@dataclass(frozen=True)
class PredictionOptions:
    """What the workers need to know."""

    folder: str
    model: str  # folder of the SavedModel
    model_sha256: str  # of its export.json, which holds the checksums of the weights
    decoder: str  # of its DICOM files, as there
    image_id_from: str  # name | uid
    seg: str | None  # of lake.seg.FINDINGS
    mint_uids: bool
    batch_size: int
    shard_images: int
    threads: int  # of one TensorFlow op; 0: as TensorFlow chooses
    max_reject_fraction: float
    progress_file: str | None

    def of_answers(self) -> dict:
        """What they depend on besides the files."""
        names = ("model_sha256", "image_id_from", "seg", "mint_uids")
        return {name: getattr(self, name) for name in names}

    def path(self, *names: str) -> str:
        return FileSystems.join(self.folder, *names)

    def work(self, name: str) -> str:
        return self.path(WORK, name)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m beam.predict",
        description="Image files and an export of trainer.task -> masks, on any Beam runner.",
        epilog="Beam's own options (--runner, --direct_num_workers, --project, …) pass through.",
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--model", required=True, metavar="FOLDER", help="what trainer.task export wrote")
    add("--images", required=True, metavar="PATTERN", help="DICOM, PNG and JPEG: 'gs://b/x/**.dcm'")
    add("--output", required=True, metavar="FOLDER", help="a new one, or one to go on with")
    findings = " or ".join(seg.FINDINGS)
    help_text = f"a DICOM SEG an image: {findings} (default: lesion)"
    add("--seg", nargs="?", const="lesion", metavar="FINDING", help=help_text)
    help_text = "for --seg of files without legal UIDs: make some, and copies that have them"
    add("--mint_uids", action="store_true", help=help_text)
    number = at_least(1, int)
    add("--batch_size", type=number, default=16, help="images that the networks see at once")
    help_text = "about so many are finished at a time, for a restart to go on behind them"
    add("--shard_images", type=number, default=128, help=help_text)
    help_text = "above it the job fails"
    add("--max_reject_fraction", type=share, default=0.01, metavar="SHARE", help=help_text)
    return made


def from_flags(
    flags: argparse.Namespace, beam_options: PipelineOptions, progress_file: str | None
) -> PredictionOptions:
    """The workers' Options; raises InputError."""
    check_matches("images", flags.images)
    seg.check_options(flags.seg, flags.mint_uids)
    model = flags.model.rstrip("/")
    described = _description(model)
    known = json.loads(described)
    _check_signatures(known, model)
    names = ("seg", "mint_uids", "batch_size", "shard_images", "max_reject_fraction")
    made = PredictionOptions(
        folder=flags.output.rstrip("/"),
        model=model,
        model_sha256=hashlib.sha256(described).hexdigest(),
        decoder=known["decoder"],
        image_id_from=known["stored"]["image_id_from"],
        threads=_threads(beam_options),
        progress_file=progress_file,
        **{name: getattr(flags, name) for name in names},
    )
    _check_output(made)
    return made


def _description(model: str) -> bytes:
    """export.json of the folder."""
    at, graph = FileSystems.join(model, DESCRIPTION), FileSystems.join(model, SAVED_MODEL)
    if not FileSystems.exists(graph):
        raise InputError(
            f"--model={model}: no {SAVED_MODEL} in it; expected the folder that trainer.task "
            f"export wrote"
        )
    if not FileSystems.exists(at):
        raise InputError(
            f"--model={model}: a SavedModel without {DESCRIPTION}; expected one by trainer.task "
            f"export, with that file beside it"
        )
    return files.read(at)


def _check_signatures(known: dict, model: str) -> None:
    lacks = sorted(set(SIGNATURES.values()) - set(known["signatures"]))
    if lacks:
        raise InputError(
            f"--model={model} has no signature for files ({', '.join(lacks)}), only for pixels: "
            f"what its lake was made with, volumes or --clahe, no graph does; use trainer.task "
            f"predict --input"
        )


def _threads(beam_options: PipelineOptions) -> int:
    """Several processes share the cores of this machine."""
    direct = beam_options.view_as(DirectOptions)
    if direct.direct_running_mode != "multi_processing":
        return 0
    return max(1, os.cpu_count() // (direct.direct_num_workers or os.cpu_count()))


def _check_output(options: PredictionOptions) -> None:
    """Answers of two models or kinds must not stand in one folder."""
    folder, owner = options.folder, options.work(OWNER)
    if FileSystems.exists(owner):
        found, wanted = json.loads(files.read_text(owner)), options.of_answers()
        other = [f"{name}={found[name]}" for name in wanted if found[name] != wanted[name]]
        if other:
            raise InputError(
                f"--output={folder} was made with {', '.join(other)}, not {wanted}; give the same "
                f"model and options to go on, or a new folder"
            )
    # Files of any folder below, too: of seg/, those that are not ours are removed.
    elif os.path.isfile(folder) or files.matching("output", f"{folder}/**", limit=1):
        raise InputError(f"--output={folder} is there and not by beam.predict; give a new folder")


def claim(options: PredictionOptions) -> None:
    """The folder is these options' from now on."""
    for folder in (options.work(""), *([options.path("seg")] if options.seg else [])):
        files.make_folder(folder)
    if not FileSystems.exists(options.work(OWNER)):
        files.write_text(options.work(OWNER), json.dumps(options.of_answers()))
