"""Names of mask files: a path -> the id of the image that the mask is of; and which names of images
look like those of masks."""

import fnmatch
import posixpath
import re
from collections import Counter
from collections.abc import Sequence

from lake.sources.dicom import dicom
from lake.sources.pictures import images

NIFTI_ENDING = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
# Behind the name of an image: a word that public data sets name masks with, and perhaps a number.
MASK_WORD = re.compile(
    r"[ ._-](mask|segmentation|seg|annotation|label|lesion|gt|ground[_-]?truth)s?([ ._-]?\d+)?$",
    re.IGNORECASE,
)


def image_id(path: str, suffix: str = "", is_dicom: bool = False) -> str | None:
    """Return the id of the image that a mask file's name stands for: the name without its ending
    and `suffix`, a pattern of which the shortest match counts; None where it does not end so."""
    name = re.split(r"[/\\]", path)[-1]
    stem = NIFTI_ENDING.sub("", name)
    if stem == name:
        stem = dicom.file_stem(path) if is_dicom else images.file_stem(path)
    if not suffix:
        return stem
    pattern = re.compile(fnmatch.translate(suffix))
    ends = (n for n in range(len(stem) - 1, 0, -1) if pattern.match(stem, n))
    end = next(ends, None)
    return None if end is None else stem[:end]


def is_mask(path: str, suffix: str) -> bool:
    """Return whether the name of a file, whatever its format, ends as those of masks do."""
    return any(image_id(path, suffix, is_dicom) is not None for is_dicom in (False, True))


def num_named_as_masks(paths: Sequence[str]) -> int:
    """Return the number of files that have the name of another file beside them, with _mask or the
    like behind it."""
    counts = Counter()  # of such files by (folder, name of the other)
    for path in paths:
        folder, name = posixpath.split(path)
        stem = images.file_stem(name)
        if word := MASK_WORD.search(stem):
            counts[folder, stem[: word.start()]] += 1
    if not counts:
        return 0
    places = ((posixpath.dirname(path), images.file_stem(path)) for path in paths)
    return sum(counts.pop(place, 0) for place in places)
