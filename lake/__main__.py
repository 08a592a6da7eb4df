"""python -m lake show|verify|find PATH: look into a lake that beam.convert wrote, or check it.

show       prints what a lake holds: counts, splits, classes, views, ages, lesion sizes; can draw a
           contact sheet
verify     checks every byte; lists the problems, and then the exit code is 1
find       lists the records of patients or images by their ids, with the key of the hashes; the
           exit code is 1 where an id has none
"""

if __name__ == "__main__":  # before the rest is imported, which takes a while
    from lake import signals

    signals.arm()

import argparse
import os
import sys
import time
from collections.abc import Callable

from lake import InputError, storage
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
    _add_find(command)
    return parser


def _add_find(command: Callable) -> None:
    """Add the subcommand find."""
    example = "lakes/hospital/1.0.0 --patient 4711 --deidentify_key_file secrets/deidentify.key"
    find = command("find", help="the records of a patient or an image", example=example)
    add = find.add_argument_group("lake").add_argument
    add("path", metavar="ROOT/NAME/VERSION", help="the lake")
    patient_help = "an id as the files have it; may be repeated"
    add("--patient", action="append", default=[], metavar="ID", help=patient_help)
    image_help = "an id as the conversion took it (name, UID or path); may be repeated"
    add("--image", action="append", default=[], metavar="ID", help=image_help)
    key_help = "the secret of the hashes; without this option that of the home folder"
    add("--deidentify_key_file", metavar="FILE", help=key_help)


def main(argv: list[str]) -> int:
    """Run the subcommand of `argv` and return its exit code; it is not an error where the reader of
    a pipe closes it early."""
    flags, _ = cli.parse(parser(), argv)
    try:
        return cli.exit_code(lambda: COMMANDS[flags.command](flags))
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


def _find(flags: argparse.Namespace) -> int:
    """Print the records of the ids, and return the exit code: 0 where each has some, else 1. Raises
    InputError where the key is another, or no id was given."""
    from lake.records import manifest, pseudonym

    if not (flags.patient or flags.image):
        raise InputError("lake find: expected --patient ID or --image ID")
    folder, content = storage.path_of(flags.path), manifest.load(flags.path)
    from lake.inspection import find

    key = None
    if find.is_hashed(content):
        key = pseudonym.read(flags.deidentify_key_file)
        if not find.check_key(folder, content, key):
            print(
                f"warning: {folder} has no .work that says with which key it was made; with "
                f"another one no patient would be listed",
                file=sys.stderr,
            )
    rows_by_id = find.find(folder, content, flags.patient, flags.image, key)
    print(find.text(content, rows_by_id))
    return 0 if all(map(len, rows_by_id.values())) else 1


COMMANDS = {"show": _show, "verify": _verify, "find": _find}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
