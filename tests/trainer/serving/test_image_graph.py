"""PNG and JPEG files through the graph, against the converter's own reader."""

import io

import numpy as np
import pytest
import tensorflow as tf
from makers.marks import exhaustive
from PIL import Image

from lake import Reject
from lake.scan import Storage
from lake.sources.pictures.images import read_headers, read_scan
from trainer.serving import graph
from trainer.serving.decode import images as decode_images
from trainer.serving.decode.stored_image import refuse

# What the converter takes and the graph says it cannot.
GRAPH_ALONE = {"a.gif", "cmyk.jpg", "turned.jpg", "turned_big_endian.jpg", "turned.png"}
# Orientation 6 in an EXIF block of big-endian numbers.
BIG_ENDIAN = b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
pytestmark = pytest.mark.slow  # the graph takes seconds to make


def encoded(pixels, kind: str, mode: str | None = None, **options) -> bytes:
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def exif(tag: int, value) -> Image.Exif:
    block = Image.Exif()
    block[tag] = value
    return block


def files() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:40, :57]
    grey = ((3 * rows + 2 * columns) % 256).astype(np.uint8)
    colour = np.stack([grey, 255 - grey, grey // 3], axis=-1)
    opaque = np.dstack([colour, np.full_like(grey, 255)])
    hole = opaque.copy()
    hole[5, 5, 3] = 254
    deep = rng.integers(0, 65536, grey.shape).astype(np.uint16)
    more = {"save_all": True, "append_images": [Image.fromarray(255 - grey)]}
    contents = {
        "grey.png": encoded(grey, "PNG"),
        "deep.png": encoded(deep, "PNG"),
        "twelve_bits.png": encoded(deep >> 4, "PNG"),
        "constant.png": encoded(np.full_like(deep, 900), "PNG"),
        "bits.png": encoded(grey, "PNG", "1"),
        "palette.png": encoded(colour, "PNG", "P"),
        "colour.png": encoded(colour, "PNG"),
        "opaque.png": encoded(opaque, "PNG"),
        "opaque_grey.png": encoded(opaque, "PNG", "LA"),
        "hole.png": encoded(hole, "PNG"),
        "hidden_level.png": encoded(grey, "PNG", transparency=7),
        "animation.png": encoded(grey, "PNG", **more),
        "turned.png": encoded(grey, "PNG", exif=exif(274, 6)),
        "kept.jpg": encoded(grey, "JPEG", quality=90),
        "progressive.jpg": encoded(grey, "JPEG", progressive=True),
        "colour.jpg": encoded(colour, "JPEG"),
        "cmyk.jpg": encoded(colour, "JPEG", "CMYK"),
        "upright.jpg": encoded(grey, "JPEG", exif=exif(274, 1)),
        "maker.jpg": encoded(grey, "JPEG", exif=exif(271, "a maker")),
        "turned.jpg": encoded(grey, "JPEG", exif=exif(274, 6)),
        "turned_big_endian.jpg": encoded(grey, "JPEG", exif=BIG_ENDIAN),
        "pictures.jpg": encoded(grey, "MPO", **more),
        "a.gif": encoded(grey, "GIF"),
        "empty": b"",
        "start.png": b"\x89PNG\r\n\x1a\n",
        "start.jpg": b"\xff\xd8\xff\xc0",
    }
    progressive = contents["progressive.jpg"]
    last_scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    contents["scans.jpg"] = progressive[:-2] + 40 * last_scan + progressive[-2:]
    contents["twelve_bits.png"] = encoded(deep >> 4, "PNG")
    contents["cut.png"] = contents["deep.png"][:-900]
    contents["cut.jpg"] = contents["kept.jpg"][:-300]
    wrong_checksum, huge = bytearray(contents["deep.png"]), bytearray(contents["grey.png"])
    wrong_checksum[200] ^= 1
    huge[16:24] = b"\x7f\xff\xff\xff" * 2
    backwards = contents["grey.png"][:33] + b"\xff\xff\xff\xf4aaaa" + contents["grey.png"][33:]
    return contents | {
        "damaged.png": bytes(wrong_checksum),
        "huge.png": bytes(huge),
        "backwards.png": backwards,
    }


@pytest.mark.parametrize(
    "storage",
    [
        Storage(8, 1024),
        pytest.param(Storage(8, 32, "percentile"), marks=exhaustive),
        Storage(16, 31, "20,90"),
    ],
)
def test_files_are_as_the_converter_stores_them_or_refused(storage):
    dtype = tf.uint8 if storage.bits == 8 else tf.uint16
    otherwise = refuse(tf.constant(graph.DAMAGED), storage)

    def stored_image(data):
        def stored():
            image = decode_images.stored_image(data, storage)
            # As training does, which is where a kept JPEG's scan is read.
            levels = tf.cond(
                image.jpeg != "",
                lambda: tf.io.decode_jpeg(image.jpeg, 1, dct_method="INTEGER_ACCURATE"),
                lambda: tf.zeros([1, 1, 1], tf.uint8),
            )
            return image._replace(jpeg=tf.where(tf.size(levels) > 0, image.jpeg, ""))

        return graph.attempt(stored, otherwise)

    stored_image = tf.function(stored_image, [tf.TensorSpec([], tf.string)], autograph=False)
    for name, data in files().items():
        image = stored_image(data)
        try:
            header = read_headers(io.BytesIO(data), name, len(data))[0]
            scan = read_scan(data, header, storage)
        except Reject:
            assert image.error != b"", name
            continue
        if name in GRAPH_ALONE:
            assert image.error != b"", name
            continue
        assert image.error == b"", name
        sizes = (image.height, image.width, image.original_height, image.original_width)
        assert sizes == (scan.height, scan.width, header.height, header.width)
        np.testing.assert_allclose(image.window, np.float32(scan.window), rtol=1e-6)
        if scan.encoding == "jpeg-kept":
            assert image.jpeg == data
        else:
            assert image.jpeg == b""
            assert (image.pixels == tf.io.decode_png(scan.image, dtype=dtype)).numpy().all(), name
