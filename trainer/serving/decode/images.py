"""PNG and JPEG files as the converter would store them, by TensorFlow operations alone: the graph's
version of lake/sources/pictures/images.py, which uses Pillow.

It reads grey of 1 to 16 bits, and colours and palettes of 8. These are errors, because the
converter refuses them, too, or because the graph cannot read them: other formats, animations,
pixels that are not opaque, 16 bits in colour, four channels (CMYK), pictures that EXIF turns,
several pictures in one file.
"""

import numpy as np
import tensorflow as tf

from lake.scan import MAX_PIXELS, Storage
from lake.sources.codecs.codestream import FRAME_HEADERS
from lake.sources.dicom.grey import LUMA
from lake.sources.pictures.png import PNG_START
from trainer.serving.decode.codestream import MANY_SCANS, has_many_scans, jpeg_levels
from trainer.serving.decode.elements import first_error, number
from trainer.serving.decode.grey import GreyTensor, shrunk_size
from trainer.serving.decode.stored_image import StoredImage, from_grey, from_jpeg, refuse

JPEG_START = b"\xff\xd8"
GREY = 0  # colour type of a PNG's IHDR
# Chunks of a PNG that change what its pixels show.
PNG_REFUSED = {
    b"acTL": "multi-frame: an animation",
    b"tRNS": "transparent: pixels may not be opaque; save it without transparency",
    b"eXIf": "its EXIF may turn it; save its pixels upright, without EXIF",
}
SCAN, BASELINE = 0xDA, 0xC0  # JPEG markers: start of scan, the frame header of the baseline process
APP1, APP2, EXIF, PICTURES = 0xE1, 0xE2, b"Exif", b"MPF\0"
MAX_SEGMENTS = 10_000  # before the pixels; most files have ten
ORIENTATION = 274  # EXIF's tag
DAMAGED = "undecodable: damaged, or of a kind that TensorFlow does not decode"
TOO_LARGE = f"too-large: expected 1 to {MAX_PIXELS:,} pixels"


@tf.autograph.experimental.do_not_convert  # no Python branch here depends on a tensor
def stored_image(data, storage: Storage) -> StoredImage:
    """Return the image of a whole file, [] string, as a lake with `storage` holds it.

    Fails where the file is damaged.
    """
    is_png = tf.strings.substr(data, 0, len(PNG_START)) == PNG_START
    is_jpeg = tf.strings.substr(data, 0, len(JPEG_START)) == JPEG_START
    error = tf.constant("not-an-image: neither PNG nor JPEG")
    cases = [(is_png, lambda: _png(data, storage)), (is_jpeg, lambda: _jpeg(data, storage))]
    return tf.case(cases, default=lambda: refuse(error, storage))


def _png(data, storage: Storage) -> StoredImage:
    """Return the image of a PNG file, [] string; fails where it is damaged."""
    # IHDR: width, height, bits, colour type
    header = _bytes_from(tf.io.decode_raw(tf.strings.substr(data, 0, 26), tf.uint8), 16, 10)
    width, height, bits, colour_type = number(header[:4]), number(header[4:8]), header[8], header[9]
    names, has_pixels = _png_chunks(data)
    error = first_error(
        (~has_pixels, DAMAGED),
        *((tf.reduce_any(names == name), message) for name, message in PNG_REFUSED.items()),
        ((bits == 16) & (colour_type != GREY), "deep-colour: 16 bits per channel; save it as grey"),
        (_is_too_large(height, width), TOO_LARGE),
    )

    def grey_image(depth: int) -> StoredImage:
        dtype = tf.uint16 if depth == 16 else tf.uint8
        pixels = tf.io.decode_png(data, channels=1, dtype=dtype)
        return from_grey(_grey(tf.cast(pixels[..., 0], tf.int32), depth), storage)

    def colour_image() -> StoredImage:
        """Return the image of a colour PNG as grey; refuse one that is transparent anywhere."""
        pixels = tf.io.decode_png(data, channels=4)
        return tf.cond(
            tf.reduce_min(pixels[..., 3]) < 255,
            lambda: refuse(tf.constant(PNG_REFUSED[b"tRNS"]), storage),
            lambda: from_grey(_grey(_luma(pixels[..., :3]), 8), storage),
        )

    cases = [(error != "", lambda: refuse(error, storage)), (colour_type != GREY, colour_image)]
    return tf.case([*cases, (bits == 16, lambda: grey_image(16))], default=lambda: grey_image(8))


def _png_chunks(data) -> tuple:
    """Return the names of the chunks before the pixels, [K] string, and whether pixels follow them.

    Fails where the file ends before the pixels.
    """

    def name_at(position):
        return tf.strings.substr(data, position + 4, 4)

    def skip_chunk(position, names):
        length = tf.io.decode_raw(tf.strings.substr(data, position, 4), tf.uint8)
        # As int64: as int32 a long chunk would have a negative length, which leads back.
        length = number(tf.cast(_bytes_from(length, 0, 4), tf.int64))
        return position + 12 + length, tf.concat([names, [name_at(position)]], axis=0)

    position, names = tf.while_loop(
        lambda position, _: name_at(position) != b"IDAT",
        skip_chunk,
        (tf.constant(len(PNG_START), tf.int64), tf.constant([], tf.string)),
        (tf.TensorShape([]), tf.TensorShape([None])),
        maximum_iterations=MAX_SEGMENTS,
    )
    return names, name_at(position) == b"IDAT"


