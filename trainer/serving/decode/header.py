"""The header of a DICOM file, inside a TensorFlow graph, and whether dicom.py can read its image:
file [] string -> Walk, Header, error."""

import math
from typing import NamedTuple

import tensorflow as tf
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from lake.scan import MAX_FILE_BYTES, MAX_PIXELS
from lake.sources import dicom, elements, frames
from lake.sources.elements import PIXEL_DATA, TRANSFER_SYNTAX
from lake.sources.grey import (
    MODALITY_LUTS,
    RESCALE_INTERCEPT,
    RESCALE_SLOPE,
    VOI_FUNCTION,
    VOI_LUTS,
    WINDOW_CENTER,
    WINDOW_WIDTH,
)
from trainer.serving.decode.elements import (
    MAX_ELEMENTS,
    Stop,
    Walk,
    are_numbers,
    first_error,
    first_numbers,
    format_error,
    has_vr,
    is_binary,
    is_filled,
    is_long,
    size_of,
    text,
    walk_elements,
    word,
)
from trainer.serving.decode.grey import Numbers, rescale

PLANAR_CONFIGURATION = 0x00280006
WORDS = (
    *(frames.ROWS, frames.COLUMNS, frames.SAMPLES),
    *(frames.BITS_ALLOCATED, frames.BITS_STORED, frames.SIGNED),
)
DECIMALS = (
    *(RESCALE_SLOPE, RESCALE_INTERCEPT, WINDOW_CENTER, WINDOW_WIDTH),
    *(dicom.PIXEL_SPACING, dicom.IMAGER_SPACING, dicom.POSITION),
)
DEFAULTS = (1.0, 0.0, math.nan, math.nan)  # of the first four of DECIMALS
GROUPS = (frames.SHARED_GROUPS, frames.FRAME_GROUPS)
OFFSETS = (frames.EXTENDED_OFFSETS, frames.EXTENDED_LENGTHS)
TAGS = sorted({*dicom.HEADER_TAGS, *dicom.SCAN_TAGS, PLANAR_CONFIGURATION})
TEXTS = dicom.HEADER_TAGS - {*WORDS, frames.PALETTE, MODALITY_LUTS}
TEXTS = sorted({*TEXTS, *DECIMALS, VOI_FUNCTION})
NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
SYNTAXES = (*NATIVE, JPEGBaseline8Bit)  # TensorFlow's own operations decode these
JPEG_BITS = 8


class Header(NamedTuple):
    """The values of the elements that decoding needs; tensors are [] unless another shape is
    given."""

    syntax: tf.Tensor
    is_jpeg: tf.Tensor  # JPEG Baseline
    photometric: tf.Tensor
    words: dict[int, tf.Tensor]  # by tag of WORDS, int64; -1 where absent
    are_decimals: tf.Tensor  # whether all of DECIMALS are numbers
    numbers: Numbers
    is_sigmoid: tf.Tensor


