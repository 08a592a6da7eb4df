"""The row by which an image tells the plan of itself: 16 bytes, whatever its labels are.

In: LabelledImages. Out: values of ROW's fields, and of the place that is set before they are dealt.
"""

import numpy as np

from beam.conversion import digests, earlier_lake
from beam.conversion.earlier_lake import EarlierLake
from beam.conversion.labelling import LabelledImage
from beam.conversion.options import ConversionOptions
from lake import Stopped
from lake.scan import FRAME_BITS, Header, stable_hash
from lake.sources.pixels import shrunk_size

ROW = [
    ("group", np.uint64),
    ("image", np.uint32),
    ("lesion", np.float16),  # share of the image; below 0: unknown
    ("blocks", np.uint16),  # of BLOCK_BYTES: about the size of its record
]
BLOCK_BYTES = 4096
# The place that a CSV column or an earlier lake has set; rows have these fields only with such an
# option.
PRESET = [("split", earlier_lake.SPLIT_TYPE), ("fold", earlier_lake.FOLD_TYPE)]
# The smallest that float16 holds. A positive of a class CSV, whose size is unknown, has this size,
# and class n of class folders n times it, so that each class is dealt by itself.
SMALLEST_LESION = 1e-7


def row_type(options: ConversionOptions) -> np.dtype:
    """Return the dtype of the rows of one conversion."""
    fields = ROW + PRESET if options.split_column or options.splits_from else ROW
    if options.findings:  # a bit for each, which is set where it is present
        fields = [*fields, ("findings", np.uint8, (-(-len(options.findings) // 8),))]
    return np.dtype(fields)


def to_row(image: LabelledImage, earlier: EarlierLake | None, options: ConversionOptions) -> tuple:
    """Return the values of one image for the fields of `row_type`."""
    label = image.label
    if label.has_mask:
        lesion = label.lesion_px / (image.header.height * image.header.width)
    else:  # below 0 where the label is unknown, -1
        lesion = label.label * SMALLEST_LESION
    # A positive is dealt as one, even where float16 would round its share of the image to 0.
    lesion = max(lesion, SMALLEST_LESION) if label.label == 1 else lesion
    blocks = num_blocks(image.header, options.max_side)
    # The upper half of the image's key is enough to cut shards, and half as long.
    row = stable_hash(image.group), image_key(image) >> 32, lesion, blocks
    if earlier is not None:
        row += _earlier_place(image, earlier, options)
    elif options.split_column:  # it names splits, but no folds: -1 leaves them to be dealt
        row += image.split.encode(), -1
    if options.findings:
        row += (tuple(np.packbits(np.array(label.findings) == 1).tolist()),)
    return row


def _earlier_place(
    image: LabelledImage, earlier: EarlierLake, options: ConversionOptions
) -> tuple[bytes, int]:
    """Return the (split, fold) that an image has, or its patient, from an earlier lake, or of an
    append from the column; (b"", -1) without one. Raises Stopped where the two differ."""
    names = earlier_lake.names(image.header, options.key_file)
    if options.base:
        names = digests.group_names(image.header, options.key_file) + names
    split, fold = earlier.find(names)
    if split and image.split not in ("", split.decode()):
        raise Stopped(
            f"{image.header.path}: --split_column {options.split_column} says {image.split}, but "
            f"its patient is in {split.decode()} of {options.splits_from}; correct the column"
        )
    return (split, fold) if split else (image.split.encode(), -1)


def image_key(image: LabelledImage) -> int:
    """Return the 64 bits that order the images of a split: a hash; the slices of one volume stay
    together and in order."""
    header = image.header
    if header.geometry is None:
        return stable_hash(header.image_id)
    return stable_hash(header.series) >> FRAME_BITS << FRAME_BITS | header.frame


def num_blocks(header: Header, max_side: int | None) -> int:
    """Return the number of blocks that a record of the image takes, roughly: as many as its file or
    its stored pixels, whichever take fewer."""
    height, width = shrunk_size(header.height, header.width, max_side)
    stored_bytes = min(header.size, height * width * (1 + (header.bits > 8)))
    return min(-(-stored_bytes // BLOCK_BYTES), 2**16 - 1)
