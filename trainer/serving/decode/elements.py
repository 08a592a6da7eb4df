"""Elements of a DICOM file, found inside a TensorFlow graph by the rules of lake.sources.elements:
file [] string -> where the values lie, and the values.

A graph has no exceptions: what is wrong is a Stop or an error text, and no position that a file
names is used before it is cut to the file's size.
"""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from lake.sources.elements import (
    BINARY,
    ITEM,
    ITEM_END,
    LONG,
    MAX_DEPTH,
    MAX_TEXT_BYTES,
    PIXEL_DATA,
    PIXEL_TAGS,
    SEQUENCE_END,
    UNDEFINED,
)

# A step takes about 0.05 ms; lake.sources.elements allows a million at 0.3 us. A radiograph has a
# hundred.
MAX_ELEMENTS = 20_000
# What Python's float takes, less underscores and what is not ASCII.
_NUMBER = r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|inf|infinity)"
_NUMBERS = rf"(?i)\s*({_NUMBER})?\s*(\\\s*({_NUMBER})?\s*)*"


class Stop(IntEnum):
    """Why a walk ended."""

    NONE, PIXELS, END, CUT, DEEP, FLOATS = range(6)  # NONE: it did not, within MAX_ELEMENTS


class Walk(NamedTuple):
    data: tf.Tensor  # [] string, the file
    is_big: tf.Tensor  # [] bool: its words are big-endian
    places: dict[int, tf.Tensor]  # tag -> [4] int64: start, VR, is undefined, end; 0 where absent
    position: tf.Tensor  # [] int64, where it ended
    stop: tf.Tensor  # [] int64, a Stop


def walk_elements(
    data: tf.Tensor,
    position: tf.Tensor,
    tags: Sequence[int],
    last_group: int = PIXEL_DATA >> 16,
    is_big: bool = False,
) -> Walk:
    """The places of `tags` from `at` on, up to the pixel data, a group after `last_group` or the
    end of the file.

    One step is one element, item or delimiter. `depth` counts what is open; `outer` is the place of
    the outermost of these and its tag.
    """
    size, wanted, kinds = size_of(data), tf.constant(tags, tf.int64), tf.constant(_kinds(is_big))

    def long(first, second):
        return first * 2**16 + second if is_big else first + second * 2**16

    def step(position, depth, outer, places, stop):
        group, element, vr, short, *length = words(data, tf.minimum(position, size), 6, is_big)
        tag, is_inside = group * 2**16 + element, depth > 0
        is_close = is_inside & ((tag == ITEM_END) | (tag == SEQUENCE_END))
        is_bare = is_close | (is_inside & (tag == ITEM))  # has no representation
        kind = tf.where(is_bare, _IMPLICIT, kinds[vr])
        length = tf.stack([long(vr, short), short, long(*length)])[kind]
        length = tf.where(is_close, _int64(0), length)
        start = position + tf.where(kind == _LONG, _int64(12), _int64(8))
        is_open = tf.cast(length == UNDEFINED, tf.int64)
        end = start + length * (1 - is_open)
        vr = swapped(vr) if is_big else vr
        new = tf.stack([tag, start, tf.where(kind == _IMPLICIT, _int64(0), vr), is_open])
        outer = tf.where(is_inside, outer, new)
        next_depth = depth + is_open - tf.cast(is_close, tf.int64)
        is_whole = next_depth == 0

        is_after = (group > last_group) & ((group != ITEM >> 16) | (tag == ITEM_END))
        is_float = tf.reduce_any(tag == sorted(PIXEL_TAGS - {PIXEL_DATA}))
        stop = _first(
            (position + 8 > size, tf.where(is_inside, _int64(Stop.CUT), _int64(Stop.END))),
            (~is_inside & is_after, Stop.END),
            (start > size, Stop.CUT),
            (~is_inside & is_float, Stop.FLOATS),
            (next_depth > MAX_DEPTH, Stop.DEEP),
            (is_whole & (end > size), Stop.CUT),
            (is_whole & (outer[0] == PIXEL_DATA), Stop.PIXELS),
        )
        is_taken = (stop == Stop.NONE) | (stop == Stop.PIXELS)
        is_found = is_taken & is_whole & (wanted == outer[0])  # the last of two holds
        place = tf.concat([outer[1:], end[None]], 0)
        places = tf.where(is_found[:, None], place, places)
        return tf.where(is_taken, end, position), next_depth, outer, places, stop

    start = (position, _int64(0), tf.zeros([4], tf.int64), tf.zeros([len(tags), 4], tf.int64), _int64(0))
    position, _, _, places, stop = tf.while_loop(
        lambda *state: state[-1] == Stop.NONE, step, start, maximum_iterations=MAX_ELEMENTS
    )
    return Walk(
        data,
        tf.constant(is_big),
        dict(zip(tags, tf.unstack(places, len(tags)), strict=True)),
        position,
        stop,
    )


def size_of(data: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.strings.length(data), tf.int64)


