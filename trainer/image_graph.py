"""PNG and JPEG files -> images as the converter would store them, in TensorFlow's own ops: what
lake/sources/images.py does with Pillow, in a graph.

Grey of 1 to 16 bits, colours and palettes of 8 become what the converter makes of them. An error,
where the converter also refuses or the graph cannot: files that are neither, animations, pixels
that are not opaque, 16 bits in colour, four channels (CMYK), pictures that EXIF turns, several
pictures in one file, what is damaged.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from lake.sources import MAX_PIXELS, Storage
from lake.sources.grey import LUMA
from lake.sources.png import PNG_START
from trainer import storing
from trainer.storing import Levels, Stored

JPEG_START = b"\xff\xd8"
GREY = 0  # colour type of a PNG's IHDR
# Chunks of a PNG that make its plain pixels the wrong ones.
PNG_REFUSED = {
    b"acTL": "multi-frame: an animation",
    b"tRNS": "transparent: pixels may not be opaque; save it without transparency",
    b"eXIf": "its EXIF may turn it; save its pixels upright, without EXIF",
}
SCAN, BASELINE = 0xDA, 0xC0  # JPEG markers: start of scan, the frame header of the baseline process
NO_FRAME_HEADERS = (0xC4, 0xC8, 0xCC)  # among 0xC0 to 0xCF: DHT, JPG, DAC
APP1, APP2, EXIF, PICTURES = 0xE1, 0xE2, b"Exif", b"MPF\0"
MAX_SEGMENTS = 10_000  # before the pixels; a file has ten
ORIENTATION = 274  # EXIF's tag
WITHOUT_UNIT = (np.float64(1), np.float64(0))  # slope, intercept
DAMAGED = "undecodable: damaged, cut off, or of a kind that TensorFlow does not decode"


def stored(data, storage: Storage) -> Stored:
    """Of a file's bytes, a [] string tensor."""
    is_png = tf.strings.substr(data, 0, len(PNG_START)) == PNG_START
    is_jpeg = tf.strings.substr(data, 0, 2) == JPEG_START

    def either() -> Stored:
        return tf.cond(is_png, lambda: _png(data, storage), lambda: _jpeg(data, storage))

    return tf.cond(
        is_png | is_jpeg,
        lambda: storing.attempt(either, storing.refused(DAMAGED, storage)),
        lambda: storing.refused("not-an-image: neither PNG nor JPEG", storage),
    )


def _png(data, storage: Storage) -> Stored:
    # IHDR: width, height, bits, colour type
    header = _at(tf.io.decode_raw(tf.strings.substr(data, 0, 26), tf.uint8), 16, 10)
    width, height, bits, kind = _number(header[:4]), _number(header[4:8]), header[8], header[9]
    names, has_pixels = _png_chunks(data)
    error = _first_error(
        [(~has_pixels, DAMAGED)]
        + [(tf.reduce_any(names == name), said) for name, said in PNG_REFUSED.items()]
        + [((bits == 16) & (kind != GREY), "deep-colour: 16 bits a channel; save it as grey")]
        + [_too_large(height, width)]
    )

    def decode() -> Stored:
        return tf.cond(
            kind == GREY,
            lambda: tf.cond(bits == 16, lambda: grey(16), lambda: grey(8)),
            coloured,
        )

    def grey(depth: int) -> Stored:
        dtype = tf.uint16 if depth == 16 else tf.uint8
        pixels = tf.io.decode_png(data, channels=1, dtype=dtype)
        return storing.store(_levels(pixels, depth), storage)

    def coloured() -> Stored:
        pixels = tf.io.decode_png(data, channels=4)
        return tf.cond(
            tf.reduce_min(pixels[..., 3]) < 255,
            lambda: storing.refused(PNG_REFUSED[b"tRNS"], storage),
            lambda: storing.store(_levels(_luma(pixels[..., :3]), 8), storage),
        )

    return tf.cond(error == "", decode, lambda: storing.refused(error, storage))


def _png_chunks(data) -> tuple:
    """[K] string, names of the chunks before the pixels, and whether there are pixels behind them;
    fails where the file ends before."""

    def name_at(at):
        return tf.strings.substr(data, at + 4, 4)

    def step(at, names):
        length = tf.io.decode_raw(tf.strings.substr(data, at, 4), tf.uint8)
        # As int64: no length makes a step back.
        length = _number(tf.cast(_at(length, 0, 4), tf.int64))
        return at + 12 + length, tf.concat([names, [name_at(at)]], axis=0)

    at, names = tf.while_loop(
        lambda at, _: name_at(at) != b"IDAT",
        step,
        (tf.constant(len(PNG_START), tf.int64), tf.constant([], tf.string)),
        (tf.TensorShape([]), tf.TensorShape([None])),
        maximum_iterations=MAX_SEGMENTS,
    )
    return names, name_at(at) == b"IDAT"