def read_elements(
    data: tf.Tensor, syntaxes: tuple[str, ...] = SYNTAXES
) -> tuple[Walk, tf.Tensor, tf.Tensor]:
    """Return (walk over the elements, transfer syntax, error) of a file; another syntax is an
    error."""
    size = size_of(data)
    has_prefix = tf.strings.substr(data, tf.minimum(size, 128), 4) == b"DICM"
    start = tf.where(has_prefix, tf.constant(132, tf.int64), 0)
    group = tf.strings.substr(data, start, 2)
    is_dicom = has_prefix | tf.reduce_any(group == [b"\2\0", b"\x08\0", b"\0\x08"])
    has_meta = group == b"\2\0"
    meta = walk_elements(data, tf.where(has_meta, start, size), (TRANSFER_SYNTAX,), last_group=2)
    start = tf.where(has_meta, meta.position, start)
    syntax = text(meta, TRANSFER_SYNTAX)
    syntax = tf.where(syntax == "", _guess_syntax(data, start), syntax)
    error = first_error(
        (size > MAX_FILE_BYTES, f"too-large: expected at most {MAX_FILE_BYTES} bytes"),
        (~is_dicom, "not-dicom: no DICM prefix and no first group 0002 or 0008"),
        (
            (meta.stop != Stop.END) | is_long(meta, TRANSFER_SYNTAX),
            "unreadable-header: file meta information that ends or contradicts itself",
        ),
        (
            tf.reduce_all(syntax != syntaxes),
            f"unsupported-syntax: expected {_syntax_names(syntaxes)}; convert the file, or use "
            f"predict",
        ),
    )
    start = tf.where(error == "", start, size)
    walk = tf.cond(
        syntax == ExplicitVRBigEndian,
        lambda: walk_elements(data, start, TAGS, is_big=True),
        lambda: walk_elements(data, start, TAGS),
    )
    no_image = tf.where(has_prefix, "no-pixels", "not-dicom")
    walk_error = first_error(
        (walk.stop == Stop.CUT, "unreadable-header: the file ends inside an element"),
        (
            walk.stop == Stop.DEEP,
            f"unreadable-header: sequences nested deeper than {elements.MAX_DEPTH}",
        ),
        (walk.stop == Stop.NONE, f"too-large: more than {MAX_ELEMENTS} elements; use predict"),
        (
            walk.stop == Stop.FLOATS,
            "too-many-bits: floating-point pixels, expected integers of at most 16 bits",
        ),
        (
            walk.stop == Stop.END,
            lambda: tf.strings.join([no_image, ": no (7FE0,0010) Pixel Data"]),
        ),
    )
    return walk, syntax, tf.where(error == "", walk_error, error)


