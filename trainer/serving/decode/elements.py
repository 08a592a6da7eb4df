"""The elements of a DICOM file, located inside a TensorFlow graph by the rules of
lake/sources/dicom/elements.py: file [] string -> where the values lie, and the values.

A graph has no exceptions, so errors are values: a Stop, or an error text. Every position that a
file states is limited to the file's size before it is used.
"""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from lake.sources.dicom import elements
from lake.sources.dicom.elements import ITEM, ITEM_END, PIXEL_DATA, SEQUENCE_END
from lake.sources.dicom.values import BINARY

# A step takes about 0.05 ms here and 0.3 us in lake/sources/dicom/elements.py, which allows a
# million. A radiograph has a hundred elements.
MAX_ELEMENTS = 20_000
# The numbers that Python's float reads, except those with underscores or beyond ASCII.
_NUMBER = r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|inf|infinity)"
_NUMBERS = rf"(?i)\s*({_NUMBER})?\s*(\\\s*({_NUMBER})?\s*)*"


class Stop(IntEnum):
    """Why a walk over the elements ended."""

    NONE, PIXELS, END, CUT, DEEP, FLOATS, ODD = range(7)  # NONE: not within MAX_ELEMENTS


class Walk(NamedTuple):
    """Where the elements of a file lie, and where and why the walk over them ended."""

    data: tf.Tensor  # [] string, the file
    is_big: tf.Tensor  # [] bool: words are big-endian
    places: dict[int, tf.Tensor]  # tag -> [4] int64: start, VR, is undefined, end; 0 where absent
    position: tf.Tensor  # [] int64, where it ended
    stop: tf.Tensor  # [] int64, a Stop

    def is_filled(self, tag: int) -> tf.Tensor:
        """Return whether the element is present and not empty."""
        return self.places[tag][3] > self.places[tag][0]

    def has_vr(self, tag: int, *vrs: str) -> tf.Tensor:
        """Return whether the element is absent, implicit, or has one of these representations."""
        return tf.reduce_any(self.places[tag][1] == [0, *map(vr_word, vrs)])

    def is_binary(self, tag: int) -> tf.Tensor:
        """Return whether the element has the representation of a binary number."""
        return tf.reduce_any(self.places[tag][1] == [vr_word(vr.decode()) for vr in BINARY])

    def is_long(self, tag: int) -> tf.Tensor:
        """Return whether the element is longer than a text may be."""
        return self.places[tag][3] - self.places[tag][0] > elements.MAX_TEXT_BYTES

    def text(self, tag: int) -> tf.Tensor:
        """Return the value as text without its padding, [] string; "" where it is absent."""
        start, _, _, end = tf.unstack(self.places[tag])
        text = tf.strings.substr(self.data, start, tf.minimum(end - start, elements.MAX_TEXT_BYTES))
        return tf.strings.regex_replace(text, r"^[ \x00]+|[ \x00]+$", "")

    def word(self, tag: int) -> tf.Tensor:
        """Return the value of an element, [] int64; -1 where it is absent, or is not a single
        US."""
        start, _, _, end = tf.unstack(self.places[tag])
        is_one = self.has_vr(tag, "US") & (end - start == 2)
        (word,) = words(self.data, start, 1)
        return tf.where(is_one, tf.where(self.is_big, swap_bytes(word), word), _int64(-1))


