"""python -m beam.predict: image files and an export of trainer.task -> masks, on any Beam runner.

The whole pipeline is on this screen; what happens in a step is in beam/prediction/: listing.py,
model.py, shards.py, finish.py.
"""

if __name__ == "__main__":  # before the rest is imported, which takes a while
    from lake import signals

    signals.arm()

import importlib.util
import sys
import time
from pathlib import Path

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference

from beam.prediction import finish, listing
from beam.prediction.model import ExportHandler
from beam.prediction.options import PredictionOptions, claim, from_flags, parser
from beam.prediction.shards import SUMMARY, write
from beam.running import progress, runners
from beam.running.options import check_beam_arguments
from lake import InputError, cli, signals, storage

COMMAND = "beam.predict"


def build(root: beam.Pipeline, pattern: str, options: PredictionOptions) -> None:
    """Add the whole pipeline; only paths and headers are shuffled."""
    chunks = (
        root
        | "Pattern" >> beam.Create([pattern])
        | "Match" >> beam.FlatMap(listing.match, options)  # (first path of the shard, [file])
        | "Spread" >> beam.Reshuffle()
    )
    tags = listing.REJECT_ROWS, listing.MORE_IMAGES
    headers = chunks | "ReadHeaders" >> beam.FlatMap(listing.read_headers, options).with_outputs(
        *tags, main="images"
    )  # (image id or series, (first path, ImageToPredict))
    images = (
        headers["images"]
        | "ByKey" >> beam.GroupByKey()
        | "ChooseImages"
        >> beam.FlatMap(listing.choose_images, options).with_outputs(*tags, main="images")
    )  # (first path, ImageToPredict)
    shards = (
        images["images"]
        | "ByShard" >> beam.GroupByKey()
        | "MakeShards"
        >> beam.FlatMap(listing.make_shard, options).with_outputs(listing.FINISHED, main="shards")
    )  # Shard
    new_shards = (
        shards["shards"]
        | "Predict" >> RunInference(ExportHandler(options))
        | "Write" >> beam.Map(write, options)  # (first path, fingerprint)
    )
    all_shards = (new_shards, shards[listing.FINISHED]) | "Finished" >> beam.Flatten()
    rejects, more_images = ((headers[tag], images[tag]) | tag >> beam.Flatten() for tag in tags)
    num_files = chunks | "Files" >> beam.Map(lambda chunk: len(chunk[1]))
    num_images = (num_files, more_images) | "Images" >> beam.Flatten()
    _ = (
        all_shards
        | "Shards" >> beam.combiners.ToList()
        | "Finish"
        >> beam.Map(
            finish.finalise,
            rejects=beam.pvalue.AsList(rejects),
            num_files=beam.pvalue.AsSingleton(num_files | "SumFiles" >> beam.CombineGlobally(sum)),
            num_images=beam.pvalue.AsSingleton(
                num_images | "SumImages" >> beam.CombineGlobally(sum)
            ),
            options=options,
        )
    )


def run(argv: list[str]) -> str:
    """Predict, and return what to print; raise InputError or Stopped."""
    start = time.monotonic()
    flags, beam_arguments = parser().parse_known_args(argv)
    check_beam_arguments(beam_arguments, COMMAND)
    beam_options, runner = runners.parse(beam_arguments)
    is_local = runner == runners.LOCAL
    if is_local and importlib.util.find_spec("tensorflow") is None:
        raise InputError("beam.predict needs TensorFlow; pip install 'radlake[train-cpu]'")
    with storage.temporary_folder() as temporary:
        progress_file = str(Path(temporary, "progress")) if is_local else None
        options = from_flags(flags, beam_options, progress_file)
        claim(options)
        signals.set_repeat("the same command goes on with the shards that are finished")
        pipeline = runners.pipeline(beam_options)
        build(pipeline, flags.images, options)
        if is_local:
            with progress.Line(progress_file, "predicting"):
                runners.run_locally(pipeline)
        elif not runners.run_remotely(pipeline, runner, beam_options, detach=False):
            return f"{options.folder}: {SUMMARY} will be there when the job has ended"
    return finish.table(options, time.monotonic() - start)


def main(argv: list[str]) -> int:
    return cli.exit_code(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
