"""A run of radlake beside segmentation_models_pytorch's U-Net: the same encoder and weights, the
same images in the same order, and the same changes of them.

    python benchmarks/peer.py --workdir bench/real/pneumothorax/runs/seed_0 --weights FILE
        [--output bench/peer] [--threads 2] [--python PYTHON] [--steps 11]
    python benchmarks/peer.py --speed_only [--side 256] [--batch 4] [--steps 11] [--threads 2]
        [--encoders vgg16 resnet50 mobilenetv2]

The first trains the peer (peer_network.py) as the run in the workdir was trained: its lakes, side,
batches, number of steps, loss, optimizer, schedule and moving average are read from the config
there, which is one like configs/pneumothorax_small.yaml. Both networks' predictions are scored by
trainer/evaluation, with thresholds and calibration chosen on the validation split by the same
rules, without mirror images. It prints a table and the paired difference, and then what the second
does, for this encoder, side and batch. FILE has torchvision's weights in Keras's layout, as
torchvision_weights.py takes them; a run from random weights needs none. The same command goes on
where it stopped.

The second times whole training steps on random pixels, augmentation included; each network has a
process, and they take steps in turns. On a busy machine use --threads 1 and look at the CPU time.

What is the same to the bit: which image is drawn when. To rounding: augmentation, loss, rate of
each step, decay, clipping, moving average. What differs, because both are as their users have them:

    features    the peer's skips are the narrow ends of MobileNetV2's blocks (16 … 96 channels),
                radlake's the widened features within (96 … 576)
    VGG16       radlake's decoder has a skip at the full size, the peer's has none
    pixels      weights of torchvision get its pixels and epsilon in the peer; for radlake both are
                worked into the weights, and its strided convolutions pad behind the image alone
    head        a 3x3 convolution in the peer, 1x1 in radlake; first weights of each library
    time        radlake also counts AUC and dice of each batch of training

The peer's environment is bench/smp unless --python names another.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path
from subprocess import run as run_command

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parent.parent))

import full_step
import loop
import numpy as np
import real
import tensorflow as tf
import torchvision_weights
from unetpp_step import Stepper, answer_steps, environment

from lake.records.identity import shards_sha256
from trainer.augmentation import augment, warp
from trainer.config import files
from trainer.config.learning import BRANCH_TERMS, PIXEL_TERMS
from trainer.config.run import Config
from trainer.data import cache, order, splits
from trainer.data.batches import Split, evaluation_batches, training_batches
from trainer.evaluation import choice, image_table
from trainer.evaluation.outcomes import decide
from trainer.evaluation.predictions import predict
from trainer.evaluation.scores import ScoreOptions, score
from trainer.inference import calibration
from trainer.inference.ensemble import BatchPrediction
from trainer.scoring import metrics
from trainer.training.optimizer import DECAY_OF_ADAMW
from trainer.training.step import prepare_batch

PEER = Path(__file__).with_name("peer_network.py")
PEERS_NAMES = {"mobilenetv2": "mobilenet_v2", "resnet50": "resnet50", "vgg16": "vgg16"}
CONFIG = "pneumothorax_small"  # of --speed_only
PLAIN_CONFIG = ["--model.weights=null", "--train.device=cpu", "--train.precision=float32"]
# Values of a config that the peer copies.
COPIED = {
    "model.kind": ("unet",),
    "model.encoder": tuple(PEERS_NAMES),
    "model.depth": (5,),
    "model.norm": ("batch",),
    "model.upsampling": ("nearest",),
    "model.freeze": ("none",),
    "loss.dice_form": ("1-dice",),
    "loss.dice_squared": (False,),
    "loss.label_smoothing": (0,),
    "optimizer.kind": ("adamw",),
    "optimizer.schedule": ("cosine",),
    "optimizer.cycle_epochs": (None,),
    "optimizer.accumulate": (1,),
    "optimizer.swa_epochs": (0,),
    "optimizer.frozen_epochs": (0,),
    "train.keep_best": ("last",),
    "stages": ((),),
}
TERMS = "dice", "bce", "lesion"
TRANSFORMS = "flip", "affine", "crop", "contrast", "brightness", "gamma"
GREYS = {"contrast.factor": 1.0, "brightness.add": 0.0, "gamma.exponent": 1.0}
LARGEST_DIFFERENCE = 1e-4  # of p, between the augmentations of both
BLOCKS = 16  # of MobileNetV2 behind its first


# --- what the peer needs to know ---


def is_copied(config: Config, name: str) -> bool:
    return attrgetter(name)(config) in COPIED[name]


def plan_of(config: Config, steps_per_epoch: int, threads: int) -> dict:
    """Return the peer's plan; leave where the config has what the peer does not copy."""
    model, loss, optimizer = config.model, config.loss, config.optimizer
    unknown = [
        *(f"{name}={attrgetter(name)(config)}" for name in COPIED if not is_copied(config, name)),
        *(f"augment.{n}" for n in config.augment.possible_transforms() if n not in TRANSFORMS),
        *(f"loss.{n}" for n in PIXEL_TERMS + BRANCH_TERMS if getattr(loss, n) and n not in TERMS),
    ]
    if unknown:
        sys.exit(f"the peer does not copy {', '.join(unknown)} of this config")
    epochs = config.train.epochs
    return {
        "encoder": PEERS_NAMES[model.encoder],
        "widths": list(reversed(model.decoder_widths())),
        "weights": None,
        "side": config.data.side,
        "batch": config.data.batch_size,
        "steps": epochs * steps_per_epoch,
        "steps_per_epoch": steps_per_epoch,
        "warmup_steps": round(min(optimizer.warmup_epochs, epochs / 2) * steps_per_epoch),
        "rate": optimizer.learning_rate,
        "final_share": optimizer.final_share,
        "encoder_rate": optimizer.encoder_rate,
        "decay": DECAY_OF_ADAMW if optimizer.weight_decay is None else optimizer.weight_decay,
        "clip_norm": optimizer.clip_norm,
        "ema": optimizer.ema,
        "bce": loss.bce,
        "dice": loss.dice,
        "is_batch_dice": loss.reduction == "batch",
        "smooth": loss.smooth,
        "lesion": loss.lesion if model.empty_head else 0.0,
        "seed": config.train.seed,
        "threads": threads,
    }


