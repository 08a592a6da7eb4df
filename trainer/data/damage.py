"""Name the damaged record that stopped a run.

A damaged record is not skipped: behind a wrong checksum the rest of its shard is lost, and a run
that left records out could not be resumed in the same order.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator

import tensorflow as tf

from lake import InputError, cli
from lake.records import manifest
from trainer.config.run import Config, Data
from trainer.data.record import decode_record

# What TensorFlow raises for a wrong checksum, an image that does not decode, a missing file, and a
# shard with fewer records than it should have. Networks raise some of them, too.
ERRORS = (
    tf.errors.DataLossError,
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.FailedPreconditionError,
)


@contextlib.contextmanager
def locate_errors(config: Config, folder: str) -> Iterator[None]:
    """Turn an error of reading into an InputError that names the first damaged record of the lake
    and data.more_lakes; an error passes unchanged where no record is damaged."""
    try:
        yield
    except ERRORS as error:
        print("a step failed; looking for a damaged record", file=sys.stderr, flush=True)
        for lake in (folder, *config.data.more_lakes):
            if damage := first_damaged_shard(lake, config.data):
                path, fault = damage
                raise InputError(
                    f"{path}: {fault}; remove this file and repeat the lake's conversion, which "
                    f"writes it again ({cli.typed_command('lake verify')} {lake} finds all)"
                ) from error
        raise


def first_damaged_shard(folder: str, data: Data) -> tuple[str, str] | None:
    """Return (path, what is wrong) of the first shard that is damaged; None where none is."""
    content = manifest.load(folder)

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def decode(record):
        return decode_record(record, content["dtype"], data.side, data.fit)

    for shard in content["shards"]:
        path = tf.io.gfile.join(folder, shard["name"])
        if fault := fault_of_shard(path, shard["records"], decode):
            return path, fault
    return None


def fault_of_shard(path: str, num_records: int, decode: Callable) -> str | None:
    """Return what is wrong with a shard that should have so many records; None: nothing."""
    items = tf.data.TFRecordDataset(path).map(decode, tf.data.AUTOTUNE, deterministic=True)
    position = 0
    try:
        for _ in items:
            position += 1
    except tf.errors.NotFoundError:
        return "no such file"
    except ERRORS as error:
        # The rest of TensorFlow's message is about its graph.
        return f"record {position}, counted from 0, is damaged: {error.message.splitlines()[0]}"
    if position != num_records:
        return f"{position} records, expected {num_records}"
    return None
