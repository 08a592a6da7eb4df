"""Damaged files: the errors that parsers and decoders raise on them become Rejects."""

import contextlib
from collections.abc import Iterator

from PIL import Image

from lake import InputError, Reject

MESSAGE_CHARACTERS = 300  # of a decoder's message; some list the failure of every plug-in


class Malformed(ValueError):
    """A file contradicts its format. The message quotes no value, which could be a name."""


@contextlib.contextmanager
def reject_damage(reason: str, path: str) -> Iterator[None]:
    """Turn the errors of parsing and decoding a damaged file into a Reject that names the file.

    The file may be cut off, contradict itself, or need more memory than there is.
    """
    try:
        yield
    except InputError:  # the options are wrong, not the file
        raise
    except Reject as reject:
        raise Reject(reject.reason, f"{path}: {reject.message}") from None
    except (Image.DecompressionBombError, MemoryError):
        raise Reject("too-large", f"{path}: decoding takes more memory than there is") from None
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    # Whatever a library raises is the file's fault; some have exceptions that are no Exception.
    except BaseException as error:
        raise Reject(reason, f"{path}: {_sentence(error, reason)}") from None


def _sentence(error: BaseException, reason: str) -> str:
    """Return a sentence on what is wrong with the file and what to do; only decoders' messages are
    quoted, as that of any other error may quote a name from the header."""
    if isinstance(error, Malformed):
        advice = "" if ";" in str(error) else "; copy it again, or leave it out"
        return f"{error}{advice}"
    part = "pixel data is" if reason == "undecodable" else "header is"
    detail = " ".join(str(error).split())[:MESSAGE_CHARACTERS] if reason == "undecodable" else ""
    quoted = f" ({detail})" if detail else ""
    return f"its {part} damaged or contradicts itself{quoted}; copy it again, or leave it out"
