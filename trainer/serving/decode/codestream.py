"""The one frame in encapsulated pixel data, joined from its fragments inside a TensorFlow graph by
the rules of lake/sources/dicom/frames.py; and the shape that its JPEG states."""

import tensorflow as tf

from lake.sources.codecs.codestream import MAX_SCANS
from lake.sources.dicom.elements import ITEM, SEQUENCE_END
from trainer.serving.decode.elements import first_error, format_error, words

START_OF_SCAN = (0xFF, 0xDA)
MANY_SCANS = f"too-large: expected a JPEG of at most {MAX_SCANS} scans"
MAX_FRAGMENTS = 20_000  # and the offset table


def join_fragments(data: tf.Tensor, start: tf.Tensor, end: tf.Tensor) -> tuple:
    """Return (frame, error), [] strings, of the items between two positions.

    The items are the basic offset table, which with one frame can only say that it starts at 0, and
    the fragments of the frame."""

    def goes_on(position, count, is_sound, fragments):
        group, element = words(data, tf.minimum(position, end), 2)
        return is_sound & (position < end) & (group * 2**16 + element != SEQUENCE_END)

    def step(position, count, is_sound, fragments):
        """Append the fragment of the item at `position` and return the state behind it."""
        group, element, low, high = words(data, position, 4)
        length = low + high * 2**16
        is_item = (group * 2**16 + element == ITEM) & (position + 8 + length <= end)
        value = tf.strings.substr(data, tf.minimum(position + 8, end), tf.where(is_item, length, 0))
        is_table = tf.reduce_any(value == [b"", b"\0\0\0\0"])
        fragments = fragments.write(count, tf.where(count > 0, value, ""))
        return position + 8 + length, count + 1, is_item & ((count > 0) | is_table), fragments

    fragments = tf.TensorArray(tf.string, 0, dynamic_size=True, element_shape=[])
    state = (start, tf.constant(0), tf.constant(True), fragments)
    position, count, is_sound, fragments = tf.while_loop(
        goes_on, step, state, maximum_iterations=MAX_FRAGMENTS
    )
    is_closed = (position == end) | (position + 8 == end)
    error = first_error(
        (
            ~(is_sound & is_closed & (count > 1)),
            "undecodable: encapsulated pixel data is not an offset table of one frame and its "
            "fragments",
        )
    )
    return tf.strings.reduce_join(fragments.stack()), error


def check_jpeg(frame: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Return why the JPEG is not one grey image of `size`, [] string; "" where it is.

    Fails where the frame is not a JPEG, as the decoder does for a damaged one: `attempt` (graph.py)
    turns both into an error.
    """
    shape = tf.image.extract_jpeg_shape(frame)
    expected = tf.concat([size, [1]], 0)
    return first_error(
        (
            tf.reduce_any(shape != expected),
            format_error(
                "undecodable: the JPEG states (height, width, samples) = {}, the header {}",
                *(shape, expected),
            ),
        ),
        (has_many_scans(frame), MANY_SCANS),
    )


def has_many_scans(jpeg: tf.Tensor) -> tf.Tensor:
    """Return whether a JPEG, [] string, may have more scans than the converter decodes: those of a
    thumbnail count, too."""
    content = tf.io.decode_raw(jpeg, tf.uint8)
    is_start = (content[:-1] == START_OF_SCAN[0]) & (content[1:] == START_OF_SCAN[1])
    return tf.math.count_nonzero(is_start) > MAX_SCANS


def jpeg_levels(jpeg: tf.Tensor) -> tf.Tensor:
    """Return the levels of a JPEG, [H, W] int32; fails where it is damaged."""
    pixels = tf.io.decode_jpeg(jpeg, channels=1, dct_method="INTEGER_ACCURATE")
    return tf.cast(pixels[..., 0], tf.int32)
