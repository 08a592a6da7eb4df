"""python -m trainer.task train|find_lr|evaluate|predict|vote|augment|benchmark: parse, load, call
one function.

train      lake + config -> workdir with checkpoints, TensorBoard curves, the best weights; exit
           code 42: interrupted and saved, the same command goes on
find_lr    lake + config -> a learning rate, from a short run in which it grows at each step
evaluate   workdir -> thresholds chosen on the validation split, scores of the test split, a picture
predict    workdirs + a lake or files -> submission.csv, overlays, probability maps, DICOM SEGs,
           nodule candidates
vote       several predictions of the same images -> one submission
augment    lake + config -> a picture of what training makes of its images
benchmark  lake + config -> where the time goes, how replicas scale, the largest batch that fits
"""

import argparse
import os
import sys
from pathlib import Path

from lake import InputError
from trainer import interruption


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m trainer.task",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = made.add_subparsers(dest="command", required=True)
    train = commands.add_parser(
        "train",
        allow_abbrev=False,
        help="train, or resume by repeating the command",
        epilog="--section.field=value overrides a value of the config, such as --data.side=256",
    )
    train.add_argument("--config", required=True, metavar="YAML")
    train.add_argument("--lake", required=True, metavar="ROOT/NAME/VERSION")
    train.add_argument("--workdir", required=True, metavar="FOLDER")
    finder = commands.add_parser(
        "find_lr", allow_abbrev=False, help="suggest a learning rate for a config"
    )
    finder.add_argument("--config", required=True, metavar="YAML")
    finder.add_argument("--lake", required=True, metavar="ROOT/NAME/VERSION")
    finder.add_argument(
        "--workdir",
        default=".",
        metavar="FOLDER",
        help="of a run or not: everything goes into FOLDER/find_lr",
    )
    finder.add_argument("--steps", type=int, default=200, metavar="N")
    finder.add_argument("--lowest", type=float, default=1e-9, metavar="RATE")
    finder.add_argument("--highest", type=float, default=1.0, metavar="RATE")
    evaluate = commands.add_parser("evaluate", allow_abbrev=False, help="score trained networks")
    add_members(evaluate)
    evaluate.add_argument(
        "--lake", metavar="ROOT/NAME/VERSION", help="another lake than the run's own"
    )
    evaluate.add_argument(
        "--prevalence",
        type=float,
        metavar="SHARE",
        help="of lesions, for PPV and NPV; default: as in the images",
    )
    evaluate.add_argument(
        "--bootstrap", type=int, default=1000, metavar="N", help="draws behind the 95%% intervals"
    )
    evaluate.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    evaluate.add_argument(
        "--picture", type=Path, metavar="PNG", help="truth and prediction side by side"
    )
    evaluate.add_argument(
        "--report", type=Path, metavar="HTML", help="default: report.html in the first workdir"
    )
    add_predict(commands)
    add_vote(commands)
    sheet = commands.add_parser(
        "augment", allow_abbrev=False, help="draw images before and after augmentation"
    )
    sheet.add_argument("--config", required=True, metavar="YAML")
    sheet.add_argument("--lake", required=True, metavar="ROOT/NAME/VERSION")
    sheet.add_argument("--output", type=Path, default=Path("augmentation.png"), metavar="PNG")
    sheet.add_argument("--examples", type=int, default=6, metavar="N")
    sheet.add_argument("--seed", type=int, default=0)
    sheet.add_argument("--each", action="store_true", help="one row a transform, by itself")
    speed = commands.add_parser(
        "benchmark", allow_abbrev=False, help="measure where the time and the memory go"
    )
    speed.add_argument("--config", required=True, metavar="YAML")
    speed.add_argument("--lake", required=True, metavar="ROOT/NAME/VERSION")
    speed.add_argument("--steps", type=int, default=20, metavar="N", help="of each measurement")
    speed.add_argument(
        "--replicas",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="go through these numbers of replicas, each with the config's batch_size on every one",
    )
    speed.add_argument(
        "--memory_gb",
        type=float,
        nargs="+",
        default=[],
        metavar="GB",
        help="predict the largest batch on devices of this memory, such as 16 40 80 141",
    )
    speed.add_argument("--json", type=Path, metavar="FILE", help="the numbers, too")
    return made


def add_predict(commands) -> None:
    predict = commands.add_parser(
        "predict", allow_abbrev=False, help="masks of a lake's split or of files"
    )
    add_members(predict)
    predict.add_argument("--lake", metavar="ROOT/NAME/VERSION", help="default: the run's own")
    predict.add_argument("--split", help="of the lake (default: test)")
    predict.add_argument(
        "--input",
        nargs="+",
        default=[],
        metavar="PATH",
        help="files and folders of DICOM, PNG, JPEG or CT volumes instead of a lake",
    )
    predict.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="a new one")
    predict.add_argument("--overlays", action="store_true", help="a PNG an image, side by side")
    predict.add_argument("--probabilities", action="store_true", help="a PNG an image, 0 to 255")
    predict.add_argument("--candidates", action="store_true", help="of CT: candidates.csv")
    predict.add_argument(
        "--seg",
        nargs="?",
        const="lesion",
        metavar="FINDING",
        help="a DICOM SEG an image: lesion (default), pneumothorax or nodule",
    )
    predict.add_argument(
        "--mint_uids",
        action="store_true",
        help="for --seg of files without legal UIDs: make some, and copies that have them",
    )


