"""A serialised record becomes what a network is given, at the network's side, in whole numbers as
the lake stores them:

    image [S, S, 1] uint8 or uint16    mask [S, S, 1] uint8, 0 or 1    window [2] float32
    label [] float32, -1 unknown       has_mask [] float32, 0 or 1     weight [] float32, 1

A box is (top, left, height, width): where in [S, S] an image lies that is not square.
"""

from collections.abc import Callable, Iterable

import tensorflow as tf

from lake.records import example

FIELDS = (
    *("image", "mask", "has_mask", "label", "lesion_px", "encoding", "window"),
    *("height", "width"),
)
# libjpeg decodes at a half, a quarter and an eighth for less than a whole image.
JPEG_RATIOS = (8, 4, 2)


@tf.autograph.experimental.do_not_convert  # no Python branch here depends on a tensor
def decode_record(
    record,
    dtype: str,
    side: int,
    fit: str,
    extra_fields: tuple[str, ...] = (),
    with_mask: bool = True,
) -> dict:
    """Return the fields of one serialised record, its image and mask decoded to [side, side]."""
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
    }


def parse_record(record, names: Iterable[str]) -> dict:
    """Return {name: tensor} of the named fields of a serialised record, a scalar string tensor."""
    kinds = {bytes: tf.string, float: tf.float32, int: tf.int64}
    features = {}
    for name in names:
        kind, count = example.FIELDS[name]
        features[name] = tf.io.FixedLenFeature([] if count == 1 else [count], kinds[kind])
    return tf.io.parse_single_example(record, features)


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
    image = tf.cond(is_jpeg, lambda: _decode_jpeg(jpeg, box, *size, dtype), otherwise)
    return tf.ensure_shape(_resize_into_box(image, box, side), [side, side, 1])


def box_within(height, width, side: int, fit: str):
    """Return (top, left, height, width) of an image within [side, side]: all of it with the fit
    "stretch"; else in the middle, with the image's aspect. Whole numbers or integer tensors."""
    if fit == "stretch":
        return 0, 0, side, side
    longest = tf.maximum(height, width) if tf.is_tensor(height) else max(height, width)
    inner_height = (height * side + longest // 2) // longest
    inner_width = (width * side + longest // 2) // longest
    return (side - inner_height) // 2, (side - inner_width) // 2, inner_height, inner_width


def _mask(fields: dict, box: tuple, side: int):
    # An empty mask is not worth decoding: its PNG takes longer than the image's JPEG.
    mask = tf.cond(
        fields["lesion_px"] > 0,
        lambda: tf.cast(
            _resize_into_box(tf.io.decode_png(fields["mask"], channels=1), box, side) >= 128,
            tf.uint8,
        ),
        lambda: tf.zeros([side, side, 1], tf.uint8),
    )
    return tf.ensure_shape(mask, [side, side, 1])


def _decode_jpeg(data, box, height, width, dtype: str):
    """Return the pixels at the smallest of libjpeg's scales that is not below the box's size."""
    *_, box_height, box_width = box

    def decode(ratio: int):
        return lambda: tf.cast(
            tf.io.decode_jpeg(data, channels=1, ratio=ratio, dct_method="INTEGER_ACCURATE"), dtype
        )

    cases = [
        (tf.logical_and(height >= box_height * ratio, width >= box_width * ratio), decode(ratio))
        for ratio in JPEG_RATIOS
    ]
    return tf.case(cases, default=decode(1))


def _resize_into_box(pixels, box, side: int):
    """Return pixels [h, w, 1] as [side, side, 1] of the same type: resized into the box, 0 around
    it."""
    top, left, inner_height, inner_width = box
    size = tf.stack([inner_height, inner_width])
    has_size = tf.reduce_all(tf.shape(pixels)[:2] == size)

    def resize():
        return tf.cast(
            tf.round(tf.image.resize(tf.cast(pixels, tf.float32), size, antialias=True)),
            pixels.dtype,
        )

    inner_pixels = tf.cond(has_size, lambda: pixels, resize)
    return tf.cond(
        tf.reduce_all(size == side),
        lambda: inner_pixels,
        lambda: tf.image.pad_to_bounding_box(inner_pixels, top, left, side, side),
    )
