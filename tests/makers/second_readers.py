"""What other readers make of a DICOM file: the values that a record should have, frame by frame.

pydicom reads the elements, and not lake/sources/dicom/elements.py. The pixels come from GDCM (in
SimpleITK), or from another where GDCM has the decoder that the converter uses: Thomas Richter's
libjpeg (pylibjpeg-libjpeg) for JPEG-LS and lossy JPEG, OpenJPH for High-Throughput JPEG 2000.
"""

import io
import math
from pathlib import Path
from typing import NamedTuple

import imagecodecs
import numpy as np
import pydicom
import SimpleITK
from PIL import Image
from pydicom import uid
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

from lake.sources.codecs.decoders import HIGH_THROUGHPUT, LOSSLESS_JPEG, LOSSY_JPEG
from lake.sources.dicom.grey import LUMA

LOSSY_SHARE = 0.02  # of the range of values: padding may be off by it
BY_LIBJPEG = LOSSY_JPEG | {*uid.JPEGLSTransferSyntaxes}


class Reading(NamedTuple):
    """The frames of a file as another reader has them."""

    values: np.ndarray  # [F, H, W]: after the rescale or Modality LUT; the luma of colours
    levels_apart: float  # what two right decoders may differ by
    padding: tuple[float, float] = (math.inf, -math.inf)  # values at which nothing was measured


def read(path: str) -> Reading:
    """Return the frames of a file by the first reader that has them; raises the error of the last,
    of any kind, where none does."""
    dataset = pydicom.dcmread(path, force=True)
    if "PixelData" not in dataset:  # pydicom leaves them out where their delimiter is missing
        content = Path(path).read_bytes() + b"\xfe\xff\xdd\xe0\0\0\0\0"
        dataset = pydicom.dcmread(io.BytesIO(content), force=True)
    syntax = dataset.file_meta.get("TransferSyntaxUID", uid.ImplicitVRLittleEndian)
    is_lossy = syntax in (*LOSSY_JPEG, uid.JPEGLSNearLossless)
    is_colour = dataset.get("SamplesPerPixel", 1) == 3
    # Two roundings of an inverse DCT; of the way from YCbCr to grey.
    levels_apart = 2.0 * is_lossy + 2.0 * is_colour
    readers = [_by_gdcm]
    if syntax in (*BY_LIBJPEG, *LOSSLESS_JPEG):
        readers.insert(syntax in LOSSLESS_JPEG, _by_libjpeg)
    elif syntax in HIGH_THROUGHPUT:
        readers = [_by_openjph]
    elif syntax in uid.UncompressedTransferSyntaxes:
        readers.append(by_numpy)
    for reader in readers:
        try:
            return without_padding(reader(path, dataset, levels_apart), dataset)
        except Exception:
            if reader is readers[-1]:
                raise
    raise AssertionError("there is a reader")


def without_padding(reading: Reading, dataset: pydicom.Dataset) -> Reading:
    """Return a reading that says which modality values of the file are padding; a lossy code moves
    them by a share of the range."""
    value = dataset.get("PixelPaddingValue")
    if value is None or dataset.get("SamplesPerPixel", 1) != 1:
        return reading
    limit = dataset.get("PixelPaddingRangeLimit", value)
    slope = float(dataset.get("RescaleSlope", None) or 1)
    intercept = float(dataset.get("RescaleIntercept", None) or 0)
    low, high = sorted(slope * end + intercept for end in (value, limit))
    lossy = (*LOSSY_JPEG, uid.JPEGLSNearLossless, uid.JPEG2000)
    is_lossy = dataset.file_meta.TransferSyntaxUID in lossy
    margin = is_lossy * LOSSY_SHARE * float(np.ptp(reading.values))
    return reading._replace(padding=(low - margin, high + margin))


def _num_frames(dataset: pydicom.Dataset) -> int:
    return int(dataset.get("NumberOfFrames", None) or 1)


def _by_libjpeg(path: str, dataset: pydicom.Dataset, levels_apart: float) -> Reading:
    """Read JPEG of the retired processes too, which pydicom refuses by their names."""
    if dataset.file_meta.TransferSyntaxUID in LOSSY_JPEG and dataset.BitsStored > 8:
        dataset.file_meta.TransferSyntaxUID = uid.JPEGExtended12Bit
    # pydicom would cut the bits above Bits Stored off, into which a lossy code may swing.
    is_lossy = dataset.file_meta.TransferSyntaxUID in LOSSY_JPEG
    options = {"correct_unused_bits": False} if is_lossy else {}
    stored = pixel_array(dataset, decoding_plugin="pylibjpeg", **options)
    return _meaning(stored if _num_frames(dataset) > 1 else stored[None], dataset, levels_apart)