def _jpeg(data, storage: Storage) -> Stored:
    segments = _jpeg_segments(data)
    frame = segments.frame
    process, bits, channels = frame[0], frame[3], frame[8]
    height, width = _number(frame[4:6]), _number(frame[6:8])
    error = _first_error(
        [
            (segments.is_turned, PNG_REFUSED[b"eXIf"]),
            (segments.has_pictures, "multi-frame: several pictures in one file"),
            ((channels != 1) & (channels != 3), "four channels, as of CMYK; save it as grey"),
            (bits != 8, DAMAGED),
            _too_large(height, width),
        ]
    )
    stored_height, stored_width = storing.shrunk_size(height, width, storage.max_side)
    is_whole = (stored_height == height) & (stored_width == width)
    is_kept = (process == BASELINE) & (channels == 1) & is_whole & (storage.bits == 8)

    def decoded(channels: int):
        return tf.io.decode_jpeg(data, channels=channels, dct_method="INTEGER_ACCURATE")

    def kept() -> Stored:
        blank = storing.refused("", storage)
        is_counted = storage.window == "percentile"
        levels = _levels(decoded(1) if is_counted else blank.pixels, 8)
        window = storing.as_window(storing.view(levels, storage))
        sizes = (height, width, height, width)
        return Stored(data, blank.pixels, *sizes, window, blank.error)

    def made() -> Stored:
        pixels = tf.cond(channels == 1, lambda: decoded(1), lambda: _luma(decoded(3)))
        return storing.store(_levels(pixels, 8), storage)

    return tf.cond(
        error == "",
        lambda: tf.cond(is_kept, kept, made),
        lambda: storing.refused(error, storage),
    )


class _Segments(NamedTuple):
    """What comes before a JPEG's scan."""

    frame: tf.Tensor  # [9] int32: the frame header (T.81 B.2.2) from its marker's second byte on
    is_turned: tf.Tensor  # [] bool, by EXIF
    has_pictures: tf.Tensor  # [] bool, more than this one (CIPA DC-007)


def _jpeg_segments(data) -> _Segments:
    content = tf.io.decode_raw(data, tf.uint8)

    def step(at, frame_at, exif_at, has_pictures):
        marker, name = tf.cast(content[at + 1], tf.int32), tf.strings.substr(data, at + 4, 4)
        is_segment = (content[at] == 0xFF) & (marker != 0xFF)  # not between two, nor a fill byte
        is_frame = is_segment & (marker >= BASELINE) & (marker <= 0xCF)
        is_frame &= ~tf.reduce_any(marker == NO_FRAME_HEADERS)
        has_pictures |= is_segment & (marker == APP2) & (name == PICTURES)
        is_exif = is_segment & (marker == APP1) & (name == EXIF)
        length = tf.where(is_segment, 2 + _number(_at(content, at + 2, 2)), 1)
        return (
            at + length,
            tf.where(is_frame, at + 1, frame_at),
            tf.where(is_exif, at + 10, exif_at),
            has_pictures,
        )

    def is_before_scan(at, *_):
        return (content[at] != 0xFF) | (content[at + 1] != SCAN)

    start = (tf.constant(len(JPEG_START)), tf.constant(1), tf.constant(0), tf.constant(False))
    at, frame_at, exif_at, has_pictures = tf.while_loop(
        is_before_scan, step, start, maximum_iterations=MAX_SEGMENTS
    )
    # Whatever else there is, it is no JPEG that Pillow would read another way.
    tf.debugging.assert_equal(is_before_scan(at), False)
    is_turned = tf.cond(
        exif_at > 0, lambda: _is_turned(content[exif_at:]), lambda: tf.constant(False)
    )
    return _Segments(_at(content, frame_at, 9), is_turned, has_pictures)


def _is_turned(tiff) -> tf.Tensor:
    """Whether an EXIF block, uint8 [N], has an Orientation other than upright (TIFF 6.0)."""
    is_big = tiff[0] == ord("M")

    def short(at):
        high, low = tf.where(is_big, at, at + 1), tf.where(is_big, at + 1, at)
        first, second = (tf.cast(tf.gather(tiff, place), tf.int32) for place in (high, low))
        return first * 256 + second

    directory = short(tf.where(is_big, 6, 4))  # four bytes; a segment is shorter than two can tell
    entries = directory + 2 + 12 * tf.range(short(directory))
    values = short(entries + 8)
    return tf.reduce_any((short(entries) == ORIENTATION) & (values > 1) & (values <= 8))


def _luma(pixels):
    """Grey [H, W, 1] of colours [H, W, 3] uint8, as Pillow's "L" has it."""
    sums = tf.reduce_sum(tf.cast(pixels, tf.int32) * LUMA.astype(np.int32), axis=-1)
    return tf.cast((sums + 2**15) // 2**16, tf.uint8)[..., None]


def _levels(pixels, bits: int) -> Levels:
    highest = tf.constant(2.0**bits - 1, tf.float64)
    return Levels(pixels, highest, WITHOUT_UNIT, (tf.zeros([], tf.float64), highest))


def _too_large(height, width) -> tuple:
    count = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    is_sound = (height > 0) & (width > 0) & (count <= MAX_PIXELS)
    return ~is_sound, f"too-large: expected 1 to {MAX_PIXELS:,} pixels"


def _first_error(checks: list[tuple]):
    """The text of the first check that is true, else ""."""
    found = tf.constant("")
    for is_wrong, said in reversed(checks):
        found = tf.where(is_wrong, said, found)
    return found


def _at(content, at, count: int):
    """[count] int32 of the bytes from `at` on; fails where they end before."""
    return tf.cast(tf.ensure_shape(content[at : at + count], [count]), tf.int32)


def _number(digits):
    """Of big-endian bytes, int32 [2] or [4]."""
    return tf.reduce_sum(digits * [256**place for place in reversed(range(digits.shape[0]))])
