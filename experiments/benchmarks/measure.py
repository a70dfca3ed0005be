"""Timing, and statistics of the timings."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from tabulate import tabulate

Call = Callable[[], Any]


class Options(NamedTuple):
    """How much to measure."""

    pairs: int  # interleaved repetitions for comparisons
    repeats: int  # calls for separate timings
    quick: bool  # small sizes, to test that all parts run


class Spread(NamedTuple):
    """The minimum, median and maximum of several values."""

    minimum: float
    median: float
    maximum: float

    def __str__(self) -> str:
        """The three values as shown in tables."""
        return f"{self.minimum:.2f} / {self.median:.2f} / {self.maximum:.2f}"


class Part(NamedTuple):
    """Result of a part: values for `benchmark.json`, Markdown, and rows for `docs/results`."""

    figures: dict[str, Any]
    markdown: str
    rows: Sequence[Mapping[str, Any]] = ()


def seconds(call: Call) -> float:
    """Wall-clock seconds of a call, including the wait for its result."""
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begin


def typical(call: Call, repeats: int) -> float:
    """The median time of several calls, after a warm-up call."""
    seconds(call)
    return statistics.median(seconds(call) for _ in range(repeats))


def interleaved(calls: Mapping[str, Call], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, interleaved (A B B A A B) so that other load affects all of them.

    Every second round runs in reverse order, so that neither drift nor after-effects favour one.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(rounds):
        for name in list(calls)[:: -1 if index % 2 else 1]:
            times[name].append(seconds(calls[name]))
    return times


def spread(values: Sequence[float]) -> Spread:
    """The spread of one or more values."""
    return Spread(min(values), statistics.median(values), max(values))


def ratios(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """Spread of the ratios of values measured in pairs.

    Raises:
      ValueError: the lists have different lengths.
    """
    return spread([a / b for a, b in zip(numerator, denominator, strict=True)])


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The slope p of cost ∝ size^p, fitted as a straight line through the logarithms.

    Raises:
      ValueError: there are fewer than two sizes, or one is not positive.
    """
    if len(sizes) < 2 or min(*sizes, *costs) <= 0:
        raise ValueError(f"an exponent needs two or more positive sizes and costs, not {sizes}.")
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """A Markdown table; floats are shown with three significant digits."""
    shown = [[f"{x:.3g}" if isinstance(x, float) else str(x) for x in row] for row in rows]
    return tabulate(shown, headers, tablefmt="github", disable_numparse=True)
