"""Pseudonyms: names of patients, studies, series and images -> keyed hashes.

The key is read where it is used; it never travels in a pipeline.
"""

import functools
import secrets
import sys

from beam.running import files, paths
from lake import InputError, storage
from lake.records.pseudonym import KEY_FILE, check, digest, hashed


def pseudonym(kind: str, name: str, key_file: str | None) -> str:
    """Return the keyed hash of a name of this kind (patient, study, series or image); the name
    itself without a key, and where it is empty."""
    if not name or not key_file:
        return name
    return hashed(kind, name, read_key(key_file))


def key_file(path: str | None, is_local: bool) -> str:
    """Return the path of the key, created where a local run has none; raise InputError where it is
    not a key. Whoever has it can test on a lake whether a patient is in it."""
    if not path and not is_local:
        raise InputError("a remote runner needs --deidentify_key_file (or --deidentify keep)")
    default = KEY_FILE.expanduser()
    if not path and not default.exists():
        default.parent.mkdir(parents=True, exist_ok=True)
        with storage.whole_file(default) as unfinished_path:
            unfinished_path.touch(mode=0o600)
            unfinished_path.write_bytes(secrets.token_bytes(32))
        print(
            f"created {default}: the secret that hashes patient ids; keep it with the images, "
            "not with the lake",
            file=sys.stderr,
        )
    read_key(path or str(default))
    return path or str(default)


@functools.cache
def read_key(path: str) -> bytes:
    """Return the key; raise InputError where the file is absent or has the wrong length."""
    if not paths.exists(path):
        raise InputError(
            f"--deidentify_key_file={path}: no such file; make one with: openssl rand -out {path} "
            f"32"
        )
    return check(files.read(path), path)


def key_of(path: str | None) -> bytes:
    """Return the key; nothing without a path, where ids are kept as they are."""
    return read_key(path) if path else b""


def key_digest(path: str | None) -> str:
    """Return a hash that differs between keys and reveals none; empty without a key."""
    return digest(read_key(path)) if path else ""
