"""What a compressed frame claims to be, compared with the file's header inside a TensorFlow graph.

Decoders accept frames that are cut off or of another kind, each in its own way; comparing them with
the header finds these frames before a decoder gets them.
"""

import tensorflow as tf
from pydicom import uid

from lake.sources.codecs.claims import J2K_START, RLE_PADDING
from lake.sources.dicom.image_module import BITS_ALLOCATED, BITS_STORED, COLUMNS, ROWS
from trainer.serving.decode.elements import number, octets, size_of
from trainer.serving.decode.header import Header

# The frame headers that go with a JPEG syntax (T.81 table B.1, T.87 C.1.1).
PROCESSES = {
    uid.JPEGExtended12Bit: (0xC0, 0xC1),
    uid.JPEGLossless: (0xC3,),
    uid.JPEGLosslessSV1: (0xC3,),
    uid.JPEGLSLossless: (0xF7,),
    uid.JPEGLSNearLossless: (0xF7,),
}
JPEG_2000 = (uid.JPEG2000Lossless, uid.JPEG2000)
SYNTAXES = (*PROCESSES, *JPEG_2000, uid.RLELossless)
FRAME_HEADERS = sorted({marker for markers in PROCESSES.values() for marker in markers})
SCAN, FILL = 0xDA, 0xFF
# The largest error of near-lossless JPEG-LS that is accepted: with a larger one, a damaged scan of
# 16 bits overflows in CharLS, which ends the process.
MAX_NEAR = 31
MAX_SEGMENTS = 10_000  # before the scan of a JPEG; a radiograph has a dozen
END = (0xFF, 0xD9)  # ends a JPEG, JPEG-LS or JPEG 2000 codestream


def claimed_bits(frame: tf.Tensor, header: Header) -> tf.Tensor:
    """Return the bits of a value in the codestream, [] int64.

    Returns 0 where it is cut off, or holds another image than the header describes.
    """
    bits, is_right = tf.case(
        [
            (header.syntax == uid.RLELossless, lambda: _run_length_claims(frame, header)),
            (_is_one(header.syntax, JPEG_2000), lambda: _jpeg_2000_claims(frame, header)),
        ],
        default=lambda: _jpeg_claims(frame, header),
    )
    bits_allocated, bits_stored = header.words[BITS_ALLOCATED], header.words[BITS_STORED]
    is_right &= (bits >= bits_stored) & (bits <= bits_allocated)
    return tf.where(is_right, bits, 0)


def _run_length_claims(frame: tf.Tensor, header: Header) -> tuple:
    """Return (bits, whether they match the header), judged by the segments, one per byte of a word
    (PS3.5 G); DCMTK would fill up missing pixels and report nothing."""
    num_bytes = header.words[BITS_ALLOCATED] // 8
    num_pixels = header.words[ROWS] * header.words[COLUMNS]
    # The frame starts with the number of segments and the offset of each, 4 bytes apiece.
    count, first, second = tf.unstack(octets(frame, tf.zeros([], tf.int64), 12, tf.int32))
    size = size_of(frame)
    middle = tf.where(num_bytes == 1, size, second)
    is_right = (count == num_bytes) & (first == 64) & (middle > first) & (middle <= size)
    starts, ends = tf.where(is_right, [first, middle], 0), tf.where(is_right, [middle, size], 0)
    for place in range(2):
        segment = tf.strings.substr(frame, starts[place], ends[place] - starts[place])
        num_expanded = _count_expanded_bytes(segment)
        is_whole = (num_expanded >= num_pixels) & (num_expanded <= num_pixels + RLE_PADDING)
        is_right &= (place >= num_bytes) | is_whole
    return header.words[BITS_STORED], is_right


