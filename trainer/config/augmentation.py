"""What `augment:` in a config may hold: one section a transform, each with its probability and its
ranges; and which draws in [0, 1) each of them needs. No TensorFlow.

A range is a number r, for neutral ± r, or a pair [low, high]. Pixels are those of the network's
side; shares are of that side.
"""

import difflib
import math
from abc import ABC, abstractmethod
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
# A cubic B-spline with knots h apart is about as wide as a Gaussian of sigma = h / √3.
KNOTS_PER_SIGMA = math.sqrt(3)


class Drawn(NamedTuple):
    """A parameter: drawn uniformly from [low, high], or neutral where its transform stays away."""

    low: float
    high: float
    neutral: float
    shape: tuple[int, ...] = ()


def around(neutral: float, least: float, most: float):
    """The type of a range within [least, most]: what comes is r or [low, high], what is kept is
    (low, high)."""

    def pair(value) -> tuple[float, float]:
        is_pair = isinstance(value, (list, tuple)) and len(value) == 2
        try:
            low, high = value if is_pair else (neutral - float(value), neutral + float(value))
            low, high = float(low), float(high)
        except (TypeError, ValueError):
            low, high = math.nan, math.nan
        if not least <= low <= high <= most:
            raise ValueError(
                f"expected r, which means {neutral:g} ± r, or [low, high]; within {least:g} and "
                f"{most:g}"
            )
        return low, high

    return Annotated[tuple[float, float], BeforeValidator(pair)]


class Transform(BaseModel, ABC):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    probability: Share = 0.0  # for each example; not asked where a group of one_of decides

    @model_validator(mode="before")
    @classmethod
    def _is_a_section(cls, content):
        if not isinstance(content, (dict, cls)):
            raise ValueError(f"expected fields such as probability; known: {_fields(cls)}")
        return content

    @abstractmethod
    def drawn(self, side: int) -> dict[str, Drawn]:
        """The parameters of one example, for images [side, side]."""


class Flip(Transform):
    """Left and right change places."""

    probability: Share = 0.5

    def drawn(self, side: int) -> dict[str, Drawn]:
        return {"sign": Drawn(-1, -1, neutral=1)}


class Affine(Transform):
    """About the image's centre: scaling, shear, rotation, then the shift."""

    probability: Share = 1.0
    rotate_deg: around(0, -180, 180) = 8  # positive: counter-clockwise
    scale: around(1, 0.1, 10) = 0.15  # drawn for rows and columns apart; above 1 enlarges
    zoom: around(1, 0.1, 10) = 0  # one scale for both
    shear_deg: around(0, -60, 60) = 0  # positive: lower rows are pushed to the right
    shift: around(0, -1, 1) = 0.05  # share, rows and columns apart; positive: down and right

    def drawn(self, side: int) -> dict[str, Drawn]:
        return {
            "rotate_deg": Drawn(*self.rotate_deg, neutral=0),
            "scale_rows": Drawn(*self.scale, neutral=1),
            "scale_columns": Drawn(*self.scale, neutral=1),
            "zoom": Drawn(*self.zoom, neutral=1),
            "shear_deg": Drawn(*self.shear_deg, neutral=0),
            "shift_rows": Drawn(*self.shift, neutral=0),
            "shift_columns": Drawn(*self.shift, neutral=0),
        }


class Crop(Transform):
    """A square of random size, anywhere within the image, enlarged to the whole side."""

    share: around(1, 0.05, 1) = (0.625, 1)  # of the side: 160 to 256 of 256

    def drawn(self, side: int) -> dict[str, Drawn]:
        return {
            "share": Drawn(*self.share, neutral=1),
            "top": Drawn(-1, 1, neutral=0),  # of the room that is left
            "left": Drawn(-1, 1, neutral=0),
        }


class Elastic(Transform):
    """A smooth random displacement: control points, √3 sigma apart, under a cubic B-spline.

    alpha and sigma as in albumentations (noise in ±1 under a Gaussian of sigma, times alpha): the
    displacement has the same standard deviation and about the same reach. Other than there, it is
    bounded (by 0.59 alpha / sigma), and no affine transform comes with it.
    """

    alpha_px: float = Field(120.0, ge=0, le=10_000)
    sigma_px: float = Field(6.0, ge=2)

    @property
    def spacing_px(self) -> float:
        return KNOTS_PER_SIGMA * self.sigma_px

    def drawn(self, side: int) -> dict[str, Drawn]:
        # Of a uniform noise in ±1 both filters keep a share of the standard deviation: a Gaussian
        # 1 / (2 √π σ), the spline ∫β² = 151/315, its mean over all positions between the knots.
        most = self.alpha_px / (2 * math.sqrt(math.pi) * self.sigma_px) / (151 / 315)
        knots = math.ceil(side / self.spacing_px) + 3
        return {"control_px": Drawn(-most, most, neutral=0, shape=(2, knots, knots))}


class Grid(Transform):
    """Columns and rows of a grid become wider and narrower; the image's border stays."""

    steps: int = Field(5, ge=2, le=64)
    limit: around(0, -0.9, 0.9) = 0.3  # share by which a step of the grid is wider

    def drawn(self, side: int) -> dict[str, Drawn]:
        return {"wider": Drawn(*self.limit, neutral=0, shape=(2, self.steps))}


