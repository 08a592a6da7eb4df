"""TensorBoard: scalars of training and validation under the same tags, so that they share a chart,
and panels."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams
from tensorboard.plugins.pr_curve import summary as pr_curve

RUN = "."


class Board:
    """Writers of a run's curves, each in its folder such as `<workdir>/train`, and of what there is
    once for all, in the workdir itself; from a step on."""

    def __init__(self, workdir: Path, step: int, curves: tuple[str, ...] = ("train", "val", RUN)):
        for name in curves:
            for path in (workdir / name).glob("events.out.tfevents.*"):
                drop_after(path, step) if step else path.unlink()
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

    def precision_recall(self, curve: str, step: int, tag: str, labels, probabilities) -> None:
        """TensorBoard's own PR curve; labels [N] bool, probabilities [N]."""
        found = pr_curve.pb(tag, labels, probabilities).value[0]
        with self.writers[curve].as_default(step=step):
            tf.summary.write(tag, tf.make_ndarray(found.tensor), metadata=found.metadata)

    def introduce(self, values: dict, text: str) -> None:
        """A run's values for the HParams table, and its config.yaml."""
        with self.writers[RUN].as_default(step=0):
            hparams.hparams(values)
            tf.summary.text("config", "\n".join(f"    {line}" for line in text.splitlines()))

    def flush(self) -> None:
        for writer in self.writers.values():
            writer.flush()


def drop_after(path: Path, step: int) -> None:
    """An event file without its events of later steps, which the resumed run writes again, and
    without what a kill left half written.

    TensorBoard would drop the first only at a SessionLog event, which tf.summary does not write,
    and other readers of the files not at all.
    """
    unfinished = path.with_name(f"unfinished.{path.name.removeprefix('events.out.tfevents.')}")
    is_whole = True
    with tf.io.TFRecordWriter(str(unfinished)) as kept:
        for event in _whole_records(path):
            if event is not None and tf.compat.v1.Event.FromString(event).step <= step:
                kept.write(event)
            else:
                is_whole = False
    if is_whole:
        unfinished.unlink()
    else:
        unfinished.replace(path)


def _whole_records(path: Path) -> Iterator[bytes | None]:
    """Each record; None for a last one that is cut off."""
    try:
        yield from tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    except tf.errors.DataLossError:
        yield None
