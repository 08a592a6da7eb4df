"""Damaged files: what parsers and decoders raise on them -> Reject."""

import contextlib
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from lake import InputError, Reject
from lake.sources.elements import Malformed

MESSAGE_CHARACTERS = 300  # of a decoder's own words in a Reject; some print every plug-in's failure


@contextlib.contextmanager
def broken_is(reason: str, path: str) -> Iterator[None]:
    """Turns what parsing and decoding raise on files that are cut off, contradict themselves or are
    too much for the machine into Rejects, and names the file."""
    try:
        yield
    except InputError:  # of the options, not of the file
        raise
    except Reject as reject:
        raise Reject(reject.reason, f"{path}: {reject.message}") from None
    except (Image.DecompressionBombError, MemoryError):
        raise Reject("too-large", f"{path}: decoding takes more memory than there is") from None
    except (
        *(ArithmeticError, AssertionError, AttributeError, BufferError, EOFError, LookupError),
        *(OSError, RuntimeError, StopIteration, SyntaxError, SystemError, TypeError, ValueError),
        *(struct.error, zlib.error),
    ) as error:
        # What other errors say of a header may quote a name.
        is_safe = reason == "undecodable" or isinstance(error, Malformed)
        said = f": {' '.join(str(error).split())[:MESSAGE_CHARACTERS]}" if is_safe else ""
        raise Reject(reason, f"{path}: {type(error).__name__}{said}") from None
