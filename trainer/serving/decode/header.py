"""The header of a DICOM file, inside a TensorFlow graph, and whether dicom.py can read its image:
file [] string -> Walk, Header, error."""

import math
from typing import NamedTuple

import tensorflow as tf
from pydicom import uid

from lake.scan import MAX_FILE_BYTES, MAX_PIXELS
from lake.sources.dicom import dicom, frames, grey, image_module, padding
from lake.sources.dicom.elements import (
    MAX_DEPTH,
    MAX_TEXT_BYTES,
    PIXEL_DATA,
    REPRESENTATIONS,
    TRANSFER_SYNTAX,
)
from trainer.serving.decode import elements, exams
from trainer.serving.decode.elements import Stop, Walk, first_error, format_error, walk_elements
from trainer.serving.decode.grey import Numbers, rescale

PLANAR_CONFIGURATION = 0x00280006
WORDS = (
    *(image_module.ROWS, image_module.COLUMNS, image_module.SAMPLES),
    *(image_module.BITS_ALLOCATED, image_module.BITS_STORED, image_module.SIGNED),
)
DECIMALS = (
    *(grey.RESCALE_SLOPE, grey.RESCALE_INTERCEPT, grey.WINDOW_CENTER, grey.WINDOW_WIDTH),
    *(*dicom.SPACINGS, dicom.POSITION),
)
DEFAULTS = (1.0, 0.0, math.nan, math.nan)  # of the first four of DECIMALS
TAGS = sorted({*dicom.HEADER_TAGS, *dicom.SCAN_TAGS, *exams.TAGS, PLANAR_CONFIGURATION})
TEXTS = dicom.HEADER_TAGS - {*WORDS, image_module.PALETTE, grey.MODALITY_LUTS}
TEXTS = sorted({*TEXTS, *DECIMALS, grey.VOI_FUNCTION})
NATIVE = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)
SYNTAXES = (*NATIVE, uid.JPEGBaseline8Bit)  # TensorFlow's own operations decode these
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


def read(
    data: tf.Tensor, syntaxes: tuple[str, ...], is_presented: bool
) -> tuple[Walk, Header, tf.Tensor]:
    """Return (walk over the elements, header, error) of a file.

    The error, [] string, says why the image cannot be read here: among others, for a transfer
    syntax that is not one of `syntaxes`. With `is_presented` the converter would apply the file's
    own curve, which the graph cannot.
    """
    walk, syntax, error = _read_elements(data, syntaxes)
    header = _read_header(walk, syntax)
    error = tf.cond(error == "", lambda: _refusal(walk, header, is_presented), lambda: error)
    return walk, header, error


def _read_elements(data: tf.Tensor, syntaxes: tuple[str, ...]) -> tuple:
    """Return (Walk over the elements, transfer syntax, error) of a file; another syntax is an
    error."""
    size = elements.size_of(data)
    has_prefix = tf.strings.substr(data, tf.minimum(size, 128), 4) == b"DICM"
    start = tf.where(has_prefix, tf.constant(132, tf.int64), 0)
    group = tf.strings.substr(data, start, 2)
    is_dicom = has_prefix | tf.reduce_any(group == [b"\2\0", b"\x08\0", b"\0\x08"])
    has_meta = group == b"\2\0"
    has_no_vr = tf.constant(False)
    meta_start = tf.where(has_meta, start, size)
    meta = walk_elements(data, meta_start, (TRANSFER_SYNTAX,), has_no_vr, last_group=2)
    start = tf.where(has_meta, meta.position, start)
    syntax = meta.text(TRANSFER_SYNTAX)
    syntax = tf.where(syntax == "", _guess_syntax(data, start), syntax)
    names = [uid.UID(syntax).name for syntax in syntaxes]
    error = first_error(
        (size > MAX_FILE_BYTES, f"too-large: expected at most {MAX_FILE_BYTES} bytes"),
        (~is_dicom, "not-dicom: no DICM prefix and no first group 0002 or 0008"),
        (
            (meta.stop != Stop.END) | meta.is_long(TRANSFER_SYNTAX),
            "unreadable-header: file meta information that ends or contradicts itself",
        ),
        (
            tf.reduce_all(syntax != syntaxes),
            f"unsupported-syntax: expected {', '.join(names[:-1])} or {names[-1]}; convert the "
            f"file, or use predict",
        ),
    )
    start = tf.where(error == "", start, size)
    walk = tf.cond(
        syntax == uid.ExplicitVRBigEndian,
        lambda: walk_elements(data, start, TAGS, has_no_vr, is_big=True),
        lambda: walk_elements(data, start, TAGS, syntax == uid.ImplicitVRLittleEndian),
    )
    no_image = tf.where(has_prefix, "no-pixels", "not-dicom")
    walk_error = first_error(
        (walk.stop == Stop.CUT, "unreadable-header: the file ends inside an element"),
        (
            walk.stop == Stop.ODD,
            "unreadable-header: elements out of order or of an unexpected representation; use "
            "predict",
        ),
        (walk.stop == Stop.DEEP, f"unreadable-header: sequences nested deeper than {MAX_DEPTH}"),
        (
            walk.stop == Stop.NONE,
            f"too-large: more than {elements.MAX_ELEMENTS} elements; use predict",
        ),
        (
            walk.stop == Stop.FLOATS,
            "too-many-bits: floating-point pixels, expected integers of at most 16 bits",
        ),
        (walk.stop == Stop.END, lambda: tf.strings.join([no_image, ": no (7FE0,0010) Pixel Data"])),
    )
    return walk, syntax, tf.where(error == "", walk_error, error)


