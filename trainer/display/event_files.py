"""TensorBoard's event files -> the curves of a run, for pages that need no TensorBoard."""

from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from trainer.display.board import RUN, event_files


class Curve(NamedTuple):
    """The values of one tag, in the order of the steps."""

    steps: list[int]
    values: list[float]


class Events(NamedTuple):
    """The scalars of a folder of event files."""

    curves: dict[str, Curve]  # by tag
    seconds: float  # from the first event to the last, with the pauses of a run that was resumed


def read_events(folder: Path) -> Events:
    """Return the scalars of a folder's event files; none where it has no such files. What follows a
    damaged record is left out."""
    points: dict[str, dict[int, float]] = {}
    times = []
    for path in sorted(event_files(folder, (RUN,))):
        try:
            for serialised in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                event = tf.compat.v1.Event.FromString(serialised)
                times.append(event.wall_time)
                for value in event.summary.value:
                    if value.metadata.plugin_data.plugin_name == "scalars":
                        number = float(tf.make_ndarray(value.tensor))
                        points.setdefault(value.tag, {})[event.step] = number
        except tf.errors.DataLossError:  # a kill left the last record half written
            continue
    curves = {
        tag: Curve(sorted(numbers), [numbers[step] for step in sorted(numbers)])
        for tag, numbers in points.items()
    }
    return Events(curves, max(times) - min(times) if times else 0.0)
