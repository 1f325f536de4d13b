"""Charts as SVG text: no fonts, files or scripts, so that one page shows them anywhere.

Colours are CSS classes (`m0` to `m5` by model, `ink`, `rule`) of `STYLE`, which follow light and dark. Labels are SVG
text in the reader's fonts, so Chinese needs none embedded. Charts are drawn narrow and the page lays them side by side.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from unicodedata import east_asian_width

from tamis.estimates import Estimate, Point

STYLE = (resources.files("tamis") / "charts.css").read_text(encoding="utf-8")
WIDTH = 320
COLOURS = 6
LONG_TICK = 4
"""Characters that fit beside the last line of a plot in the middle of it."""

PLOT = (46, 10, 264, 200)
"""Left, top, width and height of the area curves are drawn in."""


@dataclass(frozen=True)
class Series:
    """A named curve; `colour` is a model's place.

    `dots` are the weight in [0, 1] of a dot at each point and `spans` its interval, both if any.
    """

    name: str
    points: Sequence[Point]
    colour: int
    dots: Sequence[float] = ()
    spans: Sequence[Estimate] = ()


@dataclass(frozen=True)
class Axis:
    """A label and the range shown; `ticks` are labels at equal distances, numbers of the range without them."""

    label: str
    low: float = 0.0
    high: float = 1.0
    ticks: tuple[str, ...] = ()

    def share(self, value: float) -> float:
        """Where a value lies between the ends, kept inside."""
        width = self.high - self.low or 1.0
        return min(1.0, max(0.0, (value - self.low) / width))


@dataclass(frozen=True)
class Zone:
    """A shaded part of the plot in axis values."""

    left: float = 0.0
    right: float = 1.0
    bottom: float = 0.0
    top: float = 1.0


def bars(title: str, rows: Sequence[tuple[str, Estimate, int]]) -> str:
    """Horizontal bars from 0 to 1 with their intervals; a row is a model's name, its figure and its colour."""
    left, width, step = 142, 132, 21
    parts = []
    for i, (name, estimate, colour) in enumerate(rows):
        y = i * step + 6
        value = max(0.0, estimate.value) if estimate.value == estimate.value else 0.0
        label = f"{estimate.value:.2f}" if estimate.value == estimate.value else "–"
        middle = y + 7
        parts += [
            _text(left - 8, middle + 4, name, anchor="end", widest=20),
            f'<rect class="track" x="{left}" y="{y}" width="{width}" height="14" rx="3"/>',
            f'<rect class="f{colour % COLOURS}" x="{left}" y="{y}" width="{value * width:.1f}" height="14" rx="3"/>',
            _whisker(left, width, middle, estimate),
            _text(left + width + 8, middle + 4, label),
        ]
    return _svg(WIDTH, len(rows) * step + 8, title, parts)


def _whisker(left: float, width: float, y: float, estimate: Estimate) -> str:
    if not (estimate.high >= estimate.low):
        return ""
    start, end = left + width * estimate.low, left + width * min(1.0, estimate.high)
    return f'<path class="whisker" d="M{start:.1f} {y}H{end:.1f}M{start:.1f} {y - 3}v6M{end:.1f} {y - 3}v6"/>'


def heatmap(title: str, table: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str]) -> str:
    """A matrix of counts, each cell shaded by its share of the row; the diagonal has a colour of its own."""
    left, top = 84, 64
    size = (WIDTH - left - 4) / len(columns)
    parts = [_slanted(left + (j + 0.5) * size, top - 8, name) for j, name in enumerate(columns)]
    for i, counts in enumerate(table):
        y, total = top + i * size, sum(counts)
        parts.append(_text(left - 8, y + size / 2 + 4, rows[i], anchor="end"))
        for j, count in enumerate(counts):
            share = count / total if total else 0.0
            parts.append(_cell((left + j * size, y, size), count, share, "hit" if i == j else "miss"))
    return _svg(WIDTH, top + size * len(table) + 4, title, parts)


def _cell(place: tuple[float, float, float], count: float, share: float, kind: str) -> str:
    x, y, size = place
    strength = 0.12 + 0.88 * share if count else 0.04
    box = f'x="{x:.1f}" y="{y:.1f}" width="{size - 2:.1f}" height="{size - 2:.1f}" rx="3"'
    shade = f'<rect class="{kind}" {box} fill-opacity="{strength:.2f}"/>'
    label = "on" if share > 0.55 else "ink"
    return shade + (_text(x + size / 2 - 1, y + size / 2 + 3, _count(count), "middle", label) if count else "")


