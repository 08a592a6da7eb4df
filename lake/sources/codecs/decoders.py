"""Encoded frames -> samples. Each code has one decoder, named here, so that the pixels of a file do
not depend on what else is installed beside it."""

import numpy as np
from pydicom import uid
from pydicom.uid import UID

from lake import Reject
from lake.sources.codecs import lossless_jpeg
from lake.sources.codecs.claims import Claims

# Baseline and Extended; Spectral Selection and Full Progression are retired, but JPEGs like those.
LOSSY_JPEG = frozenset(UID(f"1.2.840.10008.1.2.4.{number}") for number in (50, 51, 53, 55))
LOSSLESS_JPEG = frozenset((uid.JPEGLossless, uid.JPEGLosslessSV1))
HIGH_THROUGHPUT = (uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K)
JPEG_2000 = frozenset((uid.JPEG2000Lossless, uid.JPEG2000, *HIGH_THROUGHPUT))
# Of which there is a decoder; a frame's own headers say which.
SYNTAXES = frozenset(
    (
        *(*LOSSY_JPEG, *LOSSLESS_JPEG, *uid.JPEGLSTransferSyntaxes, uid.RLELossless),
        *(*JPEG_2000, *uid.UncompressedTransferSyntaxes),
    )
)


def check_syntax(syntax: str) -> None:
    """Raise Reject for a transfer syntax that has no decoder."""
    if syntax not in SYNTAXES:
        raise Reject("unsupported-syntax", f"no decoder reads {UID(syntax).name}; convert the file")


def decode(frame: bytes, claims: Claims) -> np.ndarray:
    """Return the samples of a codestream as coded, [H, W] or [H, W, 3], signed where it is. Raises
    Reject where they are of another shape than it claims.

    Colours of a JPEG or JPEG-LS stay as they are coded; JPEG 2000 has transformed them back to RGB.
    """
    # Here, as an export with tensorflow-io imports this file where there are no decoders.
    import imagecodecs
    import openjpeg

    match claims.code:
        case "jpeg":  # libjpeg-turbo
            # One name for what comes and what goes, whichever it is, means no conversion.
            space = "YCbCr" if claims.samples == 3 else "GRAYSCALE"
            samples = imagecodecs.jpeg8_decode(frame, colorspace=space, outcolorspace=space)
        case "jpeg-lossless":
            samples = lossless_jpeg.decode(frame, claims)
        case "jpeg-ls":  # CharLS
            samples = imagecodecs.jpegls_decode(frame)
        case "jpeg-2000":  # OpenJPEG, which reads High-Throughput JPEG 2000, too
            samples = openjpeg.decode(frame)
    shape = (claims.height, claims.width, claims.samples)[: 2 + (claims.samples > 1)]
    if samples.shape != shape:
        raise Reject("undecodable", f"the codestream decodes to {samples.shape}, expected {shape}")
    return np.ascontiguousarray(samples)