def torch_weights(path: Path, output: Path) -> str:
    """Write MobileNetV2's tensors with torchvision's names and axes; return the file's path."""
    tensors, result = torchvision_weights.read(path), {}
    layers = [("Conv1", "bn_Conv1", "features.0.0", "features.0.1")]
    for number in range(BLOCKS + 1):
        keras_name = f"block_{number}_" if number else "expanded_conv_"
        torch_name = f"features.{number + 1}.conv."
        parts = ["expand", "depthwise", "project"] if number else ["depthwise", "project"]
        for place, part in enumerate(parts):
            # The last of a block is a convolution and its norm, the others are groups of both.
            names = (f"{place}", f"{place + 1}")
            names = names if part == "project" else (f"{place}.0", f"{place}.1")
            keras_names = (f"{keras_name}{part}", f"{keras_name}{part}_BN")
            layers.append((*keras_names, *(torch_name + name for name in names)))
    layers.append(("Conv_1", "Conv_1_bn", "features.18.0", "features.18.1"))
    for convolution, norm, torch_convolution, torch_norm in layers:
        [kernel] = tensors.pop(convolution)
        is_depthwise = convolution.endswith("depthwise")
        axes = (2, 3, 0, 1) if is_depthwise else (3, 2, 0, 1)
        result[f"{torch_convolution}.weight"] = np.ascontiguousarray(kernel.transpose(axes))
        names = ("weight", "bias", "running_mean", "running_var")
        for name, values in zip(names, tensors.pop(norm), strict=True):
            result[f"{torch_norm}.{name}"] = values
    if tensors:
        sys.exit(f"{path}: expected MobileNetV2's layers, not also {', '.join(sorted(tensors))}")
    np.savez(output, **result)
    return str(output.resolve())


