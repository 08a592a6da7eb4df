"""Image sources: one file -> Headers (the listing pass) and Scans (the pixels as a lake stores
them)."""

import hashlib
import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from lake import Packed

# Bounds on what one file may cost; a file beyond them is a reject, `too-large`.
MAX_FILE_BYTES = 2**30
MAX_PIXELS = 100_000_000  # of one image; the largest mammography detectors have 20 million
FRAME_BITS = 20  # frames of one file: what a key of the plan has room for


def stable_hash(name: str) -> int:
    """64 bits that depend on nothing but the name."""
    content = name.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


@dataclass(frozen=True)
class Geometry(Packed):
    """Where the voxels of a volume (or of one slice of it) lie in the patient, as ITK says it."""

    slices: int
    origin_mm: tuple[float, float, float]  # world x, y, z of the first voxel's centre
    spacing_mm: tuple[float, float, float]  # along columns (x), rows (y), slices (z) of the array
    direction: tuple[
        float, ...
    ]  # 9 cosines, row-major: world = origin + direction @ (spacing * index)


@dataclass(frozen=True)
class Header(Packed):
    """What the first pass learns of one image without reading its pixels."""

    path: str
    size: int  # bytes of the file
    image_id: str
    patient: str  # as in the file, until a record is made
    study: str
    series: str
    height: int
    width: int
    bits: int  # bits stored a pixel
    view: str
    sex: str
    age: int
    modality: str
    frame: int = 0  # of a multi-frame file, or slice of a volume
    geometry: Geometry | None = None  # of a volume or of one of its slices


@dataclass(frozen=True)
class Storage:
    """How a lake stores pixels."""

    bits: int  # 8 | 16
    max_side: int | None  # pixels; None: the source's size
    window: str = "default"  # default | percentile | LOW,HIGH in modality units
    clahe: bool = False
    lung_roi: bool = False  # CT: what is not lung becomes air


class Coding(NamedTuple):
    """How the pixels of one image lie in its file, as far as the header says it."""

    name: str  # of lake.sources.dicom.CODINGS, or png, or metaimage
    num_bytes: int  # of one image's pixels, as they are coded
    is_kept: bool  # a lake takes them as they are
    channels: int = 1  # that are coded; a lake stores one


@dataclass(frozen=True)
class Scan:
    """One image as a record stores it."""

    image: bytes  # JPEG or PNG, one channel
    encoding: str  # jpeg-kept | png
    height: int  # of `image`
    width: int
    pixel_spacing_mm: tuple[float, float]  # of `image`: row, column; 0, 0 when unknown
    rescale: tuple[float, float]  # modality value = stored * slope + intercept
    window: tuple[float, float]  # low, high in stored values
    slice_mm: float = math.nan  # world z of a CT slice


class Files(Protocol):
    """How a source reaches files that may not be local."""

    def read(self, path: str) -> bytes:
        """The whole file."""

    def local(self, path: str) -> str:
        """The path of a local copy, with the data files of a MetaImage header beside it."""


def frame_id(image_id: str, frame: int) -> str:
    """The id of one frame of a multi-frame file or of one slice of a series, from 0."""
    return f"{image_id}#{frame:04d}"
