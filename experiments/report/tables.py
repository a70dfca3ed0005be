"""The tables of a report: methods as rows, metrics as columns, with floors and ceilings below."""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from experiments.report.collect import Evaluation

ABSENT = "–"


class Column(NamedTuple):
    """A metric: its header, where an evaluation stores it, and its reference rows.

    The first path that an evaluation has is used. `references` maps the label of a reference row to
    paths, or to a number if the value is known; a path with several numbers below it stands for
    their mean.
    """

    head: str
    paths: tuple[str, ...]
    references: Mapping[str, tuple[str | float, ...]] = {}
    digits: int = 3
    better: str = ""  # "higher", "lower" or ""


class Row(NamedTuple):
    """A row of a table: a method, or a reference to compare with."""

    label: str
    cells: tuple[str, ...]
    is_reference: bool = False


class Table(NamedTuple):
    """A table as text."""

    title: str
    note: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


REAL, SHUFFLED, CHANCE, IGNORED = "real data", "shuffled pairs", "chance", "nothing given"
MAJORITY = "the commonest"


def _floors(*paths: str | float) -> dict[str, tuple[str | float, ...]]:
    return {REAL: paths}


def _coherence_floors(group: str, *others: str) -> dict[str, tuple[str | float, ...]]:
    return {
        REAL: (f"{group}.real_data", *others),
        SHUFFLED: (f"{group}.shuffled_pairs",),
        CHANCE: (f"{group}.chance",),
    }


def _attribute_floors(part: str, side: str) -> dict[str, tuple[str | float, ...]]:
    return {
        REAL: (f"{part}.mean.real",),
        MAJORITY: (f"{part}.mean.majority",),
        SHUFFLED: (f"{part}.mean.{side}_shuffled",),
    }


