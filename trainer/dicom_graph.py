"""A DICOM file as the converter would store it, by TensorFlow's own operations, so that a
SavedModel takes DICOM files: file [] string -> Stored.

It reads what radiographs mostly are: one grey image of 8 or 16 bits allocated, uncompressed little
endian or JPEG Baseline, seen through a linear window. Of all else, of damaged files and of bytes
that are no DICOM it says what they are; it never fails, and never shows another image than
lake.sources.dicom.read_scan.
"""

import math
from typing import NamedTuple

import tensorflow as tf
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from lake import InputError
from lake.sources import MAX_FILE_BYTES, MAX_PIXELS, Storage, dicom, elements, frames, grey, pixels
from lake.sources.elements import PIXEL_DATA, TRANSFER_SYNTAX
from trainer import dicom_grey
from trainer.dicom_codestream import bare_jpeg, joined_fragments
from trainer.dicom_elements import (
    MAX_ELEMENTS,
    Stop,
    Walk,
    are_numbers,
    first_error,
    first_numbers,
    has_vr,
    is_binary,
    is_filled,
    is_long,
    is_there,
    said,
    size_of,
    text,
    walk,
    word,
)

PLANAR_CONFIGURATION = 0x00280006
WORDS = (
    *(frames.ROWS, frames.COLUMNS, frames.SAMPLES),
    *(frames.BITS_ALLOCATED, frames.BITS_STORED, frames.SIGNED),
)
DECIMALS = (
    *(grey.RESCALE_SLOPE, grey.RESCALE_INTERCEPT, grey.WINDOW_CENTER, grey.WINDOW_WIDTH),
    *(dicom.PIXEL_SPACING, dicom.IMAGER_SPACING, dicom.POSITION),
)
DEFAULTS = (1.0, 0.0, math.nan, math.nan)  # of the first four
GROUPS = (frames.SHARED_GROUPS, frames.FRAME_GROUPS)
OFFSETS = (frames.EXTENDED_OFFSETS, frames.EXTENDED_LENGTHS)
TAGS = sorted({*dicom.HEADER_TAGS, *dicom.SCAN_TAGS, PLANAR_CONFIGURATION})
TEXTS = dicom.HEADER_TAGS - {*WORDS, frames.PALETTE, grey.MODALITY_LUTS}
TEXTS = sorted({*TEXTS, *DECIMALS, grey.VOI_FUNCTION})
SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, JPEGBaseline8Bit)
JPEG_BITS = 8


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


class Header(NamedTuple):
    """What is asked of the elements; [] where nothing else is said."""

    is_jpeg: tf.Tensor
    photometric: tf.Tensor
    words: dict[int, tf.Tensor]  # of WORDS, int64; -1 where there is none
    are_decimals: tf.Tensor  # all of DECIMALS
    numbers: dicom_grey.Numbers
    is_sigmoid: tf.Tensor


@tf.autograph.experimental.do_not_convert  # nothing in it is Python's to branch on
def stored(data: tf.Tensor, storage: Storage) -> Stored:
    """The image of a whole DICOM file, [] string, as a lake of `storage` holds it."""
    if storage.clahe:
        raise InputError("a lake made with --clahe: TensorFlow has no such operation; use predict")
    pixels.parse_window(storage.window)  # raises InputError
    found, syntax, error = _elements(data)
    header = _header(found, syntax)
    error = tf.cond(error == "", lambda: _header_error(found, header, storage), lambda: error)
    return tf.cond(
        error == "", lambda: _image(found, header, storage), lambda: refused(error, storage)
    )


