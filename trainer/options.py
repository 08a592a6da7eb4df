"""The options of trainer.task's commands; one function per command adds its parser.

In: the description. Out: the parser. No TensorFlow here.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from lake import exam
from lake.predictions.exported import DECODERS, FORMATS, GRAPH, SAVED
from lake.terminal import cli, suggestions
from radlake import shipped

ALL_LEVELS = "all"  # a value of export's --level
OVERRIDES = "--section.field=value overrides a value of the config, such as --data.side=256"
# The sections of a config; trainer/config/ has their fields, docs/reference.md a table of them.
SECTIONS = {
    "model": "the network: its kind (unet, unetpp, vae, classifier), depth, filters, encoder",
    "data": "which images, their side, the batch",
    "augment": "random changes of training images",
    "loss": "what the network is taught by",
    "optimizer": "how it learns: rate, schedule, averages",
    "train": "epochs, devices, checkpoints, which epoch is kept",
    "evaluate": "how thresholds are chosen and p is calibrated on the validation split",
    "stages": "runs one after the other, each with what differs",
}
CONFIG = "a YAML file, or the name of one that radlake configs lists"
MANY = {"nargs": "+", "default": []}


def parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of trainer.task with its commands."""
    parser = cli.parser("trainer.task", description)
    command = cli.subcommands(parser)
    for add_command in (
        add_train,
        add_find_lr,
        add_tune,
        add_average,
        add_evaluate,
        add_predict,
        add_export,
        add_vote,
        add_froc,
        add_augment,
        add_benchmark,
    ):
        add_command(command)
    return parser


def add_train(command: Callable) -> None:
    """Add the options of train, whose help has the sections and the configs."""
    example = "--config demo_unetpp --lake lakes/phantoms/1.0.0 --workdir runs/unetpp"
    summary = "train, or resume by repeating the command"
    train = command("train", help=summary, example=example, epilog=_config_help())
    add = add_run(train)
    workdir_help = "required; in a job of Vertex AI the default is AIP_TENSORBOARD_LOG_DIR"
    add("--workdir", metavar="FOLDER", help=workdir_help)


def _config_help() -> str:
    """Return the part of train's help that lists the sections of --section.field=value and the
    configs of --config."""
    lines = [f"  {name:10} {meaning}" for name, meaning in SECTIONS.items()]
    sections = "\n".join([f"{OVERRIDES}; the sections:", *lines])
    configs = "\n".join(f"  {line}" for line in shipped.listing().splitlines())
    return f"{sections}\n\nconfigs that --config takes by their names:\n{configs}"


def add_find_lr(command: Callable) -> None:
    """Add the options of find_lr."""
    example = "--config unetpp_small --lake lakes/phantoms/1.0.0"
    summary = "suggest a learning rate for a config"
    find_lr = command("find_lr", help=summary, example=example, epilog=OVERRIDES)
    add = add_run(find_lr)
    folder = {"type": cli.any_path, "default": Path(), "metavar": "FOLDER"}
    add("--workdir", help="files go into FOLDER/find_lr; may be a run's", **folder)
    add = find_lr.add_argument_group("search").add_argument
    add("--steps", type=int, default=200, metavar="N", help="of training, with a growing rate")
    rate = {"type": cli.between(0, math.inf), "metavar": "RATE"}
    add("--lowest", default=1e-9, help="of the first step", **rate)
    add("--highest", default=1.0, help="of the last step", **rate)


def add_tune(command: Callable) -> None:
    """Add the options of tune."""
    example = "--config unetpp_small --lake LAKE --space space.yaml --trials 20 --workdir tuning"
    tune = command("tune", help="search for values of a config", example=example, epilog=OVERRIDES)
    add = add_run(tune)
    path = {"required": True, "type": cli.local_path}
    add("--workdir", metavar="FOLDER", help="of all runs; a repeat goes on there", **path)
    add = tune.add_argument_group("search").add_argument
    add("--space", metavar="YAML", help="fields and the values to try: docs/tuning.md", **path)
    add("--trials", required=True, type=cli.at_least(1), metavar="N", help="that are to end")
    rule = "end runs whose score is below the median of the others at the same epoch, or none"
    add("--prune", choices=("median", "none"), default="median", help=rule)
    add("--seed", type=cli.at_least(0), default=0, metavar="N", help="of what is drawn")