def _count_expanded_bytes(segment: tf.Tensor) -> tf.Tensor:
    """Return the number of bytes that run lengths expand to, [] int64.

    Only the start of a run tells where it ends, so the runs cannot be found in parallel. Pointer
    doubling counts them in log2(N) steps: each position holds the bytes up to a later position,
    after the first step those of one run, then of two, of four …
    """
    size = tf.strings.length(segment)
    heads, places = tf.cast(tf.io.decode_raw(segment, tf.uint8), tf.int32), tf.range(size)
    is_literal, is_repeated, rest = heads < 128, heads > 128, size - places - 1
    counts = tf.where(is_literal, tf.minimum(heads + 1, rest), tf.where(rest > 0, 257 - heads, 0))
    counts = tf.cast(tf.where(is_literal | is_repeated, counts, 0), tf.int64)
    steps = tf.where(is_literal, heads + 2, tf.where(is_repeated, 2, 1))
    next_places = tf.concat([tf.minimum(places + steps, size), [size]], 0)
    counts, _ = tf.while_loop(
        lambda counts, next_places: next_places[0] < size,
        lambda counts, next_places: (
            counts + tf.gather(counts, next_places),
            tf.gather(next_places, next_places),
        ),
        (tf.concat([counts, [0]], 0), next_places),
    )
    return counts[0]


def _jpeg_2000_claims(frame: tf.Tensor, header: Header) -> tuple:
    """Return (bits, whether they match), judged by the image and tile size segment (T.800
    A.5.1)."""
    part = octets(frame, tf.zeros([], tf.int64), 45)
    right, bottom, left, top = (number(part[start : start + 4]) for start in range(8, 24, 4))
    is_right = tf.reduce_all(part[: len(J2K_START)] == list(J2K_START)) & _has_end(frame)
    is_right &= tf.reduce_all(part[43:45] == 1)  # not subsampled
    samples, bits = number(part[40:42]), part[42] % 128 + 1
    return bits, is_right & _is_size(header, bottom - top, right - left, samples, bits)


def _jpeg_claims(frame: tf.Tensor, header: Header) -> tuple:
    """Return (bits, whether they match), judged by the headers of frame and scan (T.81 B.2.2,
    B.2.3)."""
    position = _segment(frame, tf.constant(2, tf.int64), FRAME_HEADERS)
    part, scan = octets(frame, position, 10), octets(frame, _segment(frame, position, [SCAN]), 10)
    is_process = [
        (header.syntax == syntax) & _is_one(part[1], markers)
        for syntax, markers in PROCESSES.items()
    ]
    is_right = tf.reduce_any(is_process) & _has_end(frame)
    # The scan must have one component, the whole spectrum (JPEG Extended) or none (lossless), and
    # no point transform. DCMTK would accept others.
    is_spectrum = tf.reduce_all(scan[7:] == [0, 63, 0])
    is_plain = tf.reduce_all(scan[8:] == 0) & (scan[7] <= MAX_NEAR)
    is_plain &= (header.syntax != uid.JPEGLSLossless) | (scan[7] == 0)
    is_right &= tf.where(header.syntax == uid.JPEGExtended12Bit, is_spectrum, is_plain)
    is_right &= tf.reduce_all(scan[2:5] == [0, 8, 1])
    bits, height, width, samples = part[4], number(part[5:7]), number(part[7:9]), part[9]
    return bits, is_right & _is_size(header, height, width, samples, bits)


def _segment(frame: tf.Tensor, position: tf.Tensor, markers: list[int]) -> tf.Tensor:
    """Return where the first segment with one of these markers starts from `position` on, [] int64.

    Without such a segment, the result is any other position.
    """
    size = size_of(frame)

    def goes_on(position):
        start, marker = tf.unstack(octets(frame, position, 2))
        return (position < size) & (start == FILL) & ~_is_one(marker, markers)

    def step(position):
        _, marker, high, low = tf.unstack(octets(frame, position, 4))
        next_position = tf.where(marker == FILL, position + 1, position + 2 + high * 256 + low)
        return (tf.minimum(next_position, size),)

    start = (tf.minimum(position, size),)
    return tf.while_loop(goes_on, step, start, maximum_iterations=MAX_SEGMENTS)[0]


def _is_size(header: Header, height, width, samples, bits) -> tf.Tensor:
    """Return whether size and samples match the header, and the bits its words."""
    is_right = (height == header.words[ROWS]) & (width == header.words[COLUMNS]) & (samples == 1)
    return is_right & ((bits > 8) == (header.words[BITS_ALLOCATED] > 8))


def _has_end(frame: tf.Tensor) -> tf.Tensor:
    """Return whether the codestream has its end marker, padded or not."""
    tail = octets(frame, tf.maximum(size_of(frame) - 3, 0), 3)
    return tf.reduce_all(tail[:2] == END) | tf.reduce_all(tail[1:] == END)


def _is_one(value: tf.Tensor, options) -> tf.Tensor:
    return tf.reduce_any(value == list(options))
