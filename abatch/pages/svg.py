"""One plot as inline SVG: lines, bands, dots and texts over ticks and a grid.

A page needs no more of a plot than this, and a library that has more takes longer to import than a
night's score to reckon. Lengths are points; the page sets the type.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256
from html import escape
from math import ceil, floor, log10
from typing import Any, NamedTuple

import numpy as np

INK = "currentColor"  # the page's text colour
FONT_SIZE, TITLE_SIZE, NOTE_SIZE, LEADING = 9.5, 10.0, 8.5, 1.2
DIGIT = 0.62  # widths of a font's figures, at most, in its size
PAD, EDGE, ROOM = 3.5, 3.0, 0.05  # between text and axes, of the picture; of the data's span
STEPS = (1, 2, 2.5, 5, 10)


class Stroke(NamedTuple):
    """How a line is drawn; dashes and ends as SVG has them."""

    colour: str = INK
    width: float = 0.9
    opacity: float = 1.0
    dashes: str = ""
    ends: str = "square"

    @property
    def style(self) -> str:
        """The same as CSS."""
        dashes = f"stroke-dasharray: {self.dashes}; " if self.dashes else ""
        opacity = f"stroke-opacity: {self.opacity:g}; " if self.opacity < 1 else ""
        line = f"stroke: {self.colour}; {opacity}stroke-width: {self.width:.6g}"
        return f"fill: none; {dashes}{line}; stroke-linecap: {self.ends}"


GRID = Stroke(width=0.8, opacity=0.18)
DASHED = Stroke(opacity=0.6, dashes="3.6,2.7", ends="butt")
DOTTED = Stroke(dashes="0.9,1.5", ends="butt")


class Scale(NamedTuple):
    """From figures to points: those between the limits lie between start and end."""

    low: float
    high: float
    start: float
    end: float

    def place(self, figures: Any) -> Any:
        """Where figures are, in points."""
        share = (figures - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


class Axes:
    """A plot: what is added is drawn in its order, once the limits are known.

    Attributes
    ----------
    x_limits, y_limits : as wide as what is drawn if none are set
    x_ticks, y_ticks : figures with their labels, of which each line stands below the one before
    n_ticks : intervals between y_ticks at most, where none are set
    is_square : whether both axes are as long
    has_x_grid : whether lines stand at x_ticks, too
    """

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.x_limits: tuple[float, float] | None = None
        self.y_limits: tuple[float, float] | None = None
        self.x_ticks: list[tuple[float, str]] | None = None
        self.y_ticks: list[tuple[float, str]] | None = None
        self.n_ticks = 7
        self.title = self.x_label = self.y_label = ""
        self.is_square = self.has_x_grid = False
        self._shapes: list[Callable[[Scale, Scale], str]] = []
        self._notes: list[Callable[[Scale, Scale], str]] = []
        self._x: list[np.ndarray] = []
        self._y: list[np.ndarray] = []

    def add_line(self, x: np.ndarray, y: np.ndarray, stroke: Stroke) -> None:
        """A line from point to point, with a gap where y is nan."""
        for run in _find_runs(np.isfinite(y)):
            self._add(x[run], y[run], lambda at: f'<path d="{_join(*at)}" style="{stroke.style}"/>')

    def add_intervals(
        self, x: np.ndarray, lower: np.ndarray, upper: np.ndarray, stroke: Stroke
    ) -> None:
        """An upright line for each x."""
        for at, *ends in zip(x, lower, upper, strict=True):
            self.add_line(np.array([at, at]), np.array(ends), stroke)

    def add_band(self, x: np.ndarray, lower: np.ndarray, upper: np.ndarray, colour: str) -> None:
        """What lies between two lines, but where one is nan."""
        style = f"fill: {colour}; fill-opacity: 0.25"
        for run in _find_runs(np.isfinite(lower) & np.isfinite(upper)):
            ends = np.concatenate([lower[run], upper[run][::-1]])
            both = np.concatenate([x[run], x[run][::-1]])
            self._add(both, ends, lambda at: f'<path d="{_join(*at)} Z" style="{style}"/>')

    def add_dots(self, x: np.ndarray, y: np.ndarray, colour: str, size: float) -> None:
        """A dot for each figure that is not nan."""
        is_known = np.isfinite(y)

        def draw(at: np.ndarray) -> str:
            dots = (
                f'<circle cx="{x:.3f}" cy="{y:.3f}" r="{size / 2:g}" style="fill: {colour}"/>'
                for x, y in at.T
            )
            return "\n".join(dots)

        self._add(x[is_known], y[is_known], draw)

    def add_level(self, y: float, stroke: Stroke) -> None:
        """A line from side to side."""
        self._y.append(np.array([y]))
        self._shapes.append(lambda of_x, of_y: _draw_line(of_x[2:], [of_y.place(y)] * 2, stroke))

    def add_upright(self, x: float, stroke: Stroke) -> None:
        """A line from top to bottom."""
        self._shapes.append(lambda of_x, of_y: _draw_line([of_x.place(x)] * 2, of_y[2:], stroke))

    def add_note(self, text: str, x: float, y: float | None = None, anchor: str = "start") -> None:
        """A word a little above a point, or above the lower end."""

        def draw(of_x: Scale, of_y: Scale) -> str:
            height = of_y.start if y is None else of_y.place(y)
            return _write(text, of_x.place(x), height - EDGE, anchor, NOTE_SIZE)

        self._notes.append(draw)

    def _add(self, x: np.ndarray, y: np.ndarray, draw: Callable[[np.ndarray], str]) -> None:
        self._x.append(x)
        self._y.append(y)
        self._shapes.append(lambda of_x, of_y: draw(np.stack([of_x.place(x), of_y.place(y)])))

    def find_limits(self) -> tuple[float, float]:
        """The limits of y, if they are not set: as wide as all that was added."""
        return self.y_limits or _widen(self._y)

    def draw(self, key: str) -> str:
        """The plot as SVG; the key keeps its one id apart from those of the page's other plots."""
        y_limits, x_limits = self.find_limits(), self.x_limits or _widen(self._x)
        y_ticks = find_ticks(*y_limits, self.n_ticks) if self.y_ticks is None else self.y_ticks
        x_ticks = find_ticks(*x_limits, self.n_ticks) if self.x_ticks is None else self.x_ticks
        left, right, top, bottom = self._find_sides(x_ticks, y_ticks)
        of_x, of_y = Scale(*x_limits, left, right), Scale(*y_limits, bottom, top)
        grid, texts = [], []
        for figure, label in y_ticks:
            y = of_y.place(figure)
            grid.append(_draw_line(of_x[2:], [y, y], GRID))
            texts.append(_write(label, left - PAD, y + 0.36 * FONT_SIZE, "end"))
        for figure, label in x_ticks:
            x = of_x.place(figure)
            grid += [_draw_line([x, x], of_y[2:], GRID)] if self.has_x_grid else []
            for i, line in enumerate(label.split("\n")):
                texts.append(_write(line, x, bottom + PAD + (0.8 + LEADING * i) * FONT_SIZE))
        texts += [_write(self.title, left, top - 6, "start", TITLE_SIZE)] if self.title else []
        if self.x_label:
            texts.append(_write(self.x_label, (left + right) / 2, self.height - EDGE - 2.5))
        for i, line in enumerate(self.y_label.split("\n") if self.y_label else []):
            x, y = EDGE + (0.8 + LEADING * i) * FONT_SIZE, (top + bottom) / 2
            texts.append(_write(line, x, y, turned=f' transform="rotate(-90 {x:.3f} {y:.3f})"'))
        shapes = [draw(of_x, of_y) for draw in self._shapes]
        notes = [draw(of_x, of_y) for draw in self._notes]
        clip = f"clip-{sha256(key.encode()).hexdigest()[:10]}"
        box = (
            f'<rect x="{left:.3f}" y="{top:.3f}" width="{right - left:.3f}"'
            f' height="{bottom - top:.3f}"/>'
        )
        return "\n".join(
            [
                f'<svg width="{self.width:g}pt" height="{self.height:g}pt"'
                f' viewBox="0 0 {self.width:g} {self.height:g}">',
                f'<defs><clipPath id="{clip}">{box}</clipPath></defs>',
                *grid,
                f'<g clip-path="url(#{clip})">',
                *shapes,
                "</g>",
                *texts,
                *notes,
                "</svg>",
            ]
        )

    def _find_sides(
        self, x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[tuple[float, str]]
    ) -> tuple[float, float, float, float]:
        """Left, right, top and bottom of the axes, so that the texts have room around them."""
        line, n_lines = LEADING * FONT_SIZE, self.y_label.count("\n") + 1 if self.y_label else 0
        widest = max((len(label) for _, label in y_ticks), default=0)
        left = EDGE + n_lines * line + DIGIT * FONT_SIZE * widest + 2 * PAD
        longest = max((len(line) for _, label in x_ticks for line in label.split("\n")), default=0)
        right = self.width - EDGE - max(0, DIGIT * FONT_SIZE * longest / 2 - 5)
        top = EDGE + (TITLE_SIZE * LEADING + 6 if self.title else 5)
        n_lines = max((label.count("\n") + 1 for _, label in x_ticks), default=0)
        bottom = self.height - EDGE - PAD - line * n_lines - (line + 3 if self.x_label else 0)
        if self.is_square:
            spare = (right - left) - (bottom - top)
            left, right = left + max(0, spare) / 2, right - max(0, spare) / 2
            top, bottom = top + max(0, -spare) / 2, bottom - max(0, -spare) / 2
        return left, right, top, bottom


