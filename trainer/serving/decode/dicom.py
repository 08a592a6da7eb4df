"""A DICOM file as the converter would store it, by TensorFlow operations alone, so that a
SavedModel takes DICOM files: file [] string -> StoredImage.

It reads what most radiographs are: one grey image of 8 or 16 bits allocated, uncompressed or JPEG
Baseline, displayed through a linear window, and returns the image that `read_scan` of
lake/sources/dicom/dicom.py does. For any other file, damaged or not DICOM at all, it returns the
reason as an error. Its own operations never fail; those that decode a damaged JPEG do, and
`attempt` (graph.py) turns that into an error. tfio.py adds a Codec for more transfer syntaxes.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from lake import InputError
from lake.scan import Storage
from lake.sources import pixels
from lake.sources.dicom import image_module
from lake.sources.dicom.elements import PIXEL_DATA
from trainer.serving.decode import exams
from trainer.serving.decode import grey as decode_grey
from trainer.serving.decode import header as decode_header
from trainer.serving.decode.codestream import check_jpeg, join_fragments, jpeg_levels
from trainer.serving.decode.elements import Walk, swap_bytes
from trainer.serving.decode.grey import GreyTensor, shrunk_size
from trainer.serving.decode.header import JPEG_BITS, SYNTAXES, Header
from trainer.serving.decode.stored_image import StoredImage, from_grey, from_jpeg, refuse


class Codec(NamedTuple):
    """A decoder of compressed frames that TensorFlow's own operations do not decode."""

    syntaxes: tuple[str, ...]  # transfer syntaxes
    decode: Callable  # (frame [] string, Header) -> (stored words [H, W] int32, error)


@tf.autograph.experimental.do_not_convert  # no Python branch here depends on a tensor
def stored_image(
    data: tf.Tensor, storage: Storage, codec: Codec | None = None, lakes: Sequence[dict] = ()
) -> StoredImage:
    """Return the image of a whole DICOM file, [] string, as a lake with `storage` holds it. Where
    lakes are given, as lake.exam.count has them, one that shows other things is refused. Raises
    InputError, as the graph is traced, for a lake that TensorFlow cannot repeat."""
    if storage.clahe:
        raise InputError("the lake was made with --clahe, which TensorFlow lacks; use predict")
    pixels.parse_window(storage.window)  # raises InputError
    syntaxes = SYNTAXES + (codec.syntaxes if codec else ())
    is_presented = storage.window == "default"
    walk, header, error = decode_header.read(data, syntaxes, is_presented)
    if lakes:
        error = tf.cond(error == "", lambda: exams.refusal(walk, lakes), lambda: error)
    return tf.cond(
        error == "", lambda: _image(walk, header, storage, codec), lambda: refuse(error, storage)
    )


def _image(walk: Walk, header: Header, storage: Storage, codec: Codec | None) -> StoredImage:
    """Return the image, read as its transfer syntax needs: JPEG, the codec's, or uncompressed."""
    cases = [(header.is_jpeg, lambda: _from_jpeg(walk, header, storage))]
    if codec:
        is_of_codec = tf.reduce_any(header.syntax == codec.syntaxes)
        cases.append((is_of_codec, lambda: _from_codec(walk, header, storage, codec)))
    return tf.case(cases, default=lambda: _from_values(_read_words(walk, header), header, storage))


def _from_codec(walk: Walk, header: Header, storage: Storage, codec: Codec) -> StoredImage:
    """Return the image of encapsulated pixel data, whose codestream `codec` decodes, or the
    error."""
    frame, frame_error = _frame(walk)
    values, error = codec.decode(frame, header)
    error = tf.where(frame_error == "", error, frame_error)
    return tf.cond(
        error == "", lambda: _from_values(values, header, storage), lambda: refuse(error, storage)
    )


def _frame(walk: Walk) -> tuple:
    """Return (the one frame, error) of encapsulated pixel data, [] strings."""
    start, _, _, end = tf.unstack(walk.places[PIXEL_DATA])
    return join_fragments(walk.data, start, end)


def _from_jpeg(walk: Walk, header: Header, storage: Storage) -> StoredImage:
    """Return the JPEG itself where the converter stores it unchanged, else its decoded pixels."""
    jpeg, error = _frame(walk)
    size = _size(header)
    error = tf.cond(error == "", lambda: check_jpeg(jpeg, size), lambda: error)
    is_unchanged = header.photometric == "MONOCHROME2"
    is_unchanged &= tf.reduce_all(shrunk_size(size, storage.max_side) == size)
    is_unchanged &= (header.numbers.slope > 0) & (storage.bits == 8)
    cases = [
        (error != "", lambda: refuse(error, storage)),
        (is_unchanged, lambda: _keep_jpeg(jpeg, header, storage)),
    ]
    return tf.case(cases, default=lambda: _from_values(jpeg_levels(jpeg), header, storage))


def _keep_jpeg(jpeg: tf.Tensor, header: Header, storage: Storage) -> StoredImage:
    """Return the JPEG unchanged, with the sizes and the window that the lake states beside it."""
    numbers, highest = header.numbers, 2**JPEG_BITS - 1
    window = decode_grey.window(numbers, (0.0, float(highest)))
    levels = jpeg_levels(jpeg) if storage.window == "percentile" else None
    grey = GreyTensor(levels, highest, (numbers.slope, numbers.intercept), window)
    return from_jpeg(jpeg, grey, _size(header), storage)


def _read_words(walk: Walk, header: Header) -> tf.Tensor:
    """Return the stored words of uncompressed pixel data, [H, W] int32."""
    start = walk.places[PIXEL_DATA][0]
    bits_allocated, size = header.words[image_module.BITS_ALLOCATED], _size(header)
    num_bytes = tf.reduce_prod(tf.cast(size, tf.int64)) * bits_allocated // 8
    content = tf.strings.substr(walk.data, start, num_bytes)
    values = tf.cond(
        bits_allocated == 8,
        lambda: tf.cast(tf.io.decode_raw(content, tf.uint8), tf.int32),
        lambda: tf.cast(tf.io.decode_raw(content, tf.uint16), tf.int32),
    )
    is_swapped = walk.is_big & (bits_allocated == 16)
    return tf.reshape(tf.cond(is_swapped, lambda: swap_bytes(values), lambda: values), size)


def _from_values(values: tf.Tensor, header: Header, storage: Storage) -> StoredImage:
    """Return the image of the stored values, [H, W] int32, with the header's rescale and window."""
    grey = decode_grey.from_values(
        values,
        header.numbers,
        bits=tf.cast(header.words[image_module.BITS_STORED], tf.int32),
        is_signed=header.words[image_module.SIGNED] == 1,
        is_monochrome1=header.photometric == "MONOCHROME1",
    )
    return from_grey(grey, storage)


def _size(header: Header) -> tf.Tensor:
    """Return (height, width) in the file, [2] int32."""
    return tf.cast(
        tf.stack([header.words[image_module.ROWS], header.words[image_module.COLUMNS]]), tf.int32
    )
