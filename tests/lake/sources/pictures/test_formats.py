"""Image files of every format, depth and coding: against the arrays that were written, by tifffile
where Pillow reads, and against Pillow's own decoder where bytes are written by hand."""

import io
import itertools
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import tensorflow as tf
import tifffile
from makers.images import chunk, encoded, header_of, png, reason_of, scan_of, stored_pixels
from makers.marks import exhaustive
from PIL import Image

from lake import Reject
from lake.scan import Storage
from lake.sources.masks import masks
from lake.sources.pictures import images

AS_IS, DEEP = Storage(bits=8, max_side=None), Storage(bits=16, max_side=None)


@pytest.fixture
def grey() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 32)).astype(np.uint8)


def tiff(pixels: np.ndarray, **options) -> bytes:
    """A TIFF that tifffile writes: MINISBLACK unless `photometric` says otherwise."""
    buffer = io.BytesIO()
    options = {"photometric": "minisblack", "metadata": None, **options}
    byteorder, bigtiff = options.pop("byteorder", "<"), options.pop("bigtiff", False)
    tifffile.imwrite(buffer, pixels, byteorder=byteorder, bigtiff=bigtiff, **options)
    return buffer.getvalue()


def levels_of(data: bytes) -> np.ndarray:
    """The values that the record of an image stands for."""
    storage = AS_IS if header_of(data).bits == 8 else DEEP
    scan = scan_of(data, storage)
    return stored_pixels(scan).astype(int) * scan.rescale[0] + scan.rescale[1]


# --- 16 bits that are not used ---


@pytest.mark.parametrize("kind", ["png", "tiff", "tiff.lzw"])
@pytest.mark.parametrize("bits", [9, 12, 15, 16])
def test_the_window_of_deep_levels_is_their_range(kind, bits):
    ramp = np.add.outer(np.arange(64), np.arange(64)) * (2**bits - 1) // 126
    pixels = (ramp + (0 if bits == 16 else 31)).astype(np.uint16)
    lzw = {"compression": "lzw"} if kind == "tiff.lzw" else {}
    data = encoded(pixels) if kind == "png" else tiff(pixels, **lzw)
    low, high = int(pixels.min()), int(pixels.max())
    assert scan_of(data, DEEP).window == (low, high)
    scan = scan_of(data, AS_IS)
    view = (stored_pixels(scan) - scan.window[0]) / (scan.window[1] - scan.window[0])
    assert view.mean() == pytest.approx(0.5, abs=0.01) and len(np.unique(view)) > 100
    assert scan_of(data, Storage(16, 32)).window == (low, high)  # shrunk
    assert scan_of(data, Storage(16, None, window="40,90")).window == (40, 90)


def test_a_constant_deep_image_has_a_window():
    for value in (0, 700, 65535):
        data = encoded(np.full((8, 8), value, np.uint16))
        scan = scan_of(data, DEEP)
        assert scan.window == (value, value + 1) and (stored_pixels(scan) == value).all()
        assert not stored_pixels(scan_of(data, AS_IS)).any()


# --- TIFF ---


def check_tiff(pixels, expected, **options):
    data = tiff(pixels, **options)
    np.testing.assert_array_equal(levels_of(data), expected, str(options))


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i1", "i2"])
def test_tiffs_of_every_grey(byteorder, photometric, dtype):
    info = np.iinfo(dtype)
    pixels = np.random.default_rng(5).integers(info.min, info.max, (40, 37), dtype, endpoint=True)
    is_inverted = photometric == "miniswhite"
    for coding in ({}, {"compression": "zlib"}, {"tile": (16, 16)}):
        options = {"photometric": photometric, "byteorder": byteorder, **coding}
        if is_inverted and dtype.startswith("i"):
            assert reason_of(header_of, tiff(pixels, **options)) == "unknown-colour"
        else:
            check_tiff(pixels, info.max - pixels.astype(int) if is_inverted else pixels, **options)