def _syntax_names(syntaxes: tuple[str, ...]) -> str:
    """Return the names of transfer syntaxes as a list in a sentence."""
    names = [UID(syntax).name for syntax in syntaxes]
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _guess_syntax(data: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """Guess the uncompressed syntax of a data set from its first group and representation."""
    head = tf.strings.substr(data, start, 6)
    is_explicit = tf.strings.regex_full_match(
        tf.strings.substr(head, tf.minimum(size_of(head), 4), 2), "[A-Z]{2}"
    )
    is_big = tf.strings.substr(head, 0, 1) == b"\0"
    explicit = tf.where(is_big, ExplicitVRBigEndian, ExplicitVRLittleEndian)
    return tf.where(is_explicit, explicit, ImplicitVRLittleEndian)


def read_header(walk: Walk, syntax: tf.Tensor) -> Header:
    """Return the values of the elements that decoding needs."""
    decimals = tf.stack([text(walk, tag) for tag in DECIMALS])
    are_decimals = are_numbers(decimals)
    numbers = tf.where(are_decimals, decimals, "")[: len(DEFAULTS)]
    slope, intercept, center, width = tf.unstack(first_numbers(numbers, DEFAULTS))
    function = text(walk, VOI_FUNCTION)
    return Header(
        syntax=syntax,
        is_jpeg=syntax == JPEGBaseline8Bit,
        photometric=text(walk, frames.PHOTOMETRIC),
        words={tag: word(walk, tag) for tag in WORDS},
        are_decimals=tf.reduce_all(are_decimals),
        numbers=Numbers(*rescale(slope, intercept), center, width, function == "LINEAR_EXACT"),
        is_sigmoid=function == "SIGMOID",
    )


def refusal(walk: Walk, header: Header, is_presented: bool) -> tf.Tensor:
    """Return why the image cannot be read here, [] string; "" where it can.

    With `is_presented` the converter would apply the file's own curve, which the graph cannot.
    """
    rows, columns, samples, allocated, bits, sign = (header.words[tag] for tag in WORDS)
    is_grey = tf.reduce_any(header.photometric == ["MONOCHROME1", "MONOCHROME2"]) & (samples == 1)
    frame_count = text(walk, frames.FRAMES)
    has_groups = tf.reduce_any([is_filled(walk, tag) for tag in GROUPS])
    has_curve = is_filled(walk, VOI_LUTS) | header.is_sigmoid
    return first_error(
        (
            tf.reduce_any([is_long(walk, tag) for tag in TEXTS]),
            f"unreadable-header: a text of more than {elements.MAX_TEXT_BYTES} bytes",
        ),
        (
            ~header.are_decimals | tf.reduce_any([is_binary(walk, tag) for tag in DECIMALS]),
            "undecodable: a rescale, window, spacing or position that is not a decimal number",
        ),
        (
            (rows <= 0) | (columns <= 0) | (bits <= 0),
            "no-pixels: no Rows, Columns and Bits Stored: not an image",
        ),
        (rows * columns > MAX_PIXELS, f"too-large: expected at most {MAX_PIXELS} pixels"),
        (bits > 16, format_error("too-many-bits: {} bits per pixel, expected at most 16", bits)),
        (
            ~tf.strings.regex_full_match(frame_count, "0*1|") | has_groups,
            "multi-frame: more than one frame, or functional groups; expected one plain frame",
        ),
        (
            ~is_grey,
            "unknown-colour: expected MONOCHROME1 or MONOCHROME2 with one sample per pixel",
        ),
        (
            ((allocated != 8) & (allocated != 16)) | (bits > allocated),
            format_error(
                "undecodable: {} bits of {}, expected at most 8 of 8 or 16 of 16", bits, allocated
            ),
        ),
        ((sign != 0) & (sign != 1), "undecodable: a Pixel Representation other than 0 and 1"),
        (
            ~_is_read_alike(walk),
            "undecodable: an element with an unusual representation or padding",
        ),
        (
            is_filled(walk, MODALITY_LUTS) | (has_curve & is_presented),
            "undecodable: a lookup table or a sigmoid, expected rescale and a linear window; use "
            "predict",
        ),
        *_pixel_data_checks(walk, header),
    )


def _pixel_data_checks(walk: Walk, header: Header) -> tuple:
    """Return the checks (holds, error) of the pixel data, raw or encapsulated."""
    rows, columns, _, allocated, bits, sign = (header.words[tag] for tag in WORDS)
    is_native = tf.reduce_any(header.syntax == NATIVE)
    is_jpeg_grey = (allocated == JPEG_BITS) & (bits == JPEG_BITS) & (sign == 0)
    has_offsets = tf.reduce_any([is_filled(walk, tag) for tag in OFFSETS])
    start, _, is_open, end = tf.unstack(walk.places[PIXEL_DATA])
    size, expected = end - start, rows * columns * allocated // 8  # bytes
    is_enough = (is_open == 0) & (size >= expected)
    few_bytes = format_error("undecodable: {} bytes of pixel data, expected {}", size, expected)
    return (
        (header.is_jpeg & ~is_jpeg_grey, "undecodable: expected 8 unsigned bits of JPEG Baseline"),
        (~is_native & has_offsets, "undecodable: extended offsets, expected fragments of a frame"),
        (is_native & ~is_enough, few_bytes),
    )


def _is_read_alike(walk: Walk) -> tf.Tensor:
    """Return whether pydicom, too, would read the elements that are read here as text or
    ignored."""
    # A big-endian word holds two pixels of 8 bits, swapped.
    is_paired = walk.is_big & ~has_vr(walk, PIXEL_DATA, "OB")
    is_paired &= word(walk, frames.BITS_ALLOCATED) == 8
    planar_start, _, _, planar_end = tf.unstack(walk.places[PLANAR_CONFIGURATION])
    first = tf.strings.substr(walk.data, walk.places[frames.PHOTOMETRIC][0], 1)
    return (
        (first == "M")  # pydicom strips no padding before it
        & ~is_paired
        & has_vr(walk, frames.PHOTOMETRIC, "CS")
        & has_vr(walk, frames.FRAMES, "IS")
        & has_vr(walk, PIXEL_DATA, "OB", "OW")
        & has_vr(walk, PLANAR_CONFIGURATION, "US")
        & ((planar_start == 0) | (planar_end - planar_start == 2))
    )
