"""Image sources: bytes of one file -> Header (the listing pass) and Scan (the pixels as a lake
stores them)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Header:
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
