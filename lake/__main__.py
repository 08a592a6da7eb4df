"""python -m lake show|verify PATH: look into a lake that beam.convert wrote, or check it.

show       prints what a lake holds: counts, splits, classes, views, ages, lesion sizes; can draw a
           contact sheet
verify     checks every byte; lists the problems, and then the exit code is 1
"""

if __name__ == "__main__":  # before the rest is imported, which takes a while
    from lake import signals

    signals.arm()

import argparse
import os
import sys
import time

from lake import storage
from lake.terminal import cli, progress


def parser() -> argparse.ArgumentParser:
    """Return the parser of python -m lake."""
    parser = cli.parser("lake", __doc__)
    command = cli.subcommands(parser)
    example = "lakes/phantoms/1.0.0 --sheet sheet.png"
    show = command("show", help="what a lake holds", example=example)
    add = show.add_argument_group("lake").add_argument
    add("path", metavar="ROOT/NAME/VERSION", help="the lake")
    add("--split", metavar="NAME", help="count only this split")
    sheet_help = "also draw a contact sheet, with the masks outlined"
    add("--sheet", type=cli.local_path, metavar="PNG", help=sheet_help)
    example = "lakes/phantoms/1.0.0 --processes 4"
    verify = command("verify", help="check every byte of a lake", example=example)
    add = verify.add_argument_group("lake").add_argument
    add("path", metavar="ROOT/NAME/VERSION", help="the lake")
    add("--quick", action="store_true", help="decode no images, masks and run lengths")
    add("--processes", type=cli.at_least(1), default=1, metavar="N", help="how many work")
    return parser


def main(argv: list[str]) -> int:
    """Run the subcommand of `argv` and return its exit code; it is not an error where the reader of
    a pipe closes it early."""
    flags, _ = cli.parse(parser(), argv)
    try:
        return cli.exit_code(lambda: {"show": _show, "verify": _verify}[flags.command](flags))
    except BrokenPipeError:  # `| head` has read enough; then nothing may be flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _show(flags: argparse.Namespace) -> None:
    """Print what a lake holds and, with --sheet, draw its contact sheet; raise InputError."""
    from lake.records import manifest

    folder, content = storage.path_of(flags.path), manifest.load(flags.path)
    from lake.inspection import sheet, show

    index = show.read_index(folder, content, flags.split)
    # The sheet comes first, because the reader of the text may close the pipe.
    num_images = sheet.write(folder, content, index, flags.sheet) if flags.sheet else 0
    print(show.text(folder, content, index))
    if flags.sheet:
        print(f"\n{num_images} images, lesions outlined: {flags.sheet}")


def _verify(flags: argparse.Namespace) -> int:
    """Print the problems of a lake and return the exit code: 0 without a problem, else 1. Raises
    InputError where the folder is not a lake."""
    from lake.records import manifest

    start = time.monotonic()
    folder, content = storage.path_of(flags.path), manifest.load(flags.path)
    from lake.inspection import verify

    line = progress.Progress("verifying", len(content["shards"]), "shards")

    def show(number: int, num_shards: int) -> None:
        line.total = num_shards  # without those that are missing
        line.update(number)

    problems, num_records = verify.verify(folder, content, not flags.quick, flags.processes, show)
    num_bytes = sum(shard["bytes"] for shard in content["shards"])
    print(f"{folder}: {num_records:,} records in {len(content['shards'])} shards")
    print(f"checked  {verify.CHECKED}")
    print(f"pixels   {verify.QUICK if flags.quick else verify.PIXELS}")
    seconds = time.monotonic() - start
    print(f"{num_bytes / 1e6:,.1f} MB in {seconds:.1f} s, {num_records / seconds:,.0f} records/s")
    print("\n".join(problems.lines()) or "ok")
    if not problems.counts:
        return 0
    print(f"{problems.counts.total():,} problems; convert again, or copy the lake again")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
