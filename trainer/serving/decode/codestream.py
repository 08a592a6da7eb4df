"""The JPEG in encapsulated pixel data, inside a TensorFlow graph, by the rules of
lake.sources.frames and lake.sources.codestream: place of the pixel data -> bare baseline JPEG."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from lake.sources.codestream import KEPT_SEGMENTS
from lake.sources.elements import ITEM, SEQUENCE_END
from trainer.serving.decode.elements import first_error, octets, size_of, words

MAX_FRAGMENTS = 20_000  # and the offset table
MAX_TABLES = 1_000  # and segments before the scan; a chest radiograph has a dozen
# Markers (T.81 table B.1).
SOF0, DHT, SOS, DQT, DRI, EOI, FILL = 0xC0, 0xC4, 0xDA, 0xDB, 0xDD, 0xD9, 0xFF
DROPPED_SEGMENTS = frozenset((*range(0xE0, 0xF0), 0xFE))  # of applications, comments
DQT_BYTES, DHT_HEAD, MAX_SYMBOLS = 65, 17, 256  # of one table; libjpeg takes no more symbols
DC_CATEGORIES, AC_CATEGORIES = 11, 10  # of baseline (T.81 F.1.2)
BLOCKS_A_BYTE = 4  # at most: a code of its DC and one of its end, of one bit at least
RESTARTS = 2**32  # among the bits of tables: an interval of restarts is defined
# Codes that are left of each length, 1 to 16, are 2^length - CODE_SHARES @ counts.
LENGTHS = np.arange(1, 17)
CODE_SHARES = np.tril(2 ** np.maximum(LENGTHS[:, None] - LENGTHS, 0))


def joined_fragments(data: tf.Tensor, start: tf.Tensor, end: tf.Tensor) -> tuple:
    """(frame, error), [] strings, of the items between two positions: the basic offset table,
    which can only say that the one frame starts at 0, and the frame's fragments."""

    def goes_on(at, count, is_sound, fragments):
        group, element = words(data, tf.minimum(at, end), 2)
        return is_sound & (at < end) & (group * 2**16 + element != SEQUENCE_END)

    def step(at, count, is_sound, fragments):
        group, element, low, high = words(data, at, 4)
        length = low + high * 2**16
        is_item = (group * 2**16 + element == ITEM) & (at + 8 + length <= end)
        value = tf.strings.substr(data, tf.minimum(at + 8, end), tf.where(is_item, length, 0))
        is_table = tf.reduce_any(value == [b"", b"\0\0\0\0"])
        fragments = fragments.write(count, tf.where(count > 0, value, ""))
        return at + 8 + length, count + 1, is_item & ((count > 0) | is_table), fragments

    fragments = tf.TensorArray(tf.string, 0, dynamic_size=True, element_shape=[])
    state = (start, tf.constant(0), tf.constant(True), fragments)
    at, count, is_sound, fragments = tf.while_loop(
        goes_on, step, state, maximum_iterations=MAX_FRAGMENTS
    )
    is_closed = (at == end) | (at + 8 == end)
    error = first_error(
        (
            ~(is_sound & is_closed & (count > 1)),
            "undecodable: encapsulated pixel data are not an offset table of one frame and its "
            "fragments",
        )
    )
    return tf.strings.reduce_join(fragments.stack()), error