def _jpeg(data, storage: Storage) -> StoredImage:
    """Return the image of a JPEG file, [] string, coded as it is where nothing would change."""
    frame, is_turned, has_pictures = _jpeg_segments(data)
    process, bits, channels = frame[0], frame[3], frame[8]
    height, width = number(frame[4:6]), number(frame[6:8])
    error = first_error(
        (is_turned, PNG_REFUSED[b"eXIf"]),
        (has_pictures, "multi-frame: several pictures in one file"),
        ((channels != 1) & (channels != 3), "four channels, as of CMYK; save it as grey"),
        (bits != 8, DAMAGED),
        (_is_too_large(height, width), TOO_LARGE),
        (has_many_scans(data), MANY_SCANS),
    )
    size = tf.stack([height, width])
    is_whole = tf.reduce_all(shrunk_size(size, storage.max_side) == size)
    is_unchanged = (process == BASELINE) & (channels == 1) & is_whole & (storage.bits == 8)

    def keep_jpeg() -> StoredImage:
        levels = jpeg_levels(data) if storage.window == "percentile" else None
        return from_jpeg(data, _grey(levels, 8), size, storage)

    def colour_image() -> StoredImage:
        pixels = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
        return from_grey(_grey(_luma(pixels), 8), storage)

    cases = [
        (error != "", lambda: refuse(error, storage)),
        (is_unchanged, keep_jpeg),
        (channels == 3, colour_image),
    ]
    return tf.case(cases, default=lambda: from_grey(_grey(jpeg_levels(data), 8), storage))


def _jpeg_segments(data) -> tuple:
    """Return the statements of the segments before the scan; fails where there are more than
    MAX_SEGMENTS.

    They are the frame header (T.81 B.2.2) from its marker's second byte on, [9] int32; whether EXIF
    turns the picture; and whether the file holds more pictures (CIPA DC-007).
    """
    content = tf.io.decode_raw(data, tf.uint8)

    def skip_segment(position, frame_at, exif_at, has_pictures):
        """Return the position of the next segment, and what this one states."""
        marker = tf.cast(content[position + 1], tf.int32)
        name = tf.strings.substr(data, position + 4, 4)
        is_segment = (content[position] == 0xFF) & (marker != 0xFF)  # no garbage, no fill byte
        is_frame = is_segment & tf.reduce_any(marker == sorted(FRAME_HEADERS))
        has_pictures |= is_segment & (marker == APP2) & (name == PICTURES)
        is_exif = is_segment & (marker == APP1) & (name == EXIF)
        length = tf.where(is_segment, 2 + number(_bytes_from(content, position + 2, 2)), 1)
        return (
            position + length,
            tf.where(is_frame, position + 1, frame_at),
            tf.where(is_exif, position + 10, exif_at),
            has_pictures,
        )

    def is_before_scan(position, *_):
        return (content[position] != 0xFF) | (content[position + 1] != SCAN)

    start = (tf.constant(len(JPEG_START)), tf.constant(1), tf.constant(0), tf.constant(False))
    position, frame_at, exif_at, has_pictures = tf.while_loop(
        is_before_scan, skip_segment, start, maximum_iterations=MAX_SEGMENTS
    )
    # Fail where segments are left, as one of them could turn the picture.
    tf.debugging.assert_equal(is_before_scan(position), False)
    is_turned = tf.cond(
        exif_at > 0, lambda: _is_turned(content[exif_at:]), lambda: tf.constant(False)
    )
    return _bytes_from(content, frame_at, 9), is_turned, has_pictures


def _is_turned(tiff) -> tf.Tensor:
    """Return whether an EXIF block, uint8 [N], has another Orientation than upright (TIFF 6.0)."""
    is_big = tiff[0] == ord("M")

    def read_short(position):
        places = (position, position + 1)
        first, second = (tf.cast(tf.gather(tiff, place), tf.int32) for place in places)
        return tf.where(is_big, first * 256 + second, second * 256 + first)

    # The lower two of four bytes: a segment is shorter than 2^16.
    directory = read_short(tf.where(is_big, 6, 4))
    entries = directory + 2 + 12 * tf.range(read_short(directory))
    values = read_short(entries + 8)
    return tf.reduce_any((read_short(entries) == ORIENTATION) & (values > 1) & (values <= 8))


def _luma(pixels):
    """Return the luma [H, W] int32 of colours [H, W, 3] uint8, as Pillow's mode "L" does."""
    sums = tf.reduce_sum(tf.cast(pixels, tf.int32) * LUMA.astype(np.int32), axis=-1)
    return (sums + 2**15) // 2**16


def _grey(levels, bits: int) -> GreyTensor:
    """Return levels without a unit as grey levels of `bits` bits; those of more than 8 are shown
    from the darkest to the brightest that is there."""
    highest = 2**bits - 1
    slope, intercept, low, high = tf.unstack(tf.constant([1.0, 0.0, 0.0, highest], tf.float64))
    if bits > 8:
        low = tf.cast(tf.reduce_min(levels), tf.float64)
        high = tf.maximum(tf.cast(tf.reduce_max(levels), tf.float64), low + 1)
    return GreyTensor(levels, tf.constant(highest), (slope, intercept), (low, high))


def _is_too_large(height, width):
    count = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    return (height <= 0) | (width <= 0) | (count > MAX_PIXELS)


def _bytes_from(content, position, count: int):
    """Return `count` bytes from `position` on, [count] int32; fails where the data ends before."""
    return tf.cast(tf.ensure_shape(content[position : position + count], [count]), tf.int32)
