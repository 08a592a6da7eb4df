"""Pseudonyms: names of patients, studies, series and images -> keyed hashes.

The key is read where it is used; it never travels in a pipeline.
"""

import functools
import hashlib

from apache_beam.io.filesystems import FileSystems

from beam.running import files
from lake import InputError

KEY_BYTES = (16, 64)  # 64 is what BLAKE2b takes


def pseudonym(kind: str, name: str, key_file: str | None) -> str:
    """Keyed hash of a patient's or study's name; without a key the name itself; empty stays
    empty."""
    if not name or not key_file:
        return name
    hashed = hashlib.blake2b(f"{kind}/{name}".encode(), key=read_key(key_file), digest_size=16)
    return hashed.hexdigest()


@functools.cache
def read_key(path: str) -> bytes:
    """The secret of the pseudonyms; raises InputError when it is none."""
    if not FileSystems.exists(path):
        raise InputError(
            f"--deidentify_key_file={path}: no such file; make one with: openssl rand -out {path} "
            f"32"
        )
    key = files.read(path)
    if not KEY_BYTES[0] <= len(key) <= KEY_BYTES[1]:
        raise InputError(
            f"{path}: {len(key)} bytes, expected a secret of {KEY_BYTES[0]} to {KEY_BYTES[1]}"
        )
    return key


def key_digest(path: str | None) -> str:
    """What tells two keys apart without telling either."""
    return hashlib.sha256(read_key(path)).hexdigest() if path else ""
