"""Sound files in every coding that is read, for mutations.py to damage: {name: the file}. What
stands before a name's first space says how it is coded."""

import gzip
import io
import json
import struct
import zlib
from collections.abc import Callable

import imagecodecs
import numpy as np
import pydicom
from makers import lossless_jpeg
from makers.dicom import PACKAGED, jpeg, make, table
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
# Of pydicom's test data: frames, colours, functional groups, an overlay, segmented palettes.
ODD = (
    *("SC_rgb_rle_2frame.dcm", "SC_rgb_small_odd.dcm", "examples_overlay.dcm", "MR_small_RLE.dcm"),
    *("JPEG2000.dcm", "JPGExtended.dcm", "SC_rgb_jpeg_gdcm.dcm", "image_dfl.dcm"),
    *("JPEGLSNearLossless_16.dcm", "examples_palette.dcm", "MR_small_bigendian.dcm"),
)


def smooth(bits: int = 8, shape: tuple[int, int] = (40, 52)) -> np.ndarray:
    """Return values of `bits` bits [H, W], smooth ones above rough ones."""
    rows, columns = np.indices(shape)
    values = (1 + np.sin(rows / 7) * np.cos(columns / 9)) * (2**bits - 1) / 2
    values[: shape[0] // 4] = (
        np.random.default_rng(bits).random((shape[0] // 4, shape[1])) * 2**bits
    )
    return values.astype(np.uint8 if bits <= 8 else np.uint16)


def dicom() -> dict[str, bytes]:
    """Return DICOM files of every transfer syntax that is decoded."""
    deep, depth = smooth(12), {"BitsStored": 12, "HighBit": 11}
    more = {"WindowCenter": ["40", "50"], "WindowWidth": ["80", "90"], "RescaleSlope": "1.5"}
    files = {f"{syntax.keyword} 12": make(deep, syntax, **depth, **more) for syntax in NATIVE}
    files |= {
        "ExplicitVRLittleEndian padded": make(deep, **depth, PixelPaddingValue=4095),
        "ExplicitVRLittleEndian signed": make(smooth(16).astype(np.int16), RescaleIntercept=-1024),
        "ExplicitVRLittleEndian colour": make(np.stack([smooth()] * 3, 2)),
        "ExplicitVRLittleEndian frames": make(np.stack([smooth()] * 3), frames=3),
        "ExplicitVRLittleEndian VOI": make(deep, **depth, VOILUTSequence=[table(range(99), 5, 8)]),
        "ExplicitVRLittleEndian modality": make(
            deep, **depth, ModalityLUTSequence=[table(range(99), 5, 8)]
        ),
        "JPEGBaseline8Bit": make(smooth(), JPEGBaseline8Bit, **more),
        "JPEGBaseline8Bit inverted": make(
            smooth(), JPEGBaseline8Bit, PhotometricInterpretation="MONOCHROME1"
        ),
    }
    frames = {
        JPEGExtended12Bit: imagecodecs.jpeg8_encode(deep, level=90, bitspersample=12),
        JPEGLosslessSV1: lossless_jpeg.encode(deep, 12),
        JPEGLSLossless: imagecodecs.jpegls_encode(deep),
        JPEG2000Lossless: imagecodecs.jpeg2k_encode(deep, codecformat="j2k", reversible=True),
        HTJ2KLossless: imagecodecs.htj2k_encode(deep, reversible=True),
    }
    files |= {uid.keyword: encoded(deep, uid, frame, **depth) for uid, frame in frames.items()}
    files["RLELossless 12"] = compressed(make(deep, **depth), RLELossless)
    files["DeflatedExplicitVRLittleEndian 12"] = deflated(files["ExplicitVRLittleEndian 12"])
    for name in ODD:
        data = (PACKAGED / name).read_bytes()
        syntax = pydicom.dcmread(io.BytesIO(data), specific_tags=[0x00080018]).file_meta
        files[f"{syntax.TransferSyntaxUID.keyword} {name}"] = data
    return files


def encoded(pixels: np.ndarray, syntax: UID, *frames: bytes, **attributes) -> bytes:
    """Return a file of these pixels, whose frames are the codestreams `frames`."""
    dataset = pydicom.dcmread(io.BytesIO(make(pixels, **attributes)))
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate(list(frames))
    dataset["PixelData"].VR = "OB"
    return saved(dataset)


def compressed(data: bytes, syntax: UID, **options) -> bytes:
    """Return a file as pydicom's encoders compress it."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.compress(syntax, generate_instance_uid=False, **options)
    return saved(dataset)


def deflated(data: bytes) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return saved(dataset)


def saved(dataset: pydicom.Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def pictures() -> dict[str, bytes]:
    """Return PNG, JPEG, BMP and TIFF files."""
    grey, deep = smooth(), smooth(16)
    colour = np.stack([grey, 255 - grey, grey // 3], axis=-1)
    return {
        "PNG grey": picture(grey, "PNG"),
        "PNG deep": picture(deep, "PNG"),
        "PNG palette": picture(colour, "PNG", "P"),
        "PNG colour": picture(colour, "PNG"),
        "PNG bits": picture(grey, "PNG", "1"),
        "JPEG grey": jpeg(grey),
        "JPEG progressive": picture(grey, "JPEG", progressive=True),
        "JPEG colour": picture(colour, "JPEG"),
        "BMP grey": picture(grey, "BMP"),
        "BMP colour": picture(colour, "BMP"),
        "TIFF grey": picture(grey, "TIFF"),
        "TIFF deep": picture(deep, "TIFF", compression="tiff_lzw"),
        "TIFF packed": picture(grey, "TIFF", compression="tiff_adobe_deflate"),
    }


def picture(pixels: np.ndarray, kind: str, mode: str | None = None, **options) -> bytes:
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


META = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = {}
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = -10 5 2.5
ElementSpacing = 0.7 0.8 2.5
DimSize = 20 16 6
ElementType = MET_SHORT
ElementDataFile = {}
"""
NRRD = """NRRD0004
type: int16
dimension: 3
space: left-posterior-superior
sizes: 20 16 6
space directions: (0.7,0,0) (0,0.8,0) (0,0,2.5)
kinds: domain domain domain
endian: little
encoding: {}
space origin: (-10,5,2.5)

"""


def hu() -> np.ndarray:
    """Return a volume [S, H, W] int16 in HU."""
    z, y, x = np.mgrid[:6, :16, :20]
    return (-1000 + (z * 100 + y * 10 + x * 3) % 1400).astype(np.int16)


def volumes() -> dict[str, bytes]:
    """Return CT volumes; a .mhd stands before a zero byte and its pixels."""
    values = hu().tobytes()
    packed, zipped = zlib.compress(values), gzip.compress(values, mtime=0)
    sized = META.format("True", "LOCAL").replace(
        "Transform", f"CompressedDataSize = {len(packed)}\nTransform"
    )
    nifti = bytearray(352)
    struct.pack_into("<i", nifti, 0, 348)
    struct.pack_into("<8h", nifti, 40, 3, 20, 16, 6, 1, 1, 1, 1)
    struct.pack_into("<2h", nifti, 70, 4, 16)  # int16
    struct.pack_into("<8f", nifti, 76, 1, 0.7, 0.8, 2.5, 0, 0, 0, 0)
    struct.pack_into("<3f", nifti, 108, 352, 1, 0)
    struct.pack_into("<2h", nifti, 252, 1, 0)  # the first form says where the voxels lie
    nifti[344:348] = b"n+1\0"
    return {
        "mha plain": META.format("False", "LOCAL").encode() + values,
        "mha compressed": sized.encode() + packed,
        "mhd plain": META.format("False", "a.raw").encode() + b"\0" + values,
        "mhd compressed": sized.replace("LOCAL", "a.zraw").encode() + b"\0" + packed,
        "nii plain": bytes(nifti) + values,
        "nii.gz packed": gzip.compress(bytes(nifti) + values, mtime=0),
        "nrrd plain": NRRD.format("raw").encode() + values,
        "nrrd packed": NRRD.format("gzip").encode() + zipped,
    }


def labels() -> dict[str, bytes]:
    """Return label files for masks of 14 x 9."""
    rows = {
        "runs": ["ImageId,EncodedPixels,Split", "a0,3 4 2 1,train", "a1,9 3,train", "a2,-1,test"],
        "class": ["ImageId,Class,Split", "a0,0,train", "a1,1,val", "a1,1,val", "a2,0.0,test"],
        "nodule": ["seriesuid,coordX,coordY,coordZ,diameter_mm", "a0,-1.5,2,3e1,4", "a1,1,2,3,4"],
    }
    rows["semicolons"] = [line.replace(",", ";") for line in rows["class"]]
    files = {name: "\n".join(lines).encode() for name, lines in rows.items()}
    images = [{"id": n, "file_name": f"a{n}.png", "height": 14, "width": 9} for n in range(3)]
    outlines = [
        [[1, 1, 7, 1, 7, 9.5, 1, 9]],
        {"size": [14, 9], "counts": [3, 4, 119]},
        {"size": [14, 9], "counts": "34g3"},
    ]
    annotations = [
        {"id": n, "image_id": n, "category_id": 1, "iscrowd": int(n > 0), "segmentation": outline}
        for n, outline in enumerate(outlines)
    ]
    coco = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}
    files["COCO"] = json.dumps(coco).encode()
    return files | {"runs in UTF-16": "\n".join(rows["runs"]).encode("utf-16")}


SEEDS: dict[str, Callable[[], dict[str, bytes]]] = {
    "dicom": dicom,
    "pictures": pictures,
    "volumes": volumes,
    "labels": labels,
}