class RowNumbers:
    """Stands for decoded images where only the numbers of the drawn records are wanted."""

    def look_up(self, batch: dict) -> dict:
        return batch


def draws(config: Config, split: Split, rows: np.ndarray, num_steps: int) -> dict:
    """Return what each step draws, as peer_network.py takes it; `rows`: of stored records."""
    settings, side = config.augment, config.data.side
    batches = training_batches(
        split,
        config.data,
        config.train.seed,
        config.train.epochs,
        0,
        augment.num_draws(settings, side),
        images=RowNumbers(),
    )
    result = {"rows": [], "maps": [], "greys": []}
    for batch in batches:
        values = augment.parameters(batch["uniforms"], settings, side)
        count = len(batch["number"])
        greys = [np.broadcast_to(values.get(k, v), (count, 1, 1)) for k, v in GREYS.items()]
        result["rows"].append(rows[batch["number"].numpy()])
        result["maps"].append(maps_of(values, side, count))
        result["greys"].append(np.float32(greys)[..., 0, 0].T)
    if len(result["rows"]) != num_steps:
        sys.exit(f"expected {num_steps} steps, the lake gives {len(result['rows'])}")
    return {name: np.stack(arrays) for name, arrays in result.items()}


def maps_of(values: dict, side: int, count: int) -> np.ndarray:
    """Return the maps [B, 2, 3] of positions in [-1, 1], x before y: what the positions at three
    corners say, because flip, affine and crop are linear."""
    lines = []
    for axis in warp.source_positions(side, values):
        positions = np.broadcast_to(np.float64(axis), (count, side, side))
        start = positions[:, 0, 0]
        per_row, per_column = (
            (end - start) / (side - 1) for end in (positions[:, -1, 0], positions[:, 0, -1])
        )
        centre = start + (side - 1) / 2 * (per_row + per_column)
        lines.append([per_column, per_row, (2 * centre + 1) / side - 1])
    return np.float32(lines[::-1]).transpose(2, 0, 1)


def write_split(folder: Path, name: str, split: Split, config: Config) -> np.ndarray:
    """Write the images of a split, in order; return the row of each stored record."""
    data = config.data.model_copy(update={"cache": cache.MEMORY})
    images = cache.decode_all(split, data, "", evaluation_batches)
    if not (images.other_fields["has_mask"] > 0).all():
        sys.exit(f"{split.name}: an image without a known mask, which the peer's loss needs")
    np.save(folder / f"{name}_image.npy", images.image[..., 0])
    np.save(folder / f"{name}_mask.npy", images.mask)
    np.save(folder / f"{name}_window.npy", images.other_fields["window"])
    return images.rows


def prepare(config: Config, folder: Path, flags: argparse.Namespace) -> dict[str, Split]:
    """Write all that the peer needs; return the splits that are predicted, by name."""
    lakes = splits.open_lakes(config.lake, config.data)
    validation = splits.validation_split(lakes[0], config.lake, config.data)
    test = splits.named_split(lakes[0], config.lake, "test")
    predicted = {"val": validation, "test": test}
    split = splits.training_split(lakes, config.lake, config.data, is_classifier=False)
    plan = plan_of(config, order.steps_per_epoch(split, config.data), flags.threads)
    plan["predicted"] = [*predicted]
    folder.mkdir(parents=True, exist_ok=True)
    if config.model.weights:
        if not flags.weights:
            sys.exit("the run started from weights; give torchvision's with --weights")
        plan["weights"] = torch_weights(flags.weights, folder / "encoder.npz")
    text, file = json.dumps(plan | {"lakes": shards_sha256(lakes)}), folder / "plan.json"
    if file.exists():
        if file.read_text() != text:
            sys.exit(f"{folder} holds another comparison; give another --output")
        return predicted
    for name, one in predicted.items():
        write_split(folder, name, one, config)
    rows = write_split(folder, "train", split, config)
    np.savez(folder / "draws.npz", **draws(config, split, rows, plan["steps"]))
    file.write_text(text)
    return predicted


