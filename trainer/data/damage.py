"""Name the damaged record that stopped a run.

A damaged record is not skipped: behind a wrong checksum the rest of its shard is lost, and a run
that left records out could not be resumed in the same order.
"""

import contextlib
import hashlib
import re
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import tensorflow as tf

from lake import InputError, storage
from lake.records import manifest
from lake.terminal import cli
from trainer.config.run import Config, Data
from trainer.data.record import decode_record

# What TensorFlow raises for a wrong checksum, an image that does not decode, a missing file, a
# shard with fewer records than it should have, a file of another user, and a disk that fails.
# Networks raise some of them, too.
ERRORS = (
    tf.errors.PermissionDeniedError,
    tf.errors.UnknownError,
    tf.errors.DataLossError,
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.FailedPreconditionError,
)
UNREADABLE = "permission denied"
# How TensorFlow quotes an error of Python, before its traceback.
INPUT_ERROR = re.compile(rf"\b{InputError.__name__}: (.*)")


@contextlib.contextmanager
def locate_errors(config: Config, folder: str) -> Iterator[None]:
    """Turn an error of reading into an InputError that names the first damaged record of the lake
    and data.more_lakes; an error passes unchanged where no record is damaged. An InputError that
    was raised in tf.data comes out as such."""
    try:
        yield
    except ERRORS as error:
        if match := INPUT_ERROR.search(error.message):
            raise InputError(match[1]) from None
        print("a step failed; looking for a damaged record", file=sys.stderr, flush=True)
        for lake in (folder, *config.data.more_lakes):
            if damage := first_damaged_shard(lake, config.data):
                raise _damaged(lake, *damage) from error
        raise


def _damaged(folder: str, path: str, fault: str) -> InputError:
    """Return the error of a shard that is not as it was converted."""
    if fault == UNREADABLE:
        return InputError(f"{path}: {fault}; let this user read it, then repeat the command")
    return InputError(
        f"{path}: {fault}; remove this file and repeat the lake's conversion, which writes it "
        f"again ({cli.typed_command('lake verify')} {folder} finds all)"
    )


def check_shards(content: dict, folder: str, names: Collection[str], data: Data) -> None:
    """Raise InputError where a shard of these splits of a lake has other bytes than its manifest
    lists: damaged, or edited. On gs://, where reading costs more, their number alone is compared.
    """
    for path, shard in _shards(content, folder, names):
        try:
            if path.exists() and _has_bytes(path, shard):
                continue
        except PermissionError:
            raise _damaged(folder, str(path), UNREADABLE) from None
        decode = _decoder(content, data)
        fault = fault_of_shard(str(path), shard["records"], decode)
        fault = fault or f"its bytes are not those that {manifest.MANIFEST} lists"
        raise _damaged(folder, str(path), fault)


def check_sizes(content: dict, folder: str, names: Collection[str], data: Data) -> None:
    """Raise InputError where a shard of these splits of a local lake is missing, or has another
    number of bytes than its manifest lists. Every record has a checksum of its own, which training
    compares; their number is known before its first step."""
    if storage.is_remote(folder):  # a request per shard
        return
    for path, shard in _shards(content, folder, names):
        if not path.exists() or storage.size_of(path) != shard["bytes"]:
            check_shards({**content, "shards": [shard]}, folder, names, data)


def _shards(content: dict, folder: str, names: Collection[str]) -> Iterator[tuple[Path, dict]]:
    """Yield the path and the manifest's entry of each shard of these splits that has records."""
    for shard in content["shards"]:
        if shard["split"] in names and shard["records"]:
            yield storage.path_of(folder) / shard["name"], shard


def _has_bytes(path: Path, shard: dict) -> bool:
    """Return whether a shard has the bytes of the manifest's entry."""
    if storage.size_of(path) != shard["bytes"]:
        return False
    if storage.is_remote(path):
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == shard["sha256"]


def first_damaged_shard(folder: str, data: Data) -> tuple[str, str] | None:
    """Return (path, what is wrong) of the first shard that is damaged; None where none is."""
    content = manifest.load(folder)
    decode = _decoder(content, data)
    for shard in content["shards"]:
        path = tf.io.gfile.join(folder, shard["name"])
        if fault := fault_of_shard(path, shard["records"], decode):
            return path, fault
    return None


def _decoder(content: dict, data: Data) -> Callable:
    """Return what decodes a record of a lake."""

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def decode(record):
        return decode_record(record, content["dtype"], data.side, data.fit)

    return decode


def fault_of_shard(path: str, num_records: int, decode: Callable) -> str | None:
    """Return what is wrong with a shard that should have so many records; None: nothing."""
    items = tf.data.TFRecordDataset(path).map(decode, tf.data.AUTOTUNE, deterministic=True)
    position = 0
    try:
        for _ in items:
            position += 1
    except tf.errors.NotFoundError:
        return "no such file"
    except tf.errors.PermissionDeniedError:
        return UNREADABLE
    except ERRORS as error:
        # The rest of TensorFlow's message is about its graph.
        return f"record {position}, counted from 0, is damaged: {error.message.splitlines()[0]}"
    if position != num_records:
        return f"{position} records, expected {num_records}"
    return None
