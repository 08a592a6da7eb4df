"""The whole pipeline of a prediction; what happens in a step is in listing.py, model.py, shards.py
and finish.py. In: a pattern and the options. Out: predictions in their folder."""

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference

from beam.prediction import finish, listing
from beam.prediction.model import ExportHandler
from beam.prediction.options import PredictionOptions
from beam.prediction.shards import write


def build(root: beam.Pipeline, pattern: str, options: PredictionOptions) -> None:
    """Add the whole pipeline; only paths and headers are shuffled."""
    matches = (
        root
        | "Pattern" >> beam.Create([pattern])
        | "Match"
        >> beam.FlatMap(listing.match, options).with_outputs(listing.LEFT_OUT, main="chunks")
    )
    chunks = matches["chunks"] | "Spread" >> beam.Reshuffle()  # (first path of the shard, [file])
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
    images_by_shard = images["images"]
    if options.seg and not options.reader_settings.is_ct:  # a CT series is a shard anyway
        images_by_shard = (
            images_by_shard
            | "BySeries" >> beam.Map(listing.key_by_series)
            | "GroupSeries" >> beam.GroupByKey()
            | "GatherSeries" >> beam.FlatMap(listing.gather_series)
        )  # (first path, ImageToPredict)
    shards = (
        images_by_shard
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
            num_left_out=beam.pvalue.AsSingleton(matches[listing.LEFT_OUT]),
            standings=beam.pvalue.AsDict(images["images"] | Standings(options)),
            options=options,
        )
    )


@beam.ptransform_fn
def Standings(images, options: PredictionOptions):
    """Add up how the images stand to what the networks learnt from: (first path, ImageToPredict) ->
    (name, number)."""
    return images | beam.FlatMap(listing.standings, options) | "Sum" >> beam.CombinePerKey(sum)
