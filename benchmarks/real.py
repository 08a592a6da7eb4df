"""Train on true masks and report on images that had no part in any choice: one command from files
to exports.

    python benchmarks/real.py --data FOLDER [lungs] [pneumothorax] [--output bench/real]
        [--weights FILE] [--seeds 0 1 2] [--controls] [--section.field=value …]

FOLDER is laid out so; every id is the file's name without its ending:

    lungs/NAME/images/*.png, lungs/NAME/labels/*.png   0 nothing, 1, 2 and 255 lungs, 3 heart
    siim_real/images/*.jpg, siim_real/masks/*.png      radiologists' masks of the positives
    siim_real/labels.csv                               ImageId,positive,source
    siim/**.dcm, siim/train-rle.csv                    more images to train on, with pseudo-labels
    weights/mobilenetv2_torchvision_imagenet_notop.weights.h5     if there; else Keras's download

**Lungs**: a fifth of the images of all folders together is held out.

**Pneumothorax**: the images whose source is `stage1-test` have the challenge's share of positives.
Their ids' SHA-256, modulo 3, deals them: 0 trains, together with source `train` and siim/; 1
chooses thresholds and calibration; 2 reports. `--controls` adds, with the first seed, the same
network from random weights and `unetpp_small`.

The same command goes on where it stopped; a finished run is not trained again. Each task prints a
table with a row per run and one for the ensemble, with 95% intervals over images, and the gains of
one over another with paired ones. OUTPUT/TASK/results.json has all scores, OUTPUT/TASK/export the
ensemble as a SavedModel.
"""

import argparse
import csv
import hashlib
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torchvision_weights
from PIL import Image

from lake.labels import rle
from trainer.evaluation import bootstrap, scores

ROOT = Path(__file__).parent.parent
TORCHVISION_WEIGHTS = Path("weights/mobilenetv2_torchvision_imagenet_notop.weights.h5")
PARTS = ("train", "val", "test")  # of stage1-test, by the hash of an image's id
VERSION = "1.0.0"  # of each lake
STARTS = "starts.json"  # of a run: what each start took
TTA = "flip"  # of an ensemble
# An image's p of a lesion is a probability only where some images have none.
CALIBRATION = {"lungs": "none", "pneumothorax": "platt"}
DICE = {"dice_mean": "mean dice"}
COLUMNS = {
    "lungs": DICE | {"iou_mean": "mean IoU", "hd95_px": "HD95, px"},
    "pneumothorax": {
        "auc": "AUC",
        **DICE,
        "dice_all_empty": "all-empty score",
        "dice_above_all_empty": "above all-empty",
        "dice_positives": "dice on positives",
        "dice_positives_at_own": "at its own threshold",
    },
}


class Run(NamedTuple):
    """A training: its workdir, and the arguments of `radlake train`."""

    workdir: Path
    arguments: list[str]


class Row(NamedTuple):
    """A line of the table: the scores of a run or an ensemble on the test split."""

    title: str
    workdirs: list[Path]
    images: Path  # the CSV with a row per image
    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]]


# --- lakes ---


def lungs_lake(data: Path, folder: Path) -> Path:
    """Return the lake of lung masks, after making it where it does not exist."""
    images, masks = data / "lungs" / "*" / "images" / "*.png", data / "lungs" / "*" / "labels"
    options = [f"--images={images}", f"--masks={masks / '*.png'}", "--mask_values=1,2,255"]
    return converted(folder / "lungs", "images", [*options, "--splits=train=0.7,val=0.1,test=0.2"])


def pneumothorax_lake(data: Path, folder: Path) -> Path:
    """Return the lake of radiologists' masks, after making it where it does not exist."""
    labels = folder / "labels.csv"
    if not labels.exists():
        write_labels(data / "siim_real", labels)
    images = f"--images={data / 'siim_real' / 'images' / '*.jpg'}"
    options = [images, f"--labels={labels}", "--split_column=split"]
    return converted(folder / "pneumothorax", "images", options)


def pseudo_labelled_lake(data: Path, folder: Path) -> Path:
    """Return the lake of images with pseudo-labels, all to train on."""
    siim = data / "siim"
    options = [f"--images={siim}/**.dcm", f"--labels={siim / 'train-rle.csv'}", "--max_side=512"]
    return converted(folder / "pseudo_labelled", "dicom", [*options, "--splits=train=1"])


def converted(parent: Path, source: str, options: list[str]) -> Path:
    """Return the lake of these images; a finished one stays as it is."""
    lake = parent / VERSION
    radlake("convert", f"--source={source}", *options, f"--output={lake}")
    return lake