class Optical(Transform):
    """A lens: what is read at radius r lies at r (1 + k r² + k r⁴), r in sides from the centre.

    As in albumentations, k in ±2; but where a negative k would fold the image over (beyond the
    radius at which that has its maximum), the share by which it shrinks is held.
    """

    limit: around(0, -10, 10) = 2  # k; positive: the image bulges inwards, and fill shows around it
    centre_px: around(0, -1000, 1000) = 0.5

    def drawn(self, side: int) -> dict[str, Drawn]:
        return {
            "k": Drawn(*self.limit, neutral=0),
            "centre_row": Drawn(*self.centre_px, neutral=0),
            "centre_column": Drawn(*self.centre_px, neutral=0),
        }


class Window(Transform):
    """The record's window, moved and widened before grey values become [0, 1]."""

    shift: around(0, -1, 1) = 0.1  # share of the window's width
    width: around(1, 0.05, 20) = 0.2

    def drawn(self, side: int) -> dict[str, Drawn]:
        return {"shift": Drawn(*self.shift, neutral=0), "width": Drawn(*self.width, neutral=1)}


class Blur(Transform):
    """A Gaussian."""

    sigma_px: around(0, 0.1, 20) = (0.2, 1)

    def drawn(self, side: int) -> dict[str, Drawn]:
        return {"sigma_px": Drawn(*self.sigma_px, neutral=0)}


class Contrast(Transform):
    """About the image's mean."""

    probability: Share = 1.0
    factor: around(1, 0, 10) = 0.2

    def drawn(self, side: int) -> dict[str, Drawn]:
        return {"factor": Drawn(*self.factor, neutral=1)}


class Brightness(Transform):
    probability: Share = 1.0
    add: around(0, -1, 1) = 0.04  # to an image in [0, 1]

    def drawn(self, side: int) -> dict[str, Drawn]:
        return {"add": Drawn(*self.add, neutral=0)}


class Gamma(Transform):
    exponent: around(1, 0.05, 20) = 0.25  # above 1 darkens

    def drawn(self, side: int) -> dict[str, Drawn]:
        return {"exponent": Drawn(*self.exponent, neutral=1)}


class Invert(Transform):
    """Black and white change places."""

    def drawn(self, side: int) -> dict[str, Drawn]:
        return {"is_on": Drawn(1, 1, neutral=0)}


class Noise(Transform):
    """Normal, for each pixel apart, of a standard deviation drawn for each image."""

    sigma: around(0, 0, 1) = (0, 0.05)  # of an image in [0, 1]

    def drawn(self, side: int) -> dict[str, Drawn]:
        return {
            "sigma": Drawn(*self.sigma, neutral=0),
            "seed": Drawn(0, 2**24, neutral=0),  # as many as float32 draws there are
        }


class Cutout(Transform):
    """Black squares in the image; the mask stays."""

    holes: int = Field(1, ge=1, le=64)
    share: around(0, 0, 1) = (0.1, 0.3)  # of the side

    def drawn(self, side: int) -> dict[str, Drawn]:
        return {
            "share": Drawn(*self.share, neutral=0, shape=(self.holes,)),
            "row": Drawn(0, side, neutral=0, shape=(self.holes,)),  # of the centre
            "column": Drawn(0, side, neutral=0, shape=(self.holes,)),
        }


def _fields(section: type[BaseModel]) -> str:
    return ", ".join(section.model_fields)


class Group(BaseModel):
    """At most one of these happens; all of them are as likely."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    transforms: tuple[str, ...] = Field(min_length=1)
    probability: Share


class Augment(BaseModel):
    """All that training changes at random, for each example apart."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    flip: Flip = Flip()
    affine: Affine = Affine()
    crop: Crop = Crop()
    optical: Optical = Optical()
    grid: Grid = Grid()
    elastic: Elastic = Elastic()
    window: Window = Window()
    blur: Blur = Blur()
    contrast: Contrast = Contrast()
    brightness: Brightness = Brightness()
    gamma: Gamma = Gamma()
    invert: Invert = Invert()
    noise: Noise = Noise()
    cutout: Cutout = Cutout()
    one_of: tuple[Group, ...] = ()  # whose transforms happen through their group alone
    fill: Literal["constant", "nearest"] = "constant"  # outside: black, or as the border

    @model_validator(mode="after")
    def _groups(self) -> "Augment":
        grouped = self.grouped()
        for name in grouped:
            if name not in TRANSFORMS:
                near = difflib.get_close_matches(name, TRANSFORMS, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(TRANSFORMS)}"
                raise ValueError(f"one_of: unknown transform {name}; {hint}")
            if grouped.count(name) > 1:
                raise ValueError(f"one_of: {name} stands in it twice; leave one of them out")
        return self

    def grouped(self) -> list[str]:
        return [name for group in self.one_of for name in group.transforms]

    def possible(self) -> dict[str, Transform]:
        """The transforms that can happen at all."""
        groups = {name: group for group in self.one_of for name in group.transforms}
        sections = {name: getattr(self, name) for name in TRANSFORMS}
        return {n: s for n, s in sections.items() if groups.get(n, s).probability}

    def alone(self, name: str) -> "Augment":
        """This transform with its ranges, always, and nothing else."""
        changed = {
            n: getattr(self, n).model_copy(update={"probability": float(n == name)})
            for n in TRANSFORMS
        }
        return self.model_copy(update={**changed, "one_of": ()})


TRANSFORMS = tuple(
    name
    for name, field in Augment.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Transform)
)
