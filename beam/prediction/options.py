"""The options of python -m beam.predict and what the export says about itself -> PredictionOptions.
Mistakes are reported before a worker starts."""

import argparse
import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from beam.running import files, paths, patterns
from beam.running.options import BEAM_OPTIONS, WORK
from lake import InputError, exam
from lake.predictions.exported import (
    DESCRIPTION,
    ONNX_MODEL,
    RECORDS,
    SAVED_MODEL,
    settings_from_json,
)
from lake.scan import ReaderSettings
from lake.terminal import cli

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from lake.predictions.seg_series import SegRequest

OWNER = "made_by.json"  # in .work: the options that all predictions in the folder were made with

EXAMPLE = "--model exported --images 'new_images/**.dcm' --output predictions"


@dataclass(frozen=True)
class PredictionOptions:
    """Holds everything that the workers need to know."""

    folder: str
    model: str  # folder of the SavedModel
    model_sha256: str  # of its export.json, which holds the checksums of the weights
    reader_settings: ReaderSettings  # how the lake was made that its networks learnt from
    images_root: str  # the folder above the first wildcard of --images
    seg: str | None  # a name in lake.predictions.seg.FINDINGS
    mint_uids: bool
    any_modality: bool
    batch_size: int
    shard_images: int
    num_threads: int  # of one TensorFlow op; 0: as TensorFlow chooses
    max_reject_fraction: float
    progress_file: str | None
    seg_request: "SegRequest | None" = None  # which DICOM SEG files are written; None: none
    findings: tuple[str, ...] = ()  # those that the networks score; () where they draw masks

    def for_predictions(self) -> dict:
        """Return the options that change the predictions for the same files."""
        names = ("model_sha256", "seg", "mint_uids", "any_modality")
        return {name: getattr(self, name) for name in names}

    def path(self, *names: str) -> str:
        return paths.join(self.folder, *names)

    def work_path(self, name: str) -> str:
        return self.path(WORK, name)


def parser() -> argparse.ArgumentParser:
    """Return the parser of beam.predict."""
    summary = "Predict masks of image files with exported networks, on any Beam runner."
    parser = cli.parser("beam.predict", summary, example=EXAMPLE, epilog=BEAM_OPTIONS)

    groups = {name: parser.add_argument_group(name) for name in ("files", "masks", "speed")}

    def add(name: str, help_text: str, group: str = "files", **settings) -> None:
        groups[group].add_argument(f"--{name}", help=help_text, **settings)

    folder = {"required": True, "metavar": "FOLDER"}
    add("model", "the folder that export wrote", **folder)
    inputs = "what convert takes: DICOM, PNG, JPEG, or CT volumes; such as 'gs://b/x/**.dcm'"
    add("images", inputs, required=True, metavar="PATTERN")
    add("any_modality", exam.HELP, action="store_true")
    add("output", "a new folder, or one that the same command began", **folder)
    seg_help = "write DICOM SEGs, one per series: lesion (default), pneumothorax or nodule"
    add("seg", seg_help, "masks", nargs="?", const="lesion", metavar="FINDING")
    mint_help = "for --seg of files without legal UIDs: make some, and copies with them"
    add("mint_uids", mint_help, "masks", action="store_true")
    number = {"type": cli.at_least(1), "metavar": "N"}
    add("batch_size", "images that the networks take at once", "speed", default=16, **number)
    shard_help = "about so many are finished at a time; a restart goes on behind them"
    add("shard_images", shard_help, "speed", default=128, **number)
    rejects_help = "the job fails where a larger share of the images is rejected"
    add("max_reject_fraction", rejects_help, type=cli.share, default=0.01, metavar="SHARE")
    return parser