def _elements(data: tf.Tensor) -> tuple[Walk, tf.Tensor, tf.Tensor]:
    """(elements, transfer syntax, error) of a file."""
    size = size_of(data)
    has_prefix = tf.strings.substr(data, tf.minimum(size, 128), 4) == b"DICM"
    start = tf.where(has_prefix, tf.constant(132, tf.int64), 0)
    group = tf.strings.substr(data, start, 2)
    is_dicom = has_prefix | tf.reduce_any(group == [b"\2\0", b"\x08\0", b"\0\x08"])
    has_meta = group == b"\2\0"
    meta = walk(data, tf.where(has_meta, start, size), (TRANSFER_SYNTAX,), last_group=2)
    start = tf.where(has_meta, meta.at, start)
    syntax = text(meta, TRANSFER_SYNTAX)
    syntax = tf.where(syntax == "", _guessed_syntax(data, start), syntax)
    error = first_error(
        (size > MAX_FILE_BYTES, f"too-large: expected at most {MAX_FILE_BYTES} bytes"),
        (~is_dicom, "not-dicom: no DICM prefix and no first group 0002 or 0008"),
        (
            (meta.stop != Stop.END) | is_long(meta, TRANSFER_SYNTAX),
            "unreadable-header: file meta information that ends or contradicts itself",
        ),
        (
            tf.reduce_all(syntax != SYNTAXES),
            "unsupported-syntax: expected implicit or explicit little endian or JPEG Baseline; "
            "convert the file, or use predict",
        ),
    )
    found = walk(data, tf.where(error == "", start, size), TAGS)
    no_image = tf.where(has_prefix, "no-pixels", "not-dicom")
    walk_error = first_error(
        (found.stop == Stop.CUT, "unreadable-header: the file ends inside an element"),
        (
            found.stop == Stop.DEEP,
            f"unreadable-header: sequences nested deeper than {elements.MAX_DEPTH}",
        ),
        (found.stop == Stop.NONE, f"too-large: more than {MAX_ELEMENTS} elements; use predict"),
        (
            found.stop == Stop.FLOATS,
            "too-many-bits: floating-point pixels, expected integers of at most 16 bits",
        ),
        (
            found.stop == Stop.END,
            lambda: tf.strings.join([no_image, ": no (7FE0,0010) Pixel Data"]),
        ),
    )
    return found, syntax, tf.where(error == "", walk_error, error)


