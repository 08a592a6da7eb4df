"""Files as the pipelines touch them: local folders and gs:// through Beam's file systems, whole or
not at all."""

import uuid

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems


def open_binary(path: str):
    """A file as it is stored, compressed or not."""
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def read_text(path: str) -> str:
    with open_binary(path) as file:
        return file.read().decode()


class Unfinished:
    """A context that gives a new file under a temporary name; it gets its own name when the block
    succeeds.

    The temporary name is new each time: a runner may try one element on two workers at once.
    """

    def __init__(self, path: str):
        self.path, self.temporary = path, f"{path}.unfinished-{uuid.uuid4().hex}"

    def __enter__(self):
        self.file = FileSystems.create(
            self.temporary, compression_type=CompressionTypes.UNCOMPRESSED
        )
        return self.file

    def __exit__(self, error_type, *_):
        self.file.close()
        if error_type is None:
            FileSystems.rename([self.temporary], [self.path])
        else:
            remove(self.temporary)


def write_text(path: str, text: str) -> None:
    with Unfinished(path) as file:
        file.write(text.encode())


def remove(path: str) -> None:
    if FileSystems.exists(path):
        FileSystems.delete([path])


def make_folder(path: str) -> None:
    if not FileSystems.exists(path):
        FileSystems.mkdirs(path)
