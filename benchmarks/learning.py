"""What the configs learn from phantoms in a small, fixed budget: a check that nothing in them is
broken, not a score.

    python benchmarks/learning.py [NAME …] [--folder bench/learning] [--section.field=value …]

A segmenter has learned if its mean dice on the test split is at least 0.05 above that of all-empty
masks, a classifier if its AUC there is at least 0.9. `small` changes a config for the budget: few
images, small batches, few filters and epochs, a higher learning rate where it was made for ten
thousand steps, and random weights instead of ImageNet's, which must not be needed here.

Two kinds of networks learn nothing from a few hundred steps on the phantom X-rays: those of a
hundred layers from random weights, and `small_unet`, which has no norm. They learn from the phantom
CT slices, whose lesions are balls, as `nodule_unet` does. A network of findings learns from
drawn discs.

The batch norm of keras.applications kept 0.99 of its statistics per step when these results were
measured, and starts from a variance of 1. After 288 steps 6% of that was left in each of a hundred
layers, which is more than the variance of some of them. So the statistics of these encoders are
estimated again after the last epoch, by `swa_epochs: 1`.

All configs together take hours on two cores; a finished run is not repeated. Exit code 1: a config
did not learn; 2: one could not be trained or scored.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import yaml
from PIL import Image

from trainer.config import files, run

ROOT = Path(__file__).parent.parent
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
ON_SLICES = "nodule_unet", "small_unet"  # and all with an encoder of keras.applications
IMAGES, IMAGE_SIDE, POSITIVE_SHARE = 2000, 256, 0.4  # 1,600 of them to train on
VOLUMES = 120  # 1,440 slices, a good half with a nodule
ON_DISCS, DISCS, DISC_SIDE = "findings_small", 480, 64  # drawn pictures with findings
EPOCHS = {"xrays": 8, "slices": 4, "discs": 16}
SLOW_TO_START, TIMES = "efficientnetb4", 2  # needs twice the epochs: a hundred and thirty layers
BATCH, FILTERS, SIDE, SIDE_OF_SIX_POOLINGS = 16, 8, 96, 128
SLOW_RATE, RAISED_RATE = 5e-5, 1e-3
LEAST_AUC, LEAST_GAIN = 0.9, 0.05
RESULT = "learning.json"


# --- lakes of phantoms ---


def has_encoder(model) -> bool:
    """Whether it is one of keras.applications."""
    return getattr(model, "encoder", "plain") != "plain"


def kind_of_lake(name: str, model) -> str:
    if name == ON_DISCS:
        return "discs"
    return "slices" if name in ON_SLICES or has_encoder(model) else "xrays"


def phantom_lake(folder: Path, kind: str) -> Path:
    """Return the lake of the phantoms, after making it where it does not exist."""
    names = {"slices": f"slices_{VOLUMES}", "xrays": f"xrays_{IMAGES}_{IMAGE_SIDE}"}
    name = names.get(kind, f"discs_{DISCS}_{DISC_SIDE}")
    lake, source = folder / "lakes" / name / "1.0.0", folder / name
    if (lake / "manifest.json").exists():
        return lake
    if kind == "slices":
        run_module("beam.synthetic_ct", f"--output={source}", f"--volumes={VOLUMES}")
        options = ["--source=metaimage", f"--images={source}/*.mhd", "--unlabelled=negative"]
        options += [f"--labels={source}/annotations.csv", "--empty_slices=1"]
    elif kind == "discs":
        draw_discs(source)
        options = ["--source=images", f"--images={source}/*.png", "--findings=all"]
        options += [f"--labels={source}/findings.csv", "--splits=train=0.6,val=0.2,test=0.2"]
    else:
        look = f"--side={IMAGE_SIDE}", f"--positive_share={POSITIVE_SHARE}"
        run_module("beam.synthetic", f"--output={source}", f"--images={IMAGES}", *look)
        options = ["--source=dicom", f"--images={source}/dicom/*.dcm"]
        options += [f"--labels={source}/train-rle.csv"]
    run_module("beam.convert", *options, f"--output={lake}", "--runner=DirectRunner")
    return lake


def draw_discs(folder: Path) -> None:
    """Write pictures of noise and broad stripes, half of them with a disc, and their findings as
    NIH ChestX-ray14 writes them: a disc, and whether it is large."""
    folder.mkdir(parents=True, exist_ok=True)
    generator, lines = np.random.default_rng(0), ["Image Index,Finding Labels"]
    rows, columns = np.ogrid[:DISC_SIDE, :DISC_SIDE]
    for number in range(DISCS):
        picture = generator.normal(90, 20, (DISC_SIDE, DISC_SIDE))
        picture += 30 * np.sin(rows / 9 + generator.uniform(0, 6))
        findings = ["No Finding"]
        if generator.random() < 0.5:
            radius = generator.uniform(4, 10)
            column, row = generator.uniform(10, DISC_SIDE - 10, 2)
            picture[(columns - column) ** 2 + (rows - row) ** 2 < radius**2] += 70
            findings = ["Disc"] + ["Large"] * (radius > 7)
        name = f"{number:04d}.png"
        Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(folder / name)
        lines.append(f"{name},{'|'.join(findings)}")
    (folder / "findings.csv").write_text("\n".join(lines) + "\n")


def run_module(module: str, *arguments: str) -> None:
    """Run a command; its output goes to stderr, away from the table of results."""
    subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, check=True, stdout=sys.stderr
    )


# --- configs made small ---


def small(file: Path, epochs: int, folder: Path) -> dict:
    """Return the content of a config, changed for the budget."""
    content, original = yaml.safe_load(file.read_text()), files.load(file, [])
    model, optimizer = content["model"], content.get("optimizer", {})
    changes = {
        "model": {},
        "data": {"side": SIDE, "batch_size": BATCH},
        "optimizer": {"cycle_epochs": epochs} if "cycle_epochs" in optimizer else {},
        "train": {"epochs": epochs, "replicas": 1},  # a loss over the batch needs it
    }
    if getattr(original.model, "depth", 0) == 6 and not original.is_classifier:
        changes["data"]["side"] = SIDE_OF_SIX_POOLINGS
    if isinstance(model.get("filters"), int):
        changes["model"]["filters"] = min(model["filters"], FILTERS)
    if "weights" in model:
        changes["model"]["weights"] = random_weights(model, folder) if "freeze" in model else None
    if has_encoder(original.model):
        # A moving average would need more steps than there are.
        changes["optimizer"] |= {"swa_epochs": 1, "ema": 0}
    if original.optimizer.learning_rate < SLOW_RATE:
        changes["optimizer"]["learning_rate"] = RAISED_RATE
    if "stages" in content:
        first, *others = content["stages"]
        changes["stages"] = [
            run.merge(
                stage, {"data": {"side": side, "batch_size": BATCH}, "train": {"epochs": epochs}}
            )
            for stage, side in [(first, SIDE * 2 // 3), *((stage, SIDE) for stage in others)]
        ]
    return run.merge(content, changes)


def random_weights(model: dict, folder: Path) -> str:
    """Return a file of random weights in the format of keras.applications."""
    from trainer.config import parts
    from trainer.models import encoders

    file = folder / f"random_{model['encoder']}.weights.h5"
    if not file.exists():
        unfinished = file.with_name(f"part_{file.name}")
        encoders.build_application(parts.ENCODERS[model["encoder"]], SIDE, None).save_weights(
            unfinished
        )
        unfinished.replace(file)
    return str(file)


# --- results ---


def train_and_score(folder: Path, name: str, overrides: list[str]) -> dict:
    """Train and score a config, or return the result of an earlier call with the same content."""
    workdir, original = folder / "runs" / name, files.load(ROOT / "configs" / f"{name}.yaml", [])
    kind = kind_of_lake(name, original.model)
    is_slow = getattr(original.model, "encoder", None) == SLOW_TO_START
    epochs = EPOCHS[kind] * (TIMES if is_slow else 1)
    content = small(ROOT / "configs" / f"{name}.yaml", epochs, folder)
    inputs = {"config": content, "overrides": overrides}
    if (workdir / RESULT).exists():
        result = json.loads((workdir / RESULT).read_text())
        if result.items() >= inputs.items():
            return result
        shutil.rmtree(workdir)
    lake, file = phantom_lake(folder, kind), folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(content))
    before = cpu_seconds()
    run_module(
        *("trainer.task", "train", f"--config={file}", f"--lake={lake}", f"--workdir={workdir}"),
        *overrides,
    )
    run_module("trainer.task", "evaluate", f"--workdir={workdir}", "--bootstrap=100")
    metrics = json.loads((workdir / "metrics.json").read_text())
    scores = metrics["evaluate"]["splits"]["test"]
    dice = {} if original.is_classifier else {n: scores[n] for n in ("dice_mean", "dice_all_empty")}
    result = {
        "lake": kind,
        "steps": metrics["last"]["step"],  # in the last stage
        "cpu_minutes": (cpu_seconds() - before) / 60,
        "auc": scores["auc"],
        **dice,
        **inputs,
    }
    (workdir / RESULT).write_text(json.dumps(result))
    return result


def has_learned(result: dict) -> bool:
    if "dice_mean" in result:
        return result["dice_mean"] >= result["dice_all_empty"] + LEAST_GAIN
    return result["auc"] >= LEAST_AUC


def cpu_seconds() -> float:
    """Return the CPU seconds of all processes that were started here and have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def row(name: str, result: dict) -> str:
    dice = "{dice_mean:.3f} | {dice_all_empty:.3f}" if "dice_mean" in result else " | "
    cells = "{lake} | {steps} | " + dice + " | {auc:.3f} | {cpu_minutes:.0f} min"
    name = " ".join([name, *result["overrides"]])
    return f"| `{name}` | {cells.format(**result)} | {'yes' if has_learned(result) else 'no'} |"


def main(names: list[str], folder: Path, overrides: list[str]) -> int:
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    print("| config | phantoms | steps | mean dice | all-empty | AUC | CPU time | learns |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    code = 0
    for name in names:
        try:
            result = train_and_score(folder, name, overrides)
        except subprocess.CalledProcessError as error:  # its own message is on stderr
            print(f"| `{name}` | exit code {error.returncode} | | | | | | |", flush=True)
            code = 2
            continue
        print(row(name, result), flush=True)
        if not has_learned(result):
            code = max(code, 1)
    return code


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all when absent: {NAMES}")
    parser.add_argument("--folder", type=Path, default=Path("bench/learning"))
    flags, overrides = parser.parse_known_args()
    if unknown := set(flags.names) - set(NAMES):
        parser.error(f"no such config: {', '.join(sorted(unknown))}")
    sys.exit(main(flags.names or NAMES, flags.folder, overrides))