def test_tiffs_of_colours_palettes_and_bits(grey):
    colours = np.stack([grey, 255 - grey, grey // 3], axis=-1)
    luma = np.asarray(Image.fromarray(colours).convert("L"))
    wide = np.random.default_rng(1).integers(0, 65536, (3, 256), np.uint16)
    tones = Image.fromarray((wide.T[grey] >> 8).astype(np.uint8)).convert("L")
    for coding in ({}, {"compression": "lzw"}, {"tile": (16, 16)}, {"planarconfig": "separate"}):
        planes = np.moveaxis(colours, 2, 0) if "planarconfig" in coding else colours
        check_tiff(planes, luma, photometric="rgb", **coding)
    check_tiff(grey, np.asarray(tones), photometric="palette", colormap=wide)
    narrow = (wide >> 8).astype(np.uint16)  # 8-bit entries in a map of 16
    check_tiff(grey, np.asarray(tones), photometric="palette", colormap=narrow)
    opaque = np.dstack([colours, np.full_like(grey, 255)])
    options = {"photometric": "rgb", "extrasamples": ["unassalpha"]}
    check_tiff(opaque, luma, **options)
    opaque[3, 3, 3] = 7
    assert reason_of(scan_of, tiff(opaque, **options)) == "transparent"
    check_tiff(grey > 99, (grey > 99) * 255)
    check_tiff(grey > 99, (grey <= 99) * 255, photometric="miniswhite")
    for coding in ("group3", "group4", "packbits", "tiff_lzw", "tiff_adobe_deflate", "raw"):
        data = encoded(Image.fromarray(grey > 99), "TIFF", compression=coding)
        assert (levels_of(data) == (grey > 99) * 255).all(), coding


def test_tiffs_of_jpeg(grey):
    smooth = np.add.outer(np.arange(64) * 2, np.arange(48)).astype(np.uint8)
    image = Image.fromarray(smooth)
    assert (
        np.abs(levels_of(encoded(image, "TIFF", compression="jpeg", quality=95)) - smooth).max()
        <= 4
    )
    colour = image.convert("RGB")
    assert np.abs(levels_of(encoded(colour, "TIFF", compression="jpeg")) - smooth).max() <= 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_upright(grey, orientation):
    tags = [(274, "H", 1, orientation, True)]
    turned = {**images.formats.TURNS, 1: np.asarray}[orientation](grey)
    for coding in ({}, {"compression": "zlib"}):
        data = tiff(grey, extratags=tags, **coding)
        header = header_of(data)
        assert (header.height, header.width) == turned.shape
        assert (levels_of(data) == turned).all()


@pytest.mark.parametrize(
    ("pixels", "options", "reason"),
    [
        (np.zeros((8, 8), np.float32), {}, "too-many-bits"),
        (np.zeros((8, 8), np.float16), {}, "too-many-bits"),
        (np.zeros((8, 8), np.uint32), {}, "too-many-bits"),
        (np.zeros((8, 8), np.complex64), {}, "too-many-bits"),
        (np.zeros((8, 8, 3), np.uint16), {"photometric": "rgb"}, "deep-colour"),
        (np.zeros((2, 8, 8), np.uint8), {}, "multi-frame"),
        (np.zeros((8, 8), np.uint16), {"bitspersample": 10}, "unsupported-tiff"),
        (np.zeros((8, 7), np.uint16), {"bitspersample": 12}, "unsupported-tiff"),
        (np.zeros((8, 8), np.uint8), {"compression": "jpeg2000"}, "unsupported-tiff"),
        (np.zeros((20_000, 10_000), np.bool_), {}, "too-large"),
    ],
)
def test_tiffs_that_are_not_read(pixels, options, reason):
    assert reason_of(header_of, tiff(pixels, **options)) == reason


def test_an_imagej_stack_with_one_directory_is_several_frames(grey):
    data = tiff(grey, description="ImageJ=1.53\nimages=7\nslices=7\n")
    assert reason_of(header_of, data) == "multi-frame"
    assert (levels_of(tiff(grey, description="ImageJ=1.53\nimages=1\n")) == grey).all()


def patched(data: bytes, tag: int, value: int, kind: str = "L") -> bytes:
    """A little-endian TIFF in which the first value of a tag is another."""
    (start,) = struct.unpack_from("<L", data, 4)
    for k in range(struct.unpack_from("<H", data, start)[0]):
        place = start + 2 + 12 * k
        number, _, count = struct.unpack_from("<HHL", data, place)
        if number == tag:
            far = count * struct.calcsize(kind) > 4
            place = struct.unpack_from("<L", data, place + 8)[0] if far else place + 8
            changed = bytearray(data)
            struct.pack_into(f"<{kind}", changed, place, value)
            return bytes(changed)
    raise AssertionError(tag)


def test_a_tiff_without_all_its_strips_is_damaged(grey):
    for coding in ({}, {"compression": "zlib"}):
        data = tiff(grey, rowsperstrip=4, **coding)
        assert (levels_of(data) == grey).all()
        for changed in (
            patched(data, 273, 0),  # a strip that is nowhere
            patched(data, 279, 0),
            patched(data, 278, 2, "H"),  # fewer strips than rows need
            patched(data, 257, 25, "H"),
            patched(data, 273, len(data)),
            data[:-9],
        ):
            assert reason_of(header_of, changed) == "unreadable-header"
    no_photometric = patched(tiff(grey), 262, 0, "H").replace(
        struct.pack("<HHL", 262, 3, 1), struct.pack("<HHL", 261, 3, 1)
    )
    assert reason_of(header_of, no_photometric) == "unreadable-header"


def test_huge_tags_and_segments_cost_nothing(grey):
    data = tiff(grey, extratags=[(65000, "H", 1, 7, True)])
    large = data.replace(struct.pack("<HHL", 65000, 3, 1), struct.pack("<HHL", 65000, 3, 2**31))
    segments = b"\xff\xd8" + b"\xff\xe3\0\2" * 20_000 + encoded(grey, "JPEG")[2:]
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2**26), 9))
    texts = [chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(2**23), 9))] * 20
    rows = np.pad(grey, ((0, 0), (1, 0))).tobytes()
    bomb = png(rows, 24, 32, profile, *texts)
    tracemalloc.start()
    assert reason_of(header_of, large) == "too-large"
    assert reason_of(header_of, segments) == "too-large"
    assert (levels_of(bomb) == grey).all()
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2**22


