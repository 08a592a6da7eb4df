"""TensorBoard's event files. Scalars, histograms and PR curves of training and validation have the
same tags, so that they share a chart; images are panels."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.hparams import api as hparams
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.plugins.pr_curve import summary as pr_curve

from trainer.config.score_names import DICE_WORDS, HALF_NETWORK, TRAINING
from trainer.display import histograms

RUN = "."
FIRST_TAB = "http://localhost:6006/#custom_scalars"  # no file can make TensorBoard begin with it
# Titles, and patterns of tags, from their beginning.
FIRST_CHARTS = {
    "loss": "loss$",
    f"{DICE_WORDS}, images with a lesion": f"dice_positives{HALF_NETWORK}$",
    f"{DICE_WORDS}, all images, and if nothing is marked": (
        f"dice_mean{HALF_NETWORK}$|dice_all_empty_network_size$"
    ),
    "AUC, and that of each finding": "auc$|auc/",
}
# The hyperparameters to see first in HParams, and the scores, which are those of the best epoch.
FIRST_HYPERPARAMETERS = (
    *("model.kind", "model.encoder", "data.side", "data.batch_size", "optimizer.learning_rate"),
    "train.seed",
)
FIRST_SCORES = (
    *(f"dice_positives{HALF_NETWORK}", f"dice_mean{HALF_NETWORK}", "dice_all_empty_network_size"),
    *("auc", "loss"),
)
CURVES = ("train", "val", RUN)
PREFIX = "events.out.tfevents."
FLUSH_SECONDS = 5  # how far the files may be behind when another value is written
EVENTS = 10_000  # so many may wait in memory until then


class Board:
    """Writers of a run's curves: each in a folder such as `<workdir>/train`, and RUN's in the
    workdir itself. What the files hold beyond `step` is dropped."""

    def __init__(
        self, workdir: Path, step: int, curves: tuple[str, ...] = CURVES, run: str | None = None
    ):
        """Open the event files of `curves` for a run that goes on from `step`: later events are
        dropped, and at step 0 old files deleted; only the run's, whose names hold the text `run`.
        """
        for path in event_files(workdir, curves):
            if is_event_file_of(run, path):
                drop_after(path, step) if step else path.unlink()
        self.writers = {
            name: tf.summary.create_file_writer(
                str(workdir / name),
                max_queue=EVENTS,
                flush_millis=1000 * FLUSH_SECONDS,
                filename_suffix=_suffix(run),
            )
            for name in curves
        }

    def scalars(self, curve: str, step: int, values: dict[str, float]) -> None:
        """Write values by tag; one that is not finite (no positives, for example) leaves a gap."""
        with self.writers[curve].as_default(step=step):
            for tag, value in values.items():
                if np.isfinite(value):
                    tf.summary.scalar(tag, value)

    def image(self, curve: str, step: int, tag: str, rgb: np.ndarray) -> None:
        """Write an image, uint8 [H, W, 3]."""
        with self.writers[curve].as_default(step=step):
            tf.summary.image(tag, rgb[None])

    def distributions(
        self, curve: str, step: int, sums: dict, findings: Sequence[str] = ()
    ) -> None:
        """Write the histograms and PR curves of an epoch's sums; `findings`: of the network."""
        for tag, (edges, heights) in histograms.bars(sums, findings).items():
            self.histogram(curve, step, tag, edges, heights)
        for tag, counts in histograms.pr_counts(sums, findings).items():
            self.pr_curve_of_counts(curve, step, tag, counts)

    def histogram(
        self, curve: str, step: int, tag: str, edges: np.ndarray, heights: np.ndarray
    ) -> None:
        """Write bars between edges [N + 1], of heights [N]."""
        values = np.stack([edges[:-1], edges[1:], heights], axis=1).astype(np.float64)
        message = histogram_metadata.create_summary_metadata(None, None).SerializeToString()
        # Parsed again, as TensorBoard's class of this message is not TensorFlow's.
        metadata = tf.compat.v1.SummaryMetadata.FromString(message)
        with self.writers[curve].as_default(step=step):
            tf.summary.write(tag, values, metadata=metadata)

    def pr_curve_of_counts(self, curve: str, step: int, tag: str, counts: np.ndarray) -> None:
        """Write a PR curve from true and false positives, true and false negatives [4, T] at even
        thresholds from 0 to 1. The precision is 0 where nothing is predicted; TensorBoard leaves
        such a point out."""
        hits, alarms, _, misses = counts
        precision, recall = hits / np.maximum(hits + alarms, 1), hits / np.maximum(hits + misses, 1)
        points = *counts, precision, recall
        self._write(curve, step, pr_curve.raw_data_pb(tag, *points, num_thresholds=len(hits)))

    def pr_curve(self, curve: str, step: int, tag: str, labels, probabilities) -> None:
        """Write a PR curve from labels [N] bool and probabilities [N]."""
        self._write(curve, step, pr_curve.pb(tag, labels, probabilities))

    def _write(self, curve: str, step: int, message) -> None:
        [value] = message.value
        with self.writers[curve].as_default(step=step):
            tf.summary.write(value.tag, tf.make_ndarray(value.tensor), metadata=value.metadata)

    def config(
        self, hyperparameters: dict, names: list[str], config_yaml: str, origin: dict[str, str]
    ) -> None:
        """Write a run's hyperparameters for the HParams table, its config.yaml and what it is made
        from (titles and texts) as text, and the charts to look at first. `names`: of the
        hyperparameters of all runs that may be compared."""
        with self.writers[RUN].as_default(step=0):
            hparams.hparams(hyperparameters)
            lines = [f"    {line}" for line in config_yaml.splitlines()]
            tf.summary.text("config", "\n".join(lines))
            rows = [f"| {title} | `{text}` |" for title, text in origin.items()]
            tf.summary.text("run", "\n".join(["| | |", "|---|---|", *rows]))
            content = plugin_data_pb2.HParamsPluginData(experiment=_columns(names))
            message = metadata.create_summary_metadata(content).SerializeToString()
            # Parsed again, as TensorBoard's class of this message is not TensorFlow's.
            columns = tf.compat.v1.SummaryMetadata.FromString(message)
            tf.summary.write(metadata.EXPERIMENT_TAG, [], metadata=columns)
        self._write(RUN, 0, custom_scalar.pb(_first_charts()))

    def flush(self) -> None:
        for writer in self.writers.values():
            writer.flush()


