"""python -m trainer.task train|find_lr|average|evaluate|predict|export|vote|froc|augment|benchmark:
trains on a lake, and uses what was trained.

train      lake + config -> workdir with checkpoints, TensorBoard curves, the best weights; exit
           code 42: interrupted and saved, the same command goes on
find_lr    lake + config -> a learning rate, from a short run in which it grows at each step
tune       lake + config + space -> many runs, and the values whose run scored best
average    workdir -> another one, with the mean of the weights that it has kept
evaluate   workdir -> thresholds chosen on the validation split, scores of the test split, a picture
predict    workdirs + a lake or files -> submission.csv, overlays, probability maps, DICOM SEGs,
           nodule candidates
export     workdirs -> a SavedModel with files in and masks out, or an ONNX file with pixels in
vote       several predictions of the same images -> one submission
froc       nodule candidates of CT scans + true nodules -> FROC, CPM and a picture of the curve
augment    lake + config -> a picture of images before and after augmentation
benchmark  lake + config -> where the time goes, how replicas scale, the largest batch that fits
"""

import sys

if __name__ == "__main__":  # before the rest is imported, which takes a while
    from lake import signals

    signals.arm(goes_on=sys.argv[1:2] in signals.RESUMABLE)

import argparse
import functools
import os
from collections.abc import Iterable
from pathlib import Path

from lake import InputError, Stopped, storage
from lake.predictions import tfio
from lake.predictions.exported import ONNX, TFIO
from lake.records import manifest
from lake.terminal import cli, extras
from trainer import options
from trainer.training import interruption


def parser() -> argparse.ArgumentParser:
    return options.parser(__doc__)


def train(flags: argparse.Namespace, overrides: list[str]) -> None:
    """Train, or go on, into the workdir of the command or of the job that runs it."""
    from trainer import workdir

    folder = workdir.workdir_of_job(flags.workdir)
    config, model_folder = _load_config(flags, overrides), workdir.model_of_job()
    _check_places(folders=filter(None, (folder, model_folder)))
    from trainer.training import stages

    stages.train(config, folder, model_folder)


def find_lr(flags: argparse.Namespace, overrides: list[str]) -> str:
    config = _load_config(flags, overrides)
    _check_places(folders=[flags.workdir])
    from trainer.training import lr_finder

    return lr_finder.report(config, flags.workdir, flags.steps, flags.lowest, flags.highest)


def tune(flags: argparse.Namespace, overrides: list[str]) -> str | int:
    """Run trials, or go on with them, and print the table."""
    config = _load_config(flags, overrides)
    extras.check_installed("tune", "optuna", extra="tune")
    _check_places(folders=[flags.workdir])
    from trainer.tuning import tune

    search = flags.space, flags.workdir, flags.trials, flags.seed, flags.prune == "median"
    return tune.tune(config, flags.config, overrides, *search)


def average(flags: argparse.Namespace, overrides: list[str]) -> str:
    """Write the mean of a run's weights and print what was averaged."""
    _refuse(flags, overrides)
    from trainer import workdir

    if not storage.is_remote(flags.workdir):
        workdir.check_is_trained(flags.workdir)
    for path in flags.weights:
        storage.check_exists("--weights", path)
    if flags.lake:
        _check_lake(flags.lake)
    storage.check_new(flags.output)
    from trainer.training import mean_weights

    return mean_weights.write(flags.workdir, flags.weights, flags.lake, flags.output)


def augment(flags: argparse.Namespace, overrides: list[str]) -> str:
    config = _load_config(flags, overrides)
    _check_places(files=[flags.output])
    from trainer.training import augment_sheet

    sheet = flags.output, flags.examples, flags.seed, flags.each
    return augment_sheet.write(config, flags.config, *sheet)


def benchmark(flags: argparse.Namespace, overrides: list[str]) -> str:
    config = _load_config(flags, overrides)
    _check_places(files=[flags.json])
    from trainer.training import benchmark

    measurements = flags.steps, flags.replicas, flags.memory_gb, flags.json
    return benchmark.report(config, overrides, flags.config, *measurements)


