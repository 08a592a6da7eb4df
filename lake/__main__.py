"""python -m lake show|verify PATH: parse, load, call one function.

show       what a lake holds: counts, splits, classes, views, ages, lesion sizes; a contact sheet
verify     whether every byte is what it should be; exit code 1 and a list where one is not
"""

import argparse
import os
import sys
import time

from lake import InputError, cli, storage


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m lake",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = made.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", allow_abbrev=False, help="what a lake holds")
    show.add_argument("path", metavar="ROOT/NAME/VERSION")
    show.add_argument("--split", metavar="NAME", help="of this split only")
    show.add_argument(
        "--sheet",
        type=cli.local_path,
        metavar="PNG",
        help="also draw a contact sheet, masks outlined",
    )
    verify = commands.add_parser("verify", allow_abbrev=False, help="check every byte of a lake")
    verify.add_argument("path", metavar="ROOT/NAME/VERSION")
    verify.add_argument(
        "--quick", action="store_true", help="decode no image, mask and run lengths"
    )
    verify.add_argument(
        "--processes", type=cli.positive, default=1, metavar="N", help="shards at once (default 1)"
    )
    return made


def main(argv: list[str]) -> int:
    flags = parser().parse_args(argv)
    try:
        with storage.explained():
            return _show(flags) if flags.command == "show" else _verify(flags)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `| head` has read enough; nothing is left to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _show(flags: argparse.Namespace) -> int:
    from lake.inspection import sheet, show
    from lake.records import manifest

    folder, content = storage.path_of(flags.path), manifest.load(flags.path)
    index = show.read_index(folder, content, flags.split)
    # The sheet first: a reader of the text may close the pipe.
    shown = sheet.write(folder, content, index, flags.sheet) if flags.sheet else 0
    print(show.text(folder, content, index))
    if flags.sheet:
        print(f"\n{shown} images, lesions outlined: {flags.sheet}")
    return 0


def _verify(flags: argparse.Namespace) -> int:
    from lake.inspection import verify
    from lake.records import manifest

    start = time.monotonic()
    folder, content = storage.path_of(flags.path), manifest.load(flags.path)
    problems, num_records = verify.verify(
        folder, content, not flags.quick, flags.processes, _report_shard
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


def _report_shard(done: int, shards: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == shards else ""
        print(f"\r{done} of {shards} shards", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
