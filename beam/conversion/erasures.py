"""Images that were erased from a lake stay out of every later conversion, and their ids out of its
lists.

In: erased.jsonl of the lakes that a conversion continues, or writes anew. Out: LabelledImages
without those images; their lines of rejects, by hashes alone.
"""

from collections.abc import Iterator
from dataclasses import replace

import apache_beam as beam

from beam.conversion import deidentify, listing
from beam.conversion.labelling import JoinOutcomes, LabelledImage
from beam.conversion.options import ConversionOptions
from beam.running import files, paths, progress
from lake import InputError
from lake.records import erased, manifest


def entries(options: ConversionOptions) -> list[dict]:
    """Return the entries of erased.jsonl in the folder, and in that of `--splits_from` or of the
    version that an append continues. Raises InputError where they have another key, or where an
    erasure was interrupted."""
    result = []
    for folder in filter(None, (options.folder, options.splits_from)):
        if paths.exists(paths.join(folder, manifest.ERASING)):
            raise InputError(f"{folder}: an erasure was interrupted here; repeat its command")
        path = paths.join(folder, manifest.ERASED)
        if paths.exists(path):
            new_entries = erased.parse(files.read_text(path), path)
            erased.check_key(new_entries, deidentify.key_of(options.key_file), path)
            result += new_entries
    return result


def with_erased(options: ConversionOptions) -> ConversionOptions:
    """Return the options with what was erased, where anything was. Raises InputError."""
    all_entries = entries(options)
    return replace(options, erased=erased.union(all_entries)) if all_entries else options


def write(options: ConversionOptions) -> None:
    """Write erased.jsonl beside the shards, for the conversions that continue this lake."""
    if options.erased:
        files.write_text(options.path(manifest.ERASED), erased.to_text(entries(options)))


@beam.ptransform_fn
def LeaveErased(root, outcomes: JoinOutcomes, options: ConversionOptions) -> JoinOutcomes:
    """Take erased images out of those that become records: the pipeline's root -> JoinOutcomes."""
    outputs = outcomes.images | "Erased" >> beam.FlatMap(leave, options).with_outputs(
        listing.REJECT, main="images"
    )
    rejects = (outcomes.rejects, outputs[listing.REJECT]) | "With erased" >> beam.Flatten()
    return outcomes._replace(images=outputs["images"], rejects=rejects)


def leave(image: LabelledImage, options: ConversionOptions) -> Iterator:
    """Yield an image or, tagged, its line of rejects where it was erased."""
    header, key = image.header, deidentify.key_of(options.key_file)
    is_gone = options.erased.has_image(header.image_id, key)
    if is_gone or options.erased.has_patient(header.patient, key):
        progress.tick(options.progress_file, progress.REJECTED)
        yield beam.pvalue.TaggedOutput(listing.REJECT, erased.reject_line(header.image_id, key))
    else:
        yield image


def hide(rejects: list[dict], options: ConversionOptions) -> list[dict]:
    """Return rejects in which those of erased images, whatever else is wrong with them, are known
    by their hashes alone."""
    if not options.erased:
        return rejects
    key = deidentify.key_of(options.key_file)
    return [_hide_one(line, options.erased, key) for line in rejects]


def _hide_one(line: dict, gone: erased.Erased, key: bytes) -> dict:
    if line["reason"] == erased.REASON:  # whose id is a hash; an append adds the path
        return line | {"path": ""}
    if gone.has_line(line, key):
        return erased.reject_line(line["image_id"], key, line["images"])
    return line