def add_average(command: Callable) -> None:
    """Add the options of average."""
    example = "--workdir runs/unetpp --output runs/unetpp_mean"
    summary = "make one network of the mean of several epochs' weights"
    average = command("average", help=summary, example=example)
    add = average.add_argument_group("weights").add_argument
    workdir = "a run that has kept several epochs (train.keep)"
    add("--workdir", required=True, type=cli.any_path, metavar="FOLDER", help=workdir)
    files = "weights of the same network; default: those that the run has kept"
    add("--weights", type=cli.any_path, metavar="H5", help=files, **MANY)
    lake = "where the run's lake lies now, whose training images give batch norm its statistics"
    add("--lake", metavar="ROOT/NAME/VERSION", help=lake)
    add = average.add_argument_group("output").add_argument
    output = "a new folder, which evaluate, predict and export take as a --workdir"
    add("--output", required=True, type=cli.any_path, metavar="FOLDER", help=output)


def add_evaluate(command: Callable) -> None:
    """Add the options of evaluate."""
    example = "--workdir runs/unetpp --picture picture.png"
    evaluate = command("evaluate", help="score trained networks", example=example)
    add_networks(evaluate)
    add = evaluate.add_argument_group("images").add_argument
    other_lake = (
        "default: the lake of the run; one that is no version of it is scored as an external lake"
    )
    add("--lake", metavar="ROOT/NAME/VERSION", help=other_lake)
    add = evaluate.add_argument_group("thresholds").add_argument
    rule = (
        "the highest mean dice on validation, or of all within one standard error of it the "
        "highest dice of images with a lesion; default: evaluate.choose of the run's config"
    )
    add("--choose", choices=("best", "one_se"), help=rule)
    kind = (
        "fit an image's p of a lesion to the labels of validation, before thresholds are chosen; "
        "predict and export use it, too; default: evaluate.calibrate of the run's config"
    )
    add("--calibrate", choices=("none", "temperature", "platt"), help=kind)
    add = evaluate.add_argument_group("scores").add_argument
    prevalence = "share of images with a lesion, for PPV and NPV; default: as in the images"
    add("--prevalence", type=cli.between(0, 1), metavar="SHARE", help=prevalence)
    draws = {"type": cli.at_least(0), "default": 1000, "metavar": "N"}
    add("--bootstrap", help="draws for the 95%% intervals", **draws)
    add("--seed", type=int, default=0, metavar="N", help="of the bootstrap's draws")
    millimetres = {"type": cli.between(0, 1000), "default": 2.0, "metavar": "MM"}
    add("--tolerance_mm", help="of surface dice, where the size of pixels is known", **millimetres)
    pixels = {"type": cli.between(0, 1000), "default": 4.0, "metavar": "PX"}
    add("--tolerance_px", help="of surface dice elsewhere, in pixels of the source", **pixels)
    add = evaluate.add_argument_group("output").add_argument
    picture_help = "draw truth and prediction side by side"
    add("--picture", type=cli.any_path, metavar="PNG", help=picture_help)
    report_help = "default: report.html in the first workdir"
    add("--report", type=cli.any_path, metavar="HTML", help=report_help)