def _by_openjph(path: str, dataset: pydicom.Dataset, levels_apart: float) -> Reading:
    frames = generate_frames(dataset.PixelData, number_of_frames=_num_frames(dataset))
    stored = np.stack([imagecodecs.htj2k_decode(frame) for frame in frames])
    return _meaning(stored, dataset, levels_apart)


def by_numpy(path: str, dataset: pydicom.Dataset, levels_apart: float) -> Reading:
    """Read samples of 8 or 16 bits that are not compressed, RGB by pixel or by plane."""
    bits, sign = dataset.BitsStored, dataset.PixelRepresentation
    order = ">" if dataset.file_meta.TransferSyntaxUID == uid.ExplicitVRBigEndian else "<"
    words = np.frombuffer(dataset.PixelData, f"{order}u{dataset.BitsAllocated // 8}").astype(int)
    samples, shape = dataset.SamplesPerPixel, (dataset.Rows, dataset.Columns)
    is_planar = samples == 3 and dataset.PlanarConfiguration
    shape = (_num_frames(dataset), *((samples, *shape) if is_planar else (*shape, samples)))
    stored = words[: np.prod(shape)].reshape(shape)
    stored = np.moveaxis(stored, 1, -1) if is_planar else stored
    if samples == 3:
        kind = np.uint8 if dataset.BitsAllocated == 8 else np.uint16
        return _meaning(stored.astype(kind), dataset, levels_apart)
    lowest = sign << (bits - 1)
    values = (stored[..., 0] + lowest) % 2**bits - lowest
    return _meaning(values.astype(np.int16 if sign else np.uint16), dataset, levels_apart)


def _meaning(stored: np.ndarray, dataset: pydicom.Dataset, levels_apart: float) -> Reading:
    """Return what stored frames [F, H, W] or [F, H, W, 3] mean."""
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        stored = np.stack([apply_color_lut(frame, dataset) for frame in stored])[..., :3]
    if stored.ndim == 4:
        return Reading(_luma(stored), levels_apart)
    groups = [dataset, *dataset.get("SharedFunctionalGroupsSequence", [])]
    groups += dataset.get("PerFrameFunctionalGroupsSequence", [])[:1]
    for group in groups:
        dataset = group.get("PixelValueTransformationSequence", [dataset])[0]
    slope = abs(float(dataset.get("RescaleSlope", None) or 1))
    return Reading(np.asarray(apply_modality_lut(stored, dataset), float), levels_apart * slope)


def _luma(colours: np.ndarray) -> np.ndarray:
    """Return the luma [F, H, W] of colours of 8 or 16 bits."""
    if colours.dtype == np.uint8:
        images = [Image.fromarray(np.ascontiguousarray(frame)).convert("L") for frame in colours]
        return np.stack([np.asarray(image) for image in images]).astype(float)
    return ((colours.astype(np.uint32) @ LUMA + 2**15) >> 16).astype(float)


def _by_gdcm(path: str, dataset: pydicom.Dataset, levels_apart: float) -> Reading:
    """Read by GDCM. It applies the rescale, inverts MONOCHROME1, spreads
    palettes over 8 bits and single bits over 255; all but the first is taken back here."""
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(path)
    image = reader.Execute()
    frames = SimpleITK.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() == 3:
        values = _luma(frames.reshape(-1, *frames.shape[-3:]))
        if dataset.PhotometricInterpretation != "PALETTE COLOR":
            return Reading(values, levels_apart)
        bits = dataset.RedPaletteColorLookupTableDescriptor[2]
        scale = 257 if bits > 8 else 1
        return Reading(values * scale, 2.0 * scale)
    values = frames.reshape(-1, *frames.shape[-2:]).astype(float)
    if dataset.BitsStored == 1:
        values = values / 255
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        slope = float(dataset.get("RescaleSlope", None) or 1)
        intercept = float(dataset.get("RescaleIntercept", None) or 0)
        ends = 2**dataset.BitsStored - 1 - 2**dataset.BitsStored * dataset.PixelRepresentation
        values = slope * ends + 2 * intercept - values
    return Reading(values, levels_apart)