def check_augmentation(config: Config, folder: Path, python: Path) -> None:
    """Leave unless the first batch is augmented alike in both; print the largest difference."""
    run_command([python, PEER, "augment", folder], check=True)
    theirs = np.load(folder / "augmented.npz")
    lakes = splits.open_lakes(config.lake, config.data)
    split = splits.training_split(lakes, config.lake, config.data, is_classifier=False)
    settings, side = config.augment, config.data.side
    num_draws, train = augment.num_draws(settings, side), config.train
    batches = training_batches(split, config.data, train.seed, train.epochs, 0, num_draws)
    p, masks = (np.asarray(part)[..., 0] for part in prepare_batch(next(iter(batches)), settings))
    difference, pixels = np.abs(p - theirs["p"]), (masks != theirs["masks"]).mean()
    # A pixel at the edge of a mask, or of what lies outside, may fall to either side.
    far = (difference > LARGEST_DIFFERENCE).mean()
    print(f"augmentation of the first batch: {far:.2%} of pixels and {pixels:.2%} of masks differ")
    if far > 0.001 or pixels > 0.001:
        sys.exit("the peer does not augment as radlake does")


# --- scores ---


class PeerPredictions:
    """Stands for an ensemble: the peer's predictions, in the order of a split."""

    findings = ()

    def __init__(self, config: Config, file: Path):
        self.settings = config.data
        with np.load(file) as arrays:
            self.p = arrays["p"]
            self.lesion = arrays["lesion"] if "lesion" in arrays.files else None
        self.batch_starts: Iterator[int] = iter(range(0, len(self.p), config.data.batch_size))

    def batches(self, split: Split, fields: tuple[str, ...]) -> tf.data.Dataset:
        return evaluation_batches(split, self.settings, fields)

    def __call__(self, batch: dict) -> BatchPrediction:
        start = next(self.batch_starts)
        places = slice(start, start + self.settings.batch_size)
        p = np.float32(self.p[places])
        padding = self.settings.batch_size - len(p)
        p = tf.constant(np.pad(p, ((0, padding), (0, 0), (0, 0)))[..., None])
        if self.lesion is None:
            logits = metrics.lesion_score(tf.math.log(p) - tf.math.log1p(-p))
        else:
            logits = tf.constant(np.pad(np.float32(self.lesion[places]), (0, padding)))
        return BatchPrediction(p, tf.sigmoid(logits), logits)


def peers_row(config: Config, folder: Path, predicted: dict[str, Split]) -> real.Row:
    """Return the peer's scores on the test split, at thresholds and with a calibration that were
    chosen on validation; write a row per image."""
    predictions = {
        name: predict(
            PeerPredictions(config, folder / f"predictions_{name}.npz"), split
        ).predictions
        for name, split in predicted.items()
    }
    validation, kind = predictions["val"], real.CALIBRATION["pneumothorax"]
    scale = calibration.fit(kind, validation.scores, validation.labels)
    validation = validation.with_calibration(scale)
    lesion, groups = validation.lesion_of_masks, validation.groups[validation.mask_places]
    decision = choice.choose(validation.counts, lesion, config.evaluate.choose, groups)
    decision = decision._replace(calibration=scale)
    print(f"peer: {decision}")
    outcomes = decide(predictions["test"].with_calibration(scale), decision)
    table = folder / "images_test.csv"
    table.write_text(image_table.csv_text(outcomes))
    values, intervals, _ = score(outcomes, ScoreOptions())
    return real.Row("segmentation_models_pytorch", [folder], table, values, intervals)