def add_predict(command: Callable) -> None:
    """Add the options of predict."""
    example = "--workdir runs/unetpp --input new_images --output predictions --overlays"
    summary = "make masks of a lake's split or of files"
    predict = command("predict", help=summary, example=example)
    add_networks(predict)
    add = predict.add_argument_group("images").add_argument
    add("--lake", metavar="ROOT/NAME/VERSION", help="default: the lake of the run")
    add("--split", metavar="NAME", help="a split of the lake (default: test)")
    files = "files and folders instead of a lake: DICOM, PNG, JPEG, TIFF, BMP, GIF, CT volumes"
    add("--input", metavar="PATH", help=files, **MANY)
    add(exam.OPTION, action="store_true", help=exam.HELP)
    add = predict.add_argument_group("output").add_argument
    output = "a new folder, or one that the same command began"
    add("--output", required=True, type=cli.any_path, metavar="FOLDER", help=output)
    overlays = "draw image and mask side by side, one PNG per image"
    add("--overlays", action="store_true", help=overlays)
    maps = "write the probabilities as 0 to 255, one PNG per image"
    add("--probabilities", action="store_true", help=maps)
    add("--candidates", action="store_true", help="for CT: write candidates.csv with the nodules")
    seg_help = "write DICOM SEGs, one per series: lesion (default), pneumothorax or nodule"
    add("--seg", nargs="?", const="lesion", metavar="FINDING", help=seg_help)
    uids = "for --seg of files without legal UIDs: make UIDs, and copies of the files with them"
    add("--mint_uids", action="store_true", help=uids)


def add_export(command: Callable) -> None:
    """Add the options of export."""
    example = "--workdir runs/unetpp --output exported"
    summary = "write a SavedModel (DICOM, PNG or JPEG bytes in, masks out) or an ONNX file"
    export = command("export", help=summary, example=example)
    add_networks(export, level=_level)
    add = export.add_argument_group("output").add_argument
    add("--output", required=True, type=cli.any_path, metavar="FOLDER", help="a new folder")
    file_format = "onnx: model.onnx, pixels in and masks out, which runs without TensorFlow"
    add("--format", choices=FORMATS, default=SAVED, help=file_format)
    decoder = (
        "what reads DICOM: TensorFlow's own operations, or also tensorflow-io's, which read more "
        "transfer syntaxes, here and where the model is served (requirements/tfio.txt)"
    )
    other_lake = "the lake whose thresholds are taken where none were chosen on that of the run"
    add("--lake", metavar="ROOT/NAME/VERSION", help=other_lake)
    add("--decoder", choices=DECODERS, default=GRAPH, help=decoder)
    any_modality = "its DICOM signature takes what the lake had no images of, too"
    add(exam.OPTION, action="store_true", help=any_modality)


def add_vote(command: Callable) -> None:
    """Add the options of vote."""
    example = "one/submission.csv two/submission.csv three/submission.csv --output majority.csv"
    vote = command("vote", help="make one submission of several predictions", example=example)
    add = vote.add_argument_group("predictions").add_argument
    paths = "submission CSVs: a majority of pixels; or folders of probability maps: their mean"
    add("predictions", nargs="+", type=cli.any_path, metavar="PATH", help=paths)
    add("--output", required=True, type=cli.any_path, metavar="CSV", help="the file to write")
    add = vote.add_argument_group("decision").add_argument
    add("--votes", type=int, metavar="N", help="for submissions; default: more than half")
    triplet = (
        "for the mean map (default: 0.5,0,0.5): keep p > BOTTOM, unless less than AREA_SHARE of "
        "the image has p > TOP"
    )
    add("--triplet", metavar="TOP,AREA_SHARE,BOTTOM", help=triplet)


def add_froc(command: Callable) -> None:
    """Add the options of froc."""
    example = "predictions --labels ct/annotations.csv"
    summary = "score nodule candidates of CT scans: FROC and CPM, as LUNA16"
    froc = command("froc", help=summary, example=example)
    add = froc.add_argument_group("files").add_argument
    predictions = "a folder of predict --candidates, or a CSV of candidates in LUNA16's form"
    add("predictions", type=cli.any_path, metavar="PATH", help=predictions)
    labels = "the true nodules: seriesuid,coordX,coordY,coordZ,diameter_mm"
    add("--labels", required=True, type=cli.any_path, metavar="CSV", help=labels)
    irrelevant = "findings in the same form that count neither as hits nor as false positives"
    add("--irrelevant", type=cli.any_path, metavar="CSV", help=irrelevant)
    output = "for metrics.json and the curve; default: froc beside the candidates"
    add("--output", type=cli.any_path, metavar="FOLDER", help=output)
    add = froc.add_argument_group("scans").add_argument
    scans = "the scans to score, in the first column; default: all that predict searched"
    add("--scans", type=cli.any_path, metavar="CSV", help=scans)
    lake = "score the scans of a split of this lake"
    add("--lake", metavar="ROOT/NAME/VERSION", help=lake)
    add("--split", default="test", help="of --lake")
    add = froc.add_argument_group("scores").add_argument
    draws = {"type": cli.at_least(0), "default": 1000, "metavar": "N"}
    add("--bootstrap", help="draws of scans for the 95%% intervals", **draws)
    add("--seed", type=int, default=0, metavar="N", help="of the bootstrap's draws")


