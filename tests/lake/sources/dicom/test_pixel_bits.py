"""Which bits of a decoded word are the pixel: Bits Stored, High Bit, sign, overlays, and
codestreams whose precision is another than the header's."""

import io
import re

import imagecodecs
import numpy as np
import pydicom
import pytest
from makers.codestreams import CODES, WORD_CODES, encapsulated, file_of
from makers.dicom import headers, make
from makers.marks import exhaustive
from PIL import Image
from pydicom.uid import JPEG2000, JPEGBaseline8Bit, JPEGExtended12Bit

from lake import Reject
from lake.scan import Scan, Storage
from lake.sources.dicom import dicom

ALL_CODES = (*WORD_CODES, *CODES)


def read(data: bytes, bits: int = 16, max_side: int | None = None) -> Scan:
    return dicom.read_scan(data, headers(data)[0], Storage(bits, max_side))


def values_of(scan: Scan) -> np.ndarray:
    """The stored values of a grey file, as a record has them."""
    slope, intercept = scan.rescale
    return np.asarray(Image.open(io.BytesIO(scan.image))) * slope + intercept


def message_of(data: bytes) -> str:
    with pytest.raises(Reject) as caught:
        read(data)
    assert caught.value.reason == "undecodable"
    return caught.value.message


def noise(stored: int, is_signed: bool = False, kind: str = "u2") -> np.ndarray:
    """Values of `stored` bits [36, 40], smooth above, rough below; both ends are there."""
    values = np.random.default_rng(stored).integers(0, 2**stored, (36, 40))
    values[:18] = np.linspace(0, 2**stored - 1, 40)
    return (values - is_signed * 2 ** (stored - 1)).astype(kind.replace("u", "ui"[is_signed]))


def overlay_bit(position: int, group: int = 0x6000) -> dict:
    """The attributes of an overlay in bit `position` of the pixels' words."""
    overlay = pydicom.Dataset()
    overlay.add_new(group << 16 | 0x0100, "US", 16)
    overlay.add_new(group << 16 | 0x0102, "US", position)
    return overlay


def with_elements(data: bytes, *others: pydicom.Dataset) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(data))
    for other in others:
        dataset.update(other)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def assert_values(data: bytes, expected: np.ndarray, case) -> None:
    """The values in a lake of 16 bits, and in one of 8 what its window makes of them."""
    scan = read(data)
    assert (values_of(scan) == expected).all(), case
    low, high = scan.window
    levels = np.asarray(Image.open(io.BytesIO(scan.image)))
    if expected.max() > expected.min() and high > 255:  # else it is that of all its bits
        assert (low, high) == (levels.min(), levels.max()), case
    shallow = np.asarray(Image.open(io.BytesIO(read(data, bits=8).image)))
    unit = np.clip((levels - low) / (high - low), 0, 1)
    assert np.abs(shallow - unit * 255).max() <= 0.51 or (levels == shallow).all(), case


def assert_no_overlay(code: str, stored: int, is_signed: bool, positions: list[int]) -> None:
    """Bits above Bits Stored are no pixel, whether the sign goes on in them or not."""
    values = noise(stored, is_signed)
    kind = "u1" if stored < 8 and max(positions) < 8 else "u2"
    words = values.astype(kind.replace("u", "i")).view(kind)
    for place, position in enumerate(positions):
        words[3 * place : 3 * place + 2, 5:30] |= 1 << position
        words[3 * place + 2, 5:30] &= ~np.array(1 << position, kind)
    data = file_of(words, code, **layout(stored, is_signed))
    groups = range(0x6000, 0x6020, 2)
    overlays = [overlay_bit(*pair) for pair in zip(positions, groups, strict=False)]
    assert_values(with_elements(data, *overlays), values, (code, stored, is_signed, positions))


def layout(stored: int, is_signed: bool = False, high: int | None = None) -> dict[str, int]:
    return {
        "BitsStored": stored,
        "HighBit": stored - 1 if high is None else high,
        "PixelRepresentation": int(is_signed),
    }


