"""Mask files -> rows of labels: the pattern of --masks -> (image id, Row), and counts of what was
not read and of the values in masks."""

from collections.abc import Iterator

import apache_beam as beam

from beam.conversion import label_names, listing
from beam.conversion.options import ConversionOptions
from beam.running import files, patterns
from lake import Refused, Reject, ids
from lake.labels.tables import Row
from lake.sources import reader
from lake.sources.masks import dicom_masks, mask_names
from lake.sources.names import IMAGES

SHOWN_VALUES = 20
MASK_VALUE = "mask value "  # how the name of the count of a value's masks begins


@beam.ptransform_fn
def ReadMasks(root, options: ConversionOptions):
    """Read the masks: the pipeline's root -> {"rows": (id, Row), COUNT: (name, number)}."""
    matches = (
        root
        | "Pattern" >> beam.Create([options.masks])
        | "Match" >> beam.FlatMap(match, options).with_outputs(listing.COUNT, main="chunks")
    )
    outputs = (
        matches["chunks"]
        | "Spread" >> beam.Reshuffle()  # [(path, bytes, time)]
        | "Read" >> beam.FlatMap(read, options).with_outputs(listing.COUNT, main="rows")
    )
    counts = (matches[listing.COUNT], outputs[listing.COUNT]) | "Counts" >> beam.Flatten()
    return {"rows": outputs["rows"], listing.COUNT: counts}


def match(pattern: str, options: ConversionOptions) -> Iterator:
    """Yield chunks [(path, bytes, time of its last change)] of the masks that a pattern names and,
    tagged, the number of other files that are no images either; raise Refused where no name ends in
    `--mask_suffix`."""
    matches = patterns.image_files_on_worker("masks", pattern, IMAGES)
    masks, others = [], []
    for file in matches.files:
        is_mask = mask_names.is_mask(file.path, options.mask_suffix)
        (masks if is_mask else others).append(file)
    if others and not masks:
        raise Refused(
            f"--masks={pattern}: of {len(others):,} files none has --mask_suffix="
            f"{options.mask_suffix} before its ending; one is {min(f.path for f in others)}"
        )
    is_image = patterns.matcher(options.images)
    num_unused = sum(not is_image(file.path) for file in others)
    yield beam.pvalue.TaggedOutput(listing.COUNT, ("masks_without_suffix", num_unused))
    yield from listing.chunks_of(masks)


def read(chunk: list[tuple[str, int, float]], options: ConversionOptions) -> Iterator:
    """Yield (image id, Row) of each mask in the files of a chunk and, tagged, the values in it that
    `--mask_values` could name."""
    from lake.sources.masks import masks

    for path, *_ in chunk:
        is_dicom = False
        try:
            with reader.reject_unreadable(path):
                if label_names.is_told_by_content(options) and not _is_segmentation(path):
                    continue
                data = files.read(path)
            is_dicom = dicom_masks.is_dicom(data)
            parts = masks.read(data, path, options.mask_values)
            rows = [(part.sop_uid, Row(0, part.text, size=part.size, path=path)) for part in parts]
        except Reject as reject:
            parts = []
            rows = [("", Row(0, value=None, problem=(reject.reason, reject.message), path=path))]
        forms = (mask_names.image_id(path, options.mask_suffix, n) for n in (is_dicom, True, False))
        name = next(form for form in forms if form is not None)
        if options.image_id_from == "path":
            name = ids.with_folders(path, patterns.fixed_folder(options.masks), name)
        for sop_uid, row in rows:
            yield sop_uid or name, row
        for value in {value for part in parts for value in part.values}:
            yield beam.pvalue.TaggedOutput(listing.COUNT, (MASK_VALUE + value, 1))


def _is_segmentation(path: str) -> bool:
    """Return whether a file is a DICOM SEG; False where it cannot be read, too: the listing of the
    images rejects it."""
    try:
        with files.open_binary(path) as file:
            return dicom_masks.is_segmentation(file, path)
    except Reject:
        return False


# --- the values in masks ---


def check_values(input_counts: dict[str, int], options: ConversionOptions) -> None:
    """Raise Refused where `--mask_values` names values, and no mask has one of them."""
    absent_values = _missing_values(input_counts, options)
    if absent_values and len(absent_values) == len(options.mask_values):
        [message] = warnings(input_counts, options)
        raise Refused(f"{message}; the lake is not finished")


def warnings(input_counts: dict[str, int], options: ConversionOptions) -> list[str]:
    """Return a warning where no mask has some of `--mask_values`."""
    absent_values = _missing_values(input_counts, options)
    if not absent_values:
        return []
    values = _values(input_counts)
    examples = ", ".join(values[:SHOWN_VALUES])
    if len(values) > SHOWN_VALUES:
        examples += " ..."
    return [f"--mask_values: no mask has {' or '.join(absent_values)}; the masks have {examples}"]


def _missing_values(input_counts: dict[str, int], options: ConversionOptions) -> list[str]:
    """Return those of `--mask_values` that no mask has; [] where no mask was read, as rejects say
    why."""
    values = _values(input_counts)
    return [value for value in options.mask_values if value not in values] if values else []


def _values(input_counts: dict[str, int]) -> list[str]:
    """Return the values in masks, numbers in their order before colours."""
    values = [key.removeprefix(MASK_VALUE) for key in input_counts if key.startswith(MASK_VALUE)]
    return sorted(values, key=lambda value: (value.startswith("#"), len(value), value))
