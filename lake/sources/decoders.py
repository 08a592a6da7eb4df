"""Which library decodes which transfer syntax. Each has one, named here, so that the pixels of a
file do not depend on what else is installed beside it.
"""

import functools

from pydicom import uid
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import Decoder
from pydicom.uid import UID

from lake import Reject

# Baseline and Extended; Spectral Selection and Full Progression are retired, but JPEGs like those.
LOSSY_JPEG = frozenset(UID(f"1.2.840.10008.1.2.4.{number}") for number in (50, 51, 53, 55))
LOSSLESS_JPEG = frozenset((uid.JPEGLossless, uid.JPEGLosslessSV1))
HIGH_THROUGHPUT = (uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K)
# With libjpeg-turbo and CharLS, by jpeg.py. Of pydicom's own plug-ins for JPEG one is GPL-3.0 and
# takes differences modulo 2^P for others, one ends the process at a damaged header, one reads 8
# bits alone.
BY_IMAGECODECS = LOSSY_JPEG | LOSSLESS_JPEG | {*uid.JPEGLSTransferSyntaxes}
# The name of pydicom's plug-in; pylibjpeg has OpenJPEG, in pylibjpeg-openjpeg.
PLUGINS = {
    **dict.fromkeys(uid.UncompressedTransferSyntaxes, ""),  # it needs none
    **dict.fromkeys(BY_IMAGECODECS, "imagecodecs"),
    **dict.fromkeys((uid.JPEG2000Lossless, uid.JPEG2000, *HIGH_THROUGHPUT), "pylibjpeg"),
    uid.RLELossless: "pydicom",
}


@functools.cache
def find(syntax: UID) -> tuple[Decoder, str]:
    """Return pydicom's decoder of a transfer syntax and the plug-in that it must use, "" of
    uncompressed pixels; raises Reject where none is named."""
    if syntax not in PLUGINS:
        raise Reject("unsupported-syntax", f"no decoder reads {syntax.name}; convert the file")
    if syntax not in BY_IMAGECODECS:
        return get_decoder(syntax), PLUGINS[syntax]
    decoder = Decoder(syntax)  # not pydicom's own, which the whole process shares
    decoder.add_plugin(PLUGINS[syntax], ("lake.sources.jpeg", "decode"))
    return decoder, PLUGINS[syntax]
