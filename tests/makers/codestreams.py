"""Words of any number of bits in every lossless code, and DICOM files around any codestream."""

import io
import struct

import imagecodecs
import jpeg_ls
import numpy as np
import openjpeg
import pydicom
from makers import lossless_jpeg
from makers.dicom import make
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

# How words of Bits Allocated are coded; OpenJPH has no other depths than theirs.
NATIVE = {
    "native": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big-endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
}
WORD_CODES = (*NATIVE, "rle", "htj2k")
# Codes of any precision.
CODES = {"jpeg-lossless": JPEGLosslessSV1, "jpeg-ls": JPEGLSLossless, "jpeg-2000": JPEG2000Lossless}


def codestream(words: np.ndarray, code: str, bits: int) -> bytes:
    """The codestream of `bits` bits of words [H, W]; signed where the words are, in JPEG 2000."""
    if code == "jpeg-2000":
        return openjpeg.utils.encode_array(words, bits_stored=bits)
    unsigned = words.view(f"u{words.itemsize}") & np.array(2**bits - 1, f"u{words.itemsize}")
    if code == "jpeg-lossless":
        return lossless_jpeg.encode(unsigned, bits)
    if code == "htj2k":
        return imagecodecs.htj2k_encode(unsigned, reversible=True)
    if code == "rle":
        return run_lengths(unsigned)
    content = unsigned.astype("u1" if bits <= 8 else "<u2").tobytes()
    return bytes(jpeg_ls.encode_buffer(content, *words.shape, 1, bits))


def run_lengths(words: np.ndarray) -> bytes:
    """A run-length coded frame of words [H, W] or [H, W, 3], the highest byte first."""
    planes = words[..., None] if words.ndim == 2 else words
    planes = [planes[..., sample] for sample in range(planes.shape[-1])]
    segments = []
    for plane in planes:
        for byte in reversed(range(plane.itemsize)):
            segment = imagecodecs.packbits_encode((plane >> 8 * byte).astype(np.uint8))
            segments.append(segment + bytes(len(segment) % 2))
    starts = 64 + np.cumsum([0, *map(len, segments)])[:-1]
    unused = [0] * (15 - len(segments))
    return struct.pack("<16L", len(segments), *starts.tolist(), *unused) + b"".join(segments)


def file_of(words: np.ndarray, code: str, bits: int | None = None, **attributes) -> bytes:
    """A DICOM file of words [H, W] in a code of `bits` bits, by default those of a word."""
    if code in NATIVE:
        return make(words, NATIVE[code], **attributes)
    syntax = {**CODES, "rle": RLELossless, "htj2k": HTJ2KLossless}[code]
    frame = codestream(words, code, bits or 8 * words.itemsize)
    return encapsulated(words, syntax, [frame], **attributes)


def encapsulated(pixels: np.ndarray, syntax: UID, frames: list[bytes], **attributes) -> bytes:
    """A DICOM file with the header of these pixels and such attributes around coded frames."""
    dataset = pydicom.dcmread(io.BytesIO(make(pixels, **attributes)))
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].VR = "OB"
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
