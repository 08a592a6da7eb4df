"""Name the damaged record that stopped a run.

A damaged record is not skipped: behind a wrong checksum the rest of its shard is lost, and a run
that left records out could not be resumed in the same order.
"""

import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tensorflow as tf

from lake import InputError, storage
from lake.records import manifest
from lake.terminal import cli
from lake.terminal.progress import Progress
from trainer.config.run import Config, Data
from trainer.data.record import decoder

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
                raise _damage_error(lake, *damage) from error
        raise


def _damage_error(folder: str, path: str, fault: str) -> InputError:
    """Return the error of a shard that is not as it was converted."""
    if fault == UNREADABLE:
        return InputError(f"{path}: {fault}; let this user read it, then repeat the command")
    return InputError(
        f"{path}: {fault}; remove this file and repeat the lake's conversion, which writes it "
        f"again ({cli.typed_command('lake verify')} {folder} finds all)"
    )


def check_shards(
    content: dict, folder: str, names: Collection[str], data: Data, reads_bytes: bool = True
) -> None:
    """Raise InputError where a shard of these splits of a lake has other bytes than its manifest
    lists: damaged, or edited. On gs://, where reading costs more, and without `reads_bytes`, their
    number alone is compared."""
    shards = [*_shards(content, folder, names)]
    line = Progress("checking", len(shards), "shards")
    threads = ThreadPoolExecutor(os.cpu_count())
    try:
        faults = threads.map(lambda pair: _fault(*pair, reads_bytes), shards)
        for (path, shard), fault in zip(shards, faults, strict=True):
            if fault == UNREADABLE:
                raise _damage_error(folder, str(path), UNREADABLE)
            if fault:
                decode = decoder(content["dtype"], data.side, data.fit)
                record_fault = fault_of_shard(str(path), shard["records"], decode)
                raise _damage_error(folder, str(path), record_fault or fault)
            line.add()
    finally:
        threads.shutdown(cancel_futures=True)


def check_local_shards(
    content: dict, folder: str, names: Collection[str], data: Data, is_resumed: bool
) -> None:
    """Raise InputError where a shard of these splits of a local lake has other bytes than its
    manifest lists; where a run goes on, another number of bytes, because a terabyte takes minutes
    and its first start has read it. On gs:// a shard takes a request; there, and after the first
    step, what a record has for a checksum of its own is all that training compares."""
    if not storage.is_remote(folder):
        check_shards(content, folder, names, data, reads_bytes=not is_resumed)


def _shards(content: dict, folder: str, names: Collection[str]) -> Iterator[tuple[Path, dict]]:
    """Yield the path and the manifest's entry of each shard of these splits that has records."""
    for shard in content["shards"]:
        if shard["split"] in names and shard["records"]:
            yield storage.path_of(folder) / shard["name"], shard


def _fault(path: Path, shard: dict, reads_bytes: bool) -> str:
    """Return a message on how the bytes of a shard differ from those of the manifest's entry; "":
    not at all."""
    try:
        if not path.exists():
            return "no such file"
        is_same = storage.size_of(path) == shard["bytes"]
        if is_same and reads_bytes and not storage.is_remote(path):
            is_same = _sha256(path) == shard["sha256"]
    except PermissionError:
        return UNREADABLE
    return "" if is_same else f"its bytes are not those that {manifest.MANIFEST} lists"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_damaged_shard(folder: str, data: Data) -> tuple[str, str] | None:
    """Return (path, what is wrong) of the first shard that is damaged; None where none is."""
    content = manifest.load(folder)
    decode = decoder(content["dtype"], data.side, data.fit)
    for shard in content["shards"]:
        path = tf.io.gfile.join(folder, shard["name"])
        if fault := fault_of_shard(path, shard["records"], decode):
            return path, fault
    return None


def fault_of_shard(path: str, num_records: int, decode: Callable) -> str | None:
    """Return a message on what is wrong with a shard that should have so many records; None where
    nothing is."""
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
