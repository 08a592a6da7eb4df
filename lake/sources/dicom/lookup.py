"""Lookup tables in DICOM files: those of grey levels (Modality, VOI) and palettes of colours.

A descriptor says how many outputs a table has, which input has the first one, and how many bits an
output has (PS3.3 C.11.1.1.1). Writers are often wrong about the third, and about the second's sign.
"""

from typing import NamedTuple

import numpy as np
from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset
from pydicom.pixels import apply_color_lut

from lake.sources.damage import Malformed
from lake.sources.dicom import data_set, elements
from lake.sources.dicom.elements import Attributes, Element
from lake.sources.dicom.image_module import PALETTE
from lake.sources.dicom.values import numbers

MODALITY_LUTS, VOI_LUTS = 0x00283000, 0x00283010
DESCRIPTOR, DATA = 0x00283002, 0x00283006
PALETTE_DATA, SEGMENTED_DATA = 0x00281201, 0x00281221  # of red; green and blue follow
PALETTE_TAGS = frozenset(
    tag + channel for tag in (PALETTE, PALETTE_DATA, SEGMENTED_DATA) for channel in range(3)
)


class Table(NamedTuple):
    """A lookup table in a file."""

    outputs: np.ndarray  # [N]
    first: int  # the input value that maps to the first output
    bits: int  # that an output takes

    def look_up(self, values: np.ndarray) -> np.ndarray:
        """Return the outputs of values; beyond the table they take its first or last output."""
        places = np.clip(values - float(self.first), 0, len(self.outputs) - 1)
        return self.outputs[places.astype(np.int32)]


def table(attributes: Attributes, tag: int, inputs: tuple[float, float]) -> Table | None:
    """Return the first table of the sequence `tag`, None without one.

    `inputs` are the lowest and the highest value that may be looked up.
    """
    lut = data_set.item(attributes, tag, 0, (DESCRIPTOR, DATA))
    descriptor, data = numbers(lut, DESCRIPTOR), lut.get(DATA)
    if len(descriptor) != 3 or data is None or data.start == data.end:
        return None
    count, first, bits = _parse_descriptor(descriptor, inputs)
    outputs = _entries(data, count)
    # The bits are trusted no more than viewers do: an Agfa CR states its word size. Where they are
    # too many, the image would be black. A dark table of 8 bits is still one of 8 bits.
    bits = max(int(outputs.max()).bit_length(), min(bits, 8) if bits > 0 else 8)
    return Table(outputs, first, bits)


def palette_bits(attributes: Attributes) -> int:
    """Return the bits of the colours of a palette, 0 where it has none."""
    descriptor = numbers(attributes, PALETTE)
    return int(descriptor[2]) if len(descriptor) == 3 else 0


def colours(values: np.ndarray, attributes: Attributes) -> np.ndarray:
    """Return the colours [H, W, 3] of stored values [H, W] of an image with a palette, in the bits
    that the palette's descriptor states."""
    inputs = (float(values.min()), float(values.max()))
    channels = [_palette(attributes, channel, inputs) for channel in range(3)]
    highest, bits = max(int(channel.outputs.max()) for channel in channels), channels[0].bits
    result = np.stack([channel.look_up(values) for channel in channels], axis=-1)
    if bits > 8 and highest <= 255:  # entries of 8 bits, written in wider ones
        return np.rint(result * ((2**bits - 1) / 255)).astype(np.uint16)
    return (result >> 8 if bits <= 8 and highest > 255 else result).astype(np.uint16)


def _parse_descriptor(descriptor: list[float], inputs: tuple[float, float]) -> tuple[int, int, int]:
    """Return (number of outputs, first input, bits) as the standard means them.

    The first input's sign is that of the values (PS3.3 C.11.1.1.1), whichever its representation
    is: of both ways to read the word, that by which more of the inputs lie in the table.
    """
    count, first, bits = (int(number) for number in descriptor)
    count = count % 2**16 or 2**16
    low, high = inputs

    def reach(first: int) -> float:
        """Return the width of the part of the inputs that lies in a table that starts at
        `first`."""
        return max(0.0, min(high, first + count - 1) - max(low, first) + 1)

    word = first % 2**16
    return count, max((first, word, word - 2**16), key=reach), bits


def _entries(data: Element, count: int) -> np.ndarray:
    """Return the `count` outputs of a table, [N] int32, of one byte or one word each."""
    size = data.end - data.start
    if size == 2 * count:
        return np.frombuffer(data.value, data.order + "u2").astype(np.int32)
    if size not in (count, count + count % 2):  # a byte of padding makes the length even
        raise Malformed(
            f"{size} bytes of a lookup table, its descriptor says {count} entries of one or two"
        )
    return np.frombuffer(_in_order(data), np.uint8, count).astype(np.int32)


def _in_order(data: Element) -> bytes:
    """Return the bytes of entries of 8 bits in the order of the entries: two of them share a word
    (PS3.5 8.1.1), whose bytes are swapped in big-endian files unless they are OB."""
    content = data.value
    if data.order == "<" or data.vr == b"OB":
        return content
    return np.frombuffer(content, ">u2").astype("<u2").tobytes()


def _palette(attributes: Attributes, channel: int, inputs: tuple[float, float]) -> Table:
    """Return the table of red (0), green (1) or blue (2) of a palette; raises Malformed."""
    descriptor = numbers(attributes, PALETTE + channel)
    if len(descriptor) != 3:
        raise Malformed(f"no palette: {elements.name(PALETTE + channel)} has no three numbers")
    count, first, bits = _parse_descriptor(descriptor, inputs)
    plain, segmented = (attributes.get(tag + channel) for tag in (PALETTE_DATA, SEGMENTED_DATA))
    if plain is not None and plain.end > plain.start:
        return Table(_entries(plain, count), first, bits)
    if segmented is None:
        raise Malformed(f"no palette: {elements.name(PALETTE_DATA + channel)} is missing")
    return Table(_expand(segmented, count, bits), first, bits)


def _expand(segmented: Element, count: int, bits: int) -> np.ndarray:
    """Return the outputs [count] of segments (PS3.3 C.7.9.2), expanded by pydicom."""
    if bits <= 8:
        content = _in_order(segmented)
    else:
        content = np.frombuffer(segmented.value, segmented.order + "u2").astype("<u2").tobytes()
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.add_new(PALETTE, "US", [count % 2**16, 0, 8 if bits <= 8 else 16])
    for channel in range(3):
        dataset.add_new(SEGMENTED_DATA + channel, "OW", content)
    return apply_color_lut(np.arange(count, dtype=np.int32), dataset)[:, 0].astype(np.int32)
