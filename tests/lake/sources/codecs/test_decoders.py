"""Encoded frames of every transfer syntax -> pixels: by one named decoder each, and the right ones.

What is expected is what was encoded, by encoders of other makers where there are some; of lossy
codes, what a second decoder reads.
"""

import io
import itertools
import random
import re
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
import SimpleITK
from makers import lossless_jpeg
from makers.dicom import headers, make
from makers.marks import exhaustive
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array
from pydicom.uid import (
    MPEG2MPML,
    UID,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from lake import Reject
from lake.scan import Storage
from lake.sources.codecs import decoders
from lake.sources.dicom import dicom

DTYPES = (np.uint8, np.int8, np.uint16, np.int16)
NEAR = 3  # levels that a near-lossless code may be off
PREDICTORS = range(1, 8)


def values_of(data: bytes) -> np.ndarray:
    """The stored values [H, W] of a grey file, as a 16-bit record has them."""
    scan = dicom.read_scan(data, headers(data)[0], Storage(bits=16, max_side=None))
    slope, intercept = scan.rescale
    return np.asarray(Image.open(io.BytesIO(scan.image))) * slope + intercept


def noise(dtype, bits: int | None = None) -> np.ndarray:
    """Values of `bits` bits [20, 27], smooth ones above rough ones."""
    bits = bits or 8 * np.dtype(dtype).itemsize
    rng = np.random.default_rng(bits)
    values = rng.integers(0, 2**bits, (20, 27))
    values[:10] = np.linspace(0, 2**bits - 1, 27)
    return (values - (2 ** (bits - 1) if np.dtype(dtype).kind == "i" else 0)).astype(dtype)


def encoded(pixels: np.ndarray, syntax: UID, frame: bytes, **attributes) -> bytes:
    """A file of these pixels, whose one frame is `frame`."""
    dataset = pydicom.dcmread(io.BytesIO(make(pixels, **attributes)))
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    return saved(dataset)


def saved(dataset: pydicom.Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def compressed(pixels: np.ndarray, syntax: UID, **options) -> bytes:
    """The file as pydicom's encoders write it."""
    dataset = pydicom.dcmread(io.BytesIO(make(pixels)))
    dataset.compress(syntax, generate_instance_uid=False, **options)
    return saved(dataset)


def written_by_itk(pixels: np.ndarray, compressor: str, path: Path) -> bytes:
    """The file as SimpleITK writes it, with GDCM."""
    writer = SimpleITK.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(path))
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    writer.Execute(SimpleITK.GetImageFromArray(pixels))
    return path.read_bytes()


def words(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Values of either sign as the unsigned words that JPEG and JPEG-LS have."""
    return pixels.view(f"u{pixels.itemsize}") & np.array(2**bits - 1, f"u{pixels.itemsize}")


def bits_attributes(bits: int) -> dict[str, int]:
    return {"BitsStored": bits, "HighBit": bits - 1}


def test_a_transfer_syntax_without_a_decoder_is_a_reject():
    decoders.check_syntax(JPEGLosslessSV1)
    with pytest.raises(Reject, match="no decoder reads MPEG2"):
        decoders.check_syntax(MPEG2MPML)


def test_jpeg_lossless_counted_modulo_is_read_where_the_second_reader_fails():
    pixels = noise(np.uint8)
    data = encoded(
        pixels, JPEGLosslessSV1, lossless_jpeg.encode(pixels, precision=8, is_modulo=True)
    )
    assert (values_of(data) == pixels).all()
    theirs = pixel_array(pydicom.dcmread(io.BytesIO(data)), decoding_plugin="pylibjpeg")
    assert (theirs != pixels).mean() > 0.3


def assert_lossless(precision: int, predictor: int, shift: int, is_modulo: bool, is_signed: bool):
    size = 1 if precision <= 8 else 2
    pixels = noise(f"{'iu'[not is_signed]}{size}", precision)
    frame = lossless_jpeg.encode(words(pixels, precision), precision, predictor, shift, is_modulo)
    data = encoded(pixels, JPEGLossless, frame, **bits_attributes(precision))
    expected = (pixels.astype(int) >> shift) << shift
    case = (precision, predictor, shift, is_modulo, is_signed)
    assert (values_of(data) == expected).all(), case


@pytest.mark.parametrize("precision", [2, 8, 12, 16])
def test_jpeg_lossless_of_every_predictor(precision):
    for predictor in PREDICTORS:
        assert_lossless(precision, predictor, 0, predictor != 1, predictor % 2 == 1)
    assert_lossless(precision, 1, 1, False, False)


@exhaustive
@pytest.mark.parametrize("precision", range(2, 17))
def test_jpeg_lossless_of_every_predictor_point_transform_and_sign(precision):
    cases = itertools.product(PREDICTORS, range(precision), (False, True), (False, True))
    for predictor, shift, is_modulo, is_signed in cases:
        assert_lossless(precision, predictor, shift, is_modulo, is_signed)


@pytest.mark.parametrize("is_modulo", [False, True])
def test_lossless_colours_and_restarts_are_read_modulo_or_not(is_modulo):
    colours = np.stack([noise(np.uint8), noise(np.uint8)[::-1], 255 - noise(np.uint8)], -1)
    luma = np.asarray(Image.fromarray(colours).convert("L"))
    deep = noise(np.uint16, 12)
    for rows in (0, 1, 7):
        for predictor in PREDICTORS:
            options = {"predictor": predictor, "is_modulo": is_modulo, "restart_rows": rows}
            frame = lossless_jpeg.encode(colours, 8, **options)
            assert (values_of(encoded(colours, JPEGLossless, frame)) == luma).all(), options
            frame = lossless_jpeg.encode(deep, 12, **options)
            data = encoded(deep, JPEGLossless, frame, **bits_attributes(12))
            assert (values_of(data) == deep).all(), options


def damaged(frame: bytes, seed: int) -> bytes:
    """The frame with bytes of its scan changed, left out, or written twice."""
    rng = random.Random(seed)
    position = rng.randrange(frame.index(b"\xff\xda") + 16, len(frame) - 42)
    length = rng.randrange(1, 40)
    match seed % 3:
        case 0:
            other = bytes(rng.randrange(255) for _ in range(length))  # no marker
        case 1:
            other = b""
        case 2:
            other = 2 * frame[position : position + length]
    return frame[:position] + other + frame[position + length :]


@pytest.mark.parametrize("shape", ["grey", "colour"])
def test_damage_inside_a_lossless_jpeg_is_seen(shape):
    """By the number of bits: the decoder itself takes whatever there is. What is left out or
    doubled is always seen, of other bytes half or more: some codes have the same lengths."""
    y, x = np.mgrid[:60, :80]
    rough = np.random.default_rng(0).normal(0, 3, (60, 80))
    pixels = (128 + 60 * np.sin(x / 9) + 50 * np.cos(y / 13) + rough).astype(np.uint8)
    if shape == "colour":
        pixels = np.stack([pixels, pixels[::-1], 255 - pixels], -1)
    spaces = {"colorspace": "RGB", "outcolorspace": "RGB"} if shape == "colour" else {}
    frame = imagecodecs.jpeg8_encode(pixels, lossless=True, **spaces)
    values = values_of(encoded(pixels, JPEGLossless, frame))
    seen = [0, 0, 0]
    for seed in range(90):
        try:
            theirs = values_of(encoded(pixels, JPEGLossless, damaged(frame, seed)))
            seen[seed % 3] += (theirs == values).all()
        except Reject as reject:
            assert reject.reason == "undecodable"
            seen[seed % 3] += 1
    assert seen[0] >= 12 and seen[1:] == [30, 30]


def encodings(pixels: np.ndarray, folder: Path) -> dict[str, bytes]:
    """The pixels in every lossless code, by every encoder that there is."""
    bits = 8 * pixels.itemsize
    unsigned = words(pixels, bits)
    turbo = imagecodecs.jpeg8_encode(unsigned, lossless=True, predictor=4, bitspersample=bits)
    files = {
        "RLE, pydicom": compressed(pixels, RLELossless),
        "JPEG-LS, CharLS": compressed(pixels, JPEGLSLossless),
        "JPEG 2000, OpenJPEG": compressed(pixels, JPEG2000Lossless),
        "JPEG Lossless, libjpeg-turbo": encoded(pixels, JPEGLossless, turbo),
        "JPEG Lossless, liblj92": encoded(
            pixels, JPEGLosslessSV1, imagecodecs.ljpeg_encode(unsigned, bitspersample=bits)
        ),
    }
    if pixels.dtype != np.int8:  # ITK writes it as 16 bits
        files["JPEG Lossless, GDCM"] = written_by_itk(pixels, "JPEG", folder / "jpeg.dcm")
        files["JPEG 2000, GDCM"] = written_by_itk(pixels, "JPEG2000", folder / "jpeg_2000.dcm")
    if pixels.dtype.kind == "u":
        high_throughput = imagecodecs.htj2k_encode(pixels, reversible=True)
        files["HTJ2K, OpenJPH"] = encoded(pixels, HTJ2KLossless, high_throughput)
    return files


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_every_lossless_code_gives_back_its_pixels(dtype, tmp_path):
    pixels = np.tile(noise(dtype), (2, 2))  # OpenJPEG encodes no fewer than 32
    for name, data in encodings(pixels, tmp_path).items():
        assert (values_of(data) == pixels).all(), name


@exhaustive
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_lossless_code_gives_back_large_pixels(dtype, tmp_path):
    pixels = np.tile(noise(dtype), (16, 12))
    for name, data in encodings(pixels, tmp_path).items():
        assert (values_of(data) == pixels).all(), name


def test_run_lengths_of_single_bits_are_read():
    pixels = np.random.default_rng(0).integers(0, 2, (9, 13)).astype(np.uint8)
    packed = np.packbits(pixels, bitorder="little").tobytes()
    segment = bytes([len(packed) - 1]) + packed
    frame = struct.pack("<16L", 1, 64, *[0] * 14) + segment + bytes(len(segment) % 2)
    bits = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}
    assert (values_of(encoded(pixels, RLELossless, frame, **bits)) == pixels).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_near_lossless_jpeg_ls_is_as_near_as_it_says(dtype):
    pixels = noise(dtype) // 2  # near the ends of the range, the sign of a word may change
    values = values_of(compressed(pixels, JPEGLSNearLossless, jls_error=NEAR))
    assert 0 < np.abs(values - pixels).max() <= NEAR


def test_a_padded_jpeg_ls_is_read():
    """As NEMA's own sample MR1_JLSL is: a zero before the end makes its length even."""
    pixels = noise(np.uint16)
    frame = imagecodecs.jpegls_encode(pixels)
    content = frame[:-2] + b"\0" + frame[-2:]
    assert (values_of(encoded(pixels, JPEGLSLossless, content)) == pixels).all()


@pytest.mark.parametrize("syntax", sorted(decoders.LOSSY_JPEG))
def test_lossy_jpeg_of_12_bits_is_what_a_second_decoder_reads(syntax):
    pixels = noise(np.uint16, 12)
    frame = imagecodecs.jpeg8_encode(pixels, level=90, bitspersample=12)
    data = encoded(pixels, syntax, frame, **bits_attributes(12))
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.file_meta.TransferSyntaxUID = JPEGExtended12Bit
    theirs = pixel_array(dataset, decoding_plugin="pylibjpeg")
    assert np.abs(values_of(data) - theirs).max() <= 2  # two roundings of an inverse DCT
    assert np.abs(values_of(data) - pixels)[:10].mean() < 60


def test_a_codestream_of_fewer_bits_than_the_header_allocates_is_read():
    pixels = noise(np.uint8).astype(np.uint16)
    lossless = lossless_jpeg.encode(pixels, precision=8)
    near = imagecodecs.jpegls_encode(pixels.astype(np.uint8))
    for syntax, frame in ((JPEGLosslessSV1, lossless), (JPEGLSLossless, near)):
        data = encoded(pixels, syntax, frame, **bits_attributes(8))
        assert (values_of(data) == pixels).all()


def reject_of(data: bytes) -> str:
    with pytest.raises(Reject) as caught:
        values_of(data)
    assert caught.value.reason == "undecodable"
    return caught.value.message


def test_a_codestream_of_more_bits_than_the_header_allocates_is_a_reject():
    pixels = noise(np.uint8)
    for syntax, frame in (
        (JPEGLosslessSV1, lossless_jpeg.encode(pixels, precision=12)),
        (JPEGLSLossless, imagecodecs.jpegls_encode(pixels.astype(np.uint16) * 16)),
    ):
        message = reject_of(encoded(pixels, syntax, frame))
        assert re.search(r"the codestream has (12|16) bits, Bits Allocated is 8", message)


def test_a_scan_that_is_cut_off_is_a_reject():
    """libjpeg-turbo would fill the image up, CharLS look half a minute for the end."""
    pixels = noise(np.uint8)
    frames = {
        JPEGBaseline8Bit: imagecodecs.jpeg8_encode(pixels, level=90),
        JPEGLosslessSV1: lossless_jpeg.encode(pixels, precision=8),
        JPEGLSLossless: imagecodecs.jpegls_encode(pixels),
    }
    for syntax, frame in frames.items():
        data = encoded(pixels, syntax, frame[: len(frame) * 3 // 4])
        assert "the JPEG scan has no end" in reject_of(data)


def test_a_jpeg_of_hundreds_of_scans_is_too_large():
    """Every scan takes as long as one with data, whatever it is made of."""
    pixels = np.full((64, 64), 128, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", progressive=True)
    few, end = buffer.getvalue()[:-2], b"\xff\xd9"
    scan = few[few.rfind(b"\xff\xda") :]
    thumbnail = b"\xff\xe1" + (2 + 1000).to_bytes(2, "big") + b"\xff\xda" * 500
    for frame in (few + end, few + 20 * scan + end, few[:2] + thumbnail + few[2:] + end):
        assert (values_of(encoded(pixels, JPEGBaseline8Bit, frame)) == pixels).all()
    with pytest.raises(Reject, match="more than 32 scans") as caught:
        values_of(encoded(pixels, JPEGBaseline8Bit, few + 40 * scan + end))
    assert caught.value.reason == "too-large"


def jpeg_2000(side: int, tile: int, layers: int = 1, precincts: bytes = b"") -> bytes:
    """A codestream of [side, side] without data: a kilobyte, whatever it is cut into."""
    siz = struct.pack(">H8LH", 0, side, side, 0, 0, tile, tile, 0, 0, 1) + bytes((15, 1, 1))
    resolutions = max(len(precincts), 6)
    style = struct.pack(">BBHB", bool(precincts), 2, layers, 0)
    style += bytes((resolutions - 1, 4, 4, 0, 1)) + precincts
    steps = b"\x40" + bytes((18 << 3,)) * (3 * resolutions - 2)
    segments = ((0xFF51, siz), (0xFF52, style), (0xFF5C, steps))
    header = b"".join(struct.pack(">HH", marker, 2 + len(rest)) + rest for marker, rest in segments)
    tiles = (
        struct.pack(">HHHLBBH", 0xFF90, 10, number, 14 + 32, 0, 1, 0xFF93) + bytes(32)
        for number in range((-(-side // tile)) ** 2)
    )
    return b"\xff\x4f" + header + b"".join(tiles) + b"\xff\xd9"


def test_a_jpeg_2000_of_too_many_parts_is_too_large():
    """Each takes half a kilobyte and two microseconds, with data or without."""
    pixels = np.zeros((600, 600), np.uint16)
    for parts in (
        {"tile": 64},
        {"tile": 600, "layers": 100},
        {"tile": 600, "precincts": b"\x77" * 6},
    ):
        frame = jpeg_2000(600, **parts)
        values = values_of(encoded(pixels, JPEG2000Lossless, frame))
        assert values.min() == values.max(), parts
    for name, parts in {
        "tiles": {"tile": 8},
        "precincts": {"tile": 600, "precincts": b"\x11" * 6},
        "packets": {"tile": 600, "layers": 65535, "precincts": b"\x66" * 6},
    }.items():
        with pytest.raises(Reject, match=name) as caught:
            values_of(encoded(pixels, JPEG2000Lossless, jpeg_2000(600, **parts)))
        assert caught.value.reason == "too-large"


@pytest.mark.parametrize("space", ["RGB", "YBR_FULL"])
def test_colours_are_converted_once(space):
    """By pydicom, as the header or a JFIF segment says; the codestream carries them as they are."""
    rgb = np.stack([noise(np.uint8)] * 3, -1)
    rgb[..., 1], rgb[..., 2] = rgb[::-1, :, 1], 255 - rgb[..., 2]
    planes = np.asarray(Image.fromarray(rgb).convert("YCbCr")) if space == "YBR_FULL" else rgb
    luma = np.asarray(Image.fromarray(rgb).convert("L")).astype(int)
    name = "RGB" if space == "RGB" else "UNKNOWN"
    options = {"colorspace": name, "outcolorspace": name}
    frames = {
        JPEGLossless: imagecodecs.jpeg8_encode(planes, lossless=True, **options),
        JPEGLSLossless: imagecodecs.jpegls_encode(planes),
    }
    for syntax, frame in frames.items():
        data = encoded(planes, syntax, frame, PhotometricInterpretation=space)
        off = np.abs(values_of(data) - luma).max()
        assert off <= (1 if space == "YBR_FULL" else 0)  # there and back is rounded


def test_headers_are_read_where_there_is_no_decoder():
    """As in the environment of requirements/tfio.txt, where exports import names of elements."""
    code = "import sys; sys.modules |= {'imagecodecs': None, 'SimpleITK': None}\n"
    code += "import lake.sources.dicom.dicom"
    root = Path(__file__).parents[4]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


def test_threads_decode_side_by_side():
    pixels = np.tile(noise(np.uint16), (20, 10))
    frames = {
        JPEGLossless: imagecodecs.jpeg8_encode(pixels, lossless=True, bitspersample=16),
        JPEGLSLossless: imagecodecs.jpegls_encode(pixels),
        JPEG2000Lossless: imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True),
    }
    files = [encoded(pixels, syntax, frame) for syntax, frame in frames.items()] * 8
    with ThreadPoolExecutor(4) as pool:
        assert all((values == pixels).all() for values in pool.map(values_of, files))
