"""Numbers -> the geometry of a chart, which page/charts.html draws as SVG; no script is needed to
see one, and a printer draws it as sharp as a screen.

Series differ by their dashes or markers, not by their colour alone.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# The picture and the plot in it, in units of the SVG.
WIDTH, HEIGHT = 380, 280
LEFT, TOP, RIGHT, BOTTOM = 52, 12, 366, 236
PLOT = {"left": LEFT, "top": TOP, "right": RIGHT, "bottom": BOTTOM, "width": WIDTH}
PLOT["height"] = HEIGHT
MOST_TICKS = 6


class Axis(NamedTuple):
    """One direction of a chart: what it shows, with its unit, and between which ends."""

    label: str
    low: float
    high: float
    is_log: bool = False

    def ticks(self) -> list[float]:
        """Return round numbers between the ends."""
        if self.is_log:
            first, last = (math.floor(math.log10(end)) for end in (self.low, self.high))
            factors = (1, 2, 5) if last - first < MOST_TICKS / 2 else (1,)
            ticks = [f * 10.0**power for power in range(first, last + 1) for f in factors]
            return [tick for tick in ticks if self.low <= tick <= self.high]
        step = _round_step((self.high - self.low) / MOST_TICKS)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]

    def share(self, values) -> np.ndarray:
        """Return the places of values between the ends, 0 to 1."""
        values, ends = np.asarray(values, np.float64), np.array([self.low, self.high])
        if self.is_log:
            values, ends = np.log10(values), np.log10(ends)
        return (values - ends[0]) / (ends[1] - ends[0])


class Series(NamedTuple):
    """Points of one meaning. A point that is not defined (None) is a gap."""

    name: str  # in the legend; "": it has no entry
    xs: Sequence
    ys: Sequence
    look: str  # the class of page/style.css: line-1 …, dots-1 …, bars, rule, diagonal


class Point(NamedTuple):
    """A marker that thresholds.js moves."""

    name: str
    x: float | None
    y: float | None


class Chart(NamedTuple):
    """A chart and the words around it."""

    title: str
    caption: str  # what to see in it
    x: Axis
    y: Axis
    series: list[Series]
    points: list[Point] = []

    def x_ticks(self) -> list[tuple[float, str]]:
        return [(round(_x(self.x, tick), 1), _text(tick)) for tick in self.x.ticks()]

    def y_ticks(self) -> list[tuple[float, str]]:
        return [(round(_y(self.y, tick), 1), _text(tick)) for tick in self.y.ticks()]

    def path(self, series: Series) -> str:
        """Return the series as an SVG path: a line, dots, or bars."""
        if series.look == "bars":
            return self._bars(series)
        parts, command = [], "M"
        # A dot is a line of no length; the points of a line follow one another.
        end, next_command = ("h0", "M") if series.look.startswith("dots") else ("", "L")
        for x, y in zip(series.xs, series.ys, strict=True):
            if x is None or y is None or not (math.isfinite(x) and math.isfinite(y)):
                command = "M"
                continue
            parts.append(f"{command}{_x(self.x, x):.1f} {_y(self.y, y):.1f}{end}")
            command = next_command
        return "".join(parts)

    def _bars(self, series: Series) -> str:
        """Return bars from the axis up; xs [N + 1] are their edges, ys [N] their heights."""
        base, parts = _y(self.y, 0), []
        for left, right, height in zip(series.xs[:-1], series.xs[1:], series.ys, strict=True):
            x, end, y = _x(self.x, left) + 1, _x(self.x, right) - 1, _y(self.y, height)
            if height:
                parts.append(f"M{x:.1f} {base:.1f}V{y:.1f}H{end:.1f}V{base:.1f}Z")
        return "".join(parts)

    def place(self, point: Point) -> tuple[float, float] | None:
        """Return the place (x, y) at which a point is drawn; None where it is not defined."""
        ends = (point.x, point.y)
        if any(end is None or not math.isfinite(end) for end in ends):
            return None
        return round(_x(self.x, point.x), 1), round(_y(self.y, point.y), 1)


def range_of(values: Sequence[float], label: str, low: float | None = None) -> Axis:
    """Return the axis of these values, with a little room; `low`: where it begins instead."""
    finite = np.array([v for v in values if v is not None and math.isfinite(v)] or [0.0, 1.0])
    margin = 0.06 * (finite.max() - finite.min()) or max(0.5 * abs(finite.max()), 1e-9)
    start = finite.min() - margin if low is None else low
    return Axis(label, float(start), float(finite.max() + margin))


def _round_step(step: float) -> float:
    """Return 1, 2 or 5 times a power of ten, not below `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return power * next(factor for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def _text(tick: float) -> str:
    return f"{tick:.6g}".replace("-", "\N{MINUS SIGN}")


def _x(axis: Axis, value: float) -> float:
    return LEFT + (RIGHT - LEFT) * float(axis.share(value))


def _y(axis: Axis, value: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * float(axis.share(value))
