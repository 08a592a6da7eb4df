"""Which files are labels by their names: masks, and the label file itself, are no images, though a
wide pattern of --images matches them, too. In: the options; out: tests of a path."""

import posixpath
from collections.abc import Callable

from apache_beam.io.filesystem import FileMetadata

from beam.conversion.options import ConversionOptions
from beam.running import patterns
from lake import Refused
from lake.sources.masks import mask_names
from lake.sources.names import DICOM


def is_told_by_content(options: ConversionOptions) -> bool:
    """Return whether one pattern names DICOM images and their DICOM SEGs, which say so inside."""
    is_one_pattern = options.masks == options.images and not options.mask_suffix
    return is_one_pattern and options.source == DICOM


def mask_test(options: ConversionOptions) -> Callable[[str], bool]:
    """Return the function that says whether a path is that of a mask: --masks matches it, and its
    name ends in --mask_suffix."""
    if not options.masks:
        return lambda path: False
    is_matched = patterns.matcher(options.masks)
    return lambda path: mask_names.is_mask(path, options.mask_suffix) and is_matched(path)


def label_test(options: ConversionOptions) -> Callable[[str], bool]:
    """Return the function that says whether the path of a file of --images is that of a label."""
    if options.labels:
        name, label_place = posixpath.basename(options.labels), patterns.place(options.labels)
        return lambda path: path.endswith(name) and patterns.place(path) == label_place
    if is_told_by_content(options):
        return lambda path: False
    return mask_test(options)


def without_labels(files: list[FileMetadata], options: ConversionOptions) -> list[FileMetadata]:
    """Return those of the files of --images that are no labels; raise Refused where all are."""
    is_label = label_test(options)
    images = [file for file in files if not is_label(file.path)]
    if files and not images:
        raise _no_image_error(len(files), options)
    return images


def _no_image_error(num_labels: int, options: ConversionOptions) -> Refused:
    """Return the error of a conversion whose label files are all that --images matches."""
    if options.labels:
        return Refused(f"--images={options.images} matches the label file alone")
    ending = f" ending in {options.mask_suffix}" if options.mask_suffix else ""
    return Refused(
        f"--masks={options.masks} claims all {num_labels:,} files{ending} of --images="
        f"{options.images}, and a mask is no image; expected patterns that tell them apart, or the "
        f"--mask_suffix of masks beside their images, such as _mask or '_mask*'"
    )
