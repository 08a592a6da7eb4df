"""The options of trainer.task's commands; one function per command adds its parser.

In: the description. Out: the parser. No TensorFlow here.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from lake import cli
from lake.predictions.exported import DECODERS, GRAPH

ALL_LEVELS = "all"  # a value of export's --level
OVERRIDES = "--section.field=value overrides a value of the config, such as --data.side=256"
CONFIG = "a YAML file, or the name of one that radlake configs lists"
MANY = {"nargs": "+", "default": []}


def parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of trainer.task with its commands."""
    parser = cli.parser("trainer.task", description)
    command = cli.subcommands(parser)
    for add_command in (
        add_train,
        add_find_lr,
        add_evaluate,
        add_predict,
        add_export,
        add_vote,
        add_augment,
        add_benchmark,
    ):
        add_command(command)
    return parser


def add_train(command: Callable) -> None:
    summary = "train, or resume by repeating the command"
    add = add_run(command("train", help=summary, epilog=OVERRIDES))
    workdir_help = "required; in a job of Vertex AI the default is AIP_TENSORBOARD_LOG_DIR"
    add("--workdir", metavar="FOLDER", help=workdir_help)


def add_find_lr(command: Callable) -> None:
    """Add the options of find_lr."""
    summary = "suggest a learning rate for a config"
    add = add_run(command("find_lr", help=summary, epilog=OVERRIDES))
    folder = {"type": cli.any_path, "default": Path(), "metavar": "FOLDER"}
    add("--workdir", help="files go into FOLDER/find_lr; may be a run's", **folder)
    add("--steps", type=int, default=200, metavar="N")
    add("--lowest", type=float, default=1e-9, metavar="RATE")
    add("--highest", type=float, default=1.0, metavar="RATE")


def add_evaluate(command: Callable) -> None:
    """Add the options of evaluate."""
    add = add_networks(command("evaluate", help="score trained networks"))
    other_lake = "default: the lake of the run; any other one is scored as an external lake"
    add("--lake", metavar="ROOT/NAME/VERSION", help=other_lake)
    prevalence = "share of images with a lesion, for PPV and NPV; default: as in the images"
    add("--prevalence", type=cli.between(0, 1), metavar="SHARE", help=prevalence)
    draws = {"type": cli.at_least(0), "default": 1000, "metavar": "N"}
    add("--bootstrap", help="draws for the 95%% intervals", **draws)
    add("--seed", type=int, default=0, help="of the bootstrap's draws")
    picture_help = "draw truth and prediction side by side"
    add("--picture", type=cli.any_path, metavar="PNG", help=picture_help)
    report_help = "default: report.html in the first workdir"
    add("--report", type=cli.any_path, metavar="HTML", help=report_help)


def add_predict(command: Callable) -> None:
    """Add the options of predict."""
    add = add_networks(command("predict", help="make masks of a lake's split or of files"))
    add("--lake", metavar="ROOT/NAME/VERSION", help="default: the lake of the run")
    add("--split", help="a split of the lake (default: test)")
    files = "files and folders of DICOM, PNG, JPEG or CT volumes instead of a lake"
    add("--input", metavar="PATH", help=files, **MANY)
    add("--output", required=True, type=cli.any_path, metavar="FOLDER", help="a new folder")
    overlays = "draw image and mask side by side, one PNG per image"
    add("--overlays", action="store_true", help=overlays)
    maps = "write the probabilities as 0 to 255, one PNG per image"
    add("--probabilities", action="store_true", help=maps)
    add("--candidates", action="store_true", help="for CT: write candidates.csv with the nodules")
    seg_help = "write one DICOM SEG per image: lesion (default), pneumothorax or nodule"
    add("--seg", nargs="?", const="lesion", metavar="FINDING", help=seg_help)
    uids = "for --seg of files without legal UIDs: make UIDs, and copies of the files with them"
    add("--mint_uids", action="store_true", help=uids)


