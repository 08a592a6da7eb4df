"""python -m beam.table ROOT/NAME/VERSION: the table of a finished conversion again, also on
gs://."""

import argparse
import sys

from apache_beam.io.filesystems import FileSystems

from beam.conversion import finish
from beam.running import files
from lake import InputError
from lake.cli import exit_code
from lake.records import manifest


def table(folder: str) -> str:
    """Raises InputError where the conversion has not finished."""
    path = FileSystems.join(folder, manifest.MANIFEST)
    if not FileSystems.exists(path):
        raise InputError(f"{path}: not there; the conversion has not finished, or has failed")
    return finish.table(manifest.parse(files.read_text(path), folder))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m beam.table", description=__doc__)
    made.add_argument("folder", metavar="ROOT/NAME/VERSION")
    return made


def main(argv: list[str]) -> int:
    folder = parser().parse_args(argv).folder.rstrip("/")
    return exit_code(lambda: print(table(folder)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
