"""TensorBoard's event files -> the curves of a run, for pages and trackers that need no
TensorBoard."""

from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from trainer.display.board import CURVES, RUN, event_files


class Curve(NamedTuple):
    """The values of one tag, in the order of the steps."""

    steps: list[int]
    values: list[float]
    times: list[float]  # when they were written, in seconds since 1970


class Events(NamedTuple):
    """The scalars of a folder of event files."""

    curves: dict[str, Curve]  # by tag
    seconds: float  # from the first event to the last, with the pauses of a run that was resumed


def read_events(folder: Path) -> Events:
    """Return the scalars of a folder's event files; none where it has no such files. What follows a
    damaged record is left out."""
    points: dict[str, dict[int, tuple[float, float]]] = {}
    times = []
    for path in sorted(event_files(folder, (RUN,))):
        try:
            for serialised in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                event = tf.compat.v1.Event.FromString(serialised)
                times.append(event.wall_time)
                for value in event.summary.value:
                    if value.metadata.plugin_data.plugin_name == "scalars":
                        number = float(tf.make_ndarray(value.tensor))
                        points.setdefault(value.tag, {})[event.step] = number, event.wall_time
        except tf.errors.DataLossError:  # a kill left the last record half written
            continue
    curves = {}
    for tag, numbers in points.items():
        steps = sorted(numbers)
        values, seconds = zip(*(numbers[step] for step in steps), strict=True)
        curves[tag] = Curve(steps, [*values], [*seconds])
    return Events(curves, max(times) - min(times) if times else 0.0)


class Row(NamedTuple):
    """What a run logged at one step."""

    step: int
    time: float  # in seconds since 1970
    values: dict[str, float]  # such as train/loss, val/auc, and best/auc: its score so far


def read_rows(workdir: Path, after: int, up_to: int) -> list[Row]:
    """Return the scalars of a run at the steps beyond `after`, up to `up_to`, in their order."""
    rows: dict[int, Row] = {}
    for curve in CURVES:
        for tag, points in read_events(workdir / curve).curves.items():
            name = tag if curve == RUN else f"{curve}/{tag}"
            for step, value, time in zip(*points, strict=True):
                if after < step <= up_to:
                    rows.setdefault(step, Row(step, time, {})).values[name] = value
    return [rows[step] for step in sorted(rows)]
