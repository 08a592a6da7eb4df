"""python -m beam.convert: image files and a label CSV -> a lake, on any Beam runner.

Everything is decided here, on one screen; what happens in a step is in listing.py, plan.py,
shards.py, finish.py.
"""

import argparse
import secrets
import sys
import tempfile
import time
from pathlib import Path

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from beam import files, finish, listing, plan, progress, shards
from lake import InputError, labels, manifest

LOCAL_RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
KEY_FILE = Path("~/.config/radlake/deidentify.key")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m beam.convert",
        description=__doc__.splitlines()[0],
        epilog="Beam's own options (--runner, --direct_num_workers, --project, …) pass through.",
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--source", choices=("dicom",), default="dicom")
    add(
        "--images",
        required=True,
        metavar="PATTERN",
        help="files, such as 'gs://bucket/dicom/**.dcm'",
    )
    add(
        "--labels",
        required=True,
        metavar="CSV",
        help="ImageId,EncodedPixels or ImageId,Class; may be .gz",
    )
    add("--output", required=True, metavar="ROOT/NAME/VERSION", help="folder of the lake")
    add("--splits", default="train=0.8,val=0.1,test=0.1", help="shares of patients")
    add(
        "--unlabelled",
        choices=("reject", "negative", "keep"),
        default="reject",
        help="images without a CSV row",
    )
    add(
        "--max_side",
        type=_side,
        default=1024,
        help="longest side in pixels, or none for native size",
    )
    add("--bits", type=int, choices=(8, 16), help="stored bits; needed when the images have both")
    add(
        "--image_id_from",
        choices=("name", "uid"),
        default="name",
        help="file name or SOPInstanceUID",
    )
    add("--image_id", choices=("keep", "hash"), default="keep", help="hash: as --deidentify does")
    add(
        "--deidentify",
        choices=("hash", "keep"),
        default="hash",
        help="patient, study and series ids",
    )
    add(
        "--deidentify_key_file",
        metavar="FILE",
        help=f"secret of the hash; made at {KEY_FILE} when absent",
    )
    add(
        "--shard_mb",
        type=_at_least(0.1, float),
        default=100,
        help="about the size of a shard, in 10^6 bytes",
    )
    add(
        "--min_shards",
        type=_at_least(1, int),
        default=4,
        help="shards of a split, also when one would do",
    )
    add("--max_reject_fraction", type=_share, default=0.01, help="above it the job fails")
    return made


def build(
    root: beam.Pipeline, flags: argparse.Namespace, layout: labels.Layout, options: shards.Options
):
    """The whole pipeline."""
    matched = (
        root
        | "Pattern" >> beam.Create([flags.images])
        | "Match" >> beam.FlatMap(listing.match, options.progress_file)  # (path, bytes)
        | "Spread" >> beam.Reshuffle()
    )
    headers = matched | "Read headers" >> beam.ParDo(
        listing.ReadHeader(flags.image_id_from, options.progress_file)
    ).with_outputs(listing.REJECTS, main="headers")  # (image_id, Header)
    rows = (
        root
        | "Labels" >> beam.Create([flags.labels])
        | "Read labels" >> beam.FlatMap(listing.read_labels, layout)  # (image_id, Row)
    )
    images = (
        {"headers": headers["headers"], "rows": rows}
        | "By image id" >> beam.CoGroupByKey()  # (image_id, {"headers": [Header], "rows": [Row]})
        | "Join"
        >> beam.ParDo(
            listing.Join(layout.kind, flags.unlabelled, options.progress_file)
        ).with_outputs(listing.REJECTS, listing.ORPHANS, main="images")  # Image
    )
    bits = (
        images["images"]
        | "Bits" >> beam.Map(shards.bits_kind)  # (8 or 16, path)
        | "An example of each" >> beam.CombinePerKey(min)
        | "Kinds" >> beam.combiners.ToList()
        | "Lake bits" >> beam.Map(shards.lake_bits, options.bits)
    )
    split = (
        images["images"]
        | "By patient" >> beam.Map(lambda image: (image.group, image))
        | "Groups" >> beam.GroupByKey()  # (group, [Image])
        | "By stratum" >> beam.Map(plan.keyed_by_stratum)
        | "Line of groups" >> plan.InHashOrder()
        | "Deal"
        >> beam.FlatMap(
            plan.split_images, plan.parse_splits(flags.splits)
        )  # (split, image_id, Image)
    )
    split_bytes = (
        split
        | "Sizes"
        >> beam.Map(
            lambda item, side: (item[0], plan.stored_bytes(item[2], side)), options.max_side
        )
        | "Split sizes" >> beam.CombinePerKey(sum)
    )
    written = (
        split
        | "Line of images" >> plan.InHashOrder()
        | "To shard"
        >> beam.Map(
            plan.to_shard, beam.pvalue.AsDict(split_bytes), options.shard_mb, options.min_shards
        )
        | "Shards" >> beam.GroupByKey()  # ((split, shard, shards), [(position, Image)])
        | "Write"
        >> beam.Map(shards.write, beam.pvalue.AsSingleton(bits), options)  # name of the shard
    )
    rejects = (headers[listing.REJECTS], images[listing.REJECTS]) | "Rejects" >> beam.Flatten()
    _ = (
        written
        | "Shard names" >> beam.combiners.ToList()
        | "Finish"
        >> beam.Map(
            finish.finalise,
            rejects=beam.pvalue.AsList(rejects),
            orphans=beam.pvalue.AsSingleton(
                images[listing.ORPHANS] | "Orphans" >> beam.combiners.Count.Globally()
            ),
            matched=beam.pvalue.AsSingleton(
                matched | "Images in" >> beam.combiners.Count.Globally()
            ),
            lake_bits=beam.pvalue.AsSingleton(bits),
            options=options,
        )
    )


