"""A DICOM file as the converter would store it, by TensorFlow's own operations, so that a
SavedModel takes DICOM files: file [] string -> Stored.

It reads what radiographs mostly are: one grey image of 8 or 16 bits allocated, uncompressed or JPEG
Baseline, seen through a linear window. Of all else, of damaged files and of bytes that are no DICOM
it says what they are; it never fails, and shows the image that lake.sources.dicom.read_scan does.
Damaged tables and codes of a JPEG are noise in both, and where a lake does not keep the JPEG as it
is, the noise of two decoders. dicom_tfio adds a Codec.
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
from trainer.serving.decode.codestream import bare_jpeg, joined_fragments
from trainer.serving.decode.elements import Walk, is_there, swapped
from trainer.serving.decode.grey import Grey, from_values, shrunk_size
from trainer.serving.decode.header import (
    JPEG_BITS,
    SYNTAXES,
    Header,
    elements_of,
    error_of,
    header_of,
)


class Stored(NamedTuple):
    """One image as the converter would store it."""

    jpeg: tf.Tensor  # [] string: the codestream where the converter keeps it, else ""
    pixels: tf.Tensor  # else [H, W, 1] uint8 | uint16; [1, 1, 1] zero with a jpeg or an error
    height: tf.Tensor  # [] int32, as stored; 0 with an error
    width: tf.Tensor
    original_height: tf.Tensor  # [] int32, as in the file; 0 with an error
    original_width: tf.Tensor
    window: tf.Tensor  # [2] float32: low, high in stored values
    error: tf.Tensor  # [] string: "", or a reason of lake.sources.dicom, a colon and what is wrong


class Codec(NamedTuple):
    """What decodes compressed frames that TensorFlow's own operations do not."""

    syntaxes: tuple[str, ...]  # transfer syntaxes
    values: Callable  # (frame [] string, Header) -> (stored words [H, W] int32, error)


@tf.autograph.experimental.do_not_convert  # nothing in it is Python's to branch on
def stored(data: tf.Tensor, storage: Storage, codec: Codec | None = None) -> Stored:
    """The image of a whole DICOM file, [] string, as a lake of `storage` holds it."""
    if storage.clahe:
        raise InputError("a lake made with --clahe: TensorFlow has no such operation; use predict")
    pixels.parse_window(storage.window)  # raises InputError
    syntaxes = SYNTAXES + (codec.syntaxes if codec else ())
    found, syntax, error = elements_of(data, syntaxes)
    header = header_of(found, syntax)
    is_presented = storage.window == "default"
    error = tf.cond(error == "", lambda: error_of(found, header, is_presented), lambda: error)
    return tf.cond(
        error == "", lambda: _image(found, header, storage, codec), lambda: refused(error, storage)
    )


def _image(found: Walk, header: Header, storage: Storage, codec: Codec | None) -> Stored:
    cases = [(header.is_jpeg, lambda: _from_jpeg(found, header, storage))]
    if codec:
        is_its = tf.reduce_any(header.syntax == codec.syntaxes)
        cases.append((is_its, lambda: _from_codec(found, header, storage, codec)))
    return tf.case(cases, default=lambda: _from_values(_native(found, header), header, storage))


def _from_codec(found: Walk, header: Header, storage: Storage, codec: Codec) -> Stored:
    frame, frame_error = _frame(found)
    values, error = codec.values(frame, header)
    error = tf.where(frame_error == "", error, frame_error)
    return tf.cond(
        error == "",
        lambda: _from_values(values, header, storage),
        lambda: refused(error, storage),
    )


def _frame(found: Walk) -> tuple:
    """(the one frame, error) of encapsulated pixel data, [] strings."""
    start, _, _, end = tf.unstack(found.places[PIXEL_DATA])
    return joined_fragments(found.data, start, end)