def write_labels(source: Path, output: Path) -> None:
    """Write a row per image: its run lengths, and the split that its source and its id give."""
    with (source / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_suffix(".part")
    with unfinished.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("ImageId", "EncodedPixels", "split"))
        for row in rows:
            mask, text = source / "masks" / f"{row['ImageId']}.png", rle.EMPTY
            if mask.exists():
                text = rle.to_text(rle.from_mask(np.asarray(Image.open(mask)) > 0))
            if (text == rle.EMPTY) != (row["positive"] == "0"):
                raise SystemExit(f"{mask}: labels.csv says positive={row['positive']}")
            writer.writerow((row["ImageId"], text, split_of(row)))
    unfinished.replace(output)


def split_of(row: dict[str, str]) -> str:
    """Return the split of a row of labels.csv."""
    if row["source"] == "train":
        return "train"
    return PARTS[int(hashlib.sha256(row["ImageId"].encode()).hexdigest(), 16) % len(PARTS)]


# --- training and scoring ---


def radlake(*arguments: str) -> None:
    """Run a command of radlake, or end with its exit code where it fails; its output goes to
    stderr, away from the tables."""
    command = [sys.executable, "-m", "radlake", *map(str, arguments)]
    code = subprocess.run(command, cwd=ROOT, stdout=sys.stderr).returncode
    if code:
        sys.exit(code)


def encoder_weights(flags: argparse.Namespace) -> str:
    """Return the option that gives MobileNetV2 its weights of ImageNet."""
    source = flags.data / TORCHVISION_WEIGHTS
    if flags.weights or not source.exists():
        return f"--model.weights={flags.weights.resolve() if flags.weights else 'imagenet'}"
    output = flags.output / source.name
    if not output.exists():
        flags.output.mkdir(parents=True, exist_ok=True)
        torchvision_weights.convert(source, output)
    return f"--model.weights={output}"


def train(run: Run) -> None:
    """Train a run to its end, unless that is done, and note what each start takes."""
    file = run.workdir / STARTS
    starts = json.loads(file.read_text()) if file.exists() else []
    if starts and starts[-1]["is_finished"] and starts[-1]["arguments"] == run.arguments:
        return
    before, start, is_finished = cpu_seconds(), time.monotonic(), False
    try:
        radlake("train", *run.arguments, f"--workdir={run.workdir}")
        is_finished = True
    finally:
        if run.workdir.exists():
            seconds = {"cpu": cpu_seconds() - before, "clock": time.monotonic() - start}
            row = {"arguments": run.arguments, "is_finished": is_finished, "seconds": seconds}
            file.write_text(json.dumps([*starts, row], indent=1))


def score(task: str, title: str, workdirs: list[Path], tta: str = "none") -> Row:
    """Return the scores of an ensemble on the split that reports."""
    options = ["--tta", tta, "--calibrate", CALIBRATION[task]]
    radlake("evaluate", "--workdir", *workdirs, *options)
    label = "evaluate" + (f"_of_{len(workdirs)}" if len(workdirs) > 1 else "")
    label += "" if tta == "none" else f"_tta_{tta}"
    entry = json.loads((workdirs[0] / "metrics.json").read_text())[label]
    images = workdirs[0] / label / "images_test.csv"
    return Row(title, workdirs, images, entry["splits"]["test"], entry["intervals"]["test"])


def cpu_seconds() -> float:
    """Return the CPU seconds of all processes that were started here and have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def gain(one: Row, other: Row) -> dict[str, tuple[float, tuple[float, float]]]:
    """Return {score: (how much better the first is, the paired 95% interval of that)}, over the
    images that both were scored on."""
    tables = []
    for row in (one, other):
        with row.images.open(newline="") as file:
            tables.append({line["image_id"]: line for line in csv.DictReader(file)})
    ids = sorted(tables[0])
    if ids != sorted(tables[1]):
        raise SystemExit(f"{one.images} and {other.images} have other images")
    p, dice = (
        [np.array([float(table[i][name]) for i in ids]) for table in tables]
        for name in ("p_of_lesion", "dice")
    )
    is_positive = np.array([tables[0][i]["truth"] == "lesion" for i in ids])

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        aucs = [scores.auc(values, is_positive, weights) for values in p]
        positives = weights * is_positive
        return {
            "AUC": aucs[0] - aucs[1],
            "mean dice": weights @ (dice[0] - dice[1]) / weights.sum(axis=1),
            "dice on positives": positives @ (dice[0] - dice[1]) / positives.sum(axis=1),
        }

    ends = bootstrap.intervals(measure, ids, replicates=1000, seed=0)
    values = measure(np.ones((1, len(ids))))
    return {name: (float(value[0]), ends[name]) for name, value in values.items()}


# --- the two tasks ---


def lungs(flags: argparse.Namespace) -> tuple[list[Row], list[tuple[Row, Row]]]:
    """Return the row of each seed, and last that of the ensemble."""
    folder = flags.output / "lungs"
    lake = lungs_lake(flags.data, folder)
    options = ["--config=lungs_small", f"--lake={lake}", encoder_weights(flags), *flags.overrides]
    return seeds_and_ensemble("lungs", folder, options, flags.seeds), []


def pneumothorax(flags: argparse.Namespace) -> tuple[list[Row], list[tuple[Row, Row]]]:
    """Return the row of each seed, those of the controls, and last that of the ensemble; and which
    of them to compare."""
    folder = flags.output / "pneumothorax"
    lake = pneumothorax_lake(flags.data, folder)
    pseudo = pseudo_labelled_lake(flags.data, folder)
    # As many draws as that lake has images.
    counts = [json.loads((path / "manifest.json").read_text()) for path in (pseudo, lake)]
    share = round(train_records(counts[0]) / train_records(counts[1]), 3)
    lakes = [f"--lake={lake}", f"--data.more_lakes={json.dumps({str(pseudo): share})}"]
    options = ["--config=pneumothorax_small", *lakes, encoder_weights(flags), *flags.overrides]
    rows = seeds_and_ensemble("pneumothorax", folder, options, flags.seeds)
    if not flags.controls:
        return rows, []
    seed = f"--train.seed={flags.seeds[0]}"
    random = ["--model.weights=null", "--optimizer.encoder_rate=1", seed]
    controls = {
        "random weights": Run(folder / "runs" / "random", [*options, *random]),
        "unetpp_small": Run(folder / "runs" / "small", ["--config=unetpp_small", *lakes, seed]),
    }
    for run in controls.values():
        train(run)
    more = [score("pneumothorax", title, [run.workdir]) for title, run in controls.items()]
    return [*rows[:-1], *more, rows[-1]], [(rows[0], control) for control in more]


def train_records(manifest: dict) -> int:
    """Return the number of a lake's records to train on."""
    return manifest["counts"]["splits"]["train"]["records"]