@pytest.mark.parametrize("code", ALL_CODES)
def test_bits_above_bits_stored_are_no_pixel(code):
    assert_no_overlay(code, 12, False, [15])
    assert_no_overlay(code, 10, True, [12, 10])
    assert_no_overlay(code, 5, False, [6])


@exhaustive
@pytest.mark.parametrize("code", ALL_CODES)
@pytest.mark.parametrize("is_signed", [False, True])
def test_bits_above_bits_stored_are_no_pixel_at_any_depth(code, is_signed):
    for stored in range(1 + is_signed, 16):
        for positions in ([stored], [15], [15, stored], [(stored + 15) // 2]):
            assert_no_overlay(code, stored, is_signed, positions)


@pytest.mark.parametrize("code", ["jpeg-2000", "jpeg-ls", "jpeg-lossless", "htj2k"])
def test_bits_that_no_overlay_names_are_a_reject_where_they_could_be_a_number(code):
    values = noise(12)
    words = values | np.uint16(1 << 12)
    message = message_of(file_of(words, code, **layout(12)))
    assert "the codestream has 16 bits, High Bit is 11, Bits Stored 12" in message
    # Numbers of 16 bits that reach 2^15 have bits 12 to 14, too.
    words = values | np.where(values % 3, 0, 1 << 15).astype(np.uint16)
    assert_values(file_of(words, code, **layout(12)), values, code)


@pytest.mark.parametrize("code", ["jpeg-2000", "jpeg-ls", "jpeg-lossless"])
def test_a_sign_above_the_pixel_is_no_other_bit(code):
    """Whole words of negative values, or words whose bits above the pixel are 0."""
    values = noise(12, is_signed=True)
    for words in (values.view(np.uint16), values.view(np.uint16) & 4095):
        assert_values(file_of(words, code, **layout(12, is_signed=True)), values, code)
    assert_values(file_of(values, code, **layout(12, is_signed=True)), values, code)


def assert_high_bit(code: str, stored: int, high: int, is_signed: bool) -> None:
    values = noise(stored, is_signed)
    kind = "u1" if high < 8 else "u2"
    words = values.astype(kind.replace("u", "i")).view(kind) << (high + 1 - stored)
    data = file_of(words, code, **layout(stored, is_signed, high))
    assert_values(data, values, (code, stored, high, is_signed))
    words[5, 5] ^= 1 << (high - stored)  # below the pixel
    data = file_of(words, code, **layout(stored, is_signed, high))
    assert f"High Bit is {high}" in message_of(data)
    data = with_elements(data, overlay_bit(high - stored))
    assert_values(data, values, (code, stored, high, is_signed, "overlay"))


@pytest.mark.parametrize("code", ALL_CODES)
def test_high_bit_says_where_the_pixel_is(code):
    assert_high_bit(code, 12, 15, False)
    assert_high_bit(code, 9, 12, True)
    assert_high_bit(code, 6, 7, False)


@exhaustive
@pytest.mark.parametrize("code", ALL_CODES)
@pytest.mark.parametrize("is_signed", [False, True])
def test_high_bit_says_where_the_pixel_is_at_any_depth(code, is_signed):
    for stored in range(1 + is_signed, 16):
        for high in range(stored, 16):
            assert_high_bit(code, stored, high, is_signed)


@pytest.mark.parametrize("code", ["native", "rle"])
def test_a_high_bit_that_cannot_be_is_a_reject(code):
    for high in (3, 16):
        assert f"High Bit is {high}" in message_of(
            file_of(noise(12), code, **layout(12, high=high))
        )
    # Where the pixel takes the whole word, there is but one place.
    assert_values(file_of(noise(16), code, **layout(16, high=7)), noise(16), code)


@pytest.mark.parametrize("code", CODES)
def test_a_codestream_of_the_pixels_bits_has_them_wherever_high_bit_is(code):
    assert_values(file_of(noise(12), code, 12, **layout(12, high=15)), noise(12), code)


def assert_precision(code: str, bits: int, stored: int, is_signed: bool) -> None:
    """A codestream of `bits` bits says what the pixels are, Bits Stored whatever it says."""
    case = (code, bits, stored, is_signed)
    values = noise(bits, is_signed)
    if code != "jpeg-2000" and is_signed and bits < stored:  # which bit has the sign?
        data = file_of(values, code, bits, **layout(stored, True))
        assert f"the codestream has {bits} bits, Bits Stored is {stored}" in message_of(data), case
        values = np.abs(values // 2)
    data = file_of(values, code, bits, **layout(stored, is_signed))
    if bits <= stored or not is_signed or code == "jpeg-2000":
        assert_values(data, values, case)
        return
    numbers = rf"the codestream has {bits} bits, .*Bits Stored (is )?{stored}\b"
    assert re.search(numbers, message_of(data)), case


@pytest.mark.parametrize("code", CODES)
def test_the_codestream_says_what_the_pixels_are(code):
    for bits, stored in ((8, 12), (8, 8), (10, 8), (12, 16), (14, 12)):
        assert_precision(code, bits, stored, is_signed=False)
        assert_precision(code, bits, stored, is_signed=True)


@exhaustive
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("is_signed", [False, True])
def test_the_codestream_says_what_the_pixels_are_at_any_depth(code, is_signed):
    for bits in range(2, 16):
        for stored in range(2, 17):
            assert_precision(code, bits, stored, is_signed)


def test_a_codestream_with_negative_values_in_an_unsigned_image_is_a_reject():
    values = noise(12, is_signed=True)
    data = file_of(values, "jpeg-2000", 12, **layout(12))
    assert "negative values" in message_of(data)
    data = file_of(np.abs(values // 2), "jpeg-2000", 12, **layout(12))
    assert_values(data, np.abs(values // 2), "none is negative")


@pytest.mark.parametrize("max_side", [None, 20])
def test_a_lossy_codestream_keeps_what_swings_above_bits_stored(max_side):
    """Values at the edge of 10 bits, coded with 12: decoders return up to 1,100."""
    pixels = (noise(10) > 511).astype(np.uint16) * 1023
    frame = imagecodecs.jpeg8_encode(pixels, level=60, bitspersample=12)
    decoded = imagecodecs.jpeg8_decode(frame, colorspace="GRAYSCALE", outcolorspace="GRAYSCALE")
    assert decoded.max() > 1040
    data = encapsulated(pixels, JPEGExtended12Bit, [frame], **layout(10))
    scan = read(data, max_side=max_side)
    if max_side is None:
        assert (values_of(scan) == decoded).all()
    else:
        assert scan.width == 20 and abs(values_of(scan).mean() - decoded.mean()) < 5


def test_baseline_jpegs_in_words_of_16_bits_are_read_at_any_size():
    pixels = np.tile(np.linspace(0, 255, 400).astype(np.uint8), (300, 1))
    frame = imagecodecs.jpeg8_encode(pixels, level=95)
    decoded = np.asarray(Image.open(io.BytesIO(frame)))
    for stored in (8, 12, 16):
        data = encapsulated(pixels.astype("u2"), JPEGBaseline8Bit, [frame], **layout(stored))
        assert (values_of(read(data)) == decoded).all()
        scan = read(data, bits=8, max_side=100)
        assert (scan.width, scan.window) == (100, (0, 255))
        shallow = np.asarray(Image.open(io.BytesIO(scan.image)))
        assert np.abs(shallow - decoded.reshape(75, 4, 100, 4).mean((1, 3))).max() < 4


def test_lossy_jpeg_2000_of_more_bits_is_no_modulo():
    values = (noise(12) > 2000).astype(np.uint16) * 4095
    frame = imagecodecs.jpeg2k_encode(values, codecformat="j2k", level=30, reversible=False)
    decoded = imagecodecs.jpeg2k_decode(frame)
    assert decoded.max() > 4095
    data = encapsulated(values, JPEG2000, [frame], **layout(12))
    assert (values_of(read(data)) == decoded).all()


def test_colours_have_no_sign():
    """Pixel Representation says one of a colour image that has none."""
    colours = np.random.default_rng(0).integers(0, 256, (9, 8, 3)).astype(np.uint8)
    plain, signed = (read(make(colours, PixelRepresentation=sign)) for sign in (0, 1))
    # A value may be NaN, which Python 3.13 compares field by field in a dataclass.
    assert vars(plain) == vars(signed)
