"""python -m beam.convert: image files and labels -> a lake, on any Beam runner.

`build` is the whole pipeline; each of its transforms is in the module that it is named with.
"""

if __name__ == "__main__":  # before the rest is imported, which takes a while
    from lake import signals

    signals.arm()

import sys
import time
from pathlib import Path

import apache_beam as beam

from beam.conversion import finish, labelling, listing, plan, shards, summary
from beam.conversion.options import ConversionOptions, check_inputs, from_flags, parser
from beam.estimate import table
from beam.estimate.estimate import estimate
from beam.running import files, progress, runners
from beam.running.options import check_beam_arguments
from lake import InputError, cli, signals, storage
from lake.labels.columns import Layout
from lake.records import manifest


def build(root: beam.Pipeline, options: ConversionOptions, layout: Layout | None) -> None:
    """Pipe the whole conversion: from the root to a finished lake in `options.folder`."""
    inputs = root | listing.ReadHeaders(options)
    # inputs.headers: (id by which labels know it, Header)
    labels = inputs | labelling.ReadLabels(options, layout)
    # labels.rows: (id, Row)
    outcomes = {"headers": inputs.headers, "rows": labels.rows} | labelling.Join(options, layout)
    # outcomes.images: LabelledImage
    bits = outcomes.images | shards.LakeBits(options)  # 8 or 16
    _ = (
        outcomes.images
        | plan.Plan(options, outcomes.tally)  # ((split, shard, shards), (key, fold, LabelledImage))
        | shards.WriteShards(options, bits)  # the shard's name
        | finish.Finish(inputs, labels, outcomes, bits, options)
    )


def run(argv: list[str]) -> dict | None:
    """Convert and return the manifest; None where a remote job goes on by itself, or only an
    estimate was printed. Raises InputError or Stopped."""
    start = time.monotonic()
    flags, beam_arguments = parser().parse_known_args(argv)
    check_beam_arguments(beam_arguments)
    pipeline_options, runner = runners.parse(beam_arguments)
    is_local = runner == runners.LOCAL
    if is_local and flags.detach:
        raise InputError("--detach is for a remote runner; a local one is this process")
    layout = check_inputs(flags)
    if flags.estimate:
        options = from_flags(flags, is_local, progress_file=None)
        result = estimate(options, flags.sample, flags.record_kb, flags.core_seconds)
        print(table.table(result, options))
        return None
    with storage.temporary_folder() as temporary:
        progress_file = str(Path(temporary, "progress")) if is_local else None
        options = from_flags(flags, is_local, progress_file)
        files.make_folder(options.work_path(""))
        earlier_versions = files.versions_in(options.folder) if options.keeps_finished else None
        if not options.keeps_finished:
            signals.set_repeat("the same command goes on with the shards that are finished")
        pipeline = runners.pipeline(pipeline_options)
        build(pipeline, options, layout)
        if is_local:
            with progress.Line(progress_file):
                runners.run_locally(pipeline)
        elif not runners.run_remotely(pipeline, runner, pipeline_options, flags.detach):
            table_again = f"{cli.typed_command('beam.table')} {options.folder}"
            print(f"the table, when the job has ended: {table_again}")
            return None
    content = manifest.parse(files.read_text(options.path(manifest.MANIFEST)), options.folder)
    print(summary.table(content, time.monotonic() - start))
    if earlier_versions is not None and files.versions_in(options.folder) == earlier_versions:
        print(f"nothing was written: {options.folder} has all of this already")
    return content


def main(argv: list[str]) -> int:
    return cli.exit_code(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
