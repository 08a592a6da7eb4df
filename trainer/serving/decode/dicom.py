"""A DICOM file as the converter would store it, by TensorFlow operations alone, so that a
SavedModel takes DICOM files: file [] string -> StoredImage.

It reads what most radiographs are: one grey image of 8 or 16 bits allocated, uncompressed or JPEG
Baseline, displayed through a linear window, and returns the image that lake.sources.dicom.read_scan
does. For any other file, damaged or not DICOM at all, it returns the reason as an error. Its own
operations never fail; those that decode a damaged JPEG do, and `attempt` (graph.py) turns that into
an error. tfio.py adds a Codec for more transfer syntaxes.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from lake import InputError
from lake.scan import Storage
from lake.sources import frames, pixels
from lake.sources.elements import PIXEL_DATA
from lake.sources.grey import MODALITY_LUTS
from trainer.serving.decode import grey as decode_grey
from trainer.serving.decode.codestream import check_jpeg, joined_fragments
from trainer.serving.decode.elements import Walk, is_there, swap_bytes
from trainer.serving.decode.grey import GreyTensor, from_values, shrunk_size
from trainer.serving.decode.header import (
    JPEG_BITS,
    SYNTAXES,
    Header,
    read_elements,
    read_header,
    refusal,
)


class StoredImage(NamedTuple):
    """One image as the converter would store it, or why there is none."""

    jpeg: tf.Tensor  # [] string: the JPEG where the converter stores it unchanged, else ""
    pixels: tf.Tensor  # else [H, W, 1] uint8 | uint16; [1, 1, 1] zero with a jpeg or an error
    height: tf.Tensor  # [] int32, as stored; 0 with an error
    width: tf.Tensor
    original_height: tf.Tensor  # [] int32, as in the file; 0 with an error
    original_width: tf.Tensor
    window: tf.Tensor  # [2] float32: low, high in stored values
    error: tf.Tensor  # [] string: "", or a Reject's reason, a colon and what is wrong


class Codec(NamedTuple):
    """A decoder of compressed frames that TensorFlow's own operations do not decode."""

    syntaxes: tuple[str, ...]  # transfer syntaxes
    values: Callable  # (frame [] string, Header) -> (stored words [H, W] int32, error)


@tf.autograph.experimental.do_not_convert  # it has no Python branches on tensors
def stored_image(data: tf.Tensor, storage: Storage, codec: Codec | None = None) -> StoredImage:
    """Return the image of a whole DICOM file, [] string, as a lake with `storage` holds it."""
    if storage.clahe:
        raise InputError("the lake was made with --clahe, which TensorFlow lacks; use predict")
    pixels.parse_window(storage.window)  # raises InputError
    syntaxes = SYNTAXES + (codec.syntaxes if codec else ())
    walk, syntax, error = read_elements(data, syntaxes)
    header = read_header(walk, syntax)
    is_presented = storage.window == "default"
    error = tf.cond(error == "", lambda: refusal(walk, header, is_presented), lambda: error)
    return tf.cond(
        error == "", lambda: _image(walk, header, storage, codec), lambda: refuse(error, storage)
    )


def _image(walk: Walk, header: Header, storage: Storage, codec: Codec | None) -> StoredImage:
    cases = [(header.is_jpeg, lambda: _from_jpeg(walk, header, storage))]
    if codec:
        is_of_codec = tf.reduce_any(header.syntax == codec.syntaxes)
        cases.append((is_of_codec, lambda: _from_codec(walk, header, storage, codec)))
    return tf.case(cases, default=lambda: _from_values(_native(walk, header), header, storage))


def _from_codec(walk: Walk, header: Header, storage: Storage, codec: Codec) -> StoredImage:
    frame, frame_error = _frame(walk)
    values, error = codec.values(frame, header)
    error = tf.where(frame_error == "", error, frame_error)
    return tf.cond(
        error == "",
        lambda: _from_values(values, header, storage),
        lambda: refuse(error, storage),
    )


def _frame(walk: Walk) -> tuple:
    """Return (the one frame, error) of encapsulated pixel data, [] strings."""
    start, _, _, end = tf.unstack(walk.places[PIXEL_DATA])
    return joined_fragments(walk.data, start, end)