def _guessed_syntax(data: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """The uncompressed syntax of a data set, from its first group and representation."""
    head = tf.strings.substr(data, start, 6)
    is_explicit = tf.strings.regex_full_match(
        tf.strings.substr(head, tf.minimum(size_of(head), 4), 2), "[A-Z]{2}"
    )
    is_big = tf.strings.substr(head, 0, 1) == b"\0"
    explicit = tf.where(is_big, ExplicitVRBigEndian, ExplicitVRLittleEndian)
    return tf.where(is_explicit, explicit, ImplicitVRLittleEndian)


def _header(found: Walk, syntax: tf.Tensor) -> Header:
    decimals = tf.stack([text(found, tag) for tag in DECIMALS])
    are_decimals = are_numbers(decimals)
    numbers = tf.where(are_decimals, decimals, "")[: len(DEFAULTS)]
    slope, intercept, center, width = tf.unstack(first_numbers(numbers, DEFAULTS))
    function = text(found, grey.VOI_FUNCTION)
    return Header(
        is_jpeg=syntax == JPEGBaseline8Bit,
        photometric=text(found, frames.PHOTOMETRIC),
        words={tag: word(found, tag) for tag in WORDS},
        are_decimals=tf.reduce_all(are_decimals),
        numbers=dicom_grey.Numbers(
            *dicom_grey.rescale(slope, intercept), center, width, function == "LINEAR_EXACT"
        ),
        is_sigmoid=function == "SIGMOID",
    )


def _header_error(found: Walk, header: Header, storage: Storage) -> tf.Tensor:
    """What of the elements is no image that can be read here, [] string."""
    rows, columns, samples, allocated, bits, sign = (header.words[tag] for tag in WORDS)
    is_grey = tf.reduce_any(header.photometric == ["MONOCHROME1", "MONOCHROME2"]) & (samples == 1)
    frame_count = text(found, frames.FRAMES)
    has_groups = tf.reduce_any([is_filled(found, tag) for tag in GROUPS])
    has_curve = is_filled(found, grey.VOI_LUTS) | header.is_sigmoid
    is_jpeg_grey = (allocated == JPEG_BITS) & (bits == JPEG_BITS) & (sign == 0)
    is_jpeg_grey &= ~tf.reduce_any([is_filled(found, tag) for tag in OFFSETS])
    start, _, is_open, end = tf.unstack(found.places[PIXEL_DATA])
    octets_expected = rows * columns * allocated // 8
    is_enough = (is_open == 0) & (end - start >= octets_expected)
    return first_error(
        (
            tf.reduce_any([is_long(found, tag) for tag in TEXTS]),
            f"unreadable-header: a text of more than {elements.MAX_TEXT_BYTES} bytes",
        ),
        (
            ~header.are_decimals | tf.reduce_any([is_binary(found, tag) for tag in DECIMALS]),
            "undecodable: a rescale, window, spacing or position that is no decimal number",
        ),
        (
            (rows <= 0) | (columns <= 0) | (bits <= 0),
            "no-pixels: no Rows, Columns and Bits Stored: not an image",
        ),
        (rows * columns > MAX_PIXELS, f"too-large: expected at most {MAX_PIXELS} pixels"),
        (bits > 16, said("too-many-bits: {} bits a pixel, expected at most 16", bits)),
        (
            ~tf.strings.regex_full_match(frame_count, "0*1|") | has_groups,
            "multi-frame: more than one frame, or functional groups; expected one plain frame",
        ),
        (
            ~is_grey,
            "unknown-colour: expected MONOCHROME1 or MONOCHROME2 with one sample a pixel",
        ),
        (
            ((allocated != 8) & (allocated != 16)) | (bits > allocated),
            said(
                "undecodable: {} bits of {}, expected at most 8 of 8 or 16 of 16", bits, allocated
            ),
        ),
        ((sign != 0) & (sign != 1), "undecodable: a Pixel Representation other than 0 and 1"),
        (~_has_usual_vrs(found), "undecodable: a representation that its element does not have"),
        (
            is_filled(found, grey.MODALITY_LUTS) | (has_curve & (storage.window == "default")),
            "undecodable: a lookup table or a sigmoid, expected rescale and a linear window; use "
            "predict",
        ),
        (
            header.is_jpeg & ~is_jpeg_grey,
            "undecodable: expected 8 unsigned bits of JPEG Baseline, without extended offsets",
        ),
        (
            ~header.is_jpeg & ~is_enough,
            said("undecodable: {} bytes of pixel data, expected {}", end - start, octets_expected),
        ),
    )


def _has_usual_vrs(found: Walk) -> tf.Tensor:
    """Whether pydicom reads what is read here as text or not at all."""
    planar_start, _, _, planar_end = tf.unstack(found.places[PLANAR_CONFIGURATION])
    return (
        has_vr(found, frames.PHOTOMETRIC, "CS")
        & has_vr(found, frames.FRAMES, "IS")
        & has_vr(found, PIXEL_DATA, "OB", "OW")
        & has_vr(found, PLANAR_CONFIGURATION, "US")
        & ((planar_start == 0) | (planar_end - planar_start == 2))
    )


def _image(found: Walk, header: Header, storage: Storage) -> Stored:
    return tf.cond(
        header.is_jpeg,
        lambda: _from_jpeg(found, header, storage),
        lambda: _from_values(_native(found, header), header, storage),
    )


def _from_jpeg(found: Walk, header: Header, storage: Storage) -> Stored:
    start, _, _, end = tf.unstack(found.places[PIXEL_DATA])
    height, width = header.words[frames.ROWS], header.words[frames.COLUMNS]
    frame, error = joined_fragments(found.data, start, end)
    jpeg, jpeg_error = bare_jpeg(frame, height, width)
    error = tf.where(error == "", jpeg_error, error)
    is_kept = header.photometric == "MONOCHROME2"
    is_kept &= tf.reduce_all(_size(header, storage) == _size(header))
    is_kept &= ~is_there(found, grey.MODALITY_LUTS)
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
    view = dicom_grey.window(numbers, (0.0, float(highest)))
    if storage.window != "default":
        rescale = (numbers.slope, numbers.intercept)
        levels = _decoded(jpeg) if storage.window == "percentile" else None
        view = dicom_grey.view(dicom_grey.Grey(levels, highest, rescale, view), storage)
    return _stored(header, storage, jpeg, no_pixels(storage), view)


def _decoded(jpeg: tf.Tensor) -> tf.Tensor:
    values = tf.io.decode_jpeg(jpeg, channels=1, dct_method="INTEGER_ACCURATE")
    return tf.cast(values[..., 0], tf.int32)


def _native(found: Walk, header: Header) -> tf.Tensor:
    """Stored words of uncompressed pixel data, [H, W] int32."""
    start = found.places[PIXEL_DATA][0]
    allocated, size = header.words[frames.BITS_ALLOCATED], _size(header)
    octets = tf.cast(tf.reduce_prod(tf.cast(size, tf.int64)), tf.int64) * allocated // 8
    data = tf.strings.substr(found.data, start, octets)
    values = tf.cond(
        allocated == 8,
        lambda: tf.cast(tf.io.decode_raw(data, tf.uint8), tf.int32),
        lambda: tf.cast(tf.io.decode_raw(data, tf.uint16), tf.int32),
    )
    return tf.reshape(values, size)


def _from_values(values: tf.Tensor, header: Header, storage: Storage) -> Stored:
    levels = dicom_grey.from_values(
        values,
        header.numbers,
        bits=tf.cast(header.words[frames.BITS_STORED], tf.int32),
        is_signed=header.words[frames.SIGNED] == 1,
        is_monochrome1=header.photometric == "MONOCHROME1",
    )
    image, view = dicom_grey.stored(levels, storage, _size(header, storage))
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
    return dicom_grey.shrunk_size(height, width, storage.max_side if storage else None)