def walk_elements(
    data: tf.Tensor,
    position: tf.Tensor,
    tags: Sequence[int],
    is_implicit: tf.Tensor,
    last_group: int = PIXEL_DATA >> 16,
    is_big: bool = False,
) -> Walk:
    """Return the places of `tags` from `position` to the pixel data, to a group after `last_group`,
    or to the end of the file.

    It stops as ODD where the converter looks at what follows before it decides how to read an
    element: at tags out of order, at representations where `is_implicit` says that there are none,
    and the other way round. Each step of the loop reads one element, item or delimiter. `depth`
    counts the sequences and items of undefined length that are open; `outer` is the outermost one.
    """
    size, wanted_tags = size_of(data), tf.constant(tags, tf.int64)
    kinds, zero = tf.constant(_kinds(is_big)), _int64(0)

    def step(position, depth, outer, places, stop):
        """Read the element at `position` and return the state behind it."""
        is_inside = depth > 0
        # The items of unknown sequences are implicit, too (PS3.5 6.2.2).
        is_bare = tf.where(is_inside, tf.reduce_any(outer[2] == [0, vr_word("UN")]), is_implicit)
        head, length, is_close, is_strange = _read_head(
            data, tf.minimum(position, size), is_inside, is_bare, kinds, is_big
        )
        tag, offset, _, is_open = tf.unstack(head)
        is_strange |= tf.where(is_inside, _is_misplaced(tag, depth), tag <= outer[0])
        start = position + offset
        end = start + length * (1 - is_open)
        outer = tf.where(is_inside, outer, head + tf.stack([zero, position, zero, zero]))
        next_depth = depth + is_open - tf.cast(is_close, tf.int64)
        is_whole = next_depth == 0
        is_float = tf.reduce_any(tag == sorted(elements.PIXEL_TAGS - {PIXEL_DATA}))
        reasons = (
            (is_inside & (position + 8 > size), Stop.CUT),
            (position + 8 > size, Stop.END),
            (~is_inside & _is_after(tag, last_group), Stop.END),
            (is_strange, Stop.ODD),
            (start > size, Stop.CUT),
            (~is_inside & is_float, Stop.FLOATS),
            (next_depth > elements.MAX_DEPTH, Stop.DEEP),
            (is_whole & (end > size), Stop.CUT),
            (is_whole & (outer[0] == PIXEL_DATA), Stop.PIXELS),
        )
        stop = _first_reason(reasons)
        is_accepted = (stop == Stop.NONE) | (stop == Stop.PIXELS)
        is_wanted = is_accepted & is_whole & (wanted_tags == outer[0])  # the last of two wins
        place = tf.concat([outer[1:], end[None]], 0)
        places = tf.where(is_wanted[:, None], place, places)
        return tf.where(is_accepted, end, position), next_depth, outer, places, stop

    nowhere = tf.zeros([4], tf.int64)
    start = (position, zero, nowhere, tf.zeros([len(tags), 4], tf.int64), zero)
    position, _, _, places, stop = tf.while_loop(
        lambda *state: state[-1] == Stop.NONE, step, start, maximum_iterations=MAX_ELEMENTS
    )
    places = dict(zip(tags, tf.unstack(places, len(tags)), strict=True))
    return Walk(data, tf.constant(is_big), places, position, stop)


def _is_after(tag: tf.Tensor, last_group: int) -> tf.Tensor:
    """Return whether an element follows `last_group`, or ends an item."""
    group = tag // 2**16
    return (group > last_group) & ((group != ITEM >> 16) | (tag == ITEM_END))


def _is_misplaced(tag: tf.Tensor, depth: tf.Tensor) -> tf.Tensor:
    """Return whether an item lies in an item, or another element in a sequence. Levels alternate:
    a sequence, at odd depths, holds items, and an item other elements."""
    is_item = (tag == ITEM) | (tag == SEQUENCE_END)
    return is_item != (depth % 2 == 1)


def _first_reason(reasons: Sequence[tuple[tf.Tensor, Stop]]) -> tf.Tensor:
    """Return the Stop, [] int64, of the first reason that holds; NONE where none does."""
    stop = _int64(Stop.NONE)
    for holds, reason in reversed(reasons):
        stop = tf.where(holds, _int64(reason), stop)
    return stop


def _read_head(
    data: tf.Tensor,
    position: tf.Tensor,
    is_inside: tf.Tensor,
    is_implicit: tf.Tensor,
    kinds: tf.Tensor,
    is_big: bool,
) -> tuple:
    """Return ([tag, bytes before the value, VR or 0, has_undefined_length] int64, length,
    is_delimiter, has_unexpected_vr) of the element, item or delimiter at `position`.

    `is_inside`: a sequence or item is open; `is_implicit`: elements have no representation;
    `kinds`: how an element encodes its length, by VR.
    """

    def long(first, second):
        return first * 2**16 + second if is_big else first + second * 2**16

    group, element, vr, short, *length = words(data, position, 6, is_big)
    tag = group * 2**16 + element
    is_delimiter = is_inside & ((tag == ITEM_END) | (tag == SEQUENCE_END))
    is_bare = is_delimiter | (is_inside & (tag == ITEM))  # without a representation
    is_strange = ~is_bare & ((kinds[vr] == _IMPLICIT) != is_implicit)
    kind = tf.where(is_bare | is_implicit, _IMPLICIT, kinds[vr])
    # By kind: implicit, the four bytes behind the tag; short, the two behind the representation;
    # long, the four behind those two.
    length = tf.stack([long(vr, short), short, long(*length)])[kind]
    length = tf.where(is_delimiter, _int64(0), length)
    offset = tf.where(kind == _LONG, _int64(12), _int64(8))
    vr = tf.where(kind == _IMPLICIT, _int64(0), swap_bytes(vr) if is_big else vr)
    has_undefined_length = tf.cast(length == elements.UNDEFINED, tf.int64)
    return tf.stack([tag, offset, vr, has_undefined_length]), length, is_delimiter, is_strange