def _guess_syntax(data: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """Guess the uncompressed syntax of a data set from its first group and representation."""
    head = tf.strings.substr(data, start, 6)
    representation = tf.strings.substr(head, tf.minimum(elements.size_of(head), 4), 2)
    is_explicit = tf.reduce_any(representation == sorted(REPRESENTATIONS))
    is_big = tf.strings.substr(head, 0, 1) == b"\0"
    explicit = tf.where(is_big, uid.ExplicitVRBigEndian, uid.ExplicitVRLittleEndian)
    return tf.where(is_explicit, explicit, uid.ImplicitVRLittleEndian)


def _read_header(walk: Walk, syntax: tf.Tensor) -> Header:
    """Return the values of the elements that decoding needs."""
    decimals = tf.stack([walk.text(tag) for tag in DECIMALS])
    are_decimals = elements.are_numbers(decimals)
    numbers = tf.where(are_decimals, decimals, "")[: len(DEFAULTS)]
    slope, intercept, center, width = tf.unstack(elements.first_numbers(numbers, DEFAULTS))
    function = walk.text(grey.VOI_FUNCTION)
    return Header(
        syntax=syntax,
        is_jpeg=syntax == uid.JPEGBaseline8Bit,
        photometric=walk.text(image_module.PHOTOMETRIC),
        words={tag: walk.word(tag) for tag in WORDS},
        are_decimals=tf.reduce_all(are_decimals),
        numbers=Numbers(*rescale(slope, intercept), center, width, function == "LINEAR_EXACT"),
        is_sigmoid=function == "SIGMOID",
    )


def _refusal(walk: Walk, header: Header, is_presented: bool) -> tf.Tensor:
    """Return the error of an image of a known syntax that cannot be read here, [] string; "" where
    it can."""
    rows, columns, samples, _, bits_stored, _ = (header.words[tag] for tag in WORDS)
    is_grey = tf.reduce_any(header.photometric == ["MONOCHROME1", "MONOCHROME2"]) & (samples == 1)
    frame_count = walk.text(image_module.FRAMES)
    has_groups = walk.is_filled(frames.SHARED_GROUPS) | walk.is_filled(frames.FRAME_GROUPS)
    too_many_bits = "too-many-bits: {} bits per pixel, expected at most 16"
    too_many_bits = format_error(too_many_bits, bits_stored)
    has_curve = walk.is_filled(grey.VOI_LUTS) | header.is_sigmoid
    return first_error(
        (
            tf.reduce_any([walk.is_long(tag) for tag in TEXTS]),
            f"unreadable-header: a text of more than {MAX_TEXT_BYTES} bytes",
        ),
        (
            ~header.are_decimals | tf.reduce_any([walk.is_binary(tag) for tag in DECIMALS]),
            "undecodable: a rescale, window, spacing or position that is not a decimal number",
        ),
        (
            (rows <= 0) | (columns <= 0) | (bits_stored <= 0),
            "no-pixels: no Rows, Columns and Bits Stored: not an image",
        ),
        (rows * columns > MAX_PIXELS, f"too-large: expected at most {MAX_PIXELS} pixels"),
        (bits_stored > 16, too_many_bits),
        (
            ~tf.strings.regex_full_match(frame_count, "0*1|") | has_groups,
            "multi-frame: more than one frame, or functional groups; expected one plain frame",
        ),
        (~is_grey, "unknown-colour: expected MONOCHROME1 or MONOCHROME2 with one sample per pixel"),
        *_sample_checks(walk, header),
        (
            ~_reads_like_pydicom(walk),
            "undecodable: an element with an unusual representation or padding",
        ),
        (
            walk.is_filled(padding.VALUE),
            "undecodable: Pixel Padding Value, which has no part in the window; use predict",
        ),
        (
            walk.is_filled(grey.MODALITY_LUTS) | (has_curve & is_presented),
            "undecodable: a lookup table or a sigmoid, expected rescale and a linear window; use "
            "predict",
        ),
        *_pixel_data_checks(walk, header),
    )


def _sample_checks(walk: Walk, header: Header) -> tuple:
    """Return the checks of how a sample lies in its bits, each a pair (is wrong, error)."""
    *_, bits_allocated, bits_stored, pixel_representation = (header.words[tag] for tag in WORDS)
    # Where a pixel takes the whole word, there is but one place for it.
    is_shifted = walk.is_filled(image_module.HIGH_BIT) & (bits_stored < bits_allocated)
    is_shifted &= walk.word(image_module.HIGH_BIT) != bits_stored - 1
    is_odd_word = (bits_allocated != 8) & (bits_allocated != 16)
    is_odd_sign = (pixel_representation != 0) & (pixel_representation != 1)
    words = "undecodable: {} bits of {}, expected at most 8 of 8 or 16 of 16"
    shifted = "undecodable: High Bit is not {} - 1, Bits Stored less 1"
    return (
        (
            is_odd_word | (bits_stored > bits_allocated),
            format_error(words, bits_stored, bits_allocated),
        ),
        (is_shifted, format_error(shifted, bits_stored)),
        (is_odd_sign, "undecodable: a Pixel Representation other than 0 and 1"),
    )


def _pixel_data_checks(walk: Walk, header: Header) -> tuple:
    """Return the checks of native and of encapsulated pixel data, each a pair (is wrong, error)."""
    words = (header.words[tag] for tag in WORDS)
    rows, columns, _, bits_allocated, bits_stored, pixel_representation = words
    is_native = tf.reduce_any(header.syntax == NATIVE)
    is_jpeg_grey = (bits_allocated == JPEG_BITS) & (bits_stored == JPEG_BITS)
    is_jpeg_grey &= pixel_representation == 0
    has_offsets = walk.is_filled(frames.EXTENDED_OFFSETS) | walk.is_filled(frames.EXTENDED_LENGTHS)
    start, _, is_undefined_length, end = tf.unstack(walk.places[PIXEL_DATA])
    size, expected = end - start, rows * columns * bits_allocated // 8  # bytes
    has_all_bytes = (is_undefined_length == 0) & (size >= expected)
    too_few = format_error("undecodable: {} bytes of pixel data, expected {}", size, expected)
    return (
        (header.is_jpeg & ~is_jpeg_grey, "undecodable: expected 8 unsigned bits of JPEG Baseline"),
        (~is_native & has_offsets, "undecodable: extended offsets, expected fragments of a frame"),
        (is_native & ~has_all_bytes, too_few),
    )


def _reads_like_pydicom(walk: Walk) -> tf.Tensor:
    """Return whether pydicom would read the same values: usual representations, no padding before
    the colour, and pixels that are not swapped."""
    # A big-endian word holds two pixels of 8 bits, swapped.
    has_swapped_pairs = walk.is_big & ~walk.has_vr(PIXEL_DATA, "OB")
    has_swapped_pairs &= walk.word(image_module.BITS_ALLOCATED) == 8
    planar_start, _, _, planar_end = tf.unstack(walk.places[PLANAR_CONFIGURATION])
    first_letter = tf.strings.substr(walk.data, walk.places[image_module.PHOTOMETRIC][0], 1)
    return (
        (first_letter == "M")  # pydicom strips no padding before it
        & ~has_swapped_pairs
        & walk.has_vr(image_module.PHOTOMETRIC, "CS")
        & walk.has_vr(image_module.FRAMES, "IS")
        & walk.has_vr(PIXEL_DATA, "OB", "OW")
        & walk.has_vr(PLANAR_CONFIGURATION, "US")
        & ((planar_start == 0) | (planar_end - planar_start == 2))
    )
