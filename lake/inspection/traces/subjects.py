"""Who is looked for: the ids of patients and images in all their forms, and the lakes that hold
them.

In: ids as files had them, the key, lakes. Out: Subjects, and where a text or bytes name one.
"""

import functools
import html
import json
import re
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lake import InputError, ids
from lake.inspection import find
from lake.records import erased, identity, manifest, pseudonym
from lake.scan import stable_hash

WORD = re.compile(rb"[\w-]")  # ASCII: beside an id, it is another id
NUMBERED = re.compile(rb"_\d{4}\.")  # behind the name of nnU-Net's cases
CHECKSUM_WORDS = "names {}, which holds them"


class Subjects:
    """Holds {text: what it is} of ids and their hashes, and {checksum: title} of lakes."""

    def __init__(self, patients: Sequence[str], images: Sequence[str], key: bytes | None):
        self._ids = list(patients), list(images)
        self._key = key
        self.absent = {f"patient {text}" for text in patients}  # no lake has their records
        self.names: dict[str, str] = {}
        self.lakes: dict[str, str] = {}
        self.releases: dict[tuple, set[str]] = {}  # the splits with their records, by
        # (dataset, version), which is all that a written lake says of where it is from
        for kind, texts in zip(erased.KINDS, self._ids, strict=True):
            for text in filter(None, texts):
                self._add(text, f"{kind} {text}")
                if key is not None:
                    self._add(pseudonym.hashed(kind, text, key), f"{kind} {text}")

    def _add(self, text: str, words: str) -> None:
        if text:
            self.names.setdefault(text, words)

    def add_lake(self, folder: Path, content: dict) -> int:
        """Add the images that a lake has of them; return how many records. Raises InputError where
        it was made with another key."""
        if self._key is None and manifest.is_hashed(content):
            raise InputError("its ids are hashes; give their --deidentify_key_file")
        if self._key is not None:
            find.check_key(folder, content, self._key)
        rows_by_id = find.find(folder, content, *self._ids, self._key)
        rows = {
            (row["image_id"], row["split"])
            for rows in rows_by_id.values()
            for row in rows.to_pylist()
        }
        for image_id, _ in rows:
            self._add(image_id, f"image {image_id}")
            self._add(ids.without_frame(image_id), f"image {ids.without_frame(image_id)}")
        self.absent -= {name for name, its_rows in rows_by_id.items() if len(its_rows)}
        if rows:
            lake = identity.identity(content)
            self.lakes[lake["shards"]] = identity.title(lake)
            release = self.releases.setdefault((content["dataset"], content["version"]), set())
            release.update(split for _, split in rows)
        return len(rows)

    def too_short(self) -> list[str]:
        """Return the ids that are too short to be looked for inside of files."""
        return [text for text in self.names if len(text) < erased.SHORTEST_INSIDE]

    def count_hashes(self, hashes: np.ndarray) -> int:
        """Return how many of stable hashes [N] are theirs."""
        own_hashes = np.array([stable_hash(text) for text in self.names], np.uint64)
        return int(np.isin(np.unique(hashes), own_hashes).sum())

    def named_for(self, text: str) -> list[str]:
        """Return in words whose id a part of a path is, or has in it."""
        words = [
            f"names {self.names[x]}" for x in (text, ids.without_ending(text)) if x in self.names
        ]
        return [*words, *self.named_in(text.encode("utf-8", "surrogateescape"))]

    def named_in(self, data) -> list[str]:
        """Return in words whom bytes, or a mapped file, name."""
        words = []
        for text, meaning in self.names.items():
            if len(text) >= erased.SHORTEST_INSIDE and any(
                _has(data, form) for form in _forms(text)
            ):
                words.append(f"names {meaning}")
        for checksum, title in self.lakes.items():
            if data.find(checksum.encode()) >= 0:
                words.append(CHECKSUM_WORDS.format(title))
        return list(dict.fromkeys(words))


@functools.cache  # asked of each file
def _forms(text: str) -> tuple[bytes, ...]:
    """Return an id as texts, CSV, JSON, HTML and URLs write it."""
    quoted = urllib.parse.quote(text, safe="# "), urllib.parse.quote(text)
    in_json = json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]
    forms = text, *quoted, *in_json, html.escape(text), text.replace('"', '""')
    return tuple(dict.fromkeys(form.encode("utf-8", "surrogateescape") for form in forms))


def _has(data, form: bytes) -> bool:
    """Return whether bytes have an id that is no part of a longer one."""
    return any(_stands_alone(data, start, form) for start in _places(data, form))


def _places(data, form: bytes) -> Iterator[int]:
    start = data.find(form)
    while start >= 0:
        yield start
        start = data.find(form, start + 1)


def _stands_alone(data, start: int, form: bytes) -> bool:
    """Return whether no letter, digit or further part of a number or UID is beside an id. A byte
    before it may be its length, as protocol buffers write it."""
    end = start + len(form)
    before, after = data[max(0, start - 2) : start], data[end : end + 6]
    is_length = before[-1:] == bytes([len(form) % 256])
    is_inside = WORD.match(before[-1:]) or (before[-1:] == b"." and before[:1].isdigit())
    if is_inside and not is_length:
        return False
    if NUMBERED.match(after):
        return True
    return not (WORD.match(after) or (after[:1] == b"." and after[1:2].isdigit()))
