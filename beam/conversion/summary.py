"""What a conversion says at its end. In: the manifest, or its counts. Out: a table, and warnings
about what is seldom meant."""

from collections.abc import Iterator

from beam.conversion import quotas
from beam.conversion.options import ConversionOptions
from lake import exam
from lake.labels import findings
from lake.records import manifest
from lake.sources.names import METAIMAGE

MAX_NAMED = 8  # findings in a warning
# What an empty cell, or one of -1, is in a record, by the option's word.
BECOMES = {"zeros": "absent", "ones": "present", "ignore": "unknown"}
QUORUM = {"any": "one sees it", "majority": "most of an image's see it"}  # by the option's word

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


def finding_warnings(by_split: dict[str, dict]) -> list[str]:
    """Return the warnings about findings that no image of a split has, from the manifest's counts
    of each: such a split has no score for them."""
    texts = []
    for split, counts in by_split.items():
        names = [name for name, states in counts.items() if not states["positives"]]
        if names:
            more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
            texts.append(f"no image of {split} has {', '.join(names[:MAX_NAMED])}{more}")
    return texts


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
        *_finding_rows(content),
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


def _finding_rows(content: dict) -> Iterator[str]:
    """Yield the rows of a multi-label lake's findings, over all splits."""
    if not (names := manifest.findings(content)):
        return
    by_split = content["statistics"]["findings"].values()
    width = max(len(name) for name in ("finding", *names))
    yield "  ".join(
        [
            f"{'finding':<{width}}",
            *(f"{state.removesuffix('s'):>9}" for state in manifest.FINDING_STATES),
        ]
    )
    for name in names:
        numbers = [
            sum(counts[name][state] for counts in by_split) for state in manifest.FINDING_STATES
        ]
        yield "  ".join([f"{name:<{width}}", *(f"{number:>9,}" for number in numbers)])


def _finding_notes(content: dict) -> Iterator[str]:
    """Yield what became of cells of findings that are neither 1 nor 0, and of several readers."""
    counts, options = content["counts"], content["options"]
    for name, text, option in (
        (findings.UNCERTAIN_CELLS, "cells of the labels say -1", "uncertain"),
        (findings.UNMENTIONED_CELLS, "cells of the labels are empty", "unmentioned"),
    ):
        if number := counts.get(name):
            policy = options[option]
            yield f"{number:,} {text}: {BECOMES[policy]} (--{option} {policy})"
    if (number := counts.get(findings.READERS, 0)) > 1:
        rule = options["readers"]
        yield f"{number} readers: a finding is present where {QUORUM[rule]} (--readers {rule})"


def _append_notes(content: dict) -> Iterator[str]:
    """Yield what an append changed since the version that it continues."""
    if not (changes := content.get("append")):
        return
    shards = ", ".join(f"{number:,} {kind}" for kind, number in changes["shards"].items())
    yield f"since {changes['since']}: {changes['new']:,} records more; shards: {shards}"
    if "copied" in changes["shards"]:
        yield "shards were copied: this disk has no hard links, or cannot link them here"
    for name, text in (
        ("relabelled", "records got other labels"),
        ("labels_without_row", "records keep their labels, for which --labels has no row any more"),
        ("unlisted", "records stay whose images are not in --images, or are rejected now"),
    ):
        if changes[name]:
            yield f"{changes[name]:,} {text}"


def _notes(content: dict) -> Iterator[str]:
    """Yield the lines under the splits."""
    counts = content["counts"]
    yield from _append_notes(content)
    yield from _finding_notes(content)
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
