"""python -m beam.convert: image files and labels -> a lake, on any Beam runner.

The whole pipeline is on this screen; what happens in a step is in listing.py, plan.py, shards.py,
finish.py.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import apache_beam as beam

from beam.conversion import finish, folders, listing, plan, shards
from beam.conversion.options import ConversionOptions, check_inputs, from_flags, label_kind, parser
from beam.estimate import estimate, table
from beam.running import files, progress, runners
from beam.running.options import check_beam_arguments
from lake import InputError, cli
from lake.labels import tables
from lake.records import manifest


def build(
    root: beam.Pipeline, flags: argparse.Namespace, layout, chosen: ConversionOptions
) -> None:
    """The whole pipeline."""
    kind, ticks = flags.source, chosen.progress_file
    class_root = folders.folder_of_classes(flags.images) if flags.class_folders else None
    matched = (
        root
        | "Pattern" >> beam.Create([flags.images])
        | "Match" >> beam.FlatMap(listing.match, "images", kind, ticks)  # [(path, bytes)]
        | "Spread" >> beam.Reshuffle()
    )
    headers = matched | "Read headers" >> beam.ParDo(
        listing.ReadHeaders(kind, flags.image_id_from, flags.frames, class_root, ticks)
    ).with_outputs(listing.REJECTS, main="headers")  # (key of its labels, Header)
    classes = matched | "Classes" >> folders.Classes(class_root)  # [name]: one list
    if flags.class_folders:
        in_classes = beam.pvalue.AsSingleton(classes)
        rows = headers["headers"] | "Classed" >> beam.Map(folders.to_row, in_classes, class_root)
    else:
        rows = _rows(root, flags, layout)
    images = (
        {"headers": headers["headers"], "rows": rows}
        | "By key" >> beam.CoGroupByKey()  # (key, {"headers": [Header], "rows": [Row]})
        | "Join"
        >> beam.ParDo(
            listing.Join(
                label_kind(flags, layout),
                flags.unlabelled,
                flags.dialect,
                bool(flags.split_column),
                flags.empty_slices,
                ticks,
            )
        ).with_outputs(listing.REJECTS, listing.ORPHANS, listing.LEFT_OUT, main="images")  # Image
    )
    bits = (
        images["images"]
        | "Bits" >> beam.Map(shards.bits_kind)  # (8 or 16, path)
        | "An example of each" >> beam.CombinePerKey(min)
        | "Kinds" >> beam.combiners.ToList()
        | "Lake bits" >> beam.Map(shards.lake_bits, chosen.bits)
    )
    dealt = images["images"] | "Plan" >> plan.Planned(chosen)  # ((split, shard, shards), …)
    written = (
        dealt
        | "Shards" >> beam.GroupByKey()
        | "Write" >> beam.Map(shards.write, beam.pvalue.AsSingleton(bits), chosen)  # shard's name
    )
    orphans = (
        images[listing.ORPHANS]
        | "Bucket" >> beam.Map(listing.orphan_bucket)
        | "Buckets" >> beam.GroupByKey()
        | "List orphans" >> beam.Map(listing.write_orphans, chosen)  # (part, ids)
    )
    counted = (
        (
            matched | "Files" >> beam.Map(lambda chunk: ("files", len(chunk))),
            headers["headers"] | "Headers" >> beam.FlatMap(listing.counts),
            headers[listing.REJECTS] | "Rejected" >> beam.Map(lambda _: ("files_rejected", 1)),
            images[listing.LEFT_OUT] | "Left out" >> beam.Map(lambda n: ("left_out", n)),
        )
        | "Counts" >> beam.Flatten()
        | "Sums" >> beam.CombinePerKey(sum)  # (name, number)
    )
    rejects = (headers[listing.REJECTS], images[listing.REJECTS]) | "Rejects" >> beam.Flatten()
    _ = (
        written
        | "Shard names" >> beam.combiners.ToList()
        | "Finish"
        >> beam.Map(
            finish.finalise,
            rejects=beam.pvalue.AsList(rejects),
            orphans=beam.pvalue.AsDict(orphans),
            counted=beam.pvalue.AsDict(counted),
            lake_bits=beam.pvalue.AsSingleton(bits),
            classes=beam.pvalue.AsSingleton(classes),
            options=chosen,
        )
    )


def _rows(root: beam.Pipeline, flags: argparse.Namespace, layout: tables.Layout | None):
    """(key, Row) of the label CSV or the mask images; nothing without either."""
    if flags.labels:
        csv = root | "Labels" >> beam.Create([flags.labels])
        return csv | "Read labels" >> beam.FlatMap(listing.read_labels, layout)
    masks = root | "Masks" >> beam.Create([flags.masks] if flags.masks else [])
    return (
        masks
        | "Match masks" >> beam.FlatMap(listing.match, "masks", "images", None)
        | "Spread masks" >> beam.Reshuffle()
        | "Read masks" >> beam.FlatMap(listing.read_masks)
    )


def run(argv: list[str]) -> dict | None:
    """Converts and returns the manifest, None where a remote job goes on without us or nothing but
    an estimate was asked for; raises InputError or Stopped."""
    started = time.monotonic()
    flags, beam_arguments = parser().parse_known_args(argv)
    check_beam_arguments(beam_arguments)
    pipeline_options, runner = runners.parse(beam_arguments)
    is_local = runner == runners.LOCAL
    if is_local and flags.detach:
        raise InputError("--detach is for a remote runner; a local one is this process")
    layout = check_inputs(flags)
    if flags.estimate:
        workers = table.workers_of(pipeline_options, is_local)
        found = estimate.estimate(flags, from_flags(flags, is_local, None))
        print(table.table(found, flags, workers))
        return None
    with tempfile.TemporaryDirectory() as temporary:
        progress_file = str(Path(temporary, "progress")) if is_local else None
        chosen = from_flags(flags, is_local, progress_file)
        files.make_folder(chosen.work(""))
        pipeline = runners.pipeline(pipeline_options)
        build(pipeline, flags, layout, chosen)
        if is_local:
            with progress.Line(progress_file):
                runners.run_locally(pipeline)
        elif not runners.run_remotely(pipeline, runner, pipeline_options, flags.detach):
            print(f"the table, when it has ended: python -m beam.table {chosen.folder}")
            return None
    content = manifest.parse(files.read_text(chosen.path(manifest.MANIFEST)), chosen.folder)
    print(finish.table(content, time.monotonic() - started))
    return content


def main(argv: list[str]) -> int:
    return cli.exit_code(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
