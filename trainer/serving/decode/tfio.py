"""Compressed DICOM frames decoded inside a graph by tensorflow-io (DCMTK, OpenJPEG), for an export
that takes more transfer syntaxes than TensorFlow's own operations do.

tensorflow-io gets each frame in a file of our own making, which says unsigned MONOCHROME2. Of the
original's header it would take a view of its own: it shifts signed values, rescales, turns
MONOCHROME1 over. So words come out as they are stored, and go on as dicom_graph's.
"""

import struct

import numpy as np
import tensorflow as tf

from lake.scan import Storage
from lake.sources.frames import BITS_ALLOCATED, BITS_STORED, COLUMNS, ROWS, SAMPLES, SIGNED
from trainer.serving.decode import dicom
from trainer.serving.decode.claims import SYNTAXES, claimed_bits
from trainer.serving.decode.elements import first_error, size_of
from trainer.serving.decode.header import Header

# Of the file around a frame (PS3.5 7.1.2, A.4).
HIGH_BIT = 0x00280102
PIXELS = b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff"  # of undefined length
ITEM, SEQUENCE_END = b"\xfe\xff\0\xe0", b"\xfe\xff\xdd\xe0\0\0\0\0"


def stored_image(data: tf.Tensor, storage: Storage) -> dicom.StoredImage:
    """As dicom_graph.stored, of files of SYNTAXES too."""
    return dicom.stored_image(data, storage, dicom.Codec(SYNTAXES, values))


def values(frame: tf.Tensor, header: Header) -> tuple:
    """(stored words [H, W] int32, error) of the frame of a grey image."""
    size = tf.stack([header.words[ROWS], header.words[COLUMNS]])
    bits = claimed_bits(frame, header)
    image = tf.cond(bits > 0, lambda: _decoded(frame, header), lambda: tf.zeros([0], tf.uint16))
    is_whole = tf.size(image, tf.int64) == tf.reduce_prod(size)
    image = tf.cond(is_whole, lambda: tf.reshape(image, size), lambda: tf.zeros([1, 1], tf.uint16))
    words = tf.cast(image, tf.int32)
    error = first_error(
        (
            bits == 0,
            "undecodable: the codestream is cut off, or of another process, size or depth than the "
            "header says",
        ),
        (~is_whole, "undecodable: tensorflow-io finds no image in the codestream"),
        (
            (bits != header.words[BITS_STORED]) & ~_are_within(words, header),
            "undecodable: values in the codestream are of more bits than the header says",
        ),
    )
    return words, error


def _decoded(frame: tf.Tensor, header: Header) -> tf.Tensor:
    """[1, H, W, 1] uint16; [0] where tensorflow-io cannot."""
    import tensorflow_io  # only there: lake/predictions/tfio.py

    decode = tensorflow_io.image.decode_dicom_image
    return decode(_file(frame, header), on_error="skip", scale="preserve", dtype=tf.uint16)


def _are_within(words: tf.Tensor, header: Header) -> tf.Tensor:
    """Whether BITS_STORED hold the values of whole words."""
    allocated, bits, sign = (
        tf.cast(header.words[tag], tf.int32) for tag in (BITS_ALLOCATED, BITS_STORED, SIGNED)
    )
    lowest = tf.bitwise.left_shift(sign, bits - 1)
    above = tf.bitwise.right_shift((words + lowest) % tf.bitwise.left_shift(1, allocated), bits)
    return tf.reduce_all(above == 0)


def _file(frame: tf.Tensor, header: Header) -> tf.Tensor:
    """A DICOM file around the frame, [] string: as few elements as DCMTK takes."""
    is_odd = size_of(frame) % 2
    depth = tf.where(header.words[BITS_ALLOCATED] == 8, _depth(8), _depth(16))
    return tf.strings.join(
        [
            tf.gather([_head(syntax) for syntax in SYNTAXES], tf.argmax(header.syntax == SYNTAXES)),
            *(_word(ROWS), _little_endian(header.words[ROWS], 2)),
            *(_word(COLUMNS), _little_endian(header.words[COLUMNS], 2)),
            depth,
            PIXELS + ITEM + bytes(4) + ITEM,  # of the offset table, and of the frame
            _little_endian(size_of(frame) + is_odd, 4),
            frame,
            tf.where(is_odd == 1, b"\0", b""),
            SEQUENCE_END,
        ]
    )


def _head(syntax: str) -> bytes:
    """Up to Rows."""
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    meta = struct.pack("<HH2sH", 0x0002, 0x0010, b"UI", len(uid)) + uid
    length = struct.pack("<HH2sHL", 0x0002, 0x0000, b"UL", 4, len(meta))
    photometric = struct.pack("<HH2sH12s", 0x0028, 0x0004, b"CS", 12, b"MONOCHROME2 ")
    return bytes(128) + b"DICM" + length + meta + _word(SAMPLES, 1) + photometric


def _depth(allocated: int) -> bytes:
    """Whole unsigned words."""
    values = {BITS_ALLOCATED: allocated, BITS_STORED: allocated, HIGH_BIT: allocated - 1, SIGNED: 0}
    return b"".join(_word(tag, value) for tag, value in values.items())


def _word(tag: int, value: int | None = None) -> bytes:
    """An element of one word, or all of it but the value."""
    head = struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, b"US", 2)
    return head if value is None else head + struct.pack("<H", value)


def _little_endian(number: tf.Tensor, count: int) -> tf.Tensor:
    """A number as bytes, [] string."""
    octets = tf.bitwise.right_shift(number, 8 * np.arange(count)) % 256
    return tf.strings.reduce_join(tf.gather([bytes([octet]) for octet in range(256)], octets))
