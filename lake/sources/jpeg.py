"""JPEG of every process of T.81 (baseline, extended, progressive, lossless; 2 to 16 bits) and
JPEG-LS, as a plug-in of pydicom's decoders: an encoded frame becomes its samples as coded.
"""

import imagecodecs
import numpy as np
from pydicom.pixels.decoders.base import DecodeRunner
from pydicom.uid import JPEGLSTransferSyntaxes


def is_available(uid: str) -> bool:
    """Return True: pydicom asks every plug-in, and this one's library is always installed."""
    return True


def decode(frame: bytes, runner: DecodeRunner) -> memoryview:
    """Return the samples of a frame, colours by pixel; tell `runner` how many bytes each takes.

    Colours stay as they are coded; pydicom makes RGB of what the header calls YBR.
    """
    if runner.transfer_syntax in JPEGLSTransferSyntaxes:
        samples = imagecodecs.jpegls_decode(frame)  # by CharLS
    else:
        # One name for what comes and what goes, whichever it is, means no conversion.
        space = "YCbCr" if runner.samples_per_pixel == 3 else "GRAYSCALE"
        samples = imagecodecs.jpeg8_decode(frame, colorspace=space, outcolorspace=space)
    bits = 8 * samples.itemsize
    if bits > runner.bits_allocated:
        raise ValueError("the codestream has samples of more than 8 bits, Bits Allocated is 8")
    runner.set_option("bits_allocated", bits)
    runner.set_option("planar_configuration", 0)
    return memoryview(np.ascontiguousarray(samples))