def octets(
    data: tf.Tensor, position: tf.Tensor, count: int, dtype=tf.uint8, is_big: bool = False
) -> tf.Tensor:
    """`count` bytes from `at` <= size on, as whole numbers int64; zeros beyond the end."""
    part = tf.strings.substr(data, position, count)
    numbers = tf.io.decode_raw(part, dtype, little_endian=not is_big, fixed_length=count)
    return tf.cast(numbers, tf.int64)


def words(data: tf.Tensor, position: tf.Tensor, count: int, is_big: bool = False) -> list[tf.Tensor]:
    """`count` words of two bytes."""
    return tf.unstack(octets(data, position, 2 * count, tf.uint16, is_big), count)


def swapped(words: tf.Tensor) -> tf.Tensor:
    """Words of two bytes, read in the other order."""
    return words % 256 * 256 + words // 256


def vr_word(vr: str) -> int:
    """A value representation as the little-endian word that a place has it as."""
    return int.from_bytes(vr.encode(), "little")


def is_there(walk: Walk, tag: int) -> tf.Tensor:
    return walk.places[tag][0] > 0


def is_filled(walk: Walk, tag: int) -> tf.Tensor:
    return walk.places[tag][3] > walk.places[tag][0]


def has_vr(walk: Walk, tag: int, *vrs: str) -> tf.Tensor:
    """Whether the element is absent, implicit or of one of these representations."""
    return tf.reduce_any(walk.places[tag][1] == [0, *map(vr_word, vrs)])


def is_binary(walk: Walk, tag: int) -> tf.Tensor:
    """Whether the element is of a binary number's representation."""
    return tf.reduce_any(walk.places[tag][1] == [vr_word(vr) for vr in BINARY])


def is_long(walk: Walk, tag: int) -> tf.Tensor:
    """Whether the element is more than a text may be."""
    start, _, _, end = tf.unstack(walk.places[tag])
    return end - start > MAX_TEXT_BYTES


def text(walk: Walk, tag: int) -> tf.Tensor:
    """The value as text without its padding, [] string, "" where there is none."""
    start, _, _, end = tf.unstack(walk.places[tag])
    value = tf.strings.substr(walk.data, start, tf.minimum(end - start, MAX_TEXT_BYTES))
    return tf.strings.regex_replace(value, r"^[ \x00]+|[ \x00]+$", "")


def word(walk: Walk, tag: int) -> tf.Tensor:
    """The one value of a US element, [] int64; -1 where there is none or it is no such element."""
    start, _, _, end = tf.unstack(walk.places[tag])
    is_one = has_vr(walk, tag, "US") & (end - start == 2)
    (value,) = words(walk.data, start, 1)
    return tf.where(is_one, tf.where(walk.is_big, swapped(value), value), _int64(-1))


def are_numbers(texts: tf.Tensor) -> tf.Tensor:
    """Whether each text is decimal numbers, empty ones too, with backslashes between, bool [N]."""
    return tf.strings.regex_full_match(texts, _NUMBERS)


def first_numbers(texts: tf.Tensor, defaults: Sequence[float]) -> tf.Tensor:
    """The first number of each text that are_numbers takes, float64 [N]; the default of none."""
    first = tf.strings.regex_replace(texts, r"(?s)^[\s\\]*([^\s\\]*).*$", r"\1")
    numbers = tf.strings.to_number(tf.where(first == "", "0", first), tf.float64)
    return tf.where(first == "", tf.constant(defaults, tf.float64), numbers)


def first_error(*checks: tuple[tf.Tensor, Callable[[], tf.Tensor] | str]) -> tf.Tensor:
    """The text of the first check that holds, [] string, "" where none does."""
    holds = tf.stack([claim for claim, _ in checks])
    texts = [
        said if callable(said) else (lambda said=said: tf.constant(said)) for _, said in checks
    ]
    return tf.cond(
        tf.reduce_any(holds),
        lambda: tf.switch_case(tf.argmax(tf.cast(holds, tf.int32), output_type=tf.int32), texts),
        lambda: tf.constant(""),
    )


def format_error(template: str, *numbers: tf.Tensor) -> Callable[[], tf.Tensor]:
    """An error text with numbers in place of its braces, made when it is needed."""
    return lambda: tf.strings.format(template, numbers)


def _first(*cases: tuple[tf.Tensor, tf.Tensor | int]) -> tf.Tensor:
    """The Stop of the first case that holds."""
    stop = _int64(Stop.NONE)
    for holds, value in reversed(cases):
        stop = tf.where(holds, tf.cast(value, tf.int64), stop)
    return stop


_IMPLICIT, _SHORT, _LONG = range(3)  # how an element says its length


def _kinds(is_big: bool) -> np.ndarray:
    """Of every word in the place of a representation: _IMPLICIT, _SHORT or _LONG."""
    octets = np.arange(2**16, dtype="<u2").view(np.uint8).reshape(-1, 2)
    is_explicit = ((octets >= ord("A")) & (octets <= ord("Z"))).all(axis=1)
    kinds = np.where(is_explicit, _SHORT, _IMPLICIT)
    kinds[[vr_word(vr.decode()) for vr in LONG]] = _LONG
    places = np.arange(2**16)
    return kinds[swapped(places) if is_big else places].astype(np.int32)


def _int64(value: int) -> tf.Tensor:
    return tf.constant(int(value), tf.int64)