RETRIEVAL: dict[str, tuple[str | float, ...]] = {
    REAL: ("retrieval.mean.real",),
    SHUFFLED: ("retrieval.mean.shuffled",),
    CHANCE: ("retrieval.chance",),
}
JOINT = _coherence_floors("joint_coherence")
CROSS = _coherence_floors("cross_coherence", "classifier_accuracy")
FRECHET = _floors("frechet.floor")
TABLES: dict[str, tuple[str, tuple[Column, ...]]] = {
    "Samples from the prior": (
        "Refined under the data energy where the model has one. Fréchet distances are between "
        "classifier features, not FID. Copied: share of the samples that lie nearer to a training "
        "example than 99% of held-out data do.",
        (
            Column(
                "joint coherence",
                ("joint_coherence.energy", "joint_coherence.generator"),
                JOINT,
                better="higher",
            ),
            Column(
                "Fréchet distance", ("frechet.energy", "frechet.generator"), FRECHET, 1, "lower"
            ),
            Column("FD before refinement", ("frechet.generator",), FRECHET, 1, "lower"),
            *(
                Column(
                    name,
                    (f"{name}.energy.mean", f"{name}.generator.mean"),
                    _floors(f"{name}.floor.mean"),
                    1,
                    "lower",
                )
                for name in ("FID", "FD-MobileNet")
            ),
            *(
                Column(
                    name,
                    (f"fidelity.{name}",),
                    _floors(f"fidelity_of_training_data.{name}"),
                    better="higher",
                )
                for name in ("precision", "recall", "density", "coverage")
            ),
            Column(
                "class entropy",
                ("class_balance.entropy",),
                _floors("class_balance_of_data.entropy", 1.0),
                better="higher",
            ),
            Column("copied", ("memorisation.copied",), _floors(0.01), better="lower"),
        ),
    ),
    "Given one modality": (
        "Cross coherence rewards a model that draws one picture a class: read it beside the "
        "diversity, which is 1 for draws that vary as data of the class do. Where real pairs were "
        "not judged, real data have the classifiers' accuracy.",
        (
            Column("cross coherence, drawn", ("cross_coherence.drawn",), CROSS, better="higher"),
            Column(
                "diversity",
                ("diversity.conditional",),
                _floors("diversity.of_data", 1.0),
                better="higher",
            ),
            Column("in pixels", ("diversity.conditional_pixels",), _floors(1.0), better="higher"),
            Column("Fréchet distance, drawn", ("frechet.conditional",), FRECHET, 1, "lower"),
            Column(
                "cross coherence, expert's sample",
                ("cross_coherence.mean",),
                CROSS,
                better="higher",
            ),
            Column("expert's mean", ("cross_coherence.expert_mean",), CROSS, better="higher"),
            Column("revised", ("cross_coherence.posterior_revised",), CROSS, better="higher"),
        ),
    ),
    "Pairs without classes": (
        "Retrieval: how often a learned judge finds an example's partner among 100, both ways. "
        "Attributes: how often generated pictures show, to a classifier, what was asked for, and "
        "how often what is drawn for a picture is right; of words, only those that can be seen.",
        (
            *(
                Column(
                    f"retrieval, {head}", (f"retrieval.mean.{name}",), RETRIEVAL, better="higher"
                )
                for name, head in (
                    ("joint", "samples"),
                    ("pictures_drawn", "pictures drawn"),
                    ("others_drawn", "others drawn"),
                )
            ),
            *(
                Column(
                    f"{title}, {head}",
                    (f"{part}.mean.{name}",),
                    _attribute_floors(part, name),
                    better="higher",
                )
                for part, title in (("attributes", "attributes"), ("attribute_words", "words"))
                for name, head in (("pictures_drawn", "pictures drawn"), ("joint", "samples"))
            ),
            Column(
                "attributes drawn for pictures",
                ("attributes.mean.others_drawn",),
                {
                    MAJORITY: ("attributes.mean.majority",),
                    SHUFFLED: ("attributes.mean.others_drawn_shuffled",),
                },
                better="higher",
            ),
            Column(
                "words drawn for pictures",
                ("attribute_words.mean.sentences_drawn",),
                {
                    MAJORITY: ("attribute_words.mean.sentences_majority",),
                    SHUFFLED: ("attribute_words.mean.sentences_shuffled",),
                },
                better="higher",
            ),
        ),
    ),
    "Likelihood and latents": (
        "Log-likelihoods are importance-weighted bounds in nats; conditional ones are of all other "
        "modalities given one. Clusters: normalised mutual information with the classes.",
        (
            Column(
                "log-likelihood, test",
                ("log_likelihood.test.mean",),
                {"training data": ("log_likelihood.training_data.mean",)},
                1,
                "higher",
            ),
            Column(
                "conditional log-likelihood",
                ("conditional_log_likelihood.mean",),
                {IGNORED: ("conditional_log_likelihood.nothing_given",)},
                1,
                "higher",
            ),
            Column(
                "linear probe",
                ("linear_probes.shared", "linear_probe"),
                {CHANCE: ("linear_probes.chance",)},
                better="higher",
            ),
            Column(
                "clusters",
                ("clustering.mixture.nmi",),
                {REAL: ("clustering.classifier.nmi",), SHUFFLED: ("clustering.shuffled.nmi",)},
                better="higher",
            ),
            Column("reconstruction, Fréchet", ("frechet.reconstruction",), FRECHET, 1, "lower"),
        ),
    ),
    "Cost": (
        "Seconds are those of training, compilation included.",
        (
            Column("steps", ("step",), digits=0),
            Column("passes over the data", ("passes",), digits=1),
            Column("seconds", ("train_seconds",), digits=0),
            Column("examples a second", ("examples_per_second",), digits=0),
            Column("samples judged", ("num_samples",), digits=0),
        ),
    ),
}


def tables(evaluations: Sequence[Evaluation]) -> list[Table]:
    """The tables for all evaluations, averaged over the seeds of each method.

    Columns that no evaluation has are left out, and so are tables without columns.
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
        for label in dict.fromkeys(label for column in columns for label in column.references):
            cells = [_reference(evaluations, column, label) for column in columns]
            if any(cell != ABSENT for cell in cells):
                rows.append(Row(label, ("", *cells), is_reference=True))
        found.append(Table(title, note, columns, tuple(rows)))
    return found


def every_number(evaluations: Sequence[Evaluation]) -> list[tuple[str, list[str]]]:
    """Path → its value in each evaluation, for every path that any of them has."""
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


def _reference(evaluations: Sequence[Evaluation], column: Column, label: str) -> str:
    """The mean over all evaluations at the first path that any of them has."""
    for place in column.references.get(label, ()):
        if isinstance(place, float):
            return f"{place:.{column.digits}f}"
        values = [value for e in evaluations for value in _under(e.numbers, place)]
        if values:
            return f"{statistics.fmean(values):.{column.digits}f}"
    return ABSENT


def _under(numbers: Mapping[str, float], path: str) -> list[float]:
    """The numbers at a path and below it."""
    return [value for name, value in numbers.items() if f"{name}.".startswith(f"{path}.")]


def _shown(value: float | None, digits: int) -> str:
    return ABSENT if value is None else f"{value:.{digits}g}"
