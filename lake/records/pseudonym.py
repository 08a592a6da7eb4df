"""Pseudonyms: names of patients, studies, series and images -> keyed hashes, as records have them.

In: names and the key. Out: hashes. Whoever has the key can tell whether a patient is in a lake.
"""

import hashlib
from pathlib import Path

from lake import InputError, storage

KEY_FILE = Path("~/.config/radlake/deidentify.key")
KEY_BYTES = (16, 64)  # 64 is the longest key of BLAKE2b


def hashed(kind: str, name: str, key: bytes) -> str:
    """Return the keyed hash of a name of this kind (patient, study, series or image); an empty name
    stays empty."""
    if not name:
        return name
    return hashlib.blake2b(f"{kind}/{name}".encode(), key=key, digest_size=16).hexdigest()


def digest(key: bytes) -> str:
    """Return a hash that differs between keys and reveals none."""
    return hashlib.sha256(key).hexdigest()


def check(key: bytes, path: str) -> bytes:
    """Return the key; raise InputError where it has the wrong length."""
    if not KEY_BYTES[0] <= len(key) <= KEY_BYTES[1]:
        raise InputError(
            f"{path}: {len(key)} bytes, expected a secret of {KEY_BYTES[0]} to {KEY_BYTES[1]}"
        )
    return key


def read(path: str | None) -> bytes:
    """Return the key of a file, of KEY_FILE without a path; raise InputError where it is absent or
    no key."""
    path = path or str(KEY_FILE.expanduser())
    try:
        return check(storage.path_of(path).read_bytes(), path)
    except OSError as error:
        raise InputError(
            f"--deidentify_key_file={path}: {error.strerror or error}; give the key with which the "
            f"lake was made"
        ) from None
