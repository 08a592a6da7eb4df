"""A run that stops where a record cannot be read says which one it is.

A record is not skipped: behind a wrong checksum the rest of its shard is lost, and a run that left
records out could not be resumed in the same order.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator

import tensorflow as tf

from lake import InputError
from trainer.config.run import Config, Data
from trainer.data import splits
from trainer.data.record import decode_record

# What TensorFlow says of a wrong checksum, an image that does not decode, a missing file, and a
# shard with fewer records than it should have. Networks raise some of them, too.
ERRORS = (
    tf.errors.DataLossError,
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.FailedPreconditionError,
)


@contextlib.contextmanager
def locate_errors(run: Config, folder: str) -> Iterator[None]:
    """In it, an error of reading is an InputError with the first damaged record of the run's lakes;
    where there is none, the error was another one and passes."""
    try:
        yield
    except ERRORS as error:
        print("a step failed; looking for a damaged record", file=sys.stderr, flush=True)
        for lake in (folder, *run.data.more_lakes):
            if found := first_damaged_shard(lake, run.data):
                path, what = found
                raise InputError(
                    f"{path}: {what}; remove this file and repeat the lake's conversion, which "
                    f"writes it again (python -m lake verify {lake} finds all)"
                ) from error
        raise


def first_damaged_shard(folder: str, settings: Data) -> tuple[str, str] | None:
    """(path, what is wrong) of the first shard that is damaged."""
    content = splits.open_lake(folder)

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def decoded(record):
        return decode_record(record, content["dtype"], settings.side, settings.fit)

    for shard in content["shards"]:
        path = tf.io.gfile.join(folder, shard["name"])
        if what := fault_of_shard(path, shard["records"], decoded):
            return path, what
    return None


def fault_of_shard(path: str, stored: int, decoded: Callable) -> str | None:
    """What is wrong with a shard that should have so many records, each of them `decoded`."""
    items = tf.data.TFRecordDataset(path).map(decoded, tf.data.AUTOTUNE, deterministic=True)
    position = 0
    try:
        for _ in items:
            position += 1
    except tf.errors.NotFoundError:
        return "no such file"
    except ERRORS as error:
        # The rest of TensorFlow's message is about its graph.
        return f"record {position}, counted from 0, is damaged: {error.message.splitlines()[0]}"
    if position != stored:
        return f"{position} records, expected {stored}"
    return None