def test_a_file_of_much_more_than_its_pixels_is_too_large(grey):
    path, data = "some.where/1.2.840.png", encoded(grey, "BMP")
    file = io.BytesIO(data + bytes(2**26 + 2**14))
    with pytest.raises(Reject, match="too-large"):
        images.read_headers(file, path, len(data))


# --- BMP and GIF ---


def test_bmps_of_every_depth(grey):
    colours = np.stack([grey, 255 - grey, grey // 3], axis=-1)
    for image in (
        Image.fromarray(grey),
        Image.fromarray(grey > 99),
        Image.fromarray(colours),
        Image.fromarray(colours).quantize(20),
        Image.fromarray(colours).quantize(5),
    ):
        expected = np.asarray(image.convert("RGB").convert("L"))
        assert (levels_of(encoded(image, "BMP")) == expected).all()


def bmp(rows: bytes, height: int, width: int, palette: bytes, bits=8, coding=0) -> bytes:
    """A BMP whose palette has as many colours as are said to be used."""
    offset = 54 + len(palette)
    sizes = (40, width, height, 1, bits, coding, len(rows), 0, 0, len(palette) // 4, 0)
    start = struct.pack("<2sLHHL", b"BM", offset + len(rows), 0, 0, offset)
    return start + struct.pack("<LllHHLLllLL", *sizes) + palette + rows


def test_a_bmp_of_eight_bits_with_two_colours(grey):
    mask = (grey > 99).astype(np.uint8)
    black_and_white = bytes([0, 0, 0, 0, 255, 255, 255, 0])
    data = bmp(mask[::-1].tobytes(), 24, 32, black_and_white)
    assert (levels_of(data) == mask * 255).all()
    assert masks.read(data, "mask.png")[0].size == (24, 32)
    white_and_black = bytes([255, 255, 255, 0, 0, 0, 0, 0])
    assert (levels_of(bmp(mask[::-1].tobytes(), 24, 32, white_and_black)) == 255 - mask * 255).all()


def test_run_lengths_of_a_bmp():
    palette = b"".join(bytes([v, v, v, 0]) for v in range(256))
    runs = bytes([3, 7, 1, 9, 0, 0, 4, 200, 0, 1])
    assert levels_of(bmp(runs, 2, 4, palette, coding=1)).tolist() == [[200] * 4, [7, 7, 7, 9]]
    assert reason_of(scan_of, bmp(runs[:5], 2, 4, palette, coding=1)) == "undecodable"
    long = bmp(bytes([1, 7]) * 2**22, 2000, 2000, palette, coding=1)
    assert reason_of(header_of, long) == "too-large"


def test_gifs(grey):
    assert (levels_of(encoded(grey, "GIF")) == grey).all()
    frames = [Image.fromarray(grey), Image.fromarray(255 - grey)]
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert reason_of(header_of, moving) == "multi-frame"
    small = bytearray(encoded(grey, "GIF"))
    small[6:10] = struct.pack("<HH", 40, 30)  # a larger screen
    assert reason_of(header_of, bytes(small)) == "transparent"


# --- JPEG ---


def test_a_jpeg_of_hundreds_of_scans_is_too_large(grey):
    data = encoded(grey // 255 * 9, "JPEG", progressive=True)
    scan = data[data.rfind(b"\xff\xda") : -2]
    assert levels_of(data[:-2] + 9 * scan + b"\xff\xd9").shape == grey.shape
    assert reason_of(scan_of, data[:-2] + 400 * scan + b"\xff\xd9") == "too-large"


# --- files of TensorFlow, as predict reads them on gs:// ---


def test_damaged_files_of_tensorflow_are_what_bytes_are(tmp_path, grey):
    """Its files raise errors of their own where others read nothing."""
    rng, path = np.random.default_rng(1), tmp_path / "a.file"

    def outcome(file):
        try:
            return images.read_headers(file, "a", 1)
        except Reject as reject:
            return reject.reason, reject.message

    for kind, number in itertools.product(("PNG", "JPEG", "TIFF", "BMP", "GIF"), range(12)):
        content = bytearray(encoded(grey, kind))
        for place in rng.integers(0, min(len(content), 200), number // 4):
            content[place] = rng.integers(256)
        del content[rng.integers(len(content)) if number % 2 else len(content) :]
        path.write_bytes(content)
        with tf.io.gfile.GFile(str(path), "rb") as file:
            assert outcome(file) == outcome(io.BytesIO(bytes(content)))


# --- messages ---


def message_of(data: bytes) -> str:
    with pytest.raises(Reject) as caught:
        scan_of(data)
    return caught.value.message


def test_a_broken_png_says_what_is_wrong(grey):
    data = bytearray(encoded(grey))
    data[20] ^= 255
    assert "the checksum of the PNG's IHDR is wrong" in message_of(bytes(data))
    assert "ends before its pixels" in message_of(bytes(data[:8]))
    for size, words in ((0, "0 x 32 pixels"), (24, "")):
        start = struct.pack(">LL5B", 32, size, 8 if not size else 3, 0, 0, 0, 0)
        content = bytes(data[:8]) + chunk(b"IHDR", start) + bytes(data[33:])
        assert (words or "3 bits of colour type 0") in message_of(content)
    assert "strips or tiles" in message_of(tiff(grey)[:-9])


# --- sweeps ---


@exhaustive
def test_every_tiff_that_tifffile_writes_is_what_it_reads():
    rng, count = np.random.default_rng(8), 0
    codings = (None, "lzw", "zlib", "packbits", "zstd", "jpeg2000", "jpeg", "lzma", "webp")
    shapes = ((1, 1), (7, 33), (64, 48), (100, 17))
    kinds = itertools.product(codings, shapes, ("<", ">"), ("u1", "u2", "i2"), (False, True))
    for coding, shape, byteorder, dtype, is_white in kinds:
        info = np.iinfo(dtype)
        pixels = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
        highest = info.max
        if coding == "jpeg" and dtype == "u2":  # which has 12 bits
            pixels, highest = pixels & 4095, 4095
        for layout in ({}, {"tile": (16, 32)}, {"rowsperstrip": 3}, {"predictor": True}):
            photometric = "miniswhite" if is_white else "minisblack"
            options = {"compression": coding, "photometric": photometric, **layout}
            try:
                data = tiff(pixels, byteorder=byteorder, bigtiff=count % 2 == 1, **options)
                expected = tifffile.imread(io.BytesIO(data)).astype(int)
            except (ValueError, KeyError, RuntimeError):  # what tifffile itself does not write
                continue
            count += 1
            try:
                levels = levels_of(data)
            except Reject:
                continue
            expected = highest - expected if is_white else expected
            tolerance = 6 if coding in ("jpeg", "webp") else 0
            assert np.abs(levels - expected).max() <= tolerance, (options, byteorder, dtype)
    assert count > 300
