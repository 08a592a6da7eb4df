"""DICOM files decoded in a graph beside the converter's reading, and seeded damage."""

import io
import random
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from makers.dicom import headers
from PIL import Image
from pydicom.uid import (
    JPEGBaseline8Bit,
)

from lake import Reject
from lake.scan import Scan, Storage
from lake.sources.dicom import read_scan
from trainer.serving.decode.dicom import Stored


def converted(data: bytes, storage: Storage) -> Scan | Reject:
    try:
        return read_scan(data, headers(data)[0], storage)
    except Reject as reject:
        return reject


def levels(found: Stored) -> np.ndarray:
    """[H, W] as training decodes the record."""
    if not found.jpeg:
        return found.pixels[..., 0]
    return tf.io.decode_jpeg(found.jpeg, dct_method="INTEGER_ACCURATE").numpy()[..., 0]


def judged(found: Stored, data: bytes, storage: Storage, levels_apart: int = 0) -> tuple[str, str]:
    """(why a graph refuses the file, how what it gives is other than the converter's), "" if it
    does not and if it is not. Two decoders of a lossy codestream may be some levels apart."""
    scan = converted(data, storage)
    if found.error:
        is_empty = found.pixels.shape == (1, 1, 1) and not found.pixels.any() and not found.jpeg
        is_empty &= found.height == found.original_height == 0
        return found.error.decode(), "" if is_empty else "an error and an image"
    if isinstance(scan, Reject):
        return "", f"taken, the converter says {scan}"
    image = np.asarray(Image.open(io.BytesIO(scan.image)))
    apart, given = max(levels_apart, JPEGBaseline8Bit.encode() in data[:1000]), levels(found)
    holds = {
        "size": given.shape == image.shape == (found.height, found.width),
        "type": found.pixels.dtype == (np.uint8 if storage.bits == 8 else np.uint16),
        "encoding": bool(found.jpeg) == (scan.encoding == "jpeg-kept"),
        "window": np.allclose(found.window, np.float32(scan.window), atol=apart, rtol=2e-7),
    }
    if all(holds.values()):
        holds["levels"] = np.abs(given.astype(int) - image).max() <= apart
    return "", " and ".join(name for name, is_so in holds.items() if not is_so)


def damaged(data: bytes, seed: int, cuts: int, changes: int, header: int) -> Iterator[bytes]:
    """Copies of a file cut off, and with one to three bytes of its first `header` changed."""
    chance = random.Random(seed)
    for _ in range(cuts):
        yield data[: chance.randrange(len(data))]
    for _ in range(changes):
        copy = bytearray(data)
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            at = chance.randrange(header)
            flipped = copy[at] ^ 1 << chance.randrange(8)
            copy[at] = chance.choice((0, 0xFF, flipped, chance.randrange(256)))
        yield bytes(copy)
