"""Class folders: the folder that an image lies in names its class; the names, sorted, number them.

In: listed files and headers; out: one list of names, and the row of each image's label.
"""

import posixpath

import apache_beam as beam

from lake import Refused, Reject, Stopped
from lake.labels.tables import Row
from lake.scan import Header


def class_name(path: str, root: str) -> str:
    """Return the name of an image's class; raise Reject where it has none."""
    folder = posixpath.dirname(path)
    if folder == root:
        raise Reject("no-class", f"{path}: lies directly in {root or '.'}, not in a class folder")
    return posixpath.basename(folder)


@beam.ptransform_fn
def Classes(chunks, root: str | None, earlier: tuple[str, ...] = ()):
    """List the names of all classes: chunks of files -> one sorted list, empty without a root.
    `earlier` are those of the version that an append continues."""
    if root is None:
        return chunks.pipeline | beam.Create([[]])
    return (
        chunks
        | "Names" >> beam.FlatMap(names_in_chunk, root)  # name
        | "Each once" >> beam.Distinct()
        | "List" >> beam.combiners.ToList()
        | "Sort" >> beam.Map(sort_names, root, earlier)
    )


def names_in_chunk(chunk: list[tuple], root: str) -> set[str]:
    """Return the names of the folders, other than `root`, in which the files of a chunk lie."""
    folders = {posixpath.dirname(path) for path, *_ in chunk}
    return {posixpath.basename(folder) for folder in folders - {root}}


def sort_names(names: list[str], root: str, earlier: tuple[str, ...] = ()) -> list[str]:
    """Return the names sorted; raise Stopped where there are fewer than two. An append keeps the
    `earlier` ones, which number its labels: raise Refused where a name is not among them."""
    if earlier:
        if strangers := sorted({*names} - {*earlier}):
            raise Refused(
                f"--append: class folders {strangers} beside {[*earlier]}, which number the labels "
                f"of the lake; leave them out of --images, or convert all to a new version"
            )
        return [*earlier]
    if len(names) < 2:
        raise Stopped(
            f"--class_folders: images in {len(names)} folders {names} of {root or '.'}, expected "
            f"at least two classes, such as --images 'ROOT/*/*.png' with one folder per class in "
            f"ROOT"
        )
    return sorted(names)


def to_row(key_and_header: tuple[str, Header], classes: list[str], root: str) -> tuple[str, Row]:
    """Return (key, Row) of (key, Header): the label is the position of the image's class."""
    key, header = key_and_header
    return key, Row(0, str(classes.index(class_name(header.path, root))))
