"""What an evaluation measures: each function in `MEASURES` adds its part to `evaluation.json`.

A new metric is a pure function in `mmebm_jax/metrics`, called by a measure in the file of its topic
here. A measure declares its requirements with `needs`. `config.evaluation.measures` selects
measures: "all" runs those whose requirements the run meets; a list runs exactly those named.
"""

from experiments.classifiers import read_published
from experiments.measures import (
    calibration,
    coherence,
    distances,
    latents,
    likelihood,
    pairs,
    samples,
)
from experiments.measures.subject import Measure, Part, Subject, lack
from mmebm_jax.training import Run

__all__ = [
    "ALL",
    "MAIN",
    "MEASURES",
    "Measure",
    "Part",
    "Subject",
    "absent",
    "check",
    "chosen",
    "lack",
]

ALL = "all"
MEASURES: tuple[Measure, ...] = (
    *samples.MEASURES,
    *coherence.MEASURES,
    *pairs.MEASURES,
    *distances.MEASURES,
    *latents.MEASURES,
    *likelihood.MEASURES,
    *calibration.MEASURES,
)
# The main columns of the tables come from these.
MAIN: tuple[Measure, ...] = (
    samples.joint_samples,
    coherence.drawn_samples,
    samples.conditional_diversity,
    distances.distance_floor,
    distances.conditional_distances,
)
# Always measured if the data have classes, whatever else is chosen: every table reads it.
ALWAYS = samples.joint_samples


def chosen(run: Run) -> tuple[Measure, ...]:
    """The measures that the configuration asks for and the run has the requirements for.

    Raises:
      ValueError: a name is unknown, or the data, model or configuration lack what a measure asked
        for by name needs; one line that says what is missing.
    """
    asked = run.config.evaluation.measures
    if asked == ALL:
        return tuple(measure for measure in MEASURES if not lack(measure, run))
    by_name = {measure.__name__: measure for measure in MEASURES}
    found: list[Measure] = [] if lack(ALWAYS, run) else [ALWAYS]
    for name in (part.strip() for part in asked.split(",")):
        if name not in by_name:
            raise ValueError(
                f"config.evaluation.measures names {name!r}: take {ALL}, or some of "
                f"{', '.join(by_name)}."
            )
        if problem := lack(by_name[name], run):
            raise ValueError(f"config.evaluation.measures asks for {name}, but {problem}.")
        found.append(by_name[name])
    return tuple(measure for measure in MEASURES if measure in found)


def check(run: Run) -> None:
    """Refuse, before training, measures that cannot run and weights that are not the expected ones.

    Raises:
      ValueError, OSError: see `chosen`, or reading a weights file failed.
    """
    settings, measures = run.config.evaluation, chosen(run)
    for field, measure, load in (
        ("inception_weights", distances.fid, distances.inception_backbone),
        ("mobilenet_weights", distances.mobilenet_distance, distances.mobilenet_backbone),
    ):
        if settings[field] and measure in measures:
            load(run)
        elif settings[field] and settings.measures == ALL:
            raise ValueError(
                f"config.evaluation.{field} asks for {measure.__name__}, but {lack(measure, run)}."
            )
    read_published(run)


def absent(run: Run) -> dict[str, str]:
    """Name → reason, for the measures that "all" leaves out."""
    if run.config.evaluation.measures != ALL:
        return {}
    return {measure.__name__: problem for measure in MEASURES if (problem := lack(measure, run))}
