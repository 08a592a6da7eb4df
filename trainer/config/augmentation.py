"""The section `augment:` of a config: one section per transform, each with its probability, its
ranges, and the random parameters that it needs for one example.

A range is a number r, which means neutral ± r, or a pair [low, high]. Lengths in px are pixels of
the network's input; shares are shares of its side.
"""

import math
from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple

from pydantic import BeforeValidator, ConfigDict, Field

from lake.terminal import suggestions
from trainer.config.section import Section, Share

# A cubic B-spline with knots h apart is about as wide as a Gaussian of sigma = h / √3.
KNOTS_PER_SIGMA = math.sqrt(3)
LARGEST_SEED = 2**24  # float32 draws have no more distinct values


class Parameter(NamedTuple):
    """A random number per example, or an array of them: uniform in [low, high] where the transform
    happens, else neutral."""

    low: float
    high: float
    neutral: float
    shape: tuple[int, ...] = ()


class Neutral(NamedTuple):
    """The value of a range at which nothing changes, and the names of the parameters that are drawn
    from the range; none: one of the field's own name."""

    value: float
    parameters: tuple[str, ...]


def around(neutral: float, least: float, most: float, *parameters: str):
    """Return the type of a range within [least, most]: it reads r or [low, high], and its value is
    (low, high). The random parameters of these names are drawn from it; without names, one of the
    field's own name."""

    def ends(value) -> tuple[float, float]:
        """Return (low, high) of r or [low, high]; raise ValueError, which pydantic turns into a
        message, for any other value."""
        is_pair = isinstance(value, (list, tuple)) and len(value) == 2
        try:
            low, high = value if is_pair else (neutral - float(value), neutral + float(value))
            low, high = float(low), float(high)
        except (TypeError, ValueError):
            low, high = math.nan, math.nan
        if not least <= low <= high <= most:
            raise ValueError(
                f"expected a number r, which means {neutral:g} ± r, or [low, high]; both ends "
                f"within {least:g} and {most:g}"
            )
        return low, high

    return Annotated[tuple[float, float], BeforeValidator(ends), Neutral(neutral, parameters)]


class Transform(Section):
    model_config = ConfigDict(validate_default=True)

    # How likely it is for each example; without effect for a member of one_of, whose group decides.
    probability: Share = 0.0

    def parameters(self, side: int) -> dict[str, Parameter]:
        """Return the parameters that one example draws, for images [side, side]: one number per
        range, unless a transform says otherwise."""
        return {
            name: Parameter(*getattr(self, field), neutral.value)
            for field, info in type(self).model_fields.items()
            for neutral in info.metadata
            if isinstance(neutral, Neutral)
            for name in neutral.parameters or (field,)
        }


class Flip(Transform):
    """Left and right change places."""

    probability: Share = 0.5

    def parameters(self, side: int) -> dict[str, Parameter]:
        return {"sign": Parameter(-1, -1, neutral=1)}


class Affine(Transform):
    """Scaling, shear and rotation about the image's centre, then the shift."""

    probability: Share = 1.0
    rotate_deg: around(0, -180, 180) = 8  # positive: counter-clockwise
    # Above 1 enlarges; drawn separately for rows and columns.
    scale: around(1, 0.1, 10, "scale_rows", "scale_columns") = 0.15
    zoom: around(1, 0.1, 10) = 0  # like scale, with one number for rows and columns
    shear_deg: around(0, -60, 60) = 0  # positive: lower rows are pushed to the right
    # Share of the side, positive: down and right; drawn separately for rows and columns.
    shift: around(0, -1, 1, "shift_rows", "shift_columns") = 0.05


class Crop(Transform):
    """A square of random size, anywhere within the image, enlarged to the whole side."""

    share: around(1, 0.05, 1) = (0.625, 1)  # of the side: 160 to 256 px of 256

    def parameters(self, side: int) -> dict[str, Parameter]:
        place = Parameter(-1, 1, neutral=0)  # share of the room that the square leaves
        return {**super().parameters(side), "top": place, "left": place}


class Elastic(Transform):
    """A smooth random displacement: control points, √3 sigma apart, under a cubic B-spline.

    By default tissue is stretched by about 6% (one standard deviation), within what breathing and
    position do to a chest; albumentations' 120 and 6 px stretch it by 38% and fold it here and
    there. alpha and sigma are those of albumentations (noise in ±1 under a Gaussian of sigma, times
    alpha): the displacement has the same standard deviation and about the same reach. Unlike there,
    it is bounded (by 0.59 alpha / sigma), and no affine transform comes with it.
    """

    # The displacement's size. None: half of sigma's square, in px.
    alpha_px: float | None = Field(None, ge=0, le=10_000)
    # How far a displacement reaches. None: a sixteenth of the side, and at least 2.
    sigma_px: float | None = Field(None, ge=2)

    def parameters(self, side: int) -> dict[str, Parameter]:
        # A filter shrinks the standard deviation of uniform noise in ±1: a Gaussian to 1 / (2 √π σ)
        # of it, the spline to ∫β² = 151/315, its mean over all positions between the knots.
        sigma = max(2, side / 16) if self.sigma_px is None else self.sigma_px
        alpha = sigma**2 / 2 if self.alpha_px is None else self.alpha_px
        limit = alpha / (2 * math.sqrt(math.pi) * sigma) / (151 / 315)
        knots = math.ceil(side / (KNOTS_PER_SIGMA * sigma)) + 3
        return {"control_px": Parameter(-limit, limit, neutral=0, shape=(2, knots, knots))}