def bare_jpeg(frame: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tuple:
    """(codestream, error), [] strings: the frame without application and comment segments, scan
    data bit for bit, where it is one grey 8-bit baseline scan [height, width] with sound tables."""
    found = _segments(frame)
    header, scan = octets(frame, found.header, 13), octets(frame, found.scan, 10)
    is_grey = tf.reduce_all(tf.gather(header, [2, 3, 4, 9]) == [0, 11, 8, 1])
    sides = tf.stack([header[5] * 256 + header[6], header[7] * 256 + header[8]])
    sampling = tf.stack([header[11] // 16, header[11] % 16])  # of no meaning to one component
    is_grey &= tf.reduce_all((sampling >= 1) & (sampling <= 4))
    is_scan = tf.reduce_all(tf.gather(scan, [2, 3, 4, 7, 8, 9]) == [0, 8, 1, 0, 63, 0])
    is_scan &= scan[5] == header[10]  # the component
    blocks = tf.reduce_prod((sides + 7) // 8)
    used = tf.stack([_bit(DQT, header[12]), _bit(DHT, scan[6] // 16), _bit(DHT, 16 + scan[6] % 16)])
    is_scan &= tf.reduce_all(tf.bitwise.bitwise_and(found.tables, used) > 0)

    rest = tf.strings.substr(frame, tf.minimum(found.scan + 10, size_of(frame)), size_of(frame))
    end = _scan_end(rest, tf.bitwise.bitwise_and(found.tables, RESTARTS) > 0)
    scan_data = tf.strings.substr(rest, tf.zeros([], tf.int64), tf.maximum(end, 0))
    codestream = tf.strings.join([b"\xff\xd8", found.kept, scan_data, b"\xff\xd9"])
    error = first_error(
        (tf.strings.substr(frame, 0, 2) != b"\xff\xd8", "undecodable: the frame is no JPEG"),
        (
            ~found.is_sound | (found.scan == 0) | (found.header == 0),
            "undecodable: the JPEG is cut off before its scan, has unsound tables or is not of the "
            "baseline process",
        ),
        (
            ~(is_grey & is_scan),
            "undecodable: the JPEG is other than one scan of one component of 8 bits, or lacks a "
            "table of it",
        ),
        (
            tf.reduce_any(sides != tf.stack([height, width])),
            lambda: tf.strings.format(
                "undecodable: the JPEG says (height, width) = {}, Rows and Columns say {}",
                (sides, tf.stack([height, width])),
            ),
        ),
        (end < 0, "undecodable: the JPEG scan has no end, or more than one scan follows"),
        (
            BLOCKS_A_BYTE * end < blocks,
            "undecodable: the JPEG scan is shorter than any of its size",
        ),
    )
    return tf.where(error == "", codestream, ""), error


class Segments(NamedTuple):
    """What comes before the scan data."""

    header: tf.Tensor  # [] int64, where SOF0 is, 0 where there is none
    scan: tf.Tensor  # [] int64, where SOS is, 0 where there is none
    kept: tf.Tensor  # [] string, the segments of KEPT_SEGMENTS
    tables: tf.Tensor  # [] int64, the _bits of the tables that are defined, and RESTARTS
    is_sound: tf.Tensor  # [] bool


def _segments(frame: tf.Tensor) -> Segments:
    """One step is a segment, a fill byte, or one of the tables in a segment of them, which end at
    `tables_end`."""
    size, zero = size_of(frame), tf.zeros([], tf.int64)

    def goes_on(at, kind, tables_end, header, scan, kept, tables, is_sound):
        return is_sound & (scan == 0) & (at + 4 <= size)

    def step(at, kind, tables_end, header, scan, kept, tables, is_sound):
        part = octets(frame, at, DHT_HEAD + MAX_SYMBOLS)
        is_table, (_, marker, high, low) = at < tables_end, tf.unstack(part[:4])
        table_end, is_table_sound = _table(part, kind)
        is_table_sound &= at + table_end <= tables_end

        is_fill, end = marker == FILL, at + 2 + high * 256 + low
        is_segment = ~is_table & ~is_fill
        is_kept = is_segment & tf.reduce_any(marker == sorted(KEPT_SEGMENTS))
        is_tables = is_segment & ((marker == DQT) | (marker == DHT))
        is_header = is_segment & (marker == SOF0)
        length = tf.where(is_kept & (end <= size), end - at, 0)
        is_segment_sound = (is_fill & (part[0] == FILL)) | _is_sound_segment(part, end - at)
        is_segment_sound &= ~is_kept | (end <= size)
        is_segment_sound &= ~(is_header & (header > 0))  # there is one
        has_restarts = is_segment & (marker == DRI) & (part[4] + part[5] > 0)
        defined = tf.where(is_table, _bit(kind, part[0]), tf.where(has_restarts, RESTARTS, zero))
        return (
            tf.where(
                is_table,
                at + table_end,
                tf.where(is_fill, at + 1, tf.where(is_tables, at + 4, end)),
            ),
            tf.where(is_tables, marker, kind),
            tf.where(is_tables, end, tables_end),
            tf.where(is_header, at, header),
            tf.where(is_segment & (marker == SOS), at, scan),
            tf.strings.join([kept, tf.strings.substr(frame, at, length)]),
            tf.bitwise.bitwise_or(tables, defined),
            tf.where(is_table, is_table_sound, is_segment_sound),
        )

    start = (tf.minimum(zero + 2, size), zero, zero, zero, zero, "", zero, tf.constant(True))
    found = tf.while_loop(goes_on, step, start, maximum_iterations=MAX_TABLES)
    return Segments(*found[3:])


def _is_sound_segment(part: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """Whether a segment of that length, with its marker, may come before a baseline scan."""
    marker = part[1]
    is_known = tf.reduce_any(marker == sorted(KEPT_SEGMENTS | DROPPED_SEGMENTS))
    is_empty = ((marker == DQT) | (marker == DHT)) & (length <= 4)
    is_odd_interval = (marker == DRI) & (length != 6)
    return (part[0] == FILL) & is_known & ~(is_empty | is_odd_interval)


def _table(part: tf.Tensor, kind: tf.Tensor) -> tuple:
    """(bytes, whether every decoder takes it) of the table (T.81 B.2.4, C.2) of quantisation or of
    Huffman codes that `part` starts with, int64 [DHT_HEAD + MAX_SYMBOLS]."""
    counts, symbols = part[1:DHT_HEAD], part[DHT_HEAD:]
    num_symbols = tf.reduce_sum(counts)
    codes_left = 2**LENGTHS - tf.linalg.matvec(tf.constant(CODE_SHARES, tf.int64), counts)
    is_symbol = tf.range(MAX_SYMBOLS, dtype=tf.int64) < num_symbols
    is_huffman = (num_symbols <= MAX_SYMBOLS) & tf.reduce_all(codes_left >= 1)
    # AC: a run of zeros and a category, which only the end of a block and 16 zeros lack.
    is_ac_symbol = (symbols % 16 <= AC_CATEGORIES) & ((symbols % 16 > 0) | (symbols % 0xF0 == 0))
    is_category = tf.where(part[0] >= 16, is_ac_symbol, symbols <= DC_CATEGORIES)
    is_huffman &= tf.reduce_all(~is_symbol | is_category)
    is_dqt = kind == DQT
    is_sound = tf.where(is_dqt, tf.reduce_all(part[1:DQT_BYTES] > 0), is_huffman)
    size = tf.where(is_dqt, tf.constant(DQT_BYTES, tf.int64), DHT_HEAD + num_symbols)
    return size, is_sound & (_bit(kind, part[0]) > 0)


def _bit(kind: tf.Tensor | int, name: tf.Tensor) -> tf.Tensor:
    """The bit of quantisation table 0 to 3, DC 0x00 to 0x03, AC 0x10 to 0x13; 0 of others."""
    zero, is_dqt = tf.zeros([], tf.int64), kind == DQT
    is_known = (name % 16 < 4) & (name < tf.where(is_dqt, zero + 16, 32))
    shift = tf.where(is_known, name + tf.where(is_dqt, zero, 4), 0)
    return tf.where(is_known, tf.bitwise.left_shift(zero + 1, shift), 0)


def _scan_end(scan: tf.Tensor, has_restarts: tf.Tensor) -> tf.Tensor:
    """Where the first marker in a string is that is no part of a scan, [] int64; -1 where there is
    none, or it is other than the end of the image.

    Fill bytes, and restarts without an interval, are damage that each decoder takes its own way.
    """
    values = tf.io.decode_raw(scan, tf.uint8)
    marked = tf.squeeze(tf.where(values[:-1] == FILL), 1)
    following = tf.gather(values, marked + 1)
    is_restart = (following >= 0xD0) & (following <= 0xD7)
    ends = tf.boolean_mask(marked, (following != 0) & ~(is_restart & has_restarts))
    end = tf.concat([ends, [-1]], 0)[0]
    is_image_end = octets(scan, tf.maximum(end, 0), 2)[1] == EOI
    return tf.where(is_image_end, end, -1)
