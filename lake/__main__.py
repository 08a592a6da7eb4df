"""python -m lake show|verify|find|erase|write PATH: look into a lake that beam.convert wrote, check
it, take patients out of it, or write it for other programs.

show       prints what a lake holds: counts, splits, classes, views, ages, lesion sizes; can draw a
           contact sheet
verify     checks every byte; lists the problems, and then the exit code is 1
find       lists the records of patients or images by their ids, with the key of the hashes; with
           --everywhere also what was made from them. The exit code is 1 where an id has none, or
           where a file could not be looked into
erase      takes the records of patients or images out of all versions of a lake, for good; the exit
           code is 1 where an id has none, or where something is left
write      writes images, masks and labels into a new folder that nnU-Net, COCO tools, Hugging Face
           datasets, Grain or any other program opens
"""

if __name__ == "__main__":  # before the rest is imported, which takes a while
    from lake import signals

    signals.arm()

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lake import InputError, storage
from lake.inspection.writing.formats import FORMATS
from lake.terminal import cli, progress

KEY_HELP = "the secret of the hashes; without this option that of the home folder"


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
    add("--deidentify_key_file", metavar="FILE", help=KEY_HELP)
    _add_find(command)
    _add_erase(command)
    _add_write(command)
    return parser


def _add_find(command: Callable) -> None:
    """Add the subcommand find."""
    example = "lakes/hospital/1.0.0 --patient 4711 --deidentify_key_file secrets/deidentify.key"
    find = command("find", help="the records of a patient or an image", example=example)
    add = find.add_argument_group("lake").add_argument
    _add_ids(add)
    _add_everywhere(add, "also list what was made from these images below the folders")


def _add_erase(command: Callable) -> None:
    """Add the subcommand erase."""
    example = "lakes/hospital/1.0.0 --patient 4711 --deidentify_key_file secrets/deidentify.key"
    erase = command("erase", help="take patients or images out of a lake", example=example)
    add = erase.add_argument_group("lake").add_argument
    _add_ids(add)
    list_help = "more ids, one per line: `patient ID` or `image ID`"
    add("--list", type=cli.local_path, metavar="FILE", help=list_help)
    keep_help = "erase from this version alone; the others beside it keep their records"
    add("--keep_versions", action="store_true", help=keep_help)
    everywhere_help = "first list what else was made from these images below the folders"
    _add_everywhere(add, everywhere_help)


def _add_everywhere(add: Callable, text: str) -> None:
    """Add the option that names folders in which to look for what was made from images."""
    add("--everywhere", type=cli.local_path, nargs="+", metavar="DIR", help=text)


def _add_write(command: Callable) -> None:
    """Add the subcommand write, which has another word in the command radlake."""
    name = cli.typed_command("lake write")
    example = "lakes/phantoms/1.0.0 --to coco --split train val --output phantoms_coco"
    help_text = "a lake -> files for nnU-Net, COCO, datasets, Grain"
    add = command("write", help=help_text, prog=name, example=example)
    add = add.add_argument_group("lake").add_argument
    add("path", metavar="ROOT/NAME/VERSION", help="the lake")
    add("--to", choices=FORMATS, required=True, help="the format")
    split_help = "the splits to write; without this option all"
    add("--split", nargs="+", default=[], metavar="NAME", help=split_help)
    output_help = "a new folder; for nnunet DatasetNNN_NAME"
    add("--output", type=cli.local_path, required=True, metavar="FOLDER", help=output_help)


def _add_ids(add: Callable) -> None:
    """Add the options that name a lake, ids and the key."""
    add("path", metavar="ROOT/NAME/VERSION", help="the lake")
    patient_help = "an id as the files have it; may be repeated"
    add("--patient", action="append", default=[], metavar="ID", help=patient_help)
    image_help = "an id as the conversion took it (name, UID or path); may be repeated"
    add("--image", action="append", default=[], metavar="ID", help=image_help)
    add("--deidentify_key_file", metavar="FILE", help=KEY_HELP)


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

    key = _key_of_erased(folder, content, flags.deidentify_key_file)
    problems, num_records = verify.verify(
        folder, content, not flags.quick, flags.processes, show, key
    )
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


