"""TensorBoard: scalars, histograms and PR curves of training and validation under the same tags, so
that they share a chart, and panels."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.hparams import api as hparams
from tensorboard.plugins.pr_curve import summary as pr_curve

from trainer.display import histograms

RUN = "."
FLUSH_SECONDS = 5  # a curve is this far behind at most, when the next value comes
EVENTS = 10_000  # that may wait until then


class Board:
    """Writers of a run's curves, each in its folder such as `<workdir>/train`, and of what there is
    once for all, in the workdir itself; from a step on."""

    def __init__(self, workdir: Path, step: int, curves: tuple[str, ...] = ("train", "val", RUN)):
        for name in curves:
            for path in (workdir / name).glob("events.out.tfevents.*"):
                drop_after(path, step) if step else path.unlink()
        self.writers = {
            name: tf.summary.create_file_writer(
                str(workdir / name), max_queue=EVENTS, flush_millis=1000 * FLUSH_SECONDS
            )
            for name in curves
        }

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

    def distributions(self, curve: str, step: int, sums: dict) -> None:
        """Histograms and PR curves of an epoch's sums."""
        for tag, (edges, heights) in histograms.bars(sums).items():
            self.histogram(curve, step, tag, edges, heights)
        for tag, counts in histograms.pr_counts(sums).items():
            self.pr_curve_of_counts(curve, step, tag, counts)

    def histogram(
        self, curve: str, step: int, tag: str, edges: np.ndarray, heights: np.ndarray
    ) -> None:
        """Bars between edges [N + 1], of heights [N]."""
        values = np.stack([edges[:-1], edges[1:], heights], axis=1).astype(np.float64)
        metadata = histogram_metadata.create_summary_metadata(None, None)
        with self.writers[curve].as_default(step=step):
            tf.summary.write(tag, values, metadata=_of_tensorflow(metadata))

    def pr_curve_of_counts(self, curve: str, step: int, tag: str, counts: np.ndarray) -> None:
        """True and false positives, true and false negatives [4, T] at thresholds that are even
        from 0 to 1; a precision of 0 where nothing is predicted, which TensorBoard leaves out."""
        hits, alarms, _, misses = counts
        precision, recall = hits / np.maximum(hits + alarms, 1), hits / np.maximum(hits + misses, 1)
        made = pr_curve.raw_data_pb(tag, *counts, precision, recall, num_thresholds=len(hits))
        self._write(curve, step, made)

    def pr_curve(self, curve: str, step: int, tag: str, labels, probabilities) -> None:
        """Labels [N] bool, probabilities [N]."""
        self._write(curve, step, pr_curve.pb(tag, labels, probabilities))

    def _write(self, curve: str, step: int, message) -> None:
        [value] = message.value
        with self.writers[curve].as_default(step=step):
            tf.summary.write(value.tag, tf.make_ndarray(value.tensor), metadata=value.metadata)

    def introduce(self, values: dict, text: str) -> None:
        """A run's values for the HParams table, and its config.yaml.

        No hparams_config, which would name the columns: of several runs TensorBoard takes one's for
        all. Without any it has the values and scores of all of them, those that differ first.
        """
        with self.writers[RUN].as_default(step=0):
            hparams.hparams(values)
            tf.summary.text("config", "\n".join(f"    {line}" for line in text.splitlines()))

    def flush(self) -> None:
        for writer in self.writers.values():
            writer.flush()


def _of_tensorflow(metadata) -> tf.compat.v1.SummaryMetadata:
    """TensorBoard has a message class of its own."""
    return tf.compat.v1.SummaryMetadata.FromString(metadata.SerializeToString())


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
