"""Compressed DICOM frames, decoded inside a graph by tensorflow-io (DCMTK, OpenJPEG), for an export
that reads more transfer syntaxes than TensorFlow's own operations do.

tensorflow-io interprets a file's header in its own way: it shifts signed values, rescales, and
inverts MONOCHROME1. So each frame is wrapped into a minimal file that declares unsigned
MONOCHROME2: the words come out as they are stored, and dicom.py continues with them.
"""

import struct
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from lake.scan import Storage
from lake.sources.dicom.image_module import (
    BITS_ALLOCATED,
    BITS_STORED,
    COLUMNS,
    ROWS,
    SAMPLES,
    SIGNED,
)
from trainer.serving.decode import dicom
from trainer.serving.decode.claims import SYNTAXES, claimed_bits
from trainer.serving.decode.elements import first_error, size_of
from trainer.serving.decode.header import Header
from trainer.serving.decode.stored_image import StoredImage

# Elements of the file around a frame (PS3.5 7.1.2, A.4).
HIGH_BIT = 0x00280102
PIXELS = b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff"  # of undefined length
ITEM, SEQUENCE_END = b"\xfe\xff\0\xe0", b"\xfe\xff\xdd\xe0\0\0\0\0"


def stored_image(data: tf.Tensor, storage: Storage, lakes: Sequence[dict] = ()) -> StoredImage:
    """Return the image as dicom.stored_image does, also of files of SYNTAXES."""
    return dicom.stored_image(data, storage, dicom.Codec(SYNTAXES, decode), lakes)


def decode(frame: tf.Tensor, header: Header) -> tuple:
    """Decode the frame of a grey image: (stored words [H, W] int32, error)."""
    size = tf.stack([header.words[ROWS], header.words[COLUMNS]])
    bits = claimed_bits(frame, header)
    image = tf.cond(
        bits > 0, lambda: _decode_frame(frame, header), lambda: tf.zeros([0], tf.uint16)
    )
    is_whole = tf.size(image, tf.int64) == tf.reduce_prod(size)
    image = tf.cond(is_whole, lambda: tf.reshape(image, size), lambda: tf.zeros([1, 1], tf.uint16))
    words = tf.cast(image, tf.int32)
    error = first_error(
        (
            bits == 0,
            "undecodable: the codestream is cut off, or of another process, size or depth than the "
            "header states",
        ),
        (~is_whole, "undecodable: tensorflow-io finds no image in the codestream"),
        (
            (bits != header.words[BITS_STORED]) & ~_are_within(words, header),
            "undecodable: values in the codestream have more bits than the header states",
        ),
    )
    return words, error


def _decode_frame(frame: tf.Tensor, header: Header) -> tf.Tensor:
    """Return pixels [1, H, W, 1] uint16; [0] where tensorflow-io cannot decode them."""
    import tensorflow_io  # installed only where exports use it: lake/predictions/tfio.py

    decode_file = tensorflow_io.image.decode_dicom_image
    return decode_file(_file(frame, header), on_error="skip", scale="preserve", dtype=tf.uint16)


def _are_within(words: tf.Tensor, header: Header) -> tf.Tensor:
    """Return whether the values of whole words fit into BITS_STORED bits."""
    word_bits, bits, sign = (
        tf.cast(header.words[tag], tf.int32) for tag in (BITS_ALLOCATED, BITS_STORED, SIGNED)
    )
    lowest = tf.bitwise.left_shift(sign, bits - 1)
    above = tf.bitwise.right_shift((words + lowest) % tf.bitwise.left_shift(1, word_bits), bits)
    return tf.reduce_all(above == 0)


def _file(frame: tf.Tensor, header: Header) -> tf.Tensor:
    """Wrap the frame into a DICOM file, [] string, with the fewest elements that DCMTK reads."""
    is_odd = size_of(frame) % 2
    depth = tf.where(header.words[BITS_ALLOCATED] == 8, _depth(8), _depth(16))
    return tf.strings.join(
        [
            tf.gather([_head(syntax) for syntax in SYNTAXES], tf.argmax(header.syntax == SYNTAXES)),
            *(_word(ROWS), _little_endian(header.words[ROWS], 2)),
            *(_word(COLUMNS), _little_endian(header.words[COLUMNS], 2)),
            depth,
            PIXELS + ITEM + bytes(4) + ITEM,  # an empty offset table, then the frame's item
            _little_endian(size_of(frame) + is_odd, 4),
            frame,
            tf.where(is_odd == 1, b"\0", b""),
            SEQUENCE_END,
        ]
    )


def _head(syntax: str) -> bytes:
    """Return the start of the file, up to Rows."""
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    meta = struct.pack("<HH2sH", 0x0002, 0x0010, b"UI", len(uid)) + uid
    length = struct.pack("<HH2sHL", 0x0002, 0x0000, b"UL", 4, len(meta))
    photometric = struct.pack("<HH2sH12s", 0x0028, 0x0004, b"CS", 12, b"MONOCHROME2 ")
    return bytes(128) + b"DICM" + length + meta + _word(SAMPLES, 1) + photometric


def _depth(word_bits: int) -> bytes:
    """Return the elements that declare unsigned words of `word_bits` bits."""
    values = {BITS_ALLOCATED: word_bits, BITS_STORED: word_bits, HIGH_BIT: word_bits - 1, SIGNED: 0}
    return b"".join(_word(tag, value) for tag, value in values.items())


def _word(tag: int, value: int | None = None) -> bytes:
    """Return an element of one word; without a value, all of the element that precedes it."""
    head = struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, b"US", 2)
    return head if value is None else head + struct.pack("<H", value)


def _little_endian(number: tf.Tensor, count: int) -> tf.Tensor:
    """Return a number as `count` little-endian bytes, [] string."""
    octets = tf.bitwise.right_shift(number, 8 * np.arange(count)) % 256
    return tf.strings.reduce_join(tf.gather([bytes([octet]) for octet in range(256)], octets))