class Grid(Transform):
    """Columns and rows of a grid become wider and narrower; the image's border stays."""

    steps: int = Field(5, ge=2, le=64)
    limit: around(0, -0.9, 0.9) = 0.1  # share by which a step of the grid becomes wider

    def parameters(self, side: int) -> dict[str, Parameter]:
        return {"wider": Parameter(*self.limit, neutral=0, shape=(2, self.steps))}


class Optical(Transform):
    """A lens: a pixel at radius r from the centre, in sides, is read from r (1 + k r² + k r⁴).

    The formula is albumentations'. Where a negative k would fold the image over
    (beyond the radius where r (1 + k r² + k r⁴) is largest), the factor at that radius is used.
    """

    # k; positive: the image bulges inwards, and fill shows around it.
    # 0.2 moves the middle of a side by 6% of its distance from the centre.
    limit: around(0, -10, 10, "k") = 0.2
    # The centre, relative to the image's; drawn separately for row and column.
    centre_px: around(0, -1000, 1000, "centre_row", "centre_column") = 0.5


class Window(Transform):
    """The record's window, moved and widened before grey values become [0, 1]."""

    shift: around(0, -1, 1) = 0.1  # share of the window's width
    width: around(1, 0.05, 20) = 0.2  # factor on the window's width


class Clahe(Transform):
    """Contrast-limited adaptive histogram equalisation, before the geometry; the mask stays."""

    tiles: Literal[2, 4, 8, 16] = 8  # of a side; each has a histogram
    # A bin of a tile's histogram is cut at this share of its pixels; 1/256 is a flat histogram's,
    # and changes least.
    clip: around(0, 0.001, 1) = (0.004, 0.016)


class Blur(Transform):
    """A Gaussian blur."""

    sigma_px: around(0, 0.1, 20) = (0.2, 1)


class Contrast(Transform):
    """Differences from the image's mean, multiplied by a factor."""

    probability: Share = 1.0
    factor: around(1, 0, 10) = 0.2


class Brightness(Transform):
    """A number added to all pixels."""

    probability: Share = 1.0
    add: around(0, -1, 1) = 0.04  # to an image in [0, 1]


class Gamma(Transform):
    """Pixels in [0, 1] to the power of the exponent."""

    exponent: around(1, 0.05, 20) = 0.25  # above 1 darkens


class Invert(Transform):
    """Black and white change places."""

    def parameters(self, side: int) -> dict[str, Parameter]:
        return {"is_on": Parameter(1, 1, neutral=0)}


class Noise(Transform):
    """Normal noise, of another standard deviation for each image."""

    sigma: around(0, 0, 1) = (0, 0.05)  # for an image in [0, 1]

    def parameters(self, side: int) -> dict[str, Parameter]:
        return {**super().parameters(side), "seed": Parameter(0, LARGEST_SEED, neutral=0)}


class Cutout(Transform):
    """Black squares in the image; the mask stays."""

    holes: int = Field(1, ge=1, le=64)
    share: around(0, 0, 1) = (0.1, 0.3)  # of the side

    def parameters(self, side: int) -> dict[str, Parameter]:
        centre = Parameter(0, side, neutral=0, shape=(self.holes,))
        share = Parameter(*self.share, neutral=0, shape=(self.holes,))
        return {"share": share, "row": centre, "column": centre}


class Group(Section):
    """At most one of these transforms happens; each is as likely as the others."""

    transforms: tuple[str, ...] = Field(min_length=1)
    probability: Share  # that one of them happens


class Augment(Section):
    """The random changes of training images, drawn separately for each example."""

    model_config = ConfigDict(validate_default=True)

    flip: Flip = Flip()
    affine: Affine = Affine()
    crop: Crop = Crop()
    optical: Optical = Optical()
    grid: Grid = Grid()
    elastic: Elastic = Elastic()
    window: Window = Window()
    clahe: Clahe = Clahe()
    blur: Blur = Blur()
    contrast: Contrast = Contrast()
    brightness: Brightness = Brightness()
    gamma: Gamma = Gamma()
    invert: Invert = Invert()
    noise: Noise = Noise()
    cutout: Cutout = Cutout()
    # Groups of transforms of which at most one happens; these transforms happen only so.
    one_of: tuple[Group, ...] = ()
    # What comes into the image from outside: black, or the pixels of its border repeated.
    fill: Literal["constant", "nearest"] = "constant"

    def clashes(self) -> Iterator[str]:
        """Yield a message for each name in `one_of` that is not a transform, or occurs twice."""
        names = self.group_members()
        for name in dict.fromkeys(names):
            if name not in TRANSFORMS:
                hint = suggestions.question(name, TRANSFORMS)
                hint = hint or f"expected {', '.join(TRANSFORMS)}"
                yield f"one_of: unknown transform {name}; {hint}"
            elif names.count(name) > 1:
                yield f"one_of: {name} stands in it twice; leave one of them out"

    def group_members(self) -> list[str]:
        """Return the names of the transforms that happen through a group of one_of."""
        return [name for group in self.one_of for name in group.transforms]

    def possible_transforms(self) -> dict[str, Transform]:
        """Return the transforms that can happen at all, by name."""
        groups = {name: group for group in self.one_of for name in group.transforms}
        sections = {name: getattr(self, name) for name in TRANSFORMS}
        return {n: s for n, s in sections.items() if groups.get(n, s).probability}

    def only(self, name: str) -> "Augment":
        """Return settings under which this transform always happens, with its ranges here, and no
        other does."""
        transforms = {
            n: getattr(self, n).model_copy(update={"probability": float(n == name)})
            for n in TRANSFORMS
        }
        return self.model_copy(update={**transforms, "one_of": ()})


TRANSFORMS = tuple(
    name
    for name, field in Augment.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Transform)
)