def report(config: Config, flags: argparse.Namespace, python: Path) -> None:
    """Train and score the peer, score the run, and print both."""
    folder = flags.output.resolve()
    predicted = prepare(config, folder, flags)
    check_augmentation(config, folder, python)
    if not (folder / "predictions_test.npz").exists():
        run_command([python, PEER, "train", folder], check=True)
    timing = json.loads((folder / "timing.json").read_text())
    rows = [real.score("pneumothorax", "radlake", [flags.workdir])]
    rows.append(peers_row(config, folder, predicted))
    columns = real.COLUMNS["pneumothorax"]
    print("\n| " + " | ".join(["", *columns.values()]) + " |\n|" + "---|" * (len(columns) + 1))
    for row in rows:
        print("| " + " | ".join(real.cells("pneumothorax", row)) + " |")
    print(real.gain_line(*rows))
    seconds = timing["seconds"]
    print(
        f"the peer's training: {timing['steps']} steps, {timing['parameters']:,} parameters, "
        f"{seconds['cpu'] / 60:.0f} min of CPU, {seconds['clock'] / 60:.0f} min on the clock\n"
    )
    content = real.scores_of(rows)
    (folder / "results.json").write_text(json.dumps({**content, "timing": timing}, indent=1))


# --- time of a step ---


def our_step(content: dict, threads: int) -> tuple[Callable, int]:
    """Return (a step on random pixels, the multiply-accumulates of one image's forward pass)."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    step, network = full_step.random_step(Config.model_validate(content))
    return step, full_step.forward_macs(network)


def compare_steps(config: Config, python: Path, steps: int, threads: int) -> None:
    """Print the ratio of both programs' seconds per step, taken in turns."""
    plan, texts = plan_of(config, loop.STEPS, threads), []
    content = {"config": config.model_dump(mode="json"), "threads": threads}
    ours = Stepper(sys.executable, __file__, "--serve", json.dumps(content))
    theirs = Stepper(python, PEER, "serve", json.dumps(plan))
    turns = [(ours.step(), theirs.step()) for _ in range(steps)]
    ours.end()
    theirs.end()
    for column, kind in enumerate(("on the clock", "of CPU")):
        seconds = [statistics.median(turn[side][column] for turn in turns) for side in (0, 1)]
        ratios = sorted(one[column] / other[column] for one, other in turns)
        texts.append(
            f"{seconds[0] / seconds[1]:.2f}x the peer's time {kind}, {seconds[0]:.2f} s against "
            f"{seconds[1]:.2f} s (of pairs: {ratios[0]:.2f} to {ratios[-1]:.2f})"
        )
    data = config.data
    print(f"{config.model.encoder}, {data.batch_size} images of {data.side} px, {steps} pairs")
    print("\n".join(f"  {text}" for text in texts))
    print(
        f"  {ours.macs / 1e9:.2f} G and {theirs.macs / 1e9:.2f} G multiply-accumulates per image "
        f"forward: {ours.macs / theirs.macs:.2f}x",
        flush=True,
    )


def main() -> None:
    flags = parser().parse_args()
    if flags.serve:
        content = json.loads(flags.serve)
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for the answers
            step, macs = our_step(content["config"], content["threads"])
        answer_steps(step, macs)
        return
    python = flags.python or environment("smp")
    if flags.speed_only:
        for encoder in flags.encoders:
            size = [f"--data.side={flags.side}", f"--data.batch_size={flags.batch}"]
            options = [*PLAIN_CONFIG, *size, f"--model.encoder={encoder}"]
            compare_steps(files.load(CONFIG, options), python, flags.steps, flags.threads)
        return
    if not flags.workdir:
        parser().error("give --workdir, or --speed_only")
    flags.workdir = flags.workdir.resolve()
    config = files.load(flags.workdir / "config.yaml", [])
    report(config, flags, python)
    compare_steps(
        files.load(flags.workdir / "config.yaml", PLAIN_CONFIG), python, flags.steps, flags.threads
    )


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, help="of a finished run")
    parser.add_argument("--weights", type=Path, help="torchvision's, in Keras's layout")
    parser.add_argument("--output", type=Path, default=Path("bench/peer"))
    parser.add_argument("--python", type=Path, help="of an environment that has the peer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=11, help="of each, in turns")
    parser.add_argument("--speed_only", action="store_true")
    parser.add_argument("--encoders", nargs="+", choices=[*PEERS_NAMES], default=[*PEERS_NAMES])
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--serve", metavar="JSON", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