def add_augment(command: Callable) -> None:
    """Add the options of augment."""
    example = "--config unetpp_small --lake lakes/phantoms/1.0.0 --each"
    summary = "draw images before and after augmentation"
    augment = command("augment", help=summary, example=example, epilog=OVERRIDES)
    add_run(augment)
    add = augment.add_argument_group("picture").add_argument
    output = {"type": cli.any_path, "default": Path("augmentation.png"), "metavar": "PNG"}
    add("--output", help="the file to write", **output)
    add("--examples", type=cli.at_least(1), default=6, metavar="N", help="rows")
    add("--seed", type=int, default=0, metavar="N", help="of the random numbers")
    add("--each", action="store_true", help="draw one row per transform, applied alone")


def add_benchmark(command: Callable) -> None:
    """Add the options of benchmark."""
    example = "--config unetpp_small --lake lakes/phantoms/1.0.0 --memory_gb 16 40 80"
    summary = "measure where the time and the memory go"
    benchmark = command("benchmark", help=summary, example=example, epilog=OVERRIDES)
    add_run(benchmark)
    add = benchmark.add_argument_group("measurements").add_argument
    add("--steps", type=cli.at_least(1), default=20, metavar="N", help="per measurement")
    replicas = "measure with these numbers of replicas, each with the config's batch_size"
    add("--replicas", type=cli.at_least(1), metavar="N", help=replicas, **MANY)
    memory = "predict the largest batch on devices with this memory, such as 16 40 80 141"
    add("--memory_gb", type=cli.at_least(1, float), metavar="GB", help=memory, **MANY)
    add("--json", type=cli.local_path, metavar="FILE", help="also write the numbers")


def add_run(command: argparse.ArgumentParser) -> Callable:
    """Add the options of a run, besides its overrides; return the function that adds more."""
    add = command.add_argument_group("run").add_argument
    add("--config", required=True, metavar="YAML", help=CONFIG)
    add("--lake", required=True, metavar="ROOT/NAME/VERSION", help="what convert wrote")
    return add


def add_networks(command: argparse.ArgumentParser, level: Callable = int) -> None:
    """Add the options of an ensemble or a cascade, where `level` is the type of --level."""
    add = command.add_argument_group("networks").add_argument
    folder = {"type": cli.any_path, "metavar": "FOLDER"}
    workdirs = "a run, or several: the mean of their probabilities"
    add("--workdir", required=True, nargs="+", help=workdirs, **folder)
    classifiers = "classifiers: masks of images to which they give a low p of a lesion are emptied"
    add("--classifier", help=classifiers, **folder, **MANY)
    views = (
        "none, or flip and scales such as 0.8 1.25: the mean of the probabilities over an image, "
        "its mirror image and both resized"
    )
    add("--tta", nargs="+", default=["none"], type=_view, metavar="VIEW", help=views)
    level_help = "use the U-Net++ of this depth inside deeper ones"
    add("--level", type=level, metavar="DEPTH", help=level_help)


def _level(text: str) -> int | str:
    """Return a value of export's --level; an argparse type."""
    if text != ALL_LEVELS and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: expected a depth, or {ALL_LEVELS}")
    return text if text == ALL_LEVELS else int(text)


def _view(text: str) -> str:
    """Return a value of --tta; an argparse type."""
    if text not in ("none", "flip"):
        try:
            is_scale = 0.25 <= float(text) <= 4
        except ValueError:
            is_scale = False
        if not is_scale:
            question = suggestions.question(text, ("none", "flip"))
            expected = f"{text}: expected none, flip, or a scale from 0.25 to 4"
            raise argparse.ArgumentTypeError(f"{expected}; {question}".removesuffix("; "))
    return text