def _from_jpeg(walk: Walk, header: Header, storage: Storage) -> StoredImage:
    """Return the JPEG itself where the converter stores it unchanged, else its decoded pixels."""
    height, width = header.words[frames.ROWS], header.words[frames.COLUMNS]
    jpeg, error = _frame(walk)
    error = tf.cond(error == "", lambda: check_jpeg(jpeg, height, width), lambda: error)
    is_kept = header.photometric == "MONOCHROME2"
    is_kept &= tf.reduce_all(_size(header, storage) == _size(header))
    is_kept &= ~is_there(walk, MODALITY_LUTS)
    is_kept &= (header.numbers.slope > 0) & (storage.bits == 8)
    return tf.case(
        [
            (error != "", lambda: refuse(error, storage)),
            (is_kept, lambda: _keep_jpeg(jpeg, header, storage)),
        ],
        default=lambda: _from_values(_decode_jpeg(jpeg), header, storage),
    )


def _keep_jpeg(jpeg: tf.Tensor, header: Header, storage: Storage) -> StoredImage:
    numbers, highest = header.numbers, 2**JPEG_BITS - 1
    view = decode_grey.window(numbers, (0.0, float(highest)))
    if storage.window != "default":
        rescale = (numbers.slope, numbers.intercept)
        levels = _decode_jpeg(jpeg) if storage.window == "percentile" else None
        view = decode_grey.view(GreyTensor(levels, highest, rescale, view), storage)
    return _to_image(header, storage, jpeg, no_pixels(storage), view)


def _decode_jpeg(jpeg: tf.Tensor) -> tf.Tensor:
    values = tf.io.decode_jpeg(jpeg, channels=1, dct_method="INTEGER_ACCURATE")
    return tf.cast(values[..., 0], tf.int32)


def _native(walk: Walk, header: Header) -> tf.Tensor:
    """Return the stored words of uncompressed pixel data, [H, W] int32."""
    start = walk.places[PIXEL_DATA][0]
    allocated, size = header.words[frames.BITS_ALLOCATED], _size(header)
    octets = tf.reduce_prod(tf.cast(size, tf.int64)) * allocated // 8
    data = tf.strings.substr(walk.data, start, octets)
    values = tf.cond(
        allocated == 8,
        lambda: tf.cast(tf.io.decode_raw(data, tf.uint8), tf.int32),
        lambda: _words(data, walk.is_big),
    )
    return tf.reshape(values, size)


def _words(data: tf.Tensor, is_big: tf.Tensor) -> tf.Tensor:
    """Return the words of two bytes as numbers, [N] int32."""
    words = tf.cast(tf.io.decode_raw(data, tf.uint16), tf.int32)
    return tf.cond(is_big, lambda: swap_bytes(words), lambda: words)


def _from_values(values: tf.Tensor, header: Header, storage: Storage) -> StoredImage:
    levels = from_values(
        values,
        header.numbers,
        bits=tf.cast(header.words[frames.BITS_STORED], tf.int32),
        is_signed=header.words[frames.SIGNED] == 1,
        is_monochrome1=header.photometric == "MONOCHROME1",
    )
    image, view = decode_grey.stored_levels(levels, storage, _size(header, storage))
    return _to_image(header, storage, tf.constant(""), image, view)


def _to_image(
    header: Header, storage: Storage, jpeg: tf.Tensor, image: tf.Tensor, window: tuple
) -> StoredImage:
    sizes = tf.unstack(tf.concat([_size(header, storage), _size(header)], 0), 4)
    return StoredImage(jpeg, image, *sizes, tf.cast(tf.stack(window), tf.float32), tf.constant(""))


def refuse(error: tf.Tensor, storage: Storage) -> StoredImage:
    """Return no image, and why, with the shapes and types of a StoredImage."""
    none = tf.zeros([], tf.int32)
    nothing = no_pixels(storage)
    return StoredImage(
        tf.constant(""), nothing, none, none, none, none, tf.constant([0.0, 1.0]), error
    )


def no_pixels(storage: Storage) -> tf.Tensor:
    """Return the placeholder of pixels that are not there, [1, 1, 1] zero."""
    return tf.zeros([1, 1, 1], tf.uint8 if storage.bits == 8 else tf.uint16)


def _size(header: Header, storage: Storage | None = None) -> tf.Tensor:
    """Return (height, width), [2] int32: in the file, or with `storage` as a lake stores it."""
    height, width = header.words[frames.ROWS], header.words[frames.COLUMNS]
    return shrunk_size(height, width, storage.max_side if storage else None)
