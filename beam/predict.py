"""python -m beam.predict: image files and an export of trainer.task -> masks, on any Beam runner.

The whole pipeline is on this screen; what happens in a step is in asked.py, exported.py,
answers.py, predicted.py.
"""

import importlib.util
import sys
import tempfile
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
from lake import InputError, cli
from lake.predictions import tfio
from lake.predictions.exported import TFIO

COMMAND = "beam.predict"


def build(root: beam.Pipeline, pattern: str, chosen: PredictionOptions) -> None:
    """The whole pipeline; only paths are shuffled."""
    matched = (
        root
        | "Pattern" >> beam.Create([pattern])
        | "Match" >> beam.FlatMap(listing.match, chosen)  # (first path of the shard, [file])
        | "Spread" >> beam.Reshuffle()
    )
    ids = matched | "Read ids" >> beam.ParDo(listing.ReadIds(chosen)).with_outputs(
        listing.REJECTS, main="images"
    )  # (image id, (first path, Image))
    images = (
        ids["images"]
        | "By id" >> beam.GroupByKey()
        | "First of each"
        >> beam.FlatMap(listing.first_of_id, chosen).with_outputs(listing.REJECTS, main="images")
    )  # (first path, Image)
    shards = (
        images["images"]
        | "By shard" >> beam.GroupByKey()
        | "Asked"
        >> beam.FlatMap(listing.asked, chosen).with_outputs(listing.STANDING, main="shards")
    )  # Shard
    written = (
        shards["shards"]
        | "Answer" >> RunInference(ExportHandler(chosen))
        | "Write" >> beam.Map(write, chosen)  # (first path, fingerprint)
    )
    done = (written, shards[listing.STANDING]) | "Done" >> beam.Flatten()
    rejects = (ids[listing.REJECTS], images[listing.REJECTS]) | "Rejects" >> beam.Flatten()
    files = matched | "Files" >> beam.Map(lambda chunk: len(chunk[1])) | beam.CombineGlobally(sum)
    _ = (
        done
        | "Shards" >> beam.combiners.ToList()
        | "Finish"
        >> beam.Map(
            finish.finalise,
            rejects=beam.pvalue.AsList(rejects),
            num_files=beam.pvalue.AsSingleton(files),
            options=chosen,
        )
    )


def run(argv: list[str]) -> str:
    """Predicts and returns what to print; raises InputError or Stopped."""
    started = time.monotonic()
    flags, beam_arguments = parser().parse_known_args(argv)
    check_beam_arguments(beam_arguments, COMMAND)
    beam_options, runner = runners.parse(beam_arguments)
    is_local = runner == runners.LOCAL
    if is_local and importlib.util.find_spec("tensorflow") is None:
        raise InputError("beam.predict needs TensorFlow; pip install 'radlake[train-cpu]'")
    with tempfile.TemporaryDirectory() as temporary:
        progress_file = str(Path(temporary, "progress")) if is_local else None
        chosen = from_flags(flags, beam_options, progress_file)
        if is_local and chosen.decoder == TFIO:
            tfio.load()
        claim(chosen)
        pipeline = runners.pipeline(beam_options)
        build(pipeline, flags.images, chosen)
        if is_local:
            with progress.Line(progress_file, "predicting"):
                runners.run_locally(pipeline)
        elif not runners.run_remotely(pipeline, runner, beam_options, detach=False):
            return f"{chosen.folder}: {SUMMARY} will be there when it has ended"
    return finish.table(chosen, time.monotonic() - started)


def main(argv: list[str]) -> int:
    return cli.exit_code(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