def from_flags(flags: argparse.Namespace, progress_file: str | None) -> PredictionOptions:
    """Return the workers' options, without their threads; raise InputError. Nothing here needs
    Beam."""
    patterns.check_matches("images", flags.images)
    if flags.seg or flags.mint_uids:
        from lake.predictions import seg  # pydicom and its decoders take half a second to import

        seg.check_options(flags.seg, flags.mint_uids)
    model = flags.model.rstrip("/")
    text = _read_description(model)
    description = json.loads(text)
    if RECORDS not in description["signatures"]:
        raise InputError(
            f"--model={model} has no signature {RECORDS!r}, as exports of earlier versions; "
            f"export the workdirs again"
        )
    findings = tuple(description.get("findings", ()))
    if findings and flags.seg:
        raise InputError(
            f"--seg needs masks, and --model={model} draws none: it scores {len(findings)} findings"
        )
    names = ("seg", "mint_uids", "batch_size", "shard_images", "max_reject_fraction")
    settings = settings_from_json(description["stored"])
    options = PredictionOptions(
        folder=flags.output.rstrip("/"),
        model=model,
        model_sha256=hashlib.sha256(text).hexdigest(),
        reader_settings=settings._replace(any_modality=flags.any_modality),
        any_modality=flags.any_modality,
        images_root=patterns.fixed_folder(flags.images),
        num_threads=0,
        progress_file=progress_file,
        seg_request=_seg_request(flags, description) if flags.seg else None,
        findings=findings,
        **{name: getattr(flags, name) for name in names},
    )
    _check_output(options)
    return options


def _seg_request(flags: argparse.Namespace, description: dict) -> "SegRequest":
    """Return which DICOM SEG files the flags ask for, and the algorithm that they name: that of the
    export with this description."""
    from lake.predictions import seg
    from lake.predictions.seg_series import SegRequest

    return SegRequest(flags.seg, flags.mint_uids, seg.algorithm(description, flags.any_modality))


def with_threads(options: PredictionOptions, beam_options: "PipelineOptions") -> PredictionOptions:
    """Return the options with the threads that a worker may take: several processes share the
    cores."""
    from apache_beam.options.pipeline_options import DirectOptions

    direct = beam_options.view_as(DirectOptions)
    if direct.direct_running_mode != "multi_processing":
        return options
    num_threads = max(1, os.cpu_count() // (direct.direct_num_workers or os.cpu_count()))
    return dataclasses.replace(options, num_threads=num_threads)


def _read_description(model: str) -> bytes:
    """Return export.json of the folder; raise InputError where there is none."""
    if paths.exists(paths.join(model, ONNX_MODEL)):
        message = "an ONNX file, which takes no records; export the workdirs without --format onnx"
        raise InputError(f"--model={model} has {message}")
    for name in (SAVED_MODEL, DESCRIPTION):
        if not paths.exists(paths.join(model, name)):
            expected = "the folder that export wrote"
            raise InputError(f"--model={model}: no {name} in it; expected {expected}")
    return files.read(paths.join(model, DESCRIPTION))


def _check_output(options: PredictionOptions) -> None:
    """Raise InputError where the folder holds something else, or predictions by another model."""
    folder, owner = options.folder, options.work_path(OWNER)
    if paths.exists(owner):
        earlier, current = json.loads(files.read_text(owner)), options.for_predictions()
        earlier = current | earlier  # of an earlier radlake it has fewer
        changes = [f"{name}={earlier[name]}" for name in current if earlier[name] != current[name]]
        if changes:
            raise InputError(
                f"--output={folder} was made with {', '.join(changes)}, not {current}; give the "
                f"same model and options to go on, or a new folder"
            )
    # Files in the folders below count, too: files in seg/ that are not ours would be removed.
    elif os.path.isfile(folder) or _has_files(folder):
        raise InputError(f"--output={folder} is there and not by beam.predict; give a new folder")


def _has_files(folder: str) -> bool:
    """Return whether a folder has a file other than the lock of a process that has just begun, or
    was killed then."""
    from lake.predictions.folder import LOCK

    matches = patterns.matching_files("output", f"{folder}/**", limit=2)
    return any(os.path.basename(file.path) != LOCK for file in matches)


def claim(options: PredictionOptions) -> None:
    """Make the folder, and write down what the predictions in it are made with."""
    from lake.predictions.folder import SEGS

    for folder in (options.work_path(""), *([options.path(SEGS)] if options.seg else [])):
        files.make_folder(folder)
    if not paths.exists(options.work_path(OWNER)):
        files.write_text(options.work_path(OWNER), json.dumps(options.for_predictions()))