def seeds_and_ensemble(task: str, folder: Path, options: list[str], seeds: list[int]) -> list[Row]:
    """Train with each seed; return the rows of the runs and of their ensemble, which is
    exported."""
    runs = [Run(folder / "runs" / f"seed_{n}", [*options, f"--train.seed={n}"]) for n in seeds]
    for run in runs:
        train(run)
    workdirs = [run.workdir for run in runs]
    rows = [score(task, f"seed {n}", [path]) for n, path in zip(seeds, workdirs, strict=True)]
    rows.append(score(task, f"ensemble of {len(seeds)}, with mirror images", workdirs, TTA))
    if not (folder / "export").exists():
        radlake("export", "--workdir", *workdirs, "--tta", TTA, f"--output={folder / 'export'}")
    return rows


# --- the tables ---


def with_ends(value: float, ends: tuple[float, float] | None) -> str:
    """Return a number with its interval."""
    return f"{value:.3f}" + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")


def spent(workdirs: list[Path]) -> str:
    """Return the CPU minutes and the minutes on the clock that runs took, all starts together."""
    starts = [start for path in workdirs for start in json.loads((path / STARTS).read_text())]
    return " / ".join(
        f"{sum(start['seconds'][kind] for start in starts) / 60:.0f}" for kind in ("cpu", "clock")
    )


def table(task: str, rows: list[Row]) -> str:
    """Return the table of a task."""
    titles = ["", *COLUMNS[task].values(), "minutes, CPU / clock"]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for row in rows:
        lines.append("| " + " | ".join([*cells(task, row), spent(row.workdirs)]) + " |")
    return "\n".join(lines)


def cells(task: str, row: Row) -> list[str]:
    """Return the title of a row and its scores, with their intervals."""
    scores, intervals = row.scores, row.intervals
    return [
        row.title,
        *(
            with_ends(scores[name], intervals.get(name)) if name in scores else ""
            for name in COLUMNS[task]
        ),
    ]


def gain_line(one: Row, other: Row) -> str:
    """Return the line, behind an empty one, that says how much better the first is."""
    gains = [f"{name} {with_ends(*ends)}" for name, ends in gain(one, other).items()]
    return f"\n{one.title} above {other.title}: {', '.join(gains)}"


def scores_of(rows: list[Row]) -> dict:
    """Return {title: all scores of a row and their intervals}, for a JSON file."""
    return {row.title: {"scores": row.scores, "intervals": row.intervals} for row in rows}


def main() -> None:
    flags, flags.overrides = parser().parse_known_args()
    flags.data, flags.output = flags.data.resolve(), flags.output.resolve()
    for task in flags.tasks or TASKS:
        rows, pairs = TASKS[task](flags)
        print(f"\n{task}\n\n{table(task, rows)}", flush=True)
        for one, other in pairs:
            print(gain_line(one, other), flush=True)
        content = scores_of(rows)
        (flags.output / task / "results.json").write_text(json.dumps(content, indent=1))


TASKS = {"lungs": lungs, "pneumothorax": pneumothorax}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "tasks", nargs="*", choices=[*TASKS, []], metavar="TASK", help=str([*TASKS])
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("bench/real"))
    parser.add_argument("--weights", type=Path, help="of the encoder, as Keras saves them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--controls", action="store_true")
    return parser


if __name__ == "__main__":
    main()