def run(argv: list[str]) -> dict:
    """Converts and returns the manifest; raises InputError or shards.Stopped."""
    started = time.monotonic()
    flags, beam_arguments = parser().parse_known_args(argv)
    _check_beam_arguments(beam_arguments)
    pipeline_options = PipelineOptions(beam_arguments)
    is_local = pipeline_options.view_as(StandardOptions).runner in (
        None,
        "DirectRunner",
        "FnApiRunner",
    )
    if is_local:
        # DirectRunner first looks for another runner on the internet.
        pipeline_options.view_as(StandardOptions).runner = LOCAL_RUNNER
    layout = _label_layout(flags.labels)
    if not FileSystems.match([flags.images], limits=[1])[0].metadata_list:
        raise InputError(
            f"--images={flags.images}: no file matches; quote the pattern so that the shell "
            f"leaves it alone"
        )
    with tempfile.TemporaryDirectory() as temporary:
        progress_file = str(Path(temporary, "progress")) if is_local else None
        options = _worker_options(flags, is_local, progress_file)
        files.make_folder(options.path(shards.WORK))
        if FileSystems.exists(options.path(manifest.MANIFEST)):
            print(f"replacing what changed of the lake in {options.folder}", file=sys.stderr)
            files.remove(options.path(manifest.MANIFEST))
        pipeline = beam.Pipeline(options=pipeline_options)
        build(pipeline, flags, layout, options)
        if is_local:
            with progress.Line(progress_file):
                _run_to_the_end(pipeline)
        else:
            _run_to_the_end(pipeline)
    content = manifest.parse(files.read_text(options.path(manifest.MANIFEST)), options.folder)
    print(finish.table(content, time.monotonic() - started))
    return content


def _run_to_the_end(pipeline: beam.Pipeline) -> None:
    try:
        pipeline.run().wait_until_finish()
    except RuntimeError as error:
        # Runners rebuild a worker's error from its text, so its class is gone.
        stopped = shards.Stopped.message_in(str(error))
        if stopped is None:
            raise
        raise shards.Stopped(stopped) from None


def _check_beam_arguments(arguments: list[str]) -> None:
    """PipelineOptions drops what it does not know; a mistyped flag must not be dropped in
    silence."""
    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False, conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(known)
    _, unknown = known.parse_known_args(arguments)
    if unknown:
        raise InputError(f"unknown options {' '.join(unknown)}; see python -m beam.convert --help")


def _label_layout(path: str) -> labels.Layout:
    if not FileSystems.exists(path):
        raise InputError(f"--labels={path}: no such file")
    with FileSystems.open(path) as file:
        return labels.layout(file, path)


def _worker_options(
    flags: argparse.Namespace, is_local: bool, progress_file: str | None
) -> shards.Options:
    plan.parse_splits(flags.splits)
    parts = flags.output.rstrip("/").split("/")
    if (
        len(parts) < 2
        or not all(part[0].isalnum() for part in parts[-2:] if part)
        or not all(parts[-2:])
    ):
        raise InputError(
            f"--output={flags.output}: expected ROOT/NAME/VERSION, such as lakes/siim/1.0.0"
        )
    version = parts[-1].split(".")
    if len(version) != 3 or not all(part.isdigit() for part in version):
        raise InputError(
            f"--output={flags.output}: the version {parts[-1]} is not three numbers, such as 1.0.0"
        )
    if flags.image_id == "hash" and flags.deidentify == "keep":
        raise InputError("--image_id=hash needs --deidentify=hash")
    return shards.Options(
        folder=flags.output.rstrip("/"),
        dataset=parts[-2],
        version=parts[-1],
        max_side=flags.max_side,
        bits=flags.bits,
        image_id_from=flags.image_id_from,
        splits=flags.splits,
        unlabelled=flags.unlabelled,
        deidentify=flags.deidentify,
        key_file=_key_file(flags.deidentify_key_file, is_local)
        if flags.deidentify == "hash"
        else None,
        image_id=flags.image_id,
        shard_mb=flags.shard_mb,
        min_shards=flags.min_shards,
        max_reject_fraction=flags.max_reject_fraction,
        progress_file=progress_file,
    )


def _key_file(path: str | None, is_local: bool) -> str:
    """Where the secret of the pseudonyms is: whoever has it can test a guessed patient id on a
    lake."""
    if not path and not is_local:
        raise InputError("a remote runner needs --deidentify_key_file (or --deidentify keep)")
    made = KEY_FILE.expanduser()
    if not path and not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        unfinished = made.with_suffix(".unfinished")
        unfinished.touch(mode=0o600)
        unfinished.write_bytes(secrets.token_bytes(32))
        unfinished.replace(made)
        print(
            f"made {made}: the secret that hashes patient ids; keep it with the images, "
            "not with the lake"
        )
    shards.read_key(path or str(made))
    return path or str(made)


def _side(text: str) -> int | None:
    return None if text == "none" else _at_least(1, int)(text)


def _at_least(lowest: float, kind: type):
    """An argparse type: a number from `lowest` on."""

    def number(text: str):
        if kind(text) < lowest:
            raise argparse.ArgumentTypeError(f"{text} is below {lowest}")
        return kind(text)

    return number


def _share(text: str) -> float:
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return float(text)


def main(argv: list[str]) -> int:
    try:
        run(argv)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except shards.Stopped as error:
        print(f"failed: {error.args[0]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