def find_ticks(low: float, high: float, n_most: int) -> list[tuple[float, str]]:
    """Round figures from low to high, with at most n_most steps between them, and their labels."""
    raw = (high - low) / n_most
    unit = 10.0 ** floor(log10(raw))
    step = unit * next(step for step in STEPS if step * unit >= raw * (1 - 1e-9))
    decimals = max(0, -floor(log10(step) + 1e-9))
    decimals += round(step, decimals) != round(step, decimals + 1)  # of 2.5 and .25
    numbers = range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)
    return [
        (number * step, f"{number * step:z,.{decimals}f}".replace("-", "\N{MINUS SIGN}"))
        for number in numbers
    ]


def _find_runs(is_known: np.ndarray) -> list[slice]:
    """Where figures are known, one after the other."""
    ends = np.flatnonzero(np.diff(is_known, prepend=False, append=False))
    return [slice(*pair) for pair in ends.reshape(-1, 2)]


def _widen(figures: Sequence[np.ndarray]) -> tuple[float, float]:
    """Limits that leave room on both sides of all that is finite."""
    known = np.concatenate([np.zeros(0), *figures])
    known = known[np.isfinite(known)]
    if not known.size:
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    room = ROOM * (high - low) or max(ROOM * abs(high), ROOM)
    return low - room, high + room


def _join(x: np.ndarray, y: np.ndarray) -> str:
    return "M " + " L ".join(f"{a:.3f} {b:.3f}" for a, b in zip(x, y, strict=True))


def _draw_line(x: Sequence[float], y: Sequence[float], stroke: Stroke) -> str:
    return f'<path d="{_join(np.array(x), np.array(y))}" style="{stroke.style}"/>'


def _write(
    text: str,
    x: float,
    y: float,
    anchor: str = "middle",
    size: float = FONT_SIZE,
    turned: str = "",
) -> str:
    style = f"font-size: {size:g}px; text-anchor: {anchor}; fill: {INK}"
    return f'<text x="{x:.3f}" y="{y:.3f}" style="{style}"{turned}>{escape(text)}</text>'