def evaluate(flags: argparse.Namespace, overrides: list[str]) -> str:
    """Score workdirs and return the table."""
    _refuse(flags, overrides)
    _check_networks(flags)
    _check_places(folders=flags.workdir[:1], files=[flags.picture, flags.report])
    from trainer.evaluation import evaluate
    from trainer.evaluation.scores import ScoreOptions

    tolerances = flags.tolerance_mm, flags.tolerance_px
    networks = _ensemble(flags, flags.level)
    numbers = flags.prevalence, flags.bootstrap, flags.seed
    choices = ScoreOptions(*numbers, *tolerances, flags.choose, flags.calibrate)
    return evaluate.evaluate(networks, flags.lake, choices, flags.picture, flags.report)


def predict(flags: argparse.Namespace, overrides: list[str]) -> str:
    """Predict files or a split and return the summary; raise InputError for options that do not go
    together."""
    _refuse(flags, overrides)
    if flags.input and (flags.lake or flags.split):
        raise InputError("--input takes files, --lake and --split a lake; give one of them")
    if flags.any_modality and not flags.input:
        raise InputError("--any_modality is for files of --input; a lake is taken as it is")
    if flags.seg or flags.mint_uids:
        from lake.predictions import seg  # pydicom and its decoders take half a second to import

        seg.check_options(flags.seg, flags.mint_uids)
    _check_networks(flags)
    for path in flags.input:
        storage.check_exists("--input", path)
    from trainer.prediction import output_folder

    output_folder.check(flags.output)
    with output_folder.alone_in(flags.output):
        from trainer.prediction import predict

        outputs = predict.output_options(flags)
        images = flags.lake, flags.split or "test", flags.input
        return predict.run(_ensemble(flags, flags.level), *images, flags.output, outputs)


def export(flags: argparse.Namespace, overrides: list[str]) -> str:
    """Write a SavedModel, one per level, or an ONNX file, and return how to call it; raise
    InputError for options that do not go together."""
    _refuse(flags, overrides)
    if flags.format == ONNX:
        _check_onnx(flags)
    _check_networks(flags)
    if flags.level == options.ALL_LEVELS and flags.lake:
        raise InputError("--level all takes thresholds of the runs' own lake, not of --lake")
    from trainer.serving import output_folder

    output_folder.check(flags.output)
    with output_folder.alone_in(flags.output):
        if flags.decoder == TFIO:
            tfio.load()
        from trainer.serving import export, levels

        if flags.level == options.ALL_LEVELS:
            load = functools.partial(_ensemble, flags)
            return levels.export_all(load, flags.output, flags.decoder, flags.any_modality)
        networks = _ensemble(flags, flags.level)
        choices = flags.decoder, flags.lake, flags.any_modality, flags.format
        return export.export(networks, flags.output, *choices)


def _check_onnx(flags: argparse.Namespace) -> None:
    """Raise InputError for options of export that an ONNX file cannot have, and where the packages
    that write it are not installed."""
    clashes = (
        (flags.level == options.ALL_LEVELS, "--level all", "for one level say --level N"),
        (flags.decoder == TFIO, "--decoder tfio", "an ONNX file takes pixels, and decodes nothing"),
        (flags.any_modality, "--any_modality", "an ONNX file does not know what pixels show"),
    )
    for is_given, option, reason in clashes:
        if is_given:
            raise InputError(f"{option} does not go with --format onnx: {reason}")
    extras.check_installed("--format onnx", "onnx", "tf2onnx", extra="onnx")


def vote(flags: argparse.Namespace, overrides: list[str]) -> str:
    """Let predictions vote and return the line to print."""
    _refuse(flags, overrides)
    for path in flags.predictions:
        storage.check_exists("predictions", path)
    _check_places(files=[flags.output])
    from trainer.prediction import vote

    return vote.run(flags.predictions, flags.output, flags.votes, flags.triplet)


