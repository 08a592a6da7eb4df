"""The options of trainer.task's commands. No TensorFlow."""

import argparse
from collections.abc import Callable
from pathlib import Path

from lake import cli
from lake.predictions.exported import DECODERS, GRAPH

ALL_LEVELS = "all"  # of export's --level


def parser(description: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m trainer.task",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = made.add_subparsers(dest="command", required=True)
    for add in (
        add_train,
        add_find_lr,
        add_evaluate,
        add_predict,
        add_export,
        add_vote,
        add_augment,
        add_benchmark,
    ):
        add(commands)
    return made


def add_run(command: argparse.ArgumentParser) -> None:
    """What a run is made of, besides its overrides."""
    command.add_argument("--config", required=True, metavar="YAML")
    command.add_argument("--lake", required=True, metavar="ROOT/NAME/VERSION")


def add_train(commands) -> None:
    train = commands.add_parser(
        "train",
        allow_abbrev=False,
        help="train, or resume by repeating the command",
        epilog="--section.field=value overrides a value of the config, such as --data.side=256",
    )
    add_run(train)
    train.add_argument(
        "--workdir",
        metavar="FOLDER",
        help="required, but in a job of Vertex AI, whose AIP_TENSORBOARD_LOG_DIR is the default",
    )


def add_find_lr(commands) -> None:
    finder = commands.add_parser(
        "find_lr", allow_abbrev=False, help="suggest a learning rate for a config"
    )
    add_run(finder)
    finder.add_argument(
        "--workdir",
        default=".",
        metavar="FOLDER",
        help="of a run or not: everything goes into FOLDER/find_lr",
    )
    finder.add_argument("--steps", type=int, default=200, metavar="N")
    finder.add_argument("--lowest", type=float, default=1e-9, metavar="RATE")
    finder.add_argument("--highest", type=float, default=1.0, metavar="RATE")


def add_evaluate(commands) -> None:
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
        "--picture", type=cli.any_path, metavar="PNG", help="truth and prediction side by side"
    )
    evaluate.add_argument(
        "--report",
        type=cli.any_path,
        metavar="HTML",
        help="default: report.html in the first workdir",
    )


def add_augment(commands) -> None:
    sheet = commands.add_parser(
        "augment", allow_abbrev=False, help="draw images before and after augmentation"
    )
    add_run(sheet)
    sheet.add_argument(
        "--output", type=cli.any_path, default=Path("augmentation.png"), metavar="PNG"
    )
    sheet.add_argument("--examples", type=int, default=6, metavar="N")
    sheet.add_argument("--seed", type=int, default=0)
    sheet.add_argument("--each", action="store_true", help="one row a transform, by itself")


def add_benchmark(commands) -> None:
    speed = commands.add_parser(
        "benchmark", allow_abbrev=False, help="measure where the time and the memory go"
    )
    add_run(speed)
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
    speed.add_argument("--json", type=cli.local_path, metavar="FILE", help="the numbers, too")


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
    predict.add_argument(
        "--output", required=True, type=cli.any_path, metavar="FOLDER", help="a new one"
    )
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


def add_export(commands) -> None:
    export = commands.add_parser(
        "export", allow_abbrev=False, help="a SavedModel: DICOM, PNG or JPEG bytes in, masks out"
    )
    add_members(export, level=_level)
    export.add_argument(
        "--decoder",
        choices=DECODERS,
        default=GRAPH,
        help="of DICOM files: TensorFlow's own operations, or tensorflow-io's too, which read more "
        "transfer syntaxes, here and where it is served (requirements/tfio.txt)",
    )
    export.add_argument(
        "--output", required=True, type=cli.any_path, metavar="FOLDER", help="a new one"
    )


def _level(text: str) -> int | str:
    return text if text == ALL_LEVELS else int(text)


def add_vote(commands) -> None:
    vote = commands.add_parser(
        "vote", allow_abbrev=False, help="one submission of several predictions"
    )
    vote.add_argument(
        "predictions",
        nargs="+",
        type=cli.any_path,
        metavar="PATH",
        help="submission CSVs: a majority of pixels; or folders of probability maps: their mean",
    )
    vote.add_argument("--output", required=True, type=cli.any_path, metavar="CSV")
    vote.add_argument("--votes", type=int, metavar="N", help="default: more than half")
    vote.add_argument(
        "--triplet",
        metavar="TOP,AREA_SHARE,BOTTOM",
        help="of the mean map (default: 0.5,0,0.5): keep p > BOTTOM unless less than AREA_SHARE of "
        "the image has p > TOP",
    )


def add_members(command: argparse.ArgumentParser, level: Callable = int) -> None:
    """What an ensemble or a cascade is made of; `level` reads that option."""
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
        "--level", type=level, metavar="DEPTH", help="the U-Net++ of this depth in deeper ones"
    )
