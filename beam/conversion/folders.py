"""Class folders: the folder that an image lies in names its class; the names, sorted, number them.

In: matched files and headers; out: one list of names, and the row of each image's label.
"""

import posixpath
import re

import apache_beam as beam

from lake import Reject, Stopped
from lake.labels.tables import Row
from lake.scan import Header

WILDCARD = re.compile(r"[*?[]")


def has_folders(pattern: str) -> bool:
    """Whether a pattern matches images in more than one folder."""
    folder, name = posixpath.split(pattern)
    return bool(WILDCARD.search(folder)) or "**" in name


def folder_of_classes(pattern: str) -> str:
    """The folder above a pattern's first wildcard: an image directly in it has no class."""
    return posixpath.dirname(WILDCARD.split(pattern)[0])


def class_name(path: str, root: str) -> str:
    """The name of an image's class; raises Reject."""
    folder = posixpath.dirname(path)
    if folder == root:
        raise Reject(
            "no-class", f"{path}: lies directly in {root or '.'}, not in the folder of a class"
        )
    return posixpath.basename(folder)


class Classes(beam.PTransform):
    """[(path, bytes)] -> the names of all classes, as one sorted list; empty without a root."""

    def __init__(self, root: str | None):
        super().__init__()
        self.root = root

    def expand(self, matched):
        if self.root is None:
            return matched.pipeline | "None" >> beam.Create([[]])
        return (
            matched
            | "Of a chunk" >> beam.FlatMap(_names, self.root)  # name
            | "Each once" >> beam.Distinct()
            | "Together" >> beam.combiners.ToList()
            | "Sorted" >> beam.Map(_at_least_two, self.root)
        )


def _names(chunk: list[tuple[str, int]], root: str) -> set[str]:
    folders = {posixpath.dirname(path) for path, _ in chunk}
    return {posixpath.basename(folder) for folder in folders - {root}}


def _at_least_two(names: list[str], root: str) -> list[str]:
    if len(names) < 2:
        raise Stopped(
            f"--class_folders: images in {len(names)} folders {names} of {root or '.'}, expected "
            f"at least two classes, such as --images 'ROOT/*/*.png' with a folder a class in ROOT"
        )
    return sorted(names)


def to_row(keyed: tuple[str, Header], classes: list[str], root: str) -> tuple[str, Row]:
    """(key, Header) -> (key, Row): the place of the image's class in the list is its label."""
    key, header = keyed
    return key, Row(0, str(classes.index(class_name(header.path, root))))
