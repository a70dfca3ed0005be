"""Define a figure and make it: runs, rows, a file of results, a picture, a sentence."""

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath
from matplotlib.figure import Figure as Picture

from experiments import results
from experiments.figures import runs
from experiments.figures.runs import Row, Settings, Trial
from experiments.shards import Shard
from mmebm_jax import training
from mmebm_jax.runs import builders
from mmebm_jax.training import plotting


class Figure(NamedTuple):
    """A figure; `measure` returns rows of plain numbers, which `draw` and `sentence` read."""

    title: str
    trials: Callable[[Settings], list[Trial]]
    measure: Callable[[Trial, Settings], Sequence[Row]]
    draw: Callable[[Sequence[Row]], Picture]
    sentence: Callable[[Sequence[Row]], str]
    equal_steps: bool = False  # whether the first run's budget sets the number of steps for all


def settled(figure: Figure, settings: Settings) -> Settings:
    """The settings of the figure's runs; if steps are equal, the first run sets their number."""
    if not figure.equal_steps:
        return settings
    return runs.steps_of_budget(figure.trials(settings)[0], settings)


def rows_of(name: str, figure: Figure, settings: Settings) -> list[Row]:
    """The rows of all runs, read from their files or measured now.

    Raises:
      ValueError: a configuration or a folder does not fit; one line that names it.
    """
    rows: list[Row] = []
    trials = figure.trials(settings)
    for one in trials:
        builders.validate(one.config)
    for number, one in enumerate(trials, 1):
        print(f"{name}: run {number} of {len(trials)}, {one.folder}", flush=True)
        rows += runs.kept(one, name, settings, figure.measure)
    return rows


def own(figure: Figure, shard: Shard) -> Figure:
    """The figure with the runs of this shard only."""
    place, total = shard
    return figure._replace(trials=lambda settings: figure.trials(settings)[place::total])


def finished(name: str, figure: Figure) -> Figure:
    """The figure with only those runs that have been measured."""

    def trials(settings: Settings) -> list[Trial]:
        return [one for one in figure.trials(settings) if runs.kept_path(one, name).exists()]

    return figure._replace(trials=trials)


def measure_in_shards(
    figure: Figure, settings: Settings, command: Sequence[str], jobs: int
) -> None:
    """Measure all runs in `jobs` parallel processes, each on its own share of the cores.

    Args:
      figure: the figure whose runs are measured and stored.
      settings: settings of the runs.
      command: Python arguments that measure a shard; "--shard=i/n" is added.
      jobs: number of processes.

    Raises:
      ValueError: a process failed; its output is in its log.
    """
    # Once, so that the processes do not each train their own.
    first = figure.trials(settings)[0]
    runs.classifiers(training.prepare(first.config, settings.workdir / "none"), settings)
    cores = sorted(os.sched_getaffinity(0))
    started = []
    try:
        for place in range(jobs):
            log = settings.workdir / f"shard{place + 1}.log"
            os.sched_setaffinity(0, cores[place::jobs])  # the process started here inherits it
            with log.open("w") as file:
                arguments = [sys.executable, *command, f"--shard={place + 1}/{jobs}"]
                process = subprocess.Popen(arguments, stdout=file, stderr=subprocess.STDOUT)
            started.append((process, log))
    finally:
        os.sched_setaffinity(0, cores)
    failed = [log for process, log in started if process.wait()]
    if failed:
        raise ValueError(f"runs failed: see {', '.join(map(str, failed))}.")


def write(name: str, figure: Figure, folder: epath.Path, command: str, rows: list[Row]) -> None:
    """Write NAME.json and NAME.png."""
    results.write(folder / f"{name}.json", command, rows)
    redraw(name, figure, folder)


def redraw(name: str, figure: Figure, folder: epath.Path) -> None:
    """Redraw NAME.png from NAME.json.

    Raises:
      FileNotFoundError, ValueError: the file is missing or cannot be drawn; one line.
    """
    path = folder / f"{name}.json"
    rows = results.read(path)["rows"]
    with results.reading(path):
        picture = figure.draw(rows)
    plotting.write_figure(folder / f"{name}.png", picture)


def by_method(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows grouped by method, in the order in which methods first appear."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["method"], []).append(row)
    return found


def spread(values: Sequence[float], digits: int) -> str:
    """The mean, with its standard deviation over seeds if there are several."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def company(rows: Sequence[Mapping[str, Any]]) -> str:
    """The number of steps and seeds, which every sentence begins with."""
    steps = sorted({row["num_steps"] for row in rows})
    seeds = len({row["seed"] for row in rows})
    length = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    return f"{length} steps, {seeds} seed{'s' if seeds > 1 else ''}"
