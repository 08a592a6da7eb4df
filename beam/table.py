"""python -m beam.table ROOT/NAME/VERSION: prints again what a conversion printed at its end."""

if __name__ == "__main__":  # before the rest is imported, which takes a while
    from lake import signals

    signals.arm()

import argparse
import sys

from beam.conversion import summary
from beam.running import files, paths
from lake import InputError
from lake.records import manifest
from lake.terminal import cli


def table(folder: str) -> str:
    """Return the table of a lake; raise InputError where its conversion has not finished."""
    path = paths.join(folder, manifest.MANIFEST)
    if not paths.exists(path):
        raise InputError(f"no {path}: the conversion has not finished, or has failed")
    return summary.table(manifest.parse(files.read_text(path), folder))


def parser() -> argparse.ArgumentParser:
    parser = cli.parser("beam.table", __doc__, example="lakes/phantoms/1.0.0")
    add = parser.add_argument_group("lake").add_argument
    add("folder", metavar="ROOT/NAME/VERSION", help="the lake")
    return parser


def main(argv: list[str]) -> int:
    flags, _ = cli.parse(parser(), argv)
    folder = flags.folder.rstrip("/")
    return cli.exit_code(lambda: table(folder))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
