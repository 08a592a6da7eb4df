"""PNG and JPEG files -> headers and scans; independent of the module by
Pillow alone."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from makers.images import AS_IS, chunk, encoded, header_of, png, reason_of, scan_of, stored_pixels
from PIL import Image, ImageOps, PngImagePlugin

from lake import Reject
from lake.scan import Scan, Storage
from lake.sources.masks import masks
from lake.sources.pictures import images

DEEP = Storage(bits=16, max_side=None)


@pytest.fixture
def grey() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 32)).astype(np.uint8)


@pytest.fixture
def deep() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 65536, (24, 32)).astype(np.uint16)


def test_header(grey, deep):
    header = header_of(encoded(grey))
    assert (header.image_id, header.height, header.width, header.bits) == ("1.2.840", 24, 32, 8)
    assert (header.patient, header.age, header.modality, header.frame) == ("", -1, "", 0)
    assert header_of(encoded(deep)).bits == 16
    assert images.file_stem("gs://a/b.c/x.y.JPEG") == "x.y" and images.file_stem(r"a\b.png") == "b"


def test_header_needs_no_pixels(grey):
    data = encoded(grey)
    assert header_of(data[: data.index(b"IDAT") + 4]).height == 24
    data = encoded(grey, "JPEG")
    assert header_of(data[: data.index(b"\xff\xda") + 20]).width == 32


def test_a_plain_png_keeps_its_pixel_data_and_nothing_else(grey, deep):
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", "Doe^Jane")
    for pixels, storage in ((grey, AS_IS), (deep, DEEP)):
        data = encoded(pixels, pnginfo=text, dpi=(96, 96), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0")
        scan = scan_of(data, storage)
        assert b"Doe" in data and b"Doe" not in scan.image and b"eXIf" not in scan.image
        first, last = data.index(b"IDAT"), data.index(b"IEND")
        assert data[first : last - 4] in scan.image
        assert len(scan.image) == 8 + 25 + (last - first) + 12
        assert scan.encoding == "png" and (stored_pixels(scan) == pixels).all()
        ends = (0, 255) if pixels is grey else (pixels.min(), pixels.max())
        assert scan.window == ends and scan.rescale == (1, 0)
        assert (scan.height, scan.width, scan.pixel_spacing_mm) == (24, 32, (0, 0))


def test_a_plain_jpeg_keeps_its_scan(grey):
    data = encoded(grey, "JPEG", comment=b"Doe^Jane")
    scan = scan_of(data)
    assert scan.encoding == "jpeg-kept" and b"Doe" not in scan.image
    assert scan.image.endswith(data[data.index(b"\xff\xda") :])
    assert (stored_pixels(scan) == np.asarray(Image.open(io.BytesIO(data)))).all()


def test_a_flat_picture_is_known_as_one(grey, deep):
    for pixels, storage in ((grey, AS_IS), (deep, DEEP)):
        for kind in ("PNG", "JPEG") if pixels is grey else ("PNG", "TIFF"):
            assert not scan_of(encoded(pixels, kind), storage).is_flat
            assert scan_of(encoded(pixels * 0 + 9, kind), storage).is_flat
    above = Storage(8, None, window="256,300")
    assert scan_of(encoded(grey), above).is_flat and scan_of(encoded(grey, "JPEG"), above).is_flat


def test_what_needs_a_change_is_stored_anew(grey, deep):
    small = Storage(bits=8, max_side=16)
    for data in (encoded(grey), encoded(grey, "JPEG")):
        scan = scan_of(data, small)
        means = np.asarray(Image.open(io.BytesIO(data))).reshape(12, 2, 16, 2).mean((1, 3))
        assert scan.encoding == "png" and np.abs(stored_pixels(scan) - means).max() <= 0.5
        wide = scan_of(data, DEEP)
        assert stored_pixels(wide).dtype == np.uint16 and wide.window == (0, 255)
        assert (stored_pixels(wide) == np.asarray(Image.open(io.BytesIO(data)))).all()
    narrow = stored_pixels(scan_of(encoded(deep)))
    low, high = int(deep.min()), int(deep.max())
    assert np.abs(narrow - (deep - low) / (high - low) * 255).max() <= 0.5
    assert (
        scan_of(encoded(grey), Storage(8, None, clahe=True)).image != scan_of(encoded(grey)).image
    )


def test_window_of_kept_pixels(grey):
    for data in (encoded(grey // 2 + 7), encoded(grey // 2 + 7, "JPEG", quality=95)):
        pixels = np.asarray(Image.open(io.BytesIO(data)))
        scan = scan_of(data, Storage(8, None, window="percentile"))
        assert (
            scan.window == tuple(np.percentile(pixels, (1, 99)))
            and (stored_pixels(scan) == pixels).all()
        )
        assert scan_of(data, Storage(8, None, window="10,90")).window == (10, 90)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "gray4"])
def test_every_mode_becomes_luma(mode):
    colours = np.random.default_rng(2).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    image = Image.fromarray(colours)
    red, green, blue = np.moveaxis(colours.astype(float), 2, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    if mode in ("CMYK", "YCbCr"):
        data = encoded(image.convert(mode), "JPEG", quality=95, subsampling=0)
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) @ [0.299, 0.587, 0.114]
    elif mode == "gray4":
        nibbles = np.random.default_rng(3).integers(0, 256, (24, 16)).astype(np.uint8)
        rows = np.pad(nibbles, ((0, 0), (1, 0))).tobytes()
        data = png(rows, 24, 32, bits=4)
        expected = np.stack([nibbles >> 4, nibbles & 15], 2).reshape(24, 32) * 17
    elif mode == "1":
        data, expected = encoded(Image.fromarray(luma > 99)), (luma > 99) * 255
    elif mode == "P":
        data = encoded(image.quantize(17))
        expected = np.asarray(image.quantize(17).convert("RGB")) @ [0.299, 0.587, 0.114]
    else:
        data, expected = encoded(image.convert(mode)), luma
    scan = scan_of(data)
    assert (
        stored_pixels(scan).ndim == 2
        and np.abs(stored_pixels(scan).astype(float) - expected).max() <= 1
    )
    assert np.ptp(stored_pixels(scan)) > 100


def test_transparency_is_told(grey):
    image = Image.fromarray(grey)
    hole = np.full((24, 32), 255, np.uint8)
    hole[3, 4] = 254
    image.putalpha(Image.fromarray(hole))
    assert reason_of(scan_of, encoded(image)) == "transparent"
    assert reason_of(scan_of, encoded(grey, transparency=int(grey[0, 0]))) == "transparent"
    opaque_grey = np.minimum(grey, 200)
    scan = scan_of(encoded(opaque_grey, transparency=201))
    assert (stored_pixels(scan) == opaque_grey).all() and b"tRNS" not in scan.image
    deep = grey.astype(np.uint16) * 256
    content = png(b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep), 24, 32, bits=16)
    (offset,) = [content.index(b"IDAT") - 4]
    for value, is_told in ((int(deep[5, 5]), True), (1, False)):
        data = content[:offset] + chunk(b"tRNS", struct.pack(">H", value)) + content[offset:]
        if is_told:
            assert reason_of(scan_of, data, DEEP) == "transparent"
        else:
            assert (stored_pixels(scan_of(data, DEEP)) == deep).all()


@pytest.mark.parametrize("orientation", range(10))
def test_orientation(grey, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "JPEG"):
        data = encoded(grey, kind, exif=exif)
        upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
        header, scan = header_of(data), scan_of(data)
        assert (header.height, header.width) == (scan.height, scan.width) == upright.shape
        assert (stored_pixels(scan) == upright).all()
        mark = b"IDAT" if kind == "PNG" else b"\xff\xda"
        is_kept = data[data.index(mark) : -16] in scan.image
        assert is_kept == (orientation not in range(2, 9))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not-an-image"),
        (b"GIF87" + bytes(50), "not-an-image"),
        (b"GIF89a" + bytes(50), "unreadable-header"),
        (b"\x89PNG\r\n\x1a\n", "unreadable-header"),
        (b"\xff\xd8\xff", "unreadable-header"),
        (png(b"", 10_001, 10_000), "too-large"),
        (png(b"", 2**20, 2**20), "too-large"),
        (png(b"", 0, 7), "unreadable-header"),
    ],
)
def test_headers_that_are_none(data, reason, recwarn):
    assert reason_of(header_of, data) == reason
    assert not recwarn.list


def test_frames_and_deep_colours_are_rejected(grey):
    frames = [Image.fromarray(grey), Image.fromarray(255 - grey)]
    moving = encoded(frames[0], save_all=True, append_images=frames[1:])
    pictures = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    for data in (moving, pictures):
        assert reason_of(header_of, data) == "multi-frame"
    start = chunk(b"IHDR", struct.pack(">LL5B", 1, 1, 16, 2, 0, 0, 0))
    content = chunk(b"IDAT", zlib.compress(bytes(7))) + chunk(b"IEND", b"")
    assert reason_of(header_of, b"\x89PNG\r\n\x1a\n" + start + content) == "deep-colour"


def test_damaged_pixels_are_rejected(grey):
    rows = np.pad(grey, ((0, 0), (1, 0))).tobytes()
    whole = png(rows, 24, 32)
    assert (stored_pixels(scan_of(whole)) == grey).all()
    offset = whole.index(b"IDAT")
    wrong_bit = bytearray(whole)
    wrong_bit[offset + 40] ^= 1
    checksum = bytearray(whole)
    checksum[-14] ^= 1
    unknown_filter = png(b"\x05" + rows[1:], 24, 32)
    short = png(rows[:-1], 24, 32)
    for storage in (AS_IS, Storage(8, 16)):  # kept, decoded
        for data in (wrong_bit, checksum, unknown_filter, short, whole[:-5], whole[: offset + 99]):
            assert reason_of(scan_of, bytes(data), storage) == "undecodable"
    jpeg = encoded(grey, "JPEG")
    assert reason_of(scan_of, jpeg[: len(jpeg) // 2 + 200]) == "undecodable"
    other = header_of(png(rows, 24, 32), "some.where/1.2.840.png")
    assert reason_of(images.read_scan, encoded(grey[:20]), other, AS_IS) == "undecodable"


def test_what_hides_beside_the_pixels_is_not_kept(grey):
    rows = np.pad(grey, ((0, 0), (1, 0))).tobytes()
    parts = png(rows, 24, 32)[: png(rows, 24, 32).index(b"IDAT") - 4]
    for scanlines, end in (
        (zlib.compress(rows) + b"Doe^Jane", b""),
        (zlib.compress(rows + b"Doe^Jane", 0), b""),
        (zlib.compress(rows), b"Doe^Jane"),
    ):
        data = parts + chunk(b"IDAT", scanlines) + chunk(b"IEND", end) + b"Doe^Jane"
        scan = scan_of(data)
        assert b"Doe^Jane" not in scan.image and (stored_pixels(scan) == grey).all()


def test_a_bomb_of_zeros_costs_no_more_than_its_pixels():
    data = png(bytes(2**26), 4, 4)  # 65 KB of file
    tracemalloc.start()
    scan = scan_of(data)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2**20 and not stored_pixels(scan).any()


def test_mutated_files_are_scans_or_rejects(grey, deep):
    rng = np.random.default_rng(4)
    palette = Image.fromarray(np.stack([grey, 255 - grey, grey // 2], 2)).quantize(20)
    exif = Image.Exif()
    exif[0x0112] = 6
    sources = [
        (encoded(deep), DEEP),
        (encoded(palette, dpi=(9, 9)), AS_IS),
        (encoded(grey, "JPEG", exif=exif), AS_IS),
        (encoded(grey, "JPEG"), AS_IS),
    ]
    ends = set()
    for number in range(300):
        data, storage = sources[number % 4]
        content = bytearray(data)
        for offset in rng.integers(0, len(data), rng.integers(1, 5)):
            content[offset] = rng.integers(256)
        if number % 5 == 0:
            del content[rng.integers(len(data)) :]
        if number % 3 == 0:  # right checksums, so that the damage lies deeper
            content = with_right_checksums(content)
        content = bytes(content)
        for read in (scan_of, masks.read):
            try:
                result = read(content, storage if read is scan_of else "mask.png")
            except Reject as reject:
                ends.add(reject.reason)
            else:
                if isinstance(result, Scan):
                    ends.add("scan")
                    assert stored_pixels(result).shape == (result.height, result.width)
    assert ends >= {"scan", "undecodable", "unreadable-header", "not-an-image"}


def with_right_checksums(data: bytearray) -> bytearray:
    offset = 8
    while data[:4] == b"\x89PNG" and offset + 12 <= len(data):
        end = offset + 12 + int.from_bytes(data[offset : offset + 4])
        if end > len(data):
            break
        data[end - 4 : end] = struct.pack(">L", zlib.crc32(data[offset + 4 : end - 4]))
        offset = end
    return data


def test_real_pngs(real_data):
    paths = sorted((real_data / "nih_png" / "images").glob("*.png"))
    assert len(paths) == 20
    num_kept = 0
    for path in paths:
        data = path.read_bytes()
        image = Image.open(path)
        (header,) = images.read_headers(io.BytesIO(data), str(path), len(data))
        scan = images.read_scan(data, header, Storage(bits=8, max_side=1024))
        assert (stored_pixels(scan) == np.asarray(image.convert("L"))).all()
        num_kept += data[data.index(b"IDAT") : -16] in scan.image
    assert num_kept == 19  # one is RGBA
