"""Whether every input has one outcome, and few of them are rejects.

In: a manifest's counts. Out: nothing, or Stopped, or Refused.
"""

from beam.conversion import mask_files
from beam.conversion.options import ConversionOptions
from lake import Refused, Stopped
from lake.records import erased, manifest


def check(
    counts: dict, input_counts: dict[str, int], classes: list[str], options: ConversionOptions
) -> None:
    """Raise Stopped unless every input has one outcome, few are rejects and no class is empty."""
    num_rejects = sum(counts["rejects"].values())
    num_erased = counts["rejects"].get(erased.REASON, 0)  # which was meant to be
    num_listed = counts["images"] - counts.get("unlisted", 0)
    num_outcomes = counts["records"] + num_rejects + counts["slices_left_out"]
    kinds = ("files_listed", "files_rejected", "label_files_by_content")
    num_files = sum(input_counts.get(kind, 0) for kind in kinds)
    if (counts["files"], counts["images"]) != (num_files, num_outcomes):
        raise Stopped(f"inputs and outcomes differ; report this: {counts} from {input_counts}")
    path = options.path(manifest.REJECTS)
    outcome = _rejected(counts["rejects"], num_listed)
    if num_rejects - num_erased > options.max_reject_fraction * num_listed:
        raise too_many_rejects(counts["rejects"], num_listed, options)
    if not counts["records"]:
        num_left_out = counts["slices_left_out"]
        left_out = f", {num_left_out} slices without a nodule left out" if num_left_out else ""
        raise Refused(f"no image became a record: {outcome}{left_out}. See {path}")
    mask_files.check_values(input_counts, options)
    for number, name in enumerate(classes):
        if not any(split["classes"][number] for split in counts["splits"].values()):
            raise Stopped(
                f"class folder {name}: none of its images became a record; the lake is not "
                f"finished. See {path}, or leave the folder out of --images"
            )


def too_many_rejects(
    num_by_reason: dict[str, int], num_images: int, options: ConversionOptions
) -> Stopped:
    """Return the error where more than a share of so many images are rejects."""
    return Stopped(
        f"{_rejected(num_by_reason, num_images)}, more than "
        f"--max_reject_fraction={options.max_reject_fraction:g}; the lake is not finished. See "
        f"{options.path(manifest.REJECTS)}"
    )


def _rejected(num_by_reason: dict[str, int], num_images: int) -> str:
    """Return how many of so many images are rejects, in words."""
    reasons = ", ".join(f"{reason}: {n}" for reason, n in num_by_reason.items())
    return f"{sum(num_by_reason.values())} of {num_images} images rejected ({reasons})"
