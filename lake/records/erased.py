"""erased.jsonl: which images and patients were erased from a lake, by hashes, so that they do not
come back. It travels from version to version.

In: its text, ids as files have them, the key. Out: whether an image, a patient or a line of a list
is among those; lines for it.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from lake import InputError, ids
from lake.records import manifest, pseudonym

REASON = "erased"  # of rejects
KINDS = ("patient", "image")
KEYS = {"date", "kind", "id", "records", "lines", "shards", "images", "key"}
# A name of fewer letters than this is looked for as a whole part of a path, not inside one.
SHORTEST_INSIDE = 3
LISTED = re.compile(r"(patient|image)\s+(\S.*)")  # a line of --list
MOST_WORDS = 12  # of a part of a path, whose sequences of words are looked for


class Erased(NamedTuple):
    """Holds the hashes of what was erased. Without a key (`--deidentify keep`) they are hashes all
    the same, that whoever tries ids can find out."""

    patients: frozenset[str]
    images: frozenset[str]

    def has_patient(self, patient: str, key: bytes) -> bool:
        """Return whether a patient was erased."""
        return bool(patient) and pseudonym.hashed("patient", patient, key) in self.patients

    def has_image(self, image_id: str, key: bytes) -> bool:
        """Return whether an image was erased, or the file of which it is a frame."""
        names = {image_id, ids.without_frame(image_id)}
        return any(pseudonym.hashed("image", name, key) in self.images for name in names)

    def has_record(self, image_id: str, patient: str, content: dict, key: bytes | None) -> bool:
        """Return whether a record with these ids, in a lake with this manifest, is of an erased
        image or patient. Without the key, None, image ids as they are stay uncompared."""
        is_hash = manifest.is_hashed(content)
        if patient in self.patients if is_hash else self.has_patient(patient, key or b""):
            return True
        if manifest.has_image_hashes(content):
            return image_id in self.images
        return key is not None and self.has_image(image_id, key)

    def has_text(self, text: str, key: bytes) -> bool:
        """Return whether an id, as a label file writes it, is that of an erased image."""
        names = {text, ids.tidy(text), ids.without_ending(text)}
        return any(self.has_image(name, key) for name in names | {n.split("/")[-1] for n in names})

    def has_line(self, line: dict, key: bytes) -> bool:
        """Return whether a line of rejects.jsonl is about an erased image, or names an erased
        patient in its path or its id."""
        if self.has_text(line["image_id"], key):
            return True
        words = {*_words(line["path"]), *_words(line["image_id"])}
        return any(self.has_patient(word, key) for word in words)


def _words(path: str) -> Iterator[str]:
    """Yield what may be the name of a patient in a path: its parts, and sequences of the words in
    them."""
    for part in filter(None, path.split("/")):
        yield part
        spans = [match.span() for match in re.finditer(r"[^\W_]+", part)][:MOST_WORDS]
        for first, (start, _) in enumerate(spans):
            for _, end in spans[first:]:
                if end - start >= SHORTEST_INSIDE:
                    yield part[start:end]


def read_list(path: Path) -> tuple[list[str], list[str]]:
    """Return (patients, images) of a file with an id per line, such as `patient 4711`; raise
    InputError for any other line that is not empty or a comment."""
    ids = {"patient": [], "image": []}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--list={path}: cannot be read: {reason}") from None
    for number, line in enumerate(map(str.strip, lines), start=1):
        if line and not line.startswith("#"):
            match = LISTED.fullmatch(line)
            if match is None:
                raise InputError(
                    f"--list={path} line {number}: expected `patient ID` or `image ID`"
                )
            ids[match[1]].append(match[2])
    return ids["patient"], ids["image"]


def manifest_of(folder: Path) -> dict:
    """Return the manifest of a version, that of before where an erasure was interrupted; raise
    InputError where the folder is no lake."""
    journal = folder / manifest.ERASING
    if journal.exists():
        return json.loads(journal.read_text(encoding="utf-8"))["manifest"]
    return manifest.load(str(folder))


def read(folder: Path) -> list[dict]:
    """Return the entries of a lake's erased.jsonl; none where it has none. Raises InputError where
    it is damaged."""
    path = folder / manifest.ERASED
    return parse(path.read_text(encoding="utf-8"), str(path)) if path.exists() else []


def lines_of_list(path: Path) -> list[str]:
    """Return the lines of a lake's list of rejects, or of labels without an image; none where it is
    absent. Names may have what else ends a line."""
    return path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []


def parse(text: str, path: str) -> list[dict]:
    """Return the entries of erased.jsonl; raise InputError where it is damaged."""
    entries = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            entry = json.loads(line)
            is_entry = isinstance(entry, dict) and entry.keys() >= KEYS and entry["kind"] in KINDS
        except ValueError:
            is_entry = False
        if not is_entry:
            raise InputError(
                f"{path} line {number}: expected an object with {', '.join(sorted(KEYS))}; without "
                f"it erased images would come back. Take the file from another version of the lake"
            )
        entries.append(entry)
    return entries


def union(entries: Iterable[dict]) -> Erased:
    """Return what all entries have."""
    patients, images = set(), set()
    for entry in entries:
        (patients if entry["kind"] == "patient" else images).add(entry["id"])
        images.update(entry["images"])
    return Erased(frozenset(patients), frozenset(images))


def check_key(entries: Iterable[dict], key: bytes, path: str) -> None:
    """Raise InputError where ids were hashed with another key: no erased id would be recognised."""
    if any(entry["key"] != digest(key) for entry in entries):
        raise InputError(
            f"{path}: the erased ids were hashed with another key, and their images would come "
            f"back; give the key of that lake with --deidentify_key_file"
        )


def digest(key: bytes) -> str:
    """Return what an entry has of the key; nothing without one."""
    return pseudonym.digest(key) if key else ""


def to_text(entries: Iterable[dict]) -> str:
    """Return the text of erased.jsonl, each entry once."""
    return "".join(dict.fromkeys(json.dumps(entry) + "\n" for entry in entries))


def reject_line(image_id: str, key: bytes, num_images: int = 1) -> dict:
    """Return the line of rejects.jsonl about an erased image that is still among the files, by its
    hash alone."""
    message = "it was erased from this lake, and stays out; remove its file and its label"
    line = {"path": "", "image_id": pseudonym.hashed("image", image_id, key), "reason": REASON}
    return line | {"message": message, "images": num_images}
