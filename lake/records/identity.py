"""Which lake is which: a checksum of all shards identifies a version, and a version knows those
that it continues.

In: manifests. Out: identities, as manifest.json (`earlier_lakes`) and a run's lake.json keep them.
"""

import hashlib
import json
from collections.abc import Sequence

SHOWN_DIGITS = 8  # of a checksum, in messages


def shards_sha256(lakes: Sequence[dict]) -> str:
    """Return one checksum of all lakes' shards, computed from those in their manifests."""
    shards = json.dumps([shard["sha256"] for lake in lakes for shard in lake["shards"]])
    return hashlib.sha256(shards.encode()).hexdigest()


def identity(content: dict) -> dict:
    """Return the identity of the lake with this manifest, wherever it lies: name, version and a
    checksum of all shards."""
    names = {name: content[name] for name in ("dataset", "version")}
    return names | {"shards": shards_sha256([content])}


def ancestry(content: dict) -> list[dict]:
    """Return the identities of a lake and of the versions whose splits it keeps, itself first."""
    return [identity(content), *content.get("earlier_lakes", [])]


def title(lake: dict) -> str:
    """Return an identity in words, such as `siim 1.0.0 (shards 0a1b2c3d)`."""
    return f"{lake['dataset']} {lake['version']} (shards {lake['shards'][:SHOWN_DIGITS]})"
