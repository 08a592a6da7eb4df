"""What a conversion says at its end. In: the manifest, or its counts. Out: a table, and warnings
about what is seldom meant."""

from collections.abc import Iterator

from beam.conversion import quotas
from beam.conversion.options import ConversionOptions
from lake import exam
from lake.records import manifest
from lake.sources.names import METAIMAGE

# --- warnings ---


def warnings(counts: dict, options: ConversionOptions) -> list[str]:
    """Return the warnings of the manifest and the table: of splits and folds without images, one
    patient id for most images, no positive, masks taken for images. They name no patient."""
    kinds = (_empty_splits, _one_patient, _no_positive, _masks_as_images)
    return [warning for kind in kinds for warning in kind(counts, options)]


def _empty_splits(counts: dict, options: ConversionOptions) -> Iterator[str]:
    """Yield a warning where a split, or a fold, has a share and got nothing."""
    splits, records = counts["splits"], counts["records"]
    if names := counts["empty_splits"]:
        reason = f"there are only {records:,} images"
        if options.split_column:
            reason = f"--split_column {options.split_column} names {', '.join(splits) or 'none'}"
        elif num_patients := sum(split["patients"] for split in splits.values()):
            reason = f"patient ids in all {records:,} images: {num_patients:,}"
        yield f"no image is in {' or '.join(names)}: {reason}"
    if names := counts["empty_folds"]:
        yield f"no image is in fold {' or '.join(map(str, names))} of {options.folds}"


def _one_patient(counts: dict, options: ConversionOptions) -> Iterator[str]:
    """Yield a warning where one patient id is that of all images, or of most X-rays."""
    largest, records = counts["images_of_largest_patient"], counts["records"]
    is_ct = options.source == METAIMAGE  # a volume has hundreds of images
    if records > 1 and (largest == records or (largest > records / 2 and not is_ct)):
        yield (
            f"{largest:,} of {records:,} images have the same patient id, and so lie in one split; "
            f"is it one patient?"
        )


def _no_positive(counts: dict, options: ConversionOptions) -> Iterator[str]:
    """Yield a warning where there are labels and none is positive."""
    splits = counts["splits"].values()
    labelled = sum(split["positives"] + split["negatives"] for split in splits)
    if (options.labels or options.masks) and labelled and not sum(s["positives"] for s in splits):
        yield f"none of {labelled:,} images with a label is positive; are the labels right?"


def _masks_as_images(counts: dict, options: ConversionOptions) -> Iterator[str]:
    """Yield a warning where images are named as masks of other images beside them."""
    if number := counts["images_named_as_masks"]:
        yield (
            f"{number:,} images have the name of another one beside them and _mask or the like "
            f"behind it; give masks to --masks with --mask_suffix, or leave them out of --images"
        )


def empty_splits(splits: dict, options: ConversionOptions) -> list[str]:
    """Return the names of --splits that have a share and no record in `splits`, a manifest's."""
    shares = quotas.parse(options.splits)
    return [name for name, share in shares if share and not splits.get(name, {}).get("records")]


# --- the table ---


def table(content: dict, seconds: float | None = None) -> str:
    """Return the table that a user reads at the end of a conversion: a manifest's counts, and the
    speed where the seconds are known."""
    counts, shards = content["counts"], content["shards"]
    reasons = ", ".join(f"{reason} {n:,}" for reason, n in counts["rejects"].items())
    speed = f" in {seconds:.1f} s, {counts['images'] / seconds:.0f} images/s" if seconds else ""
    lines = [
        *(f"{name:<9}{counts[name]:>9,}" for name in ("files", "images", "records")),
        f"rejects  {sum(counts['rejects'].values()):>9,}  {reasons}",
        f"{'split':<9}{'records':>9} {'positive':>9} {'negative':>9} {'unknown':>9} "
        f"{'patients':>9} {'shards':>7} {'MB':>9}",
        *(_split_row(name, split, shards) for name, split in sorted(counts["splits"].items())),
        *_notes(content),
        f"{sum(shard['bytes'] for shard in shards) / 1e6:.1f} MB{speed}",
        *(f"warning: {text}" for text in content.get("warnings", ())),
    ]
    return "\n".join(lines)


def _split_row(name: str, split: dict, shards: list[dict]) -> str:
    """Return the row of a split."""
    keys = ("records", "positives", "negatives", "unknown", "patients")
    numbers = " ".join(f"{split[key]:>9,}" for key in keys)
    megabytes = [shard["bytes"] / 1e6 for shard in shards if shard["split"] == name]
    return f"{name:<9}{numbers} {len(megabytes):>7} {sum(megabytes):>9.1f}"


def _notes(content: dict) -> Iterator[str]:
    """Yield the lines under the splits."""
    counts = content["counts"]
    if names := content.get("classes"):
        yield f"classes: {', '.join(manifest.class_titles(names))}"
    for name in exam.WORDS:
        if len(words := counts.get("exams", {}).get(name, {})) > 1:
            yield f"{name.replace('_', ' ')}: {exam.in_words(words)}"
    if number := counts.get("files_left_out"):
        yield f"{number:,} files left out: hidden, or left there by a system"
    if number := counts.get("label_files_among_images"):
        yield f"{number:,} files of --images are labels, and no images"
    if number := counts.get("masks_without_suffix"):
        yield f"{number:,} files of --masks are neither masks, without the suffix, nor images"
    if counts["slices_left_out"]:
        yield f"{counts['slices_left_out']:,} slices without a nodule left out"
    if number := counts.get("flat_views"):
        yield f"{number:,} images have one grey level in the view that networks see first"
    if counts["labels_without_image"]:
        yield f"{counts['labels_without_image']:,} labels have no image: {manifest.ORPHANS}"
    if number := counts.get("small_lesions"):
        yield f"{number:,} lesions are smaller than a stored pixel: each is one pixel"
    groups = [f"{n:,} by {kind}" for kind, n in counts["grouped_by"].items() if kind != "patient"]
    if groups:
        yield f"images without a patient id, split {', '.join(groups)}"
