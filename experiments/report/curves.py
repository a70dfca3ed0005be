"""The figures of the page: training curves, chain diagnostics, and scatter plots of evaluations."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from experiments.report import figures
from experiments.report.collect import Run
from experiments.report.parts import Missing, Panel, command

MOST_PANELS = 60
FIRST = ("loss/", "energy_gap", "energy_of_data")  # shown without unfolding
NOT_DRAWN = ("step",)
CUT = " (axis cut)"
CHAINS = ("posterior", "prior", "data")
HEALTH = ("drift_to_noise", "autocorrelation", "r_hat", "r_hat_worst")
# Title, then paths and label of each axis; the first path that an evaluation has is used.
PLANES = (
    (
        "Prior: quality and coherence",
        (("frechet.energy", "frechet.generator"), "Fréchet distance"),
        (("joint_coherence.energy", "joint_coherence.generator"), "joint coherence"),
    ),
    (
        "Given one modality: diversity and coherence",
        (("diversity.conditional",), "diversity (data: 1)"),
        (("cross_coherence.drawn",), "cross coherence"),
    ),
)


class Curves(NamedTuple):
    """Quantities logged during training."""

    first: tuple[Panel, ...]
    others: tuple[Panel, ...]
    num_left_out: int
    missing: tuple[Missing, ...]


class Health(NamedTuple):
    """Diagnostics of the short chains."""

    rows: tuple[tuple[str, ...], ...]  # run, chain, step, then the numbers of `HEALTH`
    panels: tuple[Panel, ...]
    missing: tuple[Missing, ...]


def curves(runs: Sequence[Run], colours: Mapping[str, int]) -> Curves:
    """One figure per logged quantity, with one line per run."""
    found = {name for run in runs for row in run.rows for name in row if name not in NOT_DRAWN}
    names = sorted(found, key=lambda name: (not name.startswith(FIRST), name))
    panels = [
        _over_steps(name, [(r, r.rows) for r in runs], colours) for name in names[:MOST_PANELS]
    ]
    first = tuple(panel for panel in panels if panel.title.startswith(FIRST))
    return Curves(
        first=first,
        others=tuple(panels[len(first) :]),
        num_left_out=len(names[MOST_PANELS:]),
        missing=tuple(
            Missing(f"{run.name} has logged no step in metrics.jsonl.", command(run, "train"))
            for run in runs
            if not run.rows
        ),
    )


def health(runs: Sequence[Run], colours: Mapping[str, int]) -> Health:
    """The newest diagnostics of every chain, and R-hat over training."""
    rows, panels = [], []
    for run in runs:
        for chain in CHAINS:
            fields = [f"chain/{chain}_{name}" for name in HEALTH]
            last = next((d for d in run.diagnostics[::-1] if any(f in d for f in fields)), None)
            if last is not None:
                shown = [f"{last[f]:.2f}" if f in last else "–" for f in fields]
                rows.append((run.name, chain, f"{last['step']:.0f}", *shown))
    for chain in CHAINS:
        name = f"chain/{chain}_r_hat"
        # A single point is already in the table.
        if any(sum(name in record for record in run.diagnostics) > 1 for run in runs):
            panel = _over_steps(name, [(r, r.diagnostics) for r in runs], colours)
            title = panel.title.replace(name, f"R-hat of the {chain} chain", 1)
            panels.append(panel._replace(title=title))
    every = "training writes them every config.picture_every steps; with more of them, elsewhere"
    missing = tuple(
        Missing(
            f"{run.name} has no diagnostics: {every}.",
            f"{command(run, 'train')}_again --config.picture_every=100",
        )
        for run in runs
        if not run.diagnostics
    )
    return Health(tuple(rows), tuple(panels), missing)


def scatters(runs: Sequence[Run], colours: Mapping[str, int]) -> tuple[Panel, ...]:
    """Scatter plots of evaluations by two metrics, for those with at least two points."""
    panels = []
    for title, (x_paths, x_label), (y_paths, y_label) in PLANES:
        points = []
        for run in runs:
            for evaluation in run.evaluations:
                x, y = (_first(evaluation.numbers, paths) for paths in (x_paths, y_paths))
                if x is not None and y is not None:
                    is_control = evaluation.method != run.method
                    points.append(figures.Point(colours[run.method], is_control, x, y))
        if len(points) > 1:
            panels.append(Panel(title, figures.scatter(points, x_label, y_label, f"plane {title}")))
    return tuple(panels)


def _first(numbers: Mapping[str, float], paths: Sequence[str]) -> float | None:
    return next((numbers[path] for path in paths if path in numbers), None)


def _over_steps(
    name: str,
    records: Sequence[tuple[Run, Sequence[Mapping[str, float]]]],
    colours: Mapping[str, int],
) -> Panel:
    series = []
    for run, rows in records:
        having = [row for row in rows if name in row]
        if having:
            points = [row["step"] for row in having], [row[name] for row in having]
            series.append((colours[run.method], points))
    svg, is_cut = figures.curves(series, f"curve {name}")
    return Panel(name + CUT if is_cut else name, svg)