def _columns(names: list[str]) -> api_pb2.Experiment:
    """Return the columns of the HParams table. TensorBoard takes those of one run for all, so every
    run has the same: a column for each of these hyperparameters, and for each score of the best
    epoch. It shows five of both; without this, augmentation and average precision."""
    scores = [*FIRST_SCORES, *(name for name in TRAINING if name not in FIRST_SCORES)]
    return api_pb2.Experiment(
        # TensorBoard sorts them by name, behind those that are said to differ.
        hparam_infos=[
            api_pb2.HParamInfo(name=name, differs=name in FIRST_HYPERPARAMETERS) for name in names
        ],
        metric_infos=[
            api_pb2.MetricInfo(name=api_pb2.MetricName(tag=f"best/{score}")) for score in scores
        ],
    )


def _first_charts() -> layout_pb2.Layout:
    """Return the layout of the tab Custom Scalars: loss, dice and AUC of training and validation.
    A run without one of them has an empty chart."""
    charts = [
        layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=[pattern]))
        for title, pattern in FIRST_CHARTS.items()
    ]
    return layout_pb2.Layout(category=[layout_pb2.Category(title="curves", chart=charts)])


def event_files(folder: Path, curves: tuple[str, ...] = CURVES) -> Iterator[Path]:
    """Yield the event files of these curves, whoever wrote them; not the profiler's empty ones."""
    for name in curves:
        for path in (folder / name).glob(f"{PREFIX}*"):
            if not path.name.endswith(".profile-empty"):
                yield path


def is_event_file_of(run: str | None, path: Path) -> bool:
    """Return whether an event file is by name that of a run; None: of one without a text."""
    # After the prefix come a time, the machine's name, a process and a counter.
    return re.search(rf"\.\d+{re.escape(_suffix(run))}$", path.name) is not None


def _suffix(run: str | None) -> str:
    return f".{run}.v2" if run else ".v2"


def drop_after(path: Path, step: int) -> None:
    """Rewrite an event file without the events beyond `step`, which the resumed run writes again,
    and without a record that a kill left half written.

    TensorBoard would drop repeated events only at a SessionLog event, which tf.summary does not
    write; other readers of the files would not drop them at all.
    """
    temporary_path = path.with_name(f"unfinished.{path.name.removeprefix(PREFIX)}")
    is_whole = True
    with tf.io.TFRecordWriter(str(temporary_path)) as writer:
        try:
            for event in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                if tf.compat.v1.Event.FromString(event).step <= step:
                    writer.write(event)
                else:
                    is_whole = False
        except tf.errors.DataLossError:  # the last record is cut off
            is_whole = False
    if is_whole:
        temporary_path.unlink()
    else:
        temporary_path.replace(path)
