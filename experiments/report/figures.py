"""Curves and histograms as inline SVG that uses the page's colours and fonts.

Titles and legends are part of the page: a figure contains only numbers, and no text from a file.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

Points = tuple[Sequence[float], Sequence[float]]


class Point(NamedTuple):
    """A point of a scatter plot."""

    colour: int
    is_control: bool
    x: float
    y: float


# Per curve, and for all curves of a figure; longer curves are averaged.
MOST_POINTS, FEWEST_POINTS, MOST_POINTS_TOGETHER = 300, 30, 1200
# Cut off values further from these percentiles than this multiple of the distance between them.
FAR_PERCENTILES, FAR = (4, 96), 5.0
NUM_BINS = 30
# Placeholders that are replaced by the page's colours.
_INK = "#0a0b0c"
_SERIES = "#0a0b{:02x}"
_FIRST_SERIES = 0x20
NUM_COLOURS = 8
_LINE_STYLES = ("-", "--", ":", "-.")
# Keeps text as text.
_RC: Any = {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}


def curves(series: Sequence[tuple[int, Points]], salt: str) -> tuple[str, bool]:
    """Curves of a quantity over training steps, and whether outliers lie outside the axis.

    Args:
      series: for each curve, its colour number and (steps, values); values that are not finite
        leave a gap.
      salt: a string that no other figure on the page uses.
    """
    figure, axes = _figure()
    most = min(MOST_POINTS, max(FEWEST_POINTS, MOST_POINTS_TOGETHER // max(1, len(series))))
    together = [np.zeros(0)]
    for number, (steps, values) in series:
        x, y = _thinned(np.asarray(steps, np.float64), np.asarray(values, np.float64), most)
        together.append(y)
        style = _LINE_STYLES[number // NUM_COLOURS % len(_LINE_STYLES)]
        marker = "." if len(x) < 12 else ""
        axes.plot(x, y, color=_colour(number), linestyle=style, marker=marker, linewidth=1.4)
    axes.set_xlabel("step")
    limits = _limits(np.concatenate(together))
    if limits is not None:
        axes.set_ylim(*limits)
    return _svg(figure, salt), limits is not None


def histograms(values: Mapping[int, Any], salt: str) -> str:
    """Histograms of several sets of numbers over common bins.

    Args:
      values: colour number → numbers; values that are not finite are left out.
      salt: a string that no other figure on the page uses.
    """
    figure, axes = _figure()
    finite = {
        n: (v := np.ravel(np.asarray(a, np.float64)))[np.isfinite(v)] for n, a in values.items()
    }
    together = np.concatenate([*finite.values(), np.zeros(0)])
    bins = np.histogram_bin_edges(together, NUM_BINS) if together.size else NUM_BINS
    for number, numbers in finite.items():
        colour = _colour(number)
        axes.hist(numbers, bins, color=colour, alpha=0.25)
        axes.hist(numbers, bins, color=colour, histtype="step", linewidth=1.4)
    axes.set_xlabel("energy")
    axes.set_ylabel("examples")
    return _svg(figure, salt)


def scatter(points: Sequence[Point], x_label: str, y_label: str, salt: str) -> str:
    """One point per evaluation, with squares for controls; the page adds the labels."""
    figure, axes = _figure()
    for point in points:
        marker = "s" if point.is_control else "o"
        axes.plot([point.x], [point.y], marker, color=_colour(point.colour), markersize=7)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.margins(0.12)
    return _svg(figure, salt)


def _figure() -> tuple[Figure, Any]:
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(3.6, 2.3), layout="constrained")
        axes = figure.add_subplot()
    axes.grid(color=_INK, alpha=0.15, linewidth=0.6)
    axes.tick_params(colors=_INK, labelsize=8, length=2)
    axes.locator_params(nbins=5)
    axes.ticklabel_format(useMathText=False, useOffset=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_INK)
        axes.spines[side].set_alpha(0.5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(_INK)
        axis.get_offset_text().set_color(_INK)
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    return figure, axes


def _limits(values: np.ndarray) -> tuple[float, float] | None:
    """Axis limits that exclude a few outliers; None if there are none."""
    low, high = np.percentile(values, FAR_PERCENTILES) if values.size else (0.0, 0.0)
    span = high - low
    if span <= 0 or (values.max() - high <= FAR * span and low - values.min() <= FAR * span):
        return None
    return float(low - 0.1 * span), float(high + 0.1 * span)


def _colour(number: int) -> str:
    return _SERIES.format(_FIRST_SERIES + number % NUM_COLOURS)


def _thinned(steps: np.ndarray, values: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Average neighbouring points so that at most `most` remain."""
    if len(steps) <= most:
        return steps, values
    parts = np.array_split(np.arange(len(steps)), most)
    return np.array([steps[p].mean() for p in parts]), np.array([values[p].mean() for p in parts])


def _svg(figure: Figure, salt: str) -> str:
    """The figure as an inline element: no XML declaration, no addresses, the page's colours."""
    buffer = io.StringIO()
    with matplotlib.rc_context(_RC | {"svg.hashsalt": salt}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = text.replace("xlink:href", "href")
    referenced = set(re.findall(r"#([\w-]+)", text))
    text = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in referenced else "", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = text.replace(_INK, "currentColor")
    for number in range(NUM_COLOURS):
        text = text.replace(_colour(number), f"var(--series-{number})")
    return re.sub(r"\s*\n\s*", "\n", text)
