"""DICOM files decoded in a graph beside the converter's reading, and seeded damage."""

import io
import random
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from makers.dicom import headers
from PIL import Image
from pydicom.uid import JPEGBaseline8Bit

from lake import Reject
from lake.scan import Scan, Storage
from lake.sources.dicom.dicom import read_scan
from trainer.serving.decode.stored_image import StoredImage


def convert(data: bytes, storage: Storage) -> Scan | Reject:
    try:
        return read_scan(data, headers(data)[0], storage)
    except Reject as reject:
        return reject


def levels(image: StoredImage) -> np.ndarray:
    """Return the levels [H, W] as training decodes the record."""
    if not image.jpeg:
        return image.pixels[..., 0]
    return tf.io.decode_jpeg(image.jpeg, dct_method="INTEGER_ACCURATE").numpy()[..., 0]


def compare(
    image: StoredImage, data: bytes, storage: Storage, levels_apart: int = 0
) -> tuple[str, str]:
    """Return (why a graph refuses the file, how its image differs from the converter's).

    Both are "" where there is nothing to report. Two decoders of a lossy codestream may be
    `levels_apart`.
    """
    scan = convert(data, storage)
    if image.error:
        is_empty = image.pixels.shape == (1, 1, 1) and not image.pixels.any() and not image.jpeg
        is_empty &= image.height == image.original_height == 0
        return image.error.decode(), "" if is_empty else "an error and an image"
    if isinstance(scan, Reject):
        return "", f"read by the graph, but the converter refuses: {scan}"
    expected = np.asarray(Image.open(io.BytesIO(scan.image)))
    apart, actual = max(levels_apart, JPEGBaseline8Bit.encode() in data[:1000]), levels(image)
    holds = {
        "size": actual.shape == expected.shape == (image.height, image.width),
        "type": image.pixels.dtype == (np.uint8 if storage.bits == 8 else np.uint16),
        "encoding": bool(image.jpeg) == (scan.encoding == "jpeg-kept"),
        "window": np.allclose(image.window, np.float32(scan.window), atol=apart, rtol=2e-7),
    }
    if all(holds.values()):
        holds["levels"] = np.abs(actual.astype(int) - expected).max() <= apart
    return "", " and ".join(name for name, is_so in holds.items() if not is_so)


def damaged_copies(data: bytes, seed: int, cuts: int, changes: int, header: int) -> Iterator[bytes]:
    """Yield copies of a file: cut off, and with one to three of its first `header` bytes
    changed."""
    chance = random.Random(seed)
    for _ in range(cuts):
        yield data[: chance.randrange(len(data))]
    for _ in range(changes):
        copy = bytearray(data)
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            position = chance.randrange(header)
            value = copy[position] ^ 1 << chance.randrange(8)
            copy[position] = chance.choice((0, 0xFF, value, chance.randrange(256)))
        yield bytes(copy)
