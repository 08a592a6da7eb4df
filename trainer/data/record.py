"""A serialised record becomes what a network is given, at the network's side, in whole numbers as
the lake stores them:

    image [S, S, 1] uint8 or uint16    mask [S, S, 1] uint8, 0 or 1    window [2] float32
    label [] float32, -1 unknown       has_mask [] float32, 0 or 1     weight [] float32, 1
    findings [F] float32, 1 present, 0 absent, -1 unknown: where a network learns from findings

A box is (top, left, height, width): where in [S, S] an image lies that is not square.
"""

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import tensorflow as tf

from lake.records import example

FIELDS = (
    *("image", "mask", "has_mask", "label", "lesion_px", "encoding", "window"),
    *("height", "width"),
)
# libjpeg decodes at a half, a quarter and an eighth for less than a whole image.
JPEG_RATIOS = (8, 4, 2)


class Findings(NamedTuple):
    """Which of the findings of a lake's records a network learns from."""

    num_stored: int  # in a record
    places: tuple[int, ...]  # among these, of the network's findings in the order of its logits


@functools.cache
def decoder(
    dtype: str,
    side: int,
    fit: str,
    extra_fields: tuple[str, ...] = (),
    findings: Findings | None = None,
) -> Callable:
    """Return decode_record as a function of the record alone, for tf.data: a process traces it once
    for all its datasets, such as those of training, validation and panel."""
    return tf.function(
        lambda record: decode_record(record, dtype, side, fit, extra_fields, findings=findings),
        input_signature=[tf.TensorSpec([], tf.string)],
        autograph=False,
    )


@tf.autograph.experimental.do_not_convert  # no Python branch here depends on a tensor
def decode_record(
    record,
    dtype: str,
    side: int,
    fit: str,
    extra_fields: tuple[str, ...] = (),
    with_mask: bool = True,
    findings: Findings | None = None,
) -> dict:
    """Return the fields of one serialised record, its image and mask decoded to [side, side]; with
    `findings` those of its findings."""
    fields = parse_record(record, (*FIELDS, *extra_fields))
    height, width = tf.cast(fields["height"], tf.int32), tf.cast(fields["width"], tf.int32)
    box = box_within(height, width, side, fit)
    image = fit_image(
        fields["encoding"] == "jpeg-kept",
        fields["image"],
        lambda: tf.io.decode_png(fields["image"], channels=1, dtype=tf.as_dtype(dtype)),
        (height, width),
        dtype,
        side,
        box,
    )
    # Left out only where the caller says so: tf.data would compute an unused mask all the same,
    # because of the checks inside a resize.
    mask = {"mask": _mask(fields, box, side)} if with_mask else {}
    return {
        "image": image,
        **mask,
        "window": fields["window"],
        "label": tf.cast(fields["label"], tf.float32),
        "has_mask": tf.cast(fields["has_mask"], tf.float32),
        "weight": tf.ones([]),
        **{name: fields[name] for name in extra_fields},
        **(findings_of(record, findings) if findings else {}),
    }


def parse_record(record, names: Iterable[str]) -> dict:
    """Return {name: tensor} of the named fields of a serialised record, a scalar string tensor."""
    tensor_types = {bytes: tf.string, float: tf.float32, int: tf.int64}
    features = {}
    for name in names:
        value_type, count = example.FIELDS[name]
        shape = [] if count == 1 else [count]
        features[name] = tf.io.FixedLenFeature(shape, tensor_types[value_type])
    return tf.io.parse_single_example(record, features)


def findings_of(record, findings: Findings) -> dict:
    """Return {"findings": float32 [F]} of a serialised record."""
    length = [findings.num_stored]
    features = {example.FINDINGS: tf.io.FixedLenFeature(length, tf.int64)}
    values = tf.io.parse_single_example(record, features)[example.FINDINGS]
    return {"findings": tf.cast(tf.gather(values, findings.places), tf.float32)}