def _from_jpeg(found: Walk, header: Header, storage: Storage) -> Stored:
    height, width = header.words[frames.ROWS], header.words[frames.COLUMNS]
    frame, error = _frame(found)
    jpeg, jpeg_error = bare_jpeg(frame, height, width)
    error = tf.where(error == "", jpeg_error, error)
    is_kept = header.photometric == "MONOCHROME2"
    is_kept &= tf.reduce_all(_size(header, storage) == _size(header))
    is_kept &= ~is_there(found, MODALITY_LUTS)
    is_kept &= (header.numbers.slope > 0) & (storage.bits == 8)
    return tf.case(
        [
            (error != "", lambda: refused(error, storage)),
            (is_kept, lambda: _kept(jpeg, header, storage)),
        ],
        default=lambda: _from_values(_decoded(jpeg), header, storage),
    )


def _kept(jpeg: tf.Tensor, header: Header, storage: Storage) -> Stored:
    numbers, highest = header.numbers, 2**JPEG_BITS - 1
    view = decode_grey.window(numbers, (0.0, float(highest)))
    if storage.window != "default":
        rescale = (numbers.slope, numbers.intercept)
        levels = _decoded(jpeg) if storage.window == "percentile" else None
        view = decode_grey.view(Grey(levels, highest, rescale, view), storage)
    return _stored(header, storage, jpeg, no_pixels(storage), view)


def _decoded(jpeg: tf.Tensor) -> tf.Tensor:
    values = tf.io.decode_jpeg(jpeg, channels=1, dct_method="INTEGER_ACCURATE")
    return tf.cast(values[..., 0], tf.int32)


def _native(found: Walk, header: Header) -> tf.Tensor:
    """Stored words of uncompressed pixel data, [H, W] int32."""
    start = found.places[PIXEL_DATA][0]
    allocated, size = header.words[frames.BITS_ALLOCATED], _size(header)
    octets = tf.reduce_prod(tf.cast(size, tf.int64)) * allocated // 8
    data = tf.strings.substr(found.data, start, octets)
    values = tf.cond(
        allocated == 8,
        lambda: tf.cast(tf.io.decode_raw(data, tf.uint8), tf.int32),
        lambda: _words(data, found.is_big),
    )
    return tf.reshape(values, size)


def _words(data: tf.Tensor, is_big: tf.Tensor) -> tf.Tensor:
    """[N] int32."""
    words = tf.cast(tf.io.decode_raw(data, tf.uint16), tf.int32)
    return tf.cond(is_big, lambda: swapped(words), lambda: words)


def _from_values(values: tf.Tensor, header: Header, storage: Storage) -> Stored:
    levels = from_values(
        values,
        header.numbers,
        bits=tf.cast(header.words[frames.BITS_STORED], tf.int32),
        is_signed=header.words[frames.SIGNED] == 1,
        is_monochrome1=header.photometric == "MONOCHROME1",
    )
    image, view = decode_grey.stored(levels, storage, _size(header, storage))
    return _stored(header, storage, tf.constant(""), image, view)


def _stored(
    header: Header, storage: Storage, jpeg: tf.Tensor, image: tf.Tensor, window: tuple
) -> Stored:
    sizes = tf.unstack(tf.concat([_size(header, storage), _size(header)], 0), 4)
    return Stored(jpeg, image, *sizes, tf.cast(tf.stack(window), tf.float32), tf.constant(""))


def refused(error: tf.Tensor, storage: Storage) -> Stored:
    none = tf.zeros([], tf.int32)
    nothing = no_pixels(storage)
    return Stored(tf.constant(""), nothing, none, none, none, none, tf.constant([0.0, 1.0]), error)


def no_pixels(storage: Storage) -> tf.Tensor:
    return tf.zeros([1, 1, 1], tf.uint8 if storage.bits == 8 else tf.uint16)


def _size(header: Header, storage: Storage | None = None) -> tf.Tensor:
    """[2] int32: height and width of the file, or as stored."""
    height, width = header.words[frames.ROWS], header.words[frames.COLUMNS]
    return shrunk_size(height, width, storage.max_side if storage else None)
