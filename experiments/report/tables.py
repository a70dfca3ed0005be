"""The tables of a report: methods down, metrics across, floors and ceilings below them."""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from experiments.report.collect import Evaluation

ABSENT = "–"


class Column(NamedTuple):
    """A metric: its head, where an evaluation holds it, and what bounds it.

    The first path that an evaluation has counts. `floor` is what real data reach in the samples'
    place, as a path or a number.
    """

    head: str
    paths: tuple[str, ...]
    floor: str | float | None = None
    digits: int = 3
    better: str = ""  # "higher", "lower" or ""


class Row(NamedTuple):
    """A row of a table; `is_reference` is that of real data."""

    label: str
    cells: tuple[str, ...]
    is_reference: bool = False


class Table(NamedTuple):
    """A table as text."""

    title: str
    note: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


ACCURACY = "classifier_accuracy"  # the mean over modalities
TABLES: dict[str, tuple[str, tuple[Column, ...]]] = {
    "Samples from the prior": (
        "Refined under the data energy where the model has one. Fréchet distances are between "
        "classifier features, not FID. Copied: share of the samples that lie nearer to a training "
        "example than 99% of held-out data do.",
        (
            Column(
                "joint coherence",
                ("joint_coherence.energy", "joint_coherence.generator"),
                "joint_coherence.real_data",
                better="higher",
            ),
            Column(
                "Fréchet distance",
                ("frechet.energy", "frechet.generator"),
                "frechet.floor",
                1,
                "lower",
            ),
            Column("before refinement", ("frechet.generator",), "frechet.floor", 1, "lower"),
            *(
                Column(
                    name,
                    (f"fidelity.{name}",),
                    f"fidelity_of_training_data.{name}",
                    better="higher",
                )
                for name in ("precision", "recall", "density", "coverage")
            ),
            Column("class entropy", ("class_balance.entropy",), 1.0, better="higher"),
            Column("copied", ("memorisation.copied",), 0.01, better="lower"),
        ),
    ),
    "Given one modality": (
        "Cross coherence rewards a model that draws one picture a class: read it beside the "
        "diversity, which is 1 for draws that vary as data of the class do. Real data: the "
        "classifiers' accuracy.",
        (
            Column("cross coherence, drawn", ("cross_coherence.drawn",), ACCURACY, better="higher"),
            Column("diversity", ("diversity.conditional",), 1.0, better="higher"),
            Column("in pixels", ("diversity.conditional_pixels",), 1.0, better="higher"),
            Column(
                "Fréchet distance, drawn", ("frechet.conditional",), "frechet.floor", 1, "lower"
            ),
            Column(
                "cross coherence, expert's sample",
                ("cross_coherence.mean",),
                ACCURACY,
                better="higher",
            ),
            Column("expert's mean", ("cross_coherence.expert_mean",), ACCURACY, better="higher"),
            Column("revised", ("cross_coherence.posterior_revised",), ACCURACY, better="higher"),
        ),
    ),
    "Latents and cost": (
        "Seconds are those of training, compilation included.",
        (
            Column("linear probe", ("linear_probe",), better="higher"),
            Column("reconstruction, Fréchet", ("frechet.reconstruction",), "frechet.floor", 1),
            Column("steps", ("step",), digits=0),
            Column("passes over the data", ("passes",), digits=1),
            Column("seconds", ("train_seconds",), digits=0),
            Column("examples a second", ("examples_per_second",), digits=0),
            Column("samples judged", ("num_samples",), digits=0),
        ),
    ),
}


def tables(evaluations: Sequence[Evaluation]) -> list[Table]:
    """The tables of all evaluations, those of one method averaged over seeds.

    A column that no evaluation has is left out, and so is a table without any.
    """
    methods: dict[str, list[Evaluation]] = {}
    for evaluation in evaluations:
        methods.setdefault(evaluation.method, []).append(evaluation)
    found = []
    for title, (note, listed) in TABLES.items():
        columns = tuple(c for c in listed if any(_value(e, c) is not None for e in evaluations))
        if not columns:
            continue
        rows = [_row(name, seeds, columns) for name, seeds in methods.items()]
        bounds = [_floor(evaluations, column) for column in columns]
        if any(bound != ABSENT for bound in bounds):
            rows.append(Row("real data", ("", *bounds), is_reference=True))
        found.append(Table(title, note, columns, tuple(rows)))
    return found


def every_number(evaluations: Sequence[Evaluation]) -> list[tuple[str, list[str]]]:
    """Path → its value in each evaluation, for all that any of them has."""
    paths = dict.fromkeys(path for e in evaluations for path in e.numbers)
    return [
        (path, [_shown(e.numbers.get(path), 6) for e in evaluations])
        for path in sorted(paths, key=lambda path: path.split("."))
    ]


def _row(name: str, seeds: Sequence[Evaluation], columns: Sequence[Column]) -> Row:
    cells = [str(len(seeds))]
    for column in columns:
        values = [value for seed in seeds if (value := _value(seed, column)) is not None]
        if not values:
            cells.append(ABSENT)
        elif len(values) == 1:
            cells.append(f"{values[0]:.{column.digits}f}")
        else:
            deviation = statistics.stdev(values)
            cells.append(
                f"{statistics.fmean(values):.{column.digits}f} ± {deviation:.{column.digits}f}"
            )
    return Row(name, tuple(cells))


def _value(evaluation: Evaluation, column: Column) -> float | None:
    return next((evaluation.numbers[p] for p in column.paths if p in evaluation.numbers), None)


def _floor(evaluations: Sequence[Evaluation], column: Column) -> str:
    if column.floor is None:
        return ABSENT
    if isinstance(column.floor, float):
        return f"{column.floor:.{column.digits}f}"
    values = [value for e in evaluations for value in _under(e.numbers, column.floor)]
    return f"{statistics.fmean(values):.{column.digits}f}" if values else ABSENT


def _under(numbers: Mapping[str, float], path: str) -> list[float]:
    """The number at a path, or all those below it."""
    return [value for name, value in numbers.items() if f"{name}.".startswith(f"{path}.")]


def _shown(value: float | None, digits: int) -> str:
    return ABSENT if value is None else f"{value:.{digits}g}"
