"""Values that wait on a worker to be grouped, as bytes.

The local runner holds what it groups as objects, three times as large as their bytes, and encodes
and decodes each once more on the way; bytes it passes on. Those of long run-length texts are
compressed, which takes a third of the time that reading such a text does.
"""

import zlib

from apache_beam.coders import PickleCoder

CODER = PickleCoder()
LONG = 1000  # bytes
PLAIN, COMPRESSED = b"p", b"z"  # the first byte


def pack(value) -> bytes:
    """Return a value of a pipeline as bytes."""
    content = CODER.encode(value)
    return COMPRESSED + zlib.compress(content, 1) if len(content) > LONG else PLAIN + content


def unpack(packed: bytes):
    """Return the value of the bytes that `pack` made of it, on this worker or another one."""
    content = packed[1:]
    return CODER.decode(zlib.decompress(content) if packed[:1] == COMPRESSED else content)