def size_of(data: tf.Tensor) -> tf.Tensor:
    """Return the number of bytes of a string, [] int64."""
    return tf.cast(tf.strings.length(data), tf.int64)


def octets(
    data: tf.Tensor, position: tf.Tensor, count: int, dtype=tf.uint8, is_big: bool = False
) -> tf.Tensor:
    """Return `count` bytes from `position` <= size on as int64 [N]; zeros beyond the end."""
    part = tf.strings.substr(data, position, count)
    numbers = tf.io.decode_raw(part, dtype, little_endian=not is_big, fixed_length=count)
    return tf.cast(numbers, tf.int64)


def words(data: tf.Tensor, position: tf.Tensor, count: int, is_big=False) -> list[tf.Tensor]:
    """Return `count` words of two bytes from `position` on, each [] int64."""
    return tf.unstack(octets(data, position, 2 * count, tf.uint16, is_big), count)


def number(octets: tf.Tensor) -> tf.Tensor:
    """Return the number that big-endian bytes, integers [N], stand for."""
    return tf.reduce_sum(octets * [256**place for place in reversed(range(octets.shape[0]))])


def swap_bytes(words: tf.Tensor) -> tf.Tensor:
    """Return words of two bytes with their bytes swapped."""
    return words % 256 * 256 + words // 256


def vr_word(vr: str) -> int:
    """Return a value representation as the little-endian word that stands for it in a place."""
    return int.from_bytes(vr.encode(), "little")


def are_numbers(texts: tf.Tensor) -> tf.Tensor:
    """Return whether each text is decimal numbers separated by backslashes, bool [N]; empty texts
    count."""
    return tf.strings.regex_full_match(texts, _NUMBERS)


def first_numbers(texts: tf.Tensor, defaults: Sequence[float]) -> tf.Tensor:
    """Return the first number of each text that are_numbers accepts, float64 [N], or its
    default."""
    first_words = tf.strings.regex_replace(texts, r"(?s)^[\s\\]*([^\s\\]*).*$", r"\1")
    numbers = tf.strings.to_number(tf.where(first_words == "", "nan", first_words), tf.float64)
    return tf.where(tf.math.is_nan(numbers), tf.constant(defaults, tf.float64), numbers)


def first_error(*checks: tuple[tf.Tensor, Callable[[], tf.Tensor] | str]) -> tf.Tensor:
    """Return the text of the first check that holds, [] string; "" where none does."""
    holds = tf.stack([claim for claim, _ in checks])
    texts = [
        text if callable(text) else (lambda text=text: tf.constant(text)) for _, text in checks
    ]
    return tf.cond(
        tf.reduce_any(holds),
        lambda: tf.switch_case(tf.argmax(tf.cast(holds, tf.int32), output_type=tf.int32), texts),
        lambda: tf.constant(""),
    )


def format_error(template: str, *numbers: tf.Tensor) -> Callable[[], tf.Tensor]:
    """Return a function that puts the numbers into the braces of an error text."""
    return lambda: tf.strings.format(template, numbers)


_IMPLICIT, _SHORT, _LONG = range(3)  # how an element encodes its length


def _kinds(is_big: bool) -> np.ndarray:
    """Return _IMPLICIT, _SHORT or _LONG for every word that can stand for a representation."""
    kinds = np.full(2**16, _IMPLICIT)
    kinds[[vr_word(vr.decode()) for vr in elements.SHORT]] = _SHORT
    kinds[[vr_word(vr.decode()) for vr in elements.LONG]] = _LONG
    places = np.arange(2**16)
    return kinds[swap_bytes(places) if is_big else places].astype(np.int32)


def _int64(value: int) -> tf.Tensor:
    return tf.constant(int(value), tf.int64)