def add_vote(commands) -> None:
    vote = commands.add_parser(
        "vote", allow_abbrev=False, help="one submission of several predictions"
    )
    vote.add_argument(
        "predictions",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="submission CSVs: a majority of pixels; or folders of probability maps: their mean",
    )
    vote.add_argument("--output", required=True, type=Path, metavar="CSV")
    vote.add_argument("--votes", type=int, metavar="N", help="default: more than half")
    vote.add_argument(
        "--triplet",
        metavar="TOP,AREA_SHARE,BOTTOM",
        help="of the mean map (default: 0.5,0,0.5): keep p > BOTTOM unless less than AREA_SHARE of "
        "the image has p > TOP",
    )


def add_members(command: argparse.ArgumentParser) -> None:
    """What an ensemble or a cascade is made of."""
    command.add_argument(
        "--workdir",
        required=True,
        nargs="+",
        metavar="FOLDER",
        help="of a run, or of several: the mean of their probabilities",
    )
    command.add_argument(
        "--classifier",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="of classifiers that say which images the segmenters are asked about",
    )
    command.add_argument(
        "--tta",
        nargs="+",
        default=["none"],
        metavar="VIEW",
        help="none, or flip and scales such as 0.8 1.25: the mean of the probabilities over an "
        "image, its mirror image and both resized",
    )
    command.add_argument(
        "--prune", type=int, metavar="LEVEL", help="the U-Net++ of this depth in deeper ones"
    )


def main(argv: list[str]) -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported
    flags, overrides = parser().parse_known_args(argv)
    try:
        given = getattr(flags, "workdir", "")
        for folder in [given] if isinstance(given, str) else [*given, *flags.classifier]:
            if "://" in folder:
                raise InputError(f"--workdir={folder}: a workdir is a local folder for now")
        if flags.command == "train":
            from trainer import config

            run = config.load(flags.config, overrides, lake=flags.lake)
            from trainer import train

            train.train(run, Path(flags.workdir))
        elif flags.command == "find_lr":
            from trainer import config

            run = config.load(flags.config, overrides, lake=flags.lake)
            from trainer import lr_finder

            workdir, limits = Path(flags.workdir), (flags.lowest, flags.highest)
            print(lr_finder.report(run, workdir, flags.steps, *limits))
        elif flags.command == "augment":
            if flags.examples < 1:
                raise InputError(f"--examples={flags.examples}: give 1 or more")
            from trainer import config

            run = config.load(flags.config, overrides, lake=flags.lake)
            from trainer import augment_sheet

            print(augment_sheet.write(run, flags.output, flags.examples, flags.seed, flags.each))
        elif flags.command == "benchmark":
            for name in ("steps", "replicas", "memory_gb"):
                values = getattr(flags, name)
                least = min(values, default=1) if isinstance(values, list) else values
                if least < 1:
                    raise InputError(f"--{name}={least:g}: give 1 or more")
            from trainer import config

            run = config.load(flags.config, overrides, lake=flags.lake)
            from trainer import benchmark

            measured = (flags.steps, flags.replicas, flags.memory_gb, flags.json)
            print(benchmark.report(run, overrides, flags.config, *measured))
        elif overrides:
            raise InputError(
                f"unknown options {' '.join(overrides)}; see python -m trainer.task "
                f"{flags.command} --help"
            )
        elif flags.command == "predict":
            if flags.input and (flags.lake or flags.split):
                raise InputError("--input takes files, --lake and --split a lake; give one of them")
            from trainer import predict

            wanted = predict.wanted_of(flags)
            asked = flags.lake, flags.split or "test", flags.input
            print(predict.run(_ensemble(flags), *asked, flags.output, wanted))
        elif flags.command == "vote":
            from trainer import vote

            print(vote.run(flags.predictions, flags.output, flags.votes, flags.triplet))
        else:
            if flags.prevalence is not None and not 0 < flags.prevalence < 1:
                raise InputError(
                    f"--prevalence={flags.prevalence}: expected a share within 0 and 1"
                )
            if flags.bootstrap < 0:
                raise InputError(f"--bootstrap={flags.bootstrap}: expected 0 or more")
            from trainer import evaluate

            system = _ensemble(flags)
            options = evaluate.Options(flags.prevalence, flags.bootstrap, flags.seed)
            print(evaluate.evaluate(system, flags.lake, options, flags.picture, flags.report))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except FloatingPointError as error:  # the run diverged
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except interruption.Interrupted as stop:
        print(stop, flush=True)
        return interruption.EXIT_CODE
    return 0


def _ensemble(flags: argparse.Namespace):
    from trainer import ensemble

    workdirs, classifiers = (
        [Path(folder) for folder in given] for given in (flags.workdir, flags.classifier)
    )
    return ensemble.load(workdirs, classifiers, flags.tta, flags.prune)


def end(code: int) -> None:
    """Of the process. TensorFlow's own end would wait for workers that are gone."""
    if code and os.environ.get("TF_CONFIG"):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    end(main(sys.argv[1:]))