def froc(flags: argparse.Namespace, overrides: list[str]) -> str:
    """Score nodule candidates and return the table; raise InputError for options that do not go
    together."""
    _refuse(flags, overrides)
    if flags.scans and flags.lake:
        raise InputError("--scans and --lake both say which scans are scored; give one of them")
    if flags.lake:
        _check_lake(flags.lake)
    storage.check_exists("predictions", flags.predictions)
    for name in ("labels", "irrelevant", "scans"):
        if path := getattr(flags, name):
            storage.check_exists(f"--{name}", path)
    from trainer.evaluation import candidate_scores

    files = candidate_scores.Files(
        *(getattr(flags, name) for name in candidate_scores.Files._fields)
    )
    return candidate_scores.evaluate(files, flags.output, flags.bootstrap, flags.seed)


COMMANDS = {
    command.__name__: command
    for command in (
        train,
        find_lr,
        tune,
        average,
        evaluate,
        predict,
        export,
        vote,
        froc,
        augment,
        benchmark,
    )
}


def main(argv: list[str]) -> int:
    """Run the command that `argv` names and return its exit code; 42: interrupted and saved."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported
    flags, overrides = cli.parse(parser(), argv, is_passed=lambda name: "." in name)

    def run() -> str | int | None:
        """Return the text that the command prints, or its exit code; raise Stopped where a run
        diverged."""
        try:
            return COMMANDS[flags.command](flags, overrides)
        except FloatingPointError as error:  # the run diverged
            raise Stopped(str(error)) from None
        except interruption.Interrupted as interrupted:
            print(interrupted, flush=True)
            return interruption.EXIT_CODE

    return cli.exit_code(run)


def _refuse(flags: argparse.Namespace, overrides: list[str]) -> None:
    """Raise InputError for --section.field=value where a command takes none."""
    if overrides:
        raise InputError(
            f"unknown options {' '.join(overrides)}; see "
            f"{cli.typed_command(f'trainer.task {flags.command}')} --help"
        )


def _load_config(flags: argparse.Namespace, overrides: list[str]):
    """Return the config of a run; raise InputError for its mistakes, and where one of its lakes is
    not there. TensorFlow, which takes seconds to import, is not needed to say so."""
    from trainer.config import files, required

    config = files.with_whole_paths(files.load(flags.config, overrides, lake=flags.lake))
    for lake in (config.lake, *config.data.more_lakes):
        _check_lake(lake)
    return required.with_findings(config)


def _check_networks(flags: argparse.Namespace) -> None:
    """Raise InputError where a trained run, or the lake that is named, is not there, before
    TensorFlow is imported."""
    from trainer import workdir

    for folder in (*flags.workdir, *flags.classifier):
        if not storage.is_remote(folder):
            workdir.check_is_trained(folder)
    if getattr(flags, "lake", None):
        _check_lake(flags.lake)


def _check_places(folders: Iterable[Path] = (), files: Iterable[Path | None] = ()) -> None:
    """Raise InputError where a local folder or file cannot be written, before TensorFlow is
    imported, which tries what is on gs://."""
    file_paths = [path for path in files if path is not None]
    for path in file_paths:
        if not storage.is_remote(path) and path.is_dir():
            raise InputError(f"{path} is a folder; give the name of a file in it")
    for folder in (*folders, *(path.parent for path in file_paths)):
        if not storage.is_remote(folder):
            storage.check_writable(folder)


def _check_lake(lake: str) -> None:
    """Raise InputError where a local folder is not a lake."""
    if not storage.is_remote(lake):
        manifest.load(lake)


def _ensemble(flags: argparse.Namespace, level: int | None):
    from trainer.devices import strategy
    from trainer.inference import ensemble

    networks = ensemble.load(flags.workdir, flags.classifier, flags.tta, level)
    strategy.prepare_memory(max(member.config.feature_bytes for member in networks.everyone))
    return networks


if __name__ == "__main__":
    cli.begin()
    cli.end(main(sys.argv[1:]))
