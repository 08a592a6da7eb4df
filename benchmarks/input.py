"""What the trainer's input costs beside bare decoding of the same bytes and a Python generator.

python benchmarks/input.py --images 'xrays/dicom/*.dcm' --labels xrays/train-rle.csv [--side 1024]

The images are converted into a lake (all to train on) in a temporary folder first. Three readers
then take turns in one process; images for each second of the clock, and of CPU time of all
threads, which other processes disturb less; the best of several rounds each:

training_batches      the trainer's own, shuffled batches of images and masks
bare decoding         tf.io.decode_jpeg (accurate) and the masks that are not empty, in parallel
Python generator      pydicom -> PIL resize -> mask from the run lengths, one image at a time

Behind that, what share of the time a device waits for its batches if a step takes 50 ms: training's
own call of several steps and its own clock, with a step that sleeps.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import pydicom
import tensorflow as tf
from PIL import Image

from beam import convert
from lake import InputError
from lake.labels import rle
from lake.records import manifest
from trainer.augmentation import augment
from trainer.config import run
from trainer.data import splits
from trainer.data.batches import Split, training_batches
from trainer.data.record import parse_record
from trainer.training.step import steps_in_one_call

EPOCHS = 5  # that a round reads
STEP_SECONDS = 0.05
FIELDS = ("image", "mask", "lesion_px", "encoding", "original_rle", "image_id")


def ours(split: Split, settings: run.Data, epochs: int) -> tf.data.Dataset:
    """The batches that training reads in so many epochs."""
    num_draws = augment.num_draws(run.Augment(), settings.side)
    return training_batches(split, settings, 0, epochs, 0, num_draws)


def bare(records: list[tuple], batch_size: int, epochs: int) -> tf.data.Dataset:
    """Batches of what the records hold, decoded without anything else."""
    columns = [tf.constant(values) for values in zip(*records, strict=True)]

    def decoded(image, mask, lesion_px):
        pixels = tf.io.decode_jpeg(image, channels=1, dct_method="INTEGER_ACCURATE")
        is_empty = lesion_px <= 0
        decoded_mask = tf.cond(
            is_empty, lambda: tf.zeros_like(pixels), lambda: tf.io.decode_png(mask, channels=1)
        )
        return pixels, decoded_mask

    stored = tf.data.Dataset.from_tensor_slices(tuple(columns)).repeat(epochs)
    batches = stored.map(decoded, tf.data.AUTOTUNE).batch(batch_size, drop_remainder=True)
    return batches.prefetch(tf.data.AUTOTUNE)


def count_images(batches: tf.data.Dataset, batch_size: int) -> int:
    return sum(batch_size for _ in batches)


def generator(sources: list[tuple[str, str]], side: int) -> int:
    """Images read as DICOM and resized with PIL, with their masks."""
    count = 0
    for path, runs in sources:
        pixels = pydicom.dcmread(path).pixel_array
        mask = rle.to_mask(rle.runs(runs, pixels.size), *pixels.shape)
        np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR))
        np.asarray(Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST))
        count += 1
    return count


def wait_share(batches: tf.data.Dataset, steps: int) -> float:
    """Return the share of a call of so many steps, behind one that fills the input's buffers."""

    def nap(labels):
        time.sleep(STEP_SECONDS)
        return labels

    def step(batch: dict) -> dict:
        labels = tf.numpy_function(nap, [tf.reduce_sum(batch["label"])], tf.float32)
        return {"labels": tf.reshape(labels, [])}

    strategy = tf.distribute.get_strategy()
    call = steps_in_one_call(strategy, step, [])
    iterator = iter(strategy.experimental_distribute_dataset(batches))
    call(iterator, tf.constant(steps // 4))
    return float(call(iterator, tf.constant(steps // 2))["input_wait_share"])


def best_rates(readers: dict, rounds: int) -> dict[str, tuple[float, float]]:
    """Images a second of (the clock, CPU time) in each reader's best round by either; they take
    turns, the first warms up."""
    best = dict.fromkeys(readers, (0.0, 0.0))
    for number in range(rounds + 1):
        for name, reader in readers.items():
            wall, cpu = time.perf_counter(), time.process_time()
            count = reader()
            rates = count / (time.perf_counter() - wall), count / (time.process_time() - cpu)
            if number:
                best[name] = tuple(map(max, best[name], rates))
    return best


def main(images: str, labels: str, side: int, batch: int, rounds: int, limit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lake, key = f"{folder}/lake/1.0.0", Path(folder, "key")
        key.write_bytes(bytes(32))
        arguments = ["--source=dicom", f"--images={images}", f"--labels={labels}"]
        arguments += [f"--output={lake}", "--splits=train=1.0", "--runner=DirectRunner"]
        convert.run([*arguments, f"--deidentify_key_file={key}"])
        split = splits.named_split(manifest.load(lake), lake, "train")
        settings = run.Data(side=side, batch_size=batch)
        by_name = {Path(path).stem: path for path in tf.io.gfile.glob(images)}
        records, sources = [], []
        for serialized in tf.data.TFRecordDataset(split.paths):
            record = {k: v.numpy() for k, v in parse_record(serialized, FIELDS).items()}
            if record["encoding"] != b"jpeg-kept":
                raise InputError("bare decoding reads JPEGs; give images that are kept as they are")
            records.append((record["image"], record["mask"], record["lesion_px"]))
            path = by_name[record["image_id"].decode()]
            sources.append((path, record["original_rle"].decode()))
        # Built once, as in a run.
        training, decoded = ours(split, settings, EPOCHS), bare(records, batch, EPOCHS)
        rates = best_rates(
            {
                "training_batches": lambda: count_images(training, batch),
                "bare decoding": lambda: count_images(decoded, batch),
                "Python generator": lambda: generator(sources[:limit], side),
            },
            rounds,
        )
        share = wait_share(training, EPOCHS * split.num_records // batch)
    print(f"{split.num_records} images at {side} px, batches of {batch}; best of {rounds} rounds")
    for name, (wall, cpu) in rates.items():
        training_wall, training_cpu = rates["training_batches"]
        print(
            f"{name:18s}{wall:9.1f} images/s{training_wall / wall:7.2f}x"
            f"{cpu:9.1f} images/CPU-s{training_cpu / cpu:7.2f}x"
        )
    print(f"waiting for input with a step of {STEP_SECONDS * 1e3:.0f} ms: {share:.2%} of the time")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True)
    parser.add_argument("--labels", required=True)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=100, help="images of the Python generator")
    main(**vars(parser.parse_args()))
