"""What augmentation costs, as ratios to one bare bilinear reading of images and masks at given
positions.

python benchmarks/augmentation.py [--side 512] [--batch 4] [--repeats 25]

Everything of ours is compiled by XLA. The calls alternate; what counts is the CPU time of all
threads, which other processes on the machine disturb less than the clock; medians.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parent.parent))

import keras
import numpy as np
import tensorflow as tf

from trainer.augmentation import augment, grey, warp
from trainer.config.augmentation import TRANSFORMS, Augment

BARE = "bare reading at given positions"
WARPS = {
    "warp: affine": ("flip", "affine"),
    "warp: affine, elastic": ("flip", "affine", "elastic"),
    "warp: affine, elastic, grid": ("flip", "affine", "elastic", "grid"),
    "warp: all": ("flip", "affine", "crop", "elastic", "grid", "optical"),
}
PIXELWISE = ("contrast", "brightness", "gamma", "invert", "noise", "cutout")
GREYS = {
    "bare, then contrast, brightness": ("contrast", "brightness"),
    "bare, then all without blur, noise": tuple(n for n in PIXELWISE if n != "noise"),
    "bare, then all without blur": PIXELWISE,
    "bare, then all": (*PIXELWISE, "blur"),
}


def settings_of(names: tuple[str, ...]) -> Augment:
    sections = {n: {"probability": float(n in names)} for n in TRANSFORMS}
    sections["elastic"] |= {
        "alpha_px": 120,
        "sigma_px": 6,
    }  # dense control points, as albumentations
    return Augment.model_validate(sections)


def ours(images, masks) -> dict:
    """{name: compiled call}."""
    side, rng = images.shape[1], np.random.default_rng(0)

    def parameters_of(settings: Augment):
        draws = augment.num_draws(settings, side)
        table = tf.Variable(rng.random((len(images), draws), np.float32))  # no constant for XLA
        return lambda: augment.parameters(table, settings, side)

    def positions_of(names: tuple[str, ...]):
        parameters = parameters_of(settings_of(names))
        return lambda: warp.source_positions(side, parameters())

    rows, columns = positions_of(WARPS["warp: affine, elastic, grid"])()

    def bare():
        return warp.resample([images, masks], rows, columns, "constant")

    def warped(names: tuple[str, ...]):
        positions = positions_of(names)
        return lambda: warp.resample([images, masks], *positions(), "constant")

    def adjusted(names: tuple[str, ...]):
        settings = settings_of(names)
        parameters = parameters_of(settings)

        def call():
            changed, masks_after = bare()
            mean, sigma = grey.mean(images), settings.blur.sigma_px[1]
            return grey.adjust(changed, mean, parameters(), sigma), masks_after

        return call

    calls = {BARE: bare, **{n: warped(names) for n, names in WARPS.items()}}
    calls |= {n: adjusted(names) for n, names in GREYS.items()}
    return {name: tf.function(call, jit_compile=True) for name, call in calls.items()}


def layers_of_keras(images, masks) -> dict:
    """The same geometry by Keras's own layers, each of which resamples image and mask once."""
    stack = [
        keras.layers.RandomFlip("horizontal", data_format="channels_last"),
        keras.layers.RandomRotation(8 / 360, fill_mode="constant"),
        keras.layers.RandomZoom(0.15, 0.15, fill_mode="constant"),
        keras.layers.RandomTranslation(0.05, 0.05, fill_mode="constant"),
    ]
    elastic = keras.layers.RandomElasticTransform(1.0, scale=0.5, fill_mode="constant")

    def through(layers: list):
        def call():
            batch = {"images": images[..., None], "segmentation_masks": masks[..., None]}
            for layer in layers:
                batch = layer(batch, training=True)
            return batch["images"], batch["segmentation_masks"]

        return tf.function(call)  # none of them compiles under XLA

    return {
        "Keras: flip, rotation, zoom, translation": through(stack),
        "Keras: the same and elastic": through([*stack, elastic]),
    }


def cpu_seconds(calls: dict, repeats: int) -> dict[str, float]:
    times = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            started = time.process_time()
            np.asarray(call()[0])
            times[name].append(time.process_time() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def main(side: int, batch: int, repeats: int) -> None:
    rng = np.random.default_rng(1)
    images = tf.constant(rng.random((batch, side, side), np.float32))
    masks = tf.constant(np.float32(rng.random((batch, side, side)) < 0.3))
    calls = {**ours(images, masks), **layers_of_keras(images, masks)}
    medians = cpu_seconds(calls, repeats)
    print(f"{batch} images and masks of {side} px; CPU time of all threads, median of {repeats}")
    for name, seconds in medians.items():
        print(f"{name:42s}{1000 * seconds:8.1f} ms{seconds / medians[BARE]:8.2f}x")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=25)
    main(**vars(parser.parse_args()))