def _count(value: float) -> str:
    """A count, or the mean of several with a decimal where there is room for one."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}".removesuffix(".0")


def plot(
    title: str,
    series: Iterable[Series],
    x: Axis,
    y: Axis,
    zone: Zone | None = None,
    diagonal: bool = False,
) -> str:
    """Curves over two axes."""
    left, top, width, height = PLOT
    parts = [_shade(zone, x, y)] if zone else []
    parts += [*_frame(x, y)]
    if diagonal:
        parts.append(f'<path class="rule dashed" d="M{left} {top + height}L{left + width} {top}"/>')
    for one in series:
        parts += _curve(one, x, y)
    return _svg(WIDTH, top + height + 40, title, parts)


def _curve(one: Series, x: Axis, y: Axis) -> Iterable[str]:
    left, top, width, height = PLOT
    places = [(left + width * x.share(p.x), top + height * (1 - y.share(p.y))) for p in one.points]
    if places:
        path = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in places)
        yield f'<path class="line m{one.colour % COLOURS}" d="{path}"/>'
    for (px, py), weight in zip(places, one.dots, strict=False):
        radius = 1.6 + 4 * weight**0.5
        yield f'<circle class="f{one.colour % COLOURS}" cx="{px:.1f}" cy="{py:.1f}" r="{radius:.1f}"/>'
    for (px, _), span in zip(places, one.spans, strict=False):
        ends = [top + height * (1 - y.share(end)) for end in (span.low, span.high)]
        caps = "".join(f"M{px - 3:.1f} {end:.1f}h6" for end in ends)
        yield f'<path class="whisker" d="M{px:.1f} {ends[0]:.1f}V{ends[1]:.1f}{caps}"/>'


def timeline(title: str, rows: Sequence[tuple[str, Sequence[tuple[float, float]]]], ticks: Sequence[str]) -> str:
    """When each of several things was there, one line each.

    Args:
        title: for who cannot see it.
        rows: a name, and the stretches in which it was there, both ends as shares of the time shown.
        ticks: labels at equal distances of that time.
    """
    left, width, step = 110, 196, 22
    bottom = len(rows) * step + 6
    parts = []
    for i, label in enumerate(ticks):
        share = i / max(1, len(ticks) - 1)
        across = left + width * share
        parts.append(f'<path class="grid" d="M{across:.1f} 0v{bottom}"/>')
        parts.append(_text(across, bottom + 14, label, _tick_anchor(share, label), kind="soft"))
    for i, (name, stretches) in enumerate(rows):
        y = i * step + 6
        parts.append(_text(left - 8, y + 11, name, anchor="end", widest=16))
        for start, end in stretches:
            # Narrower than this nobody would see it.
            place = f'x="{left + width * start:.1f}" y="{y}" width="{max(2.0, width * (end - start)):.1f}" height="14"'
            parts.append(f'<rect class="f{i % COLOURS}" {place} rx="3"/>')
    return _svg(WIDTH, bottom + 22, title, parts)


def rounded_up(value: float) -> float:
    """The next number that four ticks divide well: 1, 2, 4 or 8 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 4, 8, 10) if factor * power >= value * (1 - 1e-9))


def _shade(zone: Zone, x: Axis, y: Axis) -> str:
    left, top, width, height = PLOT
    start, end = left + width * x.share(zone.left), left + width * x.share(zone.right)
    upper, lower = top + height * (1 - y.share(zone.top)), top + height * (1 - y.share(zone.bottom))
    return f'<rect class="zone" x="{start}" y="{upper}" width="{end - start}" height="{lower - upper}"/>'


def _frame(x: Axis, y: Axis) -> Iterable[str]:
    left, top, width, height = PLOT
    for share, label in _ticks(x):
        across = left + width * share
        yield f'<path class="grid" d="M{across:g} {top}v{height}"/>'
        yield _text(across, top + height + 14, label, _tick_anchor(share, label), kind="soft")
    for share, label in _ticks(y):
        down = top + height * (1 - share)
        yield f'<path class="grid" d="M{left} {down:g}h{width}"/>'
        yield _text(left - 6, down + 4, label, anchor="end", kind="soft")
    yield _text(left + width / 2, top + height + 32, x.label, anchor="middle")
    turned = f"translate(11 {top + height / 2}) rotate(-90)"
    yield f'<text class="ink" text-anchor="middle" transform="{turned}">{escape(y.label)}</text>'


def _tick_anchor(share: float, label: str) -> str:
    """A date in the middle of the last line would be cut off."""
    return "end" if share == 1 and len(label) > LONG_TICK else "middle"


def _ticks(axis: Axis, steps: int = 4) -> Iterable[tuple[float, str]]:
    if axis.ticks:
        return [(i / max(1, len(axis.ticks) - 1), label) for i, label in enumerate(axis.ticks)]
    return [(i / steps, _tick(axis, i / steps)) for i in range(steps + 1)]


def _tick(axis: Axis, share: float) -> str:
    value = axis.low + (axis.high - axis.low) * share
    return f"{value:,.0f}" if axis.high - axis.low >= 10 else f"{value:.2f}".rstrip("0").rstrip(".")


def shortened(text: str, widest: int) -> str:
    """Text of at most `widest` half-width places, cut with an ellipsis; East Asian characters take two."""
    widths = [2 if east_asian_width(character) in "WF" else 1 for character in text]
    if sum(widths) <= widest:
        return text
    kept = next(i for i in range(len(text), -1, -1) if sum(widths[:i]) < widest)
    return text[:kept] + "…"


def _slanted(x: float, y: float, text: str) -> str:
    turned = f"translate({x:.1f} {y}) rotate(-38)"
    return f'<text class="ink" transform="{turned}">{_named(text, 14)}</text>'


def _named(text: str, widest: int) -> str:
    """A label that fits, with the whole of it on hover."""
    short = shortened(text, widest)
    return escape(text) if short == text else f"<title>{escape(text)}</title>{escape(short)}"


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "ink", widest: int = 13) -> str:
    shown = _named(text, widest) if anchor == "end" else escape(text)
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{shown}</text>'


def _svg(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    head = f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{escape(title)}">'
    return head + "".join(parts) + "</svg>"
