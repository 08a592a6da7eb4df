"""python -m trainer.task train|find_lr|evaluate|predict|export|vote|augment|benchmark: parse, load,
call one function.

train      lake + config -> workdir with checkpoints, TensorBoard curves, the best weights; exit
           code 42: interrupted and saved, the same command goes on
find_lr    lake + config -> a learning rate, from a short run in which it grows at each step
evaluate   workdir -> thresholds chosen on the validation split, scores of the test split, a picture
predict    workdirs + a lake or files -> submission.csv, overlays, probability maps, DICOM SEGs,
           nodule candidates
export     workdirs -> a SavedModel of the same, files in and masks out, for TensorFlow Serving
vote       several predictions of the same images -> one submission
augment    lake + config -> a picture of what training makes of its images
benchmark  lake + config -> where the time goes, how replicas scale, the largest batch that fits
"""

import argparse
import os
import sys

from lake import InputError, storage
from lake.predictions import tfio
from lake.predictions.exported import TFIO
from trainer import options
from trainer.training import interruption
from trainer.workdir import model_of_job, workdir_of_job


def parser() -> argparse.ArgumentParser:
    return options.parser(__doc__)


def train(flags: argparse.Namespace, overrides: list[str]) -> None:
    workdir = workdir_of_job(flags.workdir)
    run = _run(flags, overrides)
    from trainer.training import stages

    stages.train(run, workdir, model_of_job())


def find_lr(flags: argparse.Namespace, overrides: list[str]) -> str:
    run = _run(flags, overrides)
    from trainer.training import lr_finder

    workdir, limits = storage.path_of(flags.workdir), (flags.lowest, flags.highest)
    return lr_finder.report(run, workdir, flags.steps, *limits)


def augment(flags: argparse.Namespace, overrides: list[str]) -> str:
    if flags.examples < 1:
        raise InputError(f"--examples={flags.examples}: give 1 or more")
    run = _run(flags, overrides)
    from trainer.training import augment_sheet

    return augment_sheet.write(run, flags.output, flags.examples, flags.seed, flags.each)


def benchmark(flags: argparse.Namespace, overrides: list[str]) -> str:
    for name in ("steps", "replicas", "memory_gb"):
        values = getattr(flags, name)
        least = min(values, default=1) if isinstance(values, list) else values
        if least < 1:
            raise InputError(f"--{name}={least:g}: give 1 or more")
    run = _run(flags, overrides)
    from trainer.training import benchmark

    measured = (flags.steps, flags.replicas, flags.memory_gb, flags.json)
    return benchmark.report(run, overrides, flags.config, *measured)


def evaluate(flags: argparse.Namespace, overrides: list[str]) -> str:
    _refuse(flags, overrides)
    if flags.prevalence is not None and not 0 < flags.prevalence < 1:
        raise InputError(f"--prevalence={flags.prevalence}: expected a share within 0 and 1")
    if flags.bootstrap < 0:
        raise InputError(f"--bootstrap={flags.bootstrap}: expected 0 or more")
    from trainer.evaluation import evaluate

    drawn = evaluate.Options(flags.prevalence, flags.bootstrap, flags.seed)
    return evaluate.evaluate(
        _ensemble(flags, flags.level), flags.lake, drawn, flags.picture, flags.report
    )


def predict(flags: argparse.Namespace, overrides: list[str]) -> str:
    _refuse(flags, overrides)
    if flags.input and (flags.lake or flags.split):
        raise InputError("--input takes files, --lake and --split a lake; give one of them")
    from trainer.prediction import predict

    wanted = predict.output_options(flags)
    asked = flags.lake, flags.split or "test", flags.input
    return predict.run(_ensemble(flags, flags.level), *asked, flags.output, wanted)


def export(flags: argparse.Namespace, overrides: list[str]) -> str:
    _refuse(flags, overrides)
    if flags.decoder == TFIO:
        tfio.load()
    from trainer.serving import export, levels

    if flags.level == options.ALL_LEVELS:
        return levels.export_all(lambda level: _ensemble(flags, level), flags.output, flags.decoder)
    return export.export(_ensemble(flags, flags.level), flags.output, flags.decoder)


def vote(flags: argparse.Namespace, overrides: list[str]) -> str:
    _refuse(flags, overrides)
    from trainer.prediction import vote

    return vote.run(flags.predictions, flags.output, flags.votes, flags.triplet)


COMMANDS = {
    command.__name__: command
    for command in (train, find_lr, evaluate, predict, export, vote, augment, benchmark)
}


def main(argv: list[str]) -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported
    flags, overrides = parser().parse_known_args(argv)
    try:
        with storage.explained():
            said = COMMANDS[flags.command](flags, overrides)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except FloatingPointError as error:  # the run diverged
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except interruption.Interrupted as stop:
        print(stop, flush=True)
        return interruption.EXIT_CODE
    if said is not None:
        print(said)
    return 0


def _refuse(flags: argparse.Namespace, overrides: list[str]) -> None:
    if overrides:
        raise InputError(
            f"unknown options {' '.join(overrides)}; see python -m trainer.task {flags.command} "
            f"--help"
        )


def _run(flags: argparse.Namespace, overrides: list[str]):
    from trainer.config import files

    return files.load(flags.config, overrides, lake=flags.lake)


def _ensemble(flags: argparse.Namespace, level: int | None):
    from trainer.inference import ensemble

    workdirs, classifiers = (
        [storage.path_of(folder) for folder in given] for given in (flags.workdir, flags.classifier)
    )
    return ensemble.load(workdirs, classifiers, flags.tta, level)


def end(code: int) -> None:
    """Of the process. TensorFlow's own end would wait for workers that are gone."""
    if code and os.environ.get("TF_CONFIG"):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    end(main(sys.argv[1:]))
