"""TensorBoard: scalars of training and validation under the same tags, so that they share a chart,
and panels."""

from pathlib import Path

import numpy as np
import tensorflow as tf


class Board:
    """Writers of a run's curves, each in its folder: `<workdir>/train` and `<workdir>/val`."""

    def __init__(self, workdir: Path, curves: tuple[str, ...] = ("train", "val")):
        self.writers = {name: tf.summary.create_file_writer(str(workdir / name)) for name in curves}

    def scalars(self, curve: str, step: int, values: dict[str, float]) -> None:
        """Values by tag; one that is not a number (no positives, say) leaves a gap."""
        with self.writers[curve].as_default(step=step):
            for tag, value in values.items():
                if np.isfinite(value):
                    tf.summary.scalar(tag, value)

    def image(self, curve: str, step: int, tag: str, rgb: np.ndarray) -> None:
        """An image uint8 [H, W, 3]."""
        with self.writers[curve].as_default(step=step):
            tf.summary.image(tag, rgb[None])

    def flush(self) -> None:
        for writer in self.writers.values():
            writer.flush()