def _key_of_erased(folder: Path, content: dict, path: str | None) -> bytes | None:
    """Return the key where something was erased that cannot be looked for without, and the key is
    there, else None. Raises InputError where it is another, or the option names no key."""
    from lake.inspection import verify_erased
    from lake.records import erased, manifest, pseudonym

    entries = erased.read(folder)
    if not verify_erased.needs_key(content, entries):
        return None
    if path is None and not pseudonym.KEY_FILE.expanduser().exists():
        print(
            "warning: erased image ids are not looked for without --deidentify_key_file",
            file=sys.stderr,
        )
        return None
    key = pseudonym.read(path)
    erased.check_key(entries, key, str(folder / manifest.ERASED))
    return key


def _erase(flags: argparse.Namespace) -> int:
    """Erase the records of the ids from all versions of a lake, and return the exit code: 0 where
    each had some and none is left, else 1. Raises InputError where nothing was changed."""
    from lake.records import erased, manifest, pseudonym

    patients, images = list(flags.patient), list(flags.image)
    if flags.list:
        for ids, more in zip((patients, images), erased.read_list(flags.list), strict=True):
            ids += more
    if not (patients or images):
        raise InputError("lake erase: expected --patient ID, --image ID or --list FILE")
    if storage.is_remote(flags.path):
        raise InputError(
            f"{flags.path}: expected a lake on a disk: a bucket keeps deleted objects for a while; "
            f"copy all versions here, erase, and put them in the place of those in the bucket"
        )
    content = erased.manifest_of(Path(flags.path))
    from lake.inspection import erase

    key = pseudonym.read(flags.deidentify_key_file) if manifest.is_hashed(content) else None
    patients, images = map(_once, (patients, images))
    is_all_read = True
    if flags.everywhere:  # first, as only the lake knows which images are a patient's
        is_all_read = _list_everywhere(flags, Path(flags.path), patients, images, key)
    lines, is_well = erase.erase(flags.path, patients, images, key, flags.keep_versions)
    print("\n".join(lines))
    return 0 if is_well and is_all_read else 1


def _once(ids: list[str]) -> list[str]:
    """Return ids, each once, in their order."""
    return list(dict.fromkeys(ids))


def _find(flags: argparse.Namespace) -> int:
    """Print the records of the ids, and return the exit code: 0 where each has some, else 1. Raises
    InputError where the key is another, or no id was given."""
    from lake.records import manifest, pseudonym

    if not (flags.patient or flags.image):
        raise InputError("lake find: expected --patient ID or --image ID")
    folder, content = storage.path_of(flags.path), manifest.load(flags.path)
    from lake.inspection import find

    key = None
    if manifest.is_hashed(content):
        key = pseudonym.read(flags.deidentify_key_file)
        if not find.check_key(folder, content, key):
            print(
                f"warning: {folder} has no .work that says with which key it was made; with "
                f"another one no patient would be listed",
                file=sys.stderr,
            )
    rows_by_id = find.find(folder, content, flags.patient, flags.image, key)
    print(find.text(content, rows_by_id))
    is_well = all(map(len, rows_by_id.values()))
    if flags.everywhere:
        is_well = _list_everywhere(flags, folder, flags.patient, flags.image, key) and is_well
    return 0 if is_well else 1


def _list_everywhere(
    flags: argparse.Namespace,
    folder: Path,
    patients: list[str],
    images: list[str],
    key: bytes | None,
) -> bool:
    """Print what was made from the images below the folders of --everywhere; return whether all
    was looked into."""
    from lake.inspection.traces import search, subjects
    from lake.records import manifest, pseudonym

    if key is None and flags.deidentify_key_file:  # of other lakes, below the folders
        key = pseudonym.read(flags.deidentify_key_file)
    wanted = subjects.Subjects(patients, images, key)
    if not (folder / manifest.ERASING).exists():  # else the index may be gone
        wanted.add_lake(folder, manifest.load(str(folder)))
    traces = search.search(flags.everywhere, wanted)
    print("\n".join(traces.lines()), flush=True)
    if wanted.absent:
        print(
            f"warning: {', '.join(sorted(wanted.absent))}: no lake has records of them, so what "
            f"names only their images, not the patient, is not recognised; give each --image",
            file=sys.stderr,
        )
    return not traces.problems


def _write(flags: argparse.Namespace) -> str:
    """Write splits of a lake for other programs; return what a user reads. Raises InputError."""
    from lake.records import manifest

    folder, content = storage.path_of(flags.path), manifest.load(flags.path)
    from lake.inspection.writing import write

    return write.write(folder, content, flags.to, flags.split, flags.output)


COMMANDS = {"show": _show, "verify": _verify, "find": _find, "erase": _erase, "write": _write}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
