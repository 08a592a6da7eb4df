"""DICOM files made here: sound, odd and damaged ones."""

import io
import random
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from lake.sources.dicom import dicom

PACKAGED = Path(pydicom.__file__).parent / "data" / "test_files"


def make(pixels: np.ndarray, syntax=ExplicitVRLittleEndian, frames: int = 0, **attributes) -> bytes:
    """A DICOM file of pixels [H, W], [H, W, 3] or, with `frames`, [frames, H, W]."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.SOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = pixels.shape[1:3] if frames else pixels.shape[:2]
    is_colour = pixels.ndim == 3 and not frames
    dataset.SamplesPerPixel = 3 if is_colour else 1
    dataset.PhotometricInterpretation = "RGB" if is_colour else "MONOCHROME2"
    if is_colour:
        dataset.PlanarConfiguration = 0
    if frames:
        dataset.NumberOfFrames = frames
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    if syntax == JPEGBaseline8Bit:
        dataset.PixelData = encapsulate([jpeg(frame) for frame in (pixels if frames else [pixels])])
    else:
        big = pixels.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")
        dataset.PixelData = pixels.astype(big).tobytes()
    is_bytes = syntax.is_encapsulated or pixels.itemsize == 1
    dataset["PixelData"].VR = "OB" if is_bytes else "OW"
    for name, value in attributes.items():
        setattr(dataset, name, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90, comment=b"Doe^Jane")
    return buffer.getvalue()


def table(outputs, first: int, bits: int) -> Dataset:
    lut = Dataset()
    lut.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(outputs), first, bits])
    lut.add_new("LUTData", "US", [int(output) for output in outputs])
    return lut


def headers(data: bytes, frames: str = "reject", image_id_from: str = "name"):
    return dicom.read_headers(io.BytesIO(data), "a.dcm", len(data), image_id_from, frames)


WINDOWS = {
    "linear": {"WindowCenter": 40, "WindowWidth": 400},
    "two windows": {"WindowCenter": [300, 40], "WindowWidth": [900, 400]},
    "exact": {"WindowCenter": 40, "WindowWidth": 400, "VOILUTFunction": "LINEAR_EXACT"},
    "sigmoid": {"WindowCenter": 40, "WindowWidth": 400, "VOILUTFunction": "SIGMOID"},
    "table": {"VOILUTSequence": [table(np.arange(1000) ** 2 // 16, -500, 16)]},
    "no window": {},
}


ONE = np.zeros((4, 4), np.uint8)


def deflate(data_set: bytes) -> bytes:
    """A file of syntax Deflated Explicit VR Little Endian."""
    data = make(ONE, DeflatedExplicitVRLittleEndian)
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = 144 + struct.unpack_from("<L", data, 140)[0]
    return data[:start] + compressor.compress(data_set) + compressor.flush()


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut, moved, or a length made absurd; most of it in the header."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        size = len(data)
        position = rng.randrange(rng.choice((min(size, 3000), size)))
        match rng.randrange(5):
            case 0:
                data[position] = rng.randrange(256)
            case 1:
                data[position : position + 4] = rng.choice(
                    (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f")
                )
            case 2:
                start, length = rng.randrange(size), rng.randrange(1, 200)
                data[position : position + length] = data[start : start + length]
            case 3:
                data[position : position + rng.randrange(1, 40)] = b""
            case 4 if rng.random() < 0.3:
                del data[position:]
    return bytes(data)


def seg_source(**changes) -> bytes:
    """A radiograph's file; None leaves an element out."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    elements = {
        "SOPClassUID": DigitalXRayImageStorageForPresentation,
        "SOPInstanceUID": "1.2.826.0.1.3680043.9.1",
        "StudyInstanceUID": "1.2.826.0.1.3680043.9.2",
        "SeriesInstanceUID": "1.2.826.0.1.3680043.9.3",
        "PatientID": "17",
        "PatientName": "Doe^Jane",
        "PatientAge": "038Y",
        "Modality": "DX",
        "StudyDate": "20261121",
        "Rows": 6,
        "Columns": 5,
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "PixelData": bytes(30),
        "PixelSpacing": [0.2, 0.2],
        "OperatorsName": "Nosy^Operator",
    }
    for name, value in (elements | changes).items():
        if value is not None:
            setattr(dataset, name, value)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # illegal values are the point
        dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
