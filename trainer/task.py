"""python -m trainer.task train|find_lr|evaluate|augment|benchmark: parse, load, call one function.

train      lake + config -> workdir with checkpoints, TensorBoard curves, the best weights; exit
           code 42: interrupted and saved, the same command goes on
find_lr    lake + config -> a learning rate, from a short run in which it grows at each step
evaluate   workdir -> thresholds chosen on the validation split, scores of the test split, a picture
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
    evaluate = commands.add_parser("evaluate", allow_abbrev=False, help="score a trained network")
    evaluate.add_argument("--workdir", required=True, metavar="FOLDER")
    evaluate.add_argument(
        "--lake", metavar="ROOT/NAME/VERSION", help="another lake than the run's own"
    )
    evaluate.add_argument(
        "--picture", type=Path, metavar="PNG", help="truth and prediction side by side"
    )
    evaluate.add_argument(
        "--prune", type=int, metavar="LEVEL", help="score the U-Net++ of this depth in a deeper one"
    )
    evaluate.add_argument(
        "--tta",
        choices=["none", "flip"],
        default="none",
        help="flip: the mean of the probabilities of each image and its mirror image",
    )
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


def check_workdir(workdir: str) -> None:
    if "://" in workdir:
        raise InputError(f"--workdir={workdir}: a workdir is a local folder for now")


def main(argv: list[str]) -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported
    flags, overrides = parser().parse_known_args(argv)
    try:
        check_workdir(getattr(flags, "workdir", ""))
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
        else:
            if overrides:
                raise InputError(
                    f"unknown options {' '.join(overrides)}; see python -m trainer.task evaluate "
                    f"--help"
                )
            from trainer import evaluate

            workdir = Path(flags.workdir)
            print(evaluate.evaluate(workdir, flags.lake, flags.picture, flags.prune, flags.tta))
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
