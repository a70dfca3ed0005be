"""The contents of the page, section by section, as plain values for the template."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from etils import epath

from experiments.report import curves, findings, samples, setups, tables
from experiments.report.collect import Evaluation, Run
from experiments.report.parts import Key, Missing, Panel, command, evaluation_name
from experiments.report.pictures import Drawn


class Results(NamedTuple):
    """All results of the evaluations."""

    tables: tuple[tables.Table, ...]
    scatters: tuple[Panel, ...]
    protocol: tuple[tuple[str, str], ...]
    evaluated: tuple[str, ...]
    numbers: tuple[tuple[str, list[str]], ...]
    missing: tuple[Missing, ...]


class Contents(NamedTuple):
    """The contents of the page."""

    title: str
    command: str  # recreates the page
    made: dict[str, str]  # version, machine and date
    legend: tuple[Key, ...]
    findings: dict[str, list[findings.Finding]]  # by run
    setups: tuple[setups.Setup, ...]
    results: Results
    curves: curves.Curves
    samples: samples.Samples
    health: curves.Health


def contents(
    workdir: epath.Path, runs: Sequence[Run], draw: Callable[[Run], Drawn], made: dict[str, str]
) -> Contents:
    """Collect the page for these runs.

    Args:
      workdir: folder of the page.
      runs: at least one run.
      draw: returns the samples of a run with a checkpoint; called for the first run of each method.
      made: version, machine and date.
    """
    colours = {name: number for number, name in enumerate(dict.fromkeys(r.method for r in runs))}
    return Contents(
        title=workdir.absolute().name,
        command=f"python -m experiments.main --mode=report --workdir={shlex.quote(str(workdir))}",
        made=made,
        legend=tuple(Key(name, number) for name, number in colours.items()),
        findings=findings.by_run(runs),
        setups=tuple(setups.setup(run) for run in runs),
        results=_results(runs, colours),
        curves=curves.curves(runs, colours),
        samples=samples.samples(runs, draw),
        health=curves.health(runs, colours),
    )


def _results(runs: Sequence[Run], colours: dict[str, int]) -> Results:
    evaluations = [evaluation for run in runs for evaluation in run.evaluations]
    protocol = {
        path.removeprefix("protocol."): text
        for evaluation in evaluations
        for path, text in evaluation.words.items()
        if path.startswith("protocol.")
    }
    return Results(
        tables=tuple(tables.tables(evaluations)),
        scatters=curves.scatters(runs, colours),
        protocol=tuple(protocol.items()),
        evaluated=tuple(evaluation_name(evaluation) for evaluation in evaluations),
        numbers=tuple(tables.every_number(evaluations)),
        missing=tuple(
            Missing(f"{run.name} has no evaluation.", command(run, "evaluate"))
            for run in runs
            if not run.evaluations
        )
        + tuple(Missing(line) for line in dict.fromkeys(_not_measured(evaluations))),
    )


def _not_measured(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    """What the evaluations left out, and why."""
    for evaluation in evaluations:
        for path, reason in evaluation.words.items():
            if path.startswith("absent."):
                yield f"Not measured: {path.removeprefix('absent.')}, {reason}."