def add_export(command: Callable) -> None:
    """Add the options of export."""
    export = command("export", help="write a SavedModel: DICOM, PNG or JPEG bytes in, masks out")
    add = add_networks(export, level=lambda text: text if text == ALL_LEVELS else int(text))
    decoder = (
        "what reads DICOM: TensorFlow's own operations, or also tensorflow-io's, which read more "
        "transfer syntaxes, here and where the model is served (requirements/tfio.txt)"
    )
    other_lake = "the lake whose thresholds are taken where none were chosen on that of the run"
    add("--lake", metavar="ROOT/NAME/VERSION", help=other_lake)
    add("--decoder", choices=DECODERS, default=GRAPH, help=decoder)
    add("--output", required=True, type=cli.any_path, metavar="FOLDER", help="a new folder")


def add_vote(command: Callable) -> None:
    """Add the options of vote."""
    add = command("vote", help="make one submission of several predictions").add_argument
    paths = "submission CSVs: a majority of pixels; or folders of probability maps: their mean"
    add("predictions", nargs="+", type=cli.any_path, metavar="PATH", help=paths)
    add("--output", required=True, type=cli.any_path, metavar="CSV")
    add("--votes", type=int, metavar="N", help="default: more than half")
    triplet = (
        "for the mean map (default: 0.5,0,0.5): keep p > BOTTOM, unless less than AREA_SHARE of "
        "the image has p > TOP"
    )
    add("--triplet", metavar="TOP,AREA_SHARE,BOTTOM", help=triplet)


def add_augment(command: Callable) -> None:
    """Add the options of augment."""
    summary = "draw images before and after augmentation"
    add = add_run(command("augment", help=summary, epilog=OVERRIDES))
    add("--output", type=cli.any_path, default=Path("augmentation.png"), metavar="PNG")
    add("--examples", type=cli.at_least(1), default=6, metavar="N")
    add("--seed", type=int, default=0)
    add("--each", action="store_true", help="draw one row per transform, applied alone")


def add_benchmark(command: Callable) -> None:
    """Add the options of benchmark."""
    summary = "measure where the time and the memory go"
    add = add_run(command("benchmark", help=summary, epilog=OVERRIDES))
    add("--steps", type=cli.at_least(1), default=20, metavar="N", help="per measurement")
    replicas = "measure with these numbers of replicas, each with the config's batch_size"
    add("--replicas", type=cli.at_least(1), metavar="N", help=replicas, **MANY)
    memory = "predict the largest batch on devices with this memory, such as 16 40 80 141"
    add("--memory_gb", type=cli.at_least(1, float), metavar="GB", help=memory, **MANY)
    add("--json", type=cli.local_path, metavar="FILE", help="also write the numbers")


def add_run(command: argparse.ArgumentParser) -> Callable:
    """Add the options of a run, besides its overrides; return the function that adds more."""
    command.add_argument("--config", required=True, metavar="YAML", help=CONFIG)
    command.add_argument("--lake", required=True, metavar="ROOT/NAME/VERSION")
    return command.add_argument


def add_networks(command: argparse.ArgumentParser, level: Callable = int) -> Callable:
    """Add the options of an ensemble or a cascade, where `level` is the type of --level; return the
    function that adds more."""
    add = command.add_argument
    folder = {"type": cli.any_path, "metavar": "FOLDER"}
    workdirs = "a run, or several: the mean of their probabilities"
    add("--workdir", required=True, nargs="+", help=workdirs, **folder)
    classifiers = "classifiers that decide which images the segmenters get"
    add("--classifier", help=classifiers, **folder, **MANY)
    views = (
        "none, or flip and scales such as 0.8 1.25: the mean of the probabilities over an image, "
        "its mirror image and both resized"
    )
    add("--tta", nargs="+", default=["none"], metavar="VIEW", help=views)
    level_help = "use the U-Net++ of this depth inside deeper ones"
    add("--level", type=level, metavar="DEPTH", help=level_help)
    return add
