"""Warnings for the reader: each rule reads a run's numbers and returns warning lines or none."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from experiments.report.collect import Evaluation, Run

# Samples below these shares of the diversity and recall of real data count as too uniform.
LEAST_DIVERSITY = 0.25
LEAST_RECALL = 0.1
MOST_COPIED = 0.25  # held-out data have .01
# Chains that do not mix, and chains whose mixing gets worse than at its best.
MOST_R_HAT = 2.0
MOST_R_HAT_GROWTH = 1.2
CHAINS = ("posterior", "prior", "data")


class Finding(NamedTuple):
    """A warning about a run."""

    run: str
    topic: str
    line: str


def by_run(runs: Sequence[Run]) -> dict[str, list[Finding]]:
    """Every warning, grouped by the run or control that it concerns."""
    found: dict[str, list[Finding]] = {}
    for run in runs:
        for finding in findings(run):
            found.setdefault(finding.run, []).append(finding)
    return found


def findings(run: Run) -> list[Finding]:
    """Every warning about a run and its control."""
    found = [Finding(run.name, "files", line) for line in run.problems]
    if run.num_explosions:
        times = "once" if run.num_explosions == 1 else f"{run.num_explosions} times"
        line = f"training exploded {times} and went on from an earlier checkpoint"
        found.append(Finding(run.name, "training", line))
    found += [Finding(run.name, "R-hat", line) for line in r_hats(run)]
    for evaluation in run.evaluations:
        name = run.name.replace(run.method, evaluation.method, 1)
        for topic, rule in RULES.items():
            found += [Finding(name, topic, line) for line in rule(run, evaluation)]
    return found


def r_hats(run: Run) -> Iterator[str]:
    """Warn about chains that do not mix, or that mix worse as training goes on."""
    for chain in CHAINS:
        field = f"chain/{chain}_r_hat"
        values = [record[field] for record in run.diagnostics if field in record]
        if not values:
            continue
        last, least = values[-1], min(values)
        if last > MOST_R_HAT_GROWTH * least:
            yield f"R-hat of the {chain} chain diverges: {last:.2f} after {least:.2f}"
        elif last > MOST_R_HAT:
            yield (
                f"R-hat of the {chain} chain is {last:.2f}: chains stay where they start, so its "
                "samples are those of a short run and not of the energy itself"
            )


def long_chains(run: Run, evaluation: Evaluation) -> Iterator[str]:
    """Warn about refinement longer than configured, and repeat the evaluation's warnings."""
    steps = evaluation.numbers.get("protocol.refinement_steps", 0)
    if run.config is not None and steps > (usual := run.config.energy.chain.num_steps):
        yield f"evaluated with data chains of {steps:.0f} steps, the configuration has {usual}"
    yield from evaluation.warnings


def low_diversity(_: Run, evaluation: Evaluation) -> Iterator[str]:
    """Warn about draws for one source, or samples from the prior, that hardly differ."""
    numbers = evaluation.numbers
    if (value := numbers.get("diversity.conditional")) is not None and value < LEAST_DIVERSITY:
        yield (
            f"draws given one modality vary by {value:.3f} of what data of one class do: "
            "cross coherence rewards that"
        )
    recall, real = (numbers.get(f"{part}.recall") for part in PARTS)
    if recall is not None and real and recall < LEAST_RECALL * real:
        yield f"samples have a recall of {recall:.3f}, where training data have {real:.3f}"


def copies(_: Run, evaluation: Evaluation) -> Iterator[str]:
    """Warn about samples that copy training examples."""
    copied = evaluation.numbers.get("memorisation.copied", 0.0)
    if copied > MOST_COPIED:
        yield (
            f"{copied:.0%} of the samples lie nearer to a training example than 99% of held-out "
            "data do"
        )


def separated_energies(_: Run, evaluation: Evaluation) -> Iterator[str]:
    """Warn about an energy that tells samples from data, so that chains do not reach the data."""
    mean, low, high = (
        evaluation.numbers.get(f"energies.{path}")
        for path in ("refined.mean", "data.low", "data.high")
    )
    if mean is not None and low is not None and high is not None and not low <= mean <= high:
        yield (
            f"refined samples have a mean energy of {mean:.3g}, outside those of data "
            f"({low:.3g} to {high:.3g})"
        )


PARTS = ("fidelity", "fidelity_of_training_data")
RULES: dict[str, Callable[[Run, Evaluation], Iterator[str]]] = {
    "chain length": long_chains,
    "low diversity": low_diversity,
    "memorisation": copies,
    "energies": separated_energies,
}