def fit_image(
    is_jpeg,
    jpeg,
    otherwise: Callable[[], tf.Tensor],
    size: tuple,
    dtype: str,
    side: int,
    box: tuple,
):
    """Return an image as a network is given it, [S, S, 1]: decoded from its JPEG, or resized from
    the pixels [H, W, 1] that `otherwise` returns.

    `size`: (height, width) as stored; `box`: box_within of it.
    """
    ratio = tf.where(is_jpeg, _jpeg_ratio(size, box), 1)
    image = tf.cond(is_jpeg, lambda: _decode_jpeg(jpeg, ratio, dtype), otherwise)
    # libjpeg rounds a reduced side up, so that its last pixel reaches beyond the image: the sides
    # in reduced pixels are no whole numbers.
    sides = tf.cast(tf.stack(size), tf.float32) / tf.cast(ratio, tf.float32)
    return tf.ensure_shape(_resize_into_box(image, sides, box, side), [side, side, 1])


def box_within(height, width, side: int, fit: str):
    """Return (top, left, height, width) of an image within [side, side]: all of it with the fit
    "stretch"; else in the middle, with the image's aspect, and at least a pixel thick. Whole
    numbers or integer tensors."""
    if fit == "stretch":
        return 0, 0, side, side
    larger = tf.maximum if tf.is_tensor(height) else max
    longest = larger(height, width)
    inner_height = larger((height * side + longest // 2) // longest, 1)
    inner_width = larger((width * side + longest // 2) // longest, 1)
    return (side - inner_height) // 2, (side - inner_width) // 2, inner_height, inner_width


def _mask(fields: dict, box: tuple, side: int):
    """Return the mask of a record's fields as a network is given it, [S, S, 1] uint8, 0 or 1."""
    # An empty mask is not worth decoding: its PNG takes longer than the image's JPEG.
    mask = tf.cond(
        fields["lesion_px"] > 0,
        lambda: fit_mask(fields["mask"], box, side),
        lambda: tf.zeros([side, side, 1], tf.uint8),
    )
    return tf.ensure_shape(mask, [side, side, 1])


def fit_mask(png, box: tuple, side: int):
    """Return the mask of a PNG as a network is given it, [S, S, 1] uint8, 0 or 1."""
    pixels = tf.io.decode_png(png, channels=1)
    sides = tf.cast(tf.shape(pixels)[:2], tf.float32)
    return tf.cast(_resize_into_box(pixels, sides, box, side) >= 128, tf.uint8)


def _jpeg_ratio(size: tuple, box: tuple):
    """Return the largest of libjpeg's reductions at which an image is not below its box's size, a
    whole number as a scalar tensor."""
    (height, width), (*_, box_height, box_width) = size, box
    largest = tf.minimum(height // box_height, width // box_width)
    ratios = tf.constant(JPEG_RATIOS)
    return tf.reduce_max(tf.where(ratios <= largest, ratios, 1))


def _decode_jpeg(data, ratio, dtype: str):
    """Return the pixels of a JPEG, each side reduced by `ratio` and rounded up."""

    def decode(number: int):
        return lambda: tf.cast(
            tf.io.decode_jpeg(data, channels=1, ratio=number, dct_method="INTEGER_ACCURATE"), dtype
        )

    cases = [(tf.equal(ratio, number), decode(number)) for number in JPEG_RATIOS]
    return tf.case(cases, default=decode(1))


def _resize_into_box(pixels, sides, box, side: int):
    """Return pixels [h, w, 1] as [side, side, 1] of the same type: resized into the box, 0 around
    it. `sides` [2] float32 says how many of the pixels the image is high and wide."""
    top, left, inner_height, inner_width = box
    size = tf.stack([inner_height, inner_width])
    inner_sides = tf.cast(size, tf.float32)

    def resize():
        """Return the pixels at the size of the box, rounded."""
        # tf.image.resize with antialias=True does this with the pixels' own number for `sides`.
        resized = tf.raw_ops.ScaleAndTranslate(
            images=tf.cast(pixels, tf.float32)[None],
            size=size,
            scale=inner_sides / sides,
            translation=tf.zeros([2]),
            kernel_type="triangle",
            antialias=True,
        )
        return tf.cast(tf.round(resized[0]), pixels.dtype)

    inner_pixels = tf.cond(tf.reduce_all(sides == inner_sides), lambda: pixels, resize)
    return tf.cond(
        tf.reduce_all(size == side),
        lambda: inner_pixels,
        lambda: tf.image.pad_to_bounding_box(inner_pixels, top, left, side, side),
    )
