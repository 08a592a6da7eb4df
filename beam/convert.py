"""python -m beam.convert: image files and labels -> a lake, on any Beam runner.

beam/conversion/pipeline.py is the whole pipeline. Apache Beam, which takes seconds to import, comes
in after options and paths are checked.
"""

if __name__ == "__main__":  # before the rest is imported, which takes a while
    from lake import signals

    signals.arm()

import argparse
import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from beam.conversion import appending
from beam.conversion.options import ConversionOptions, check_inputs, from_flags, parser
from beam.running import files, paths, progress, startup
from beam.running.alone import alone_in
from beam.running.options import check_beam_arguments, is_beams, is_local_runner, names_in_source
from lake import InputError, signals, storage
from lake.records import manifest
from lake.terminal import cli

if TYPE_CHECKING:
    from lake.labels.columns import Layout

LOCK = manifest.LOCK
LOCK_WORDS = "converts", "give another --output"  # in the message of lake/lock.py


def run(argv: list[str]) -> dict | None:
    """Convert and return the manifest; None where a remote job goes on by itself, or only an
    estimate was printed. Raises InputError or Stopped."""
    start = time.monotonic()
    flags, beam_arguments = cli.parse(parser(), argv, is_beams, names_in_source())
    is_local = is_local_runner(beam_arguments)
    if is_local and flags.detach:
        raise InputError("--detach is for a remote runner; a local one is this process")
    original_flags = flags
    if flags.append:
        flags = appending.next_version(original_flags)
    layout = check_inputs(flags)
    if flags.estimate:
        options = from_flags(flags, is_local, progress_file=None, layout=layout)
        check_beam_arguments(beam_arguments)
        _print_estimate(flags, options)
        return None
    with storage.temporary_folder() as temporary:
        progress_file = str(Path(temporary, "progress")) if is_local else None
        options = from_flags(flags, is_local, progress_file, layout)
        check_beam_arguments(beam_arguments)
        with contextlib.ExitStack() as stack:
            if flags.append:
                stack.enter_context(alone_in(options.splits_from, LOCK, *LOCK_WORDS))
                appending.check_newest(original_flags, flags)
                options = appending.onto_base(options)
                stack.enter_context(appending.removing_if_unused(options.folder))
            stack.enter_context(alone_in(options.folder, LOCK, *LOCK_WORDS))
            return _convert(options, layout, beam_arguments, flags.detach, start)


def _convert(
    options: ConversionOptions,
    layout: "Layout | None",
    beam_arguments: list[str],
    detach: bool,
    start: float,
) -> dict | None:
    """Convert, and return the manifest, or None where a remote job goes on by itself; `start`: when
    the command began."""
    with startup.lasting_objects():
        from beam.conversion import erasures, pipeline, summary
        from beam.running import runners

        options = erasures.with_erased(options)
        pipeline_options, runner = runners.parse(beam_arguments)
        files.make_folder(options.work_path(""))
        earlier_versions = files.versions_in(options.folder) if options.keeps_finished else None
        if not options.keeps_finished:
            signals.set_repeat("the same command goes on with the shards that are finished")
        root = runners.pipeline(pipeline_options)
        pipeline.build(root, options, layout)
    if options.progress_file:  # on this machine
        with progress.Line(options.progress_file):
            runners.run_locally(root)
    elif not runners.run_remotely(root, runner, pipeline_options, detach):
        table_again = f"{cli.typed_command('beam.table')} {options.folder}"
        print(f"the table, when the job has ended: {table_again}")
        return None
    if options.base and not paths.exists(options.path(manifest.MANIFEST)):
        print(appending.without_news(options))
        return manifest.parse(
            files.read_text(paths.join(options.base.folder, manifest.MANIFEST)), options.base.folder
        )
    content = manifest.parse(files.read_text(options.path(manifest.MANIFEST)), options.folder)
    print(summary.table(content, time.monotonic() - start))
    if earlier_versions is not None and files.versions_in(options.folder) == earlier_versions:
        print(f"nothing was written: {options.folder} has all of this already")
    return content


def _print_estimate(flags: argparse.Namespace, options: ConversionOptions) -> None:
    """Print what the conversion would take."""
    from beam.estimate import estimate, table

    result = estimate.estimate(options, flags.sample, flags.record_kb, flags.core_seconds)
    print(table.table(result, options))


def main(argv: list[str]) -> int:
    return cli.exit_code(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
