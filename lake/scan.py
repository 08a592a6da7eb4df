"""What passes between the rooms of the lake: the Header of an image file (listing reads no
pixels), its Scan (the pixels as a lake stores them), how a lake stores them (Storage)."""

import hashlib
import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from lake import InputError, Packed, Reject
from lake.exam import Exam

# Bounds on what one file may cost; a file beyond them is a reject, `too-large`.
MAX_FILE_BYTES = 2**30
MAX_PIXELS = 100_000_000  # of one image; the largest mammography detectors have 20 million
FRAME_BITS = 20  # frames of one file: what a key of the plan has room for


def stable_hash(name: str) -> int:
    """Return 64 bits that depend on the name alone, on every machine and in every version."""
    content = name.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def check_pixels(height: int, width: int) -> None:
    """Raise Reject for an image of more than MAX_PIXELS."""
    if height * width > MAX_PIXELS:
        message = f"{height} x {width} pixels, expected at most {MAX_PIXELS:,} in all"
        raise Reject("too-large", f"{message}; leave it out")


@dataclass(frozen=True)
class Geometry(Packed):
    """Where the voxels of a volume, or of one slice of it, lie in the patient, in ITK's terms."""

    slices: int
    origin_mm: tuple[float, float, float]  # world x, y, z of the first voxel's centre
    spacing_mm: tuple[float, float, float]  # along columns (x), rows (y), slices (z) of the array
    # 9 cosines, row-major: world = origin + direction @ (spacing * index)
    direction: tuple[float, ...]


@dataclass(frozen=True)
class Header(Packed):
    """What the listing pass reads about one image, without its pixels."""

    path: str
    size: int  # bytes of the file
    image_id: str
    height: int
    width: int
    bits: int  # stored per pixel
    patient: str = ""  # as in the file, until a record is made
    study: str = ""
    series: str = ""
    view: str = ""
    sex: str = ""
    age: int = -1  # years; -1: unknown
    modality: str = ""
    frame: int = 0  # of a multi-frame file, or slice of a volume
    geometry: Geometry | None = None  # of a volume or of one of its slices
    version: float = 0.0  # differs where the file, or a data file beside it, was written again
    exam: Exam = Exam()  # what it shows; nothing in a record depends on it

    def with_version(self, version: float) -> "Header":
        """Return the header with a version; dataclasses.replace takes ten times as long, per
        image."""
        header = object.__new__(Header)
        vars(header).update(vars(self), version=version)
        return header

    def for_record(self) -> dict:
        """Return the fields on which a record depends, as lakes of every version have them."""
        fields = vars(self) | {"version": 0}
        del fields["exam"]
        return fields


@dataclass(frozen=True)
class Storage:
    """How a lake stores pixels."""

    bits: int  # 8 | 16
    max_side: int | None  # pixels; None: the source's size
    window: str = "default"  # default | percentile | LOW,HIGH in modality units
    clahe: bool = False
    lung_roi: bool = False  # CT: what is not lung becomes air


def parse_window(text: str) -> tuple[float, float] | None:
    """Return (low, high) in modality units of `LOW,HIGH`; None for `default` and `percentile`.

    Raises InputError for any other text.
    """
    if text in ("default", "percentile"):
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 0.0, 0.0
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(
            f"--window={text}: expected default, percentile or LOW,HIGH in modality units, such as "
            f"-1000,400"
        )
    return low, high


class ReaderSettings(NamedTuple):
    """How the files of a lake were read, and so how other files are read for networks that learnt
    from it."""

    is_ct: bool  # files are CT volumes or slices of one
    image_id_from: str  # name | uid | path
    storage: Storage
    # What the lakes of the networks had, as lake.exam.count has it; () where that is not known.
    exams: tuple[dict, ...] = ()
    any_modality: bool = False  # read files that show what these lakes did not have, too


class Coding(NamedTuple):
    """How the pixels of one image are coded in its file, as far as the header says it."""

    name: str  # of lake.sources.dicom.dicom.CODINGS, or png, or metaimage
    num_bytes: int  # of one image's coded pixels
    is_kept: bool  # whether a lake stores the coded pixels as they are
    channels: int = 1  # in the file; a lake stores one


@dataclass(frozen=True)
class Scan:
    """The pixels of one image as a record stores them."""

    image: bytes  # JPEG or PNG, one channel
    encoding: str  # jpeg-kept | png
    height: int  # of `image`
    width: int
    pixel_spacing_mm: tuple[float, float]  # of `image`: row, column; 0, 0 when unknown
    rescale: tuple[float, float]  # modality value = stored * slope + intercept
    window: tuple[float, float]  # low, high in stored values
    slice_mm: float = math.nan  # world z of a CT slice
    is_flat: bool = False  # all pixels have one grey level in the view of the window
    padding_px: int = 0  # pixels at which nothing was measured; stored as 0


class Files(Protocol):
    """How a source reaches files that may not be local."""

    def read(self, path: str) -> bytes:
        """Return the whole file."""

    def local(self, path: str) -> str:
        """Return the path of a local copy; a MetaImage header has its data files beside it."""


def frame_id(image_id: str, frame: int) -> str:
    """Return the id of a frame of a multi-frame file or a slice of a series, counted from 0."""
    return f"{image_id}#{frame:04d}"
