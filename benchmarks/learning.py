"""What the configs learn from phantoms in a small, fixed budget: a check that nothing in them is
broken, not a score.

    python benchmarks/learning.py [NAME …] [--folder bench/learning]

A segmenter learns where its mean dice on the test split is above that of all-empty masks, a
classifier where its AUC there is at least 0.9. A config stays as it is but for what `small` says:
images, batches, filters and epochs are few, a rate made for ten thousand steps is raised, and
ImageNet's weights, which this must not need, are random ones. From random weights a network of a
hundred layers learns nothing from a few hundred steps on the phantom X-rays, so configs with an
encoder of keras.applications have the phantom CT slices, whose lesions are balls. The batch norm of
these encoders remembers 0.99 a step and starts from a variance of 1, which after so few steps still
is most of what it remembers: its statistics are estimated anew behind the last epoch, which
`swa_epochs: 1` does. All configs together take hours; a run that is finished is not repeated. Exit
code 1: something did not learn.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parent.parent))

import yaml

from trainer import config

ROOT = Path(__file__).parent.parent
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
OF_CT = "nodule_unet"
IMAGES, IMAGE_SIDE, POSITIVE_SHARE = 2000, 256, 0.4  # 1,600 of them to train on
VOLUMES = 120  # 1,440 slices, a good half with a nodule
EPOCHS = {"xrays": 8, "slices": 4}
BATCH, FILTERS, SIDE = 16, 8, 96
SLOW_RATE, RAISED_RATE = 5e-5, 1e-3
LEAST_AUC = 0.9
RESULT = "learning.json"


# --- what there is to learn from ---


def has_encoder(model) -> bool:
    """One of keras.applications."""
    return getattr(model, "encoder", "plain") != "plain"


def kind_of_lake(name: str, model) -> str:
    return "slices" if name == OF_CT or has_encoder(model) else "xrays"


def lake_of(folder: Path, kind: str) -> Path:
    """The phantoms' lake, made where it is not there."""
    lake, source = folder / "lakes" / kind / "1.0.0", folder / kind
    if (lake / "manifest.json").exists():
        return lake
    if kind == "slices":
        started("beam.synthetic_ct", f"--output={source}", f"--volumes={VOLUMES}")
        options = ["--source=metaimage", f"--images={source}/*.mhd", "--unlabelled=negative"]
        options += [f"--labels={source}/annotations.csv", "--empty_slices=1"]
    else:
        look = f"--side={IMAGE_SIDE}", f"--positive_share={POSITIVE_SHARE}"
        started("beam.synthetic", f"--output={source}", f"--images={IMAGES}", *look)
        options = ["--source=dicom", f"--images={source}/dicom/*.dcm"]
        options += [f"--labels={source}/train-rle.csv"]
    started("beam.convert", *options, f"--output={lake}", "--runner=DirectRunner")
    return lake


def started(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, check=True)


# --- made small ---


def small(file: Path, epochs: int, folder: Path) -> dict:
    """A config's content in the budget."""
    content, as_it_is = yaml.safe_load(file.read_text()), config.load(file, [])
    model, optimizer = content["model"], content.get("optimizer", {})
    deep = as_it_is.model.kind != "classifier" and getattr(as_it_is.model, "depth", 0) > 5
    changes = {
        "model": {},
        "data": {"side": 64 if deep else SIDE, "batch_size": BATCH},  # six poolings
        "optimizer": {"cycle_epochs": epochs} if "cycle_epochs" in optimizer else {},
        "train": {"epochs": epochs},
    }
    if isinstance(model.get("filters"), int):
        changes["model"]["filters"] = min(model["filters"], FILTERS)
    if "weights" in model:
        changes["model"]["weights"] = random_weights(model, folder) if "freeze" in model else None
    if has_encoder(as_it_is.model):
        changes["optimizer"]["swa_epochs"] = 1
    if as_it_is.optimizer.learning_rate < SLOW_RATE:
        changes["optimizer"]["learning_rate"] = RAISED_RATE
    if "stages" in content:
        changes["stages"] = [
            config.merged(
                stage, {"data": {"side": side, "batch_size": BATCH}, "train": {"epochs": epochs}}
            )
            for stage, side in zip(content["stages"], (SIDE * 2 // 3, SIDE), strict=True)
        ]
    return config.merged(content, changes)


def random_weights(model: dict, folder: Path) -> str:
    """A file as of keras.applications, for an encoder that is frozen."""
    from trainer.models import encoders, parts

    file = folder / f"random_{model['encoder']}.weights.h5"
    if not file.exists():
        encoders.application(parts.ENCODERS[model["encoder"]], SIDE, None).save_weights(file)
    return str(file)


# --- what came of it ---


def learnt(folder: Path, name: str) -> dict:
    """Trains and scores a config; its scores on the test split, also of an earlier call."""
    workdir, original = folder / "runs" / name, ROOT / "configs" / f"{name}.yaml"
    if (workdir / RESULT).exists():
        return json.loads((workdir / RESULT).read_text())
    model = config.load(original, []).model
    kind = kind_of_lake(name, model)
    lake, file = lake_of(folder, kind), folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(small(original, EPOCHS[kind], folder)))
    before = cpu_seconds()
    started("trainer.task", "train", f"--config={file}", f"--lake={lake}", f"--workdir={workdir}")
    started("trainer.task", "evaluate", f"--workdir={workdir}", "--bootstrap=100")
    told = json.loads((workdir / "metrics.json").read_text())
    scores = told["evaluate"]["splits"]["test"]
    is_classifier = model.kind == "classifier"
    result = {
        "lake": kind,
        "steps": told["last"]["step"],  # of the last stage
        "cpu_minutes": (cpu_seconds() - before) / 60,
        "auc": scores["auc"],
        **({} if is_classifier else {n: scores[n] for n in ("dice_mean", "dice_all_empty")}),
    }
    (workdir / RESULT).write_text(json.dumps(result))
    return result


def learns(result: dict) -> bool:
    if "dice_mean" in result:
        return result["dice_mean"] > result["dice_all_empty"]
    return result["auc"] >= LEAST_AUC


def cpu_seconds() -> float:
    """Of all processes that were started and have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def row(name: str, result: dict) -> str:
    dice = "{dice_mean:.3f} | {dice_all_empty:.3f}" if "dice_mean" in result else " | "
    cells = "{lake} | {steps} | " + dice + " | {auc:.3f} | {cpu_minutes:.0f} min"
    return f"| `{name}` | {cells.format(**result)} | {'yes' if learns(result) else 'no'} |"


def main(names: list[str], folder: Path) -> int:
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    results = {name: learnt(folder, name) for name in names}
    print("| config | phantoms | steps | mean dice | all-empty | AUC | CPU time | learns |")
    print("|---|---|---|---|---|---|---|---|")
    for name, result in results.items():
        print(row(name, result))
    return 0 if all(map(learns, results.values())) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all when absent: {NAMES}")
    parser.add_argument("--folder", type=Path, default=Path("bench/learning"))
    flags = parser.parse_args()
    if unknown := set(flags.names) - set(NAMES):
        parser.error(f"no such config: {', '.join(sorted(unknown))}")
    sys.exit(main(flags.names or NAMES, flags.folder))
