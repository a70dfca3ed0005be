"""(e) Number of steps of both chains at sampling: coherence, distance, diversity, seconds.

Paper B (arXiv:2605.00644): samples improve clearly from 10 to 30 steps, and hardly beyond 60.
Chains continue from count to count in stretches of 5 steps, so one program and one chain serve all
counts.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure as Picture

from experiments.figures.figure import Figure, company
from experiments.figures.runs import (
    Row,
    Settings,
    Trial,
    classifiers,
    floor,
    trained,
    trial,
    variant,
)
from experiments.measures import Subject
from experiments.measures.samples import diversity_ratio
from mmebm_jax.metrics import coherence, frechet
from mmebm_jax.runs.sampler import Sampler

COUNTS = (0, 5, 10, 30, 60)
STRETCH = 5
NUM_SOURCES, NUM_DRAWS = 100, 4  # for conditional samples: sources per modality, draws per source
JOINT, DATA, POSTERIOR = "joint", "data", "posterior"
COLUMNS = {
    "coherence": "coherence",
    "frechet": "Fréchet distance",
    "diversity": "conditional diversity",
    "seconds": "seconds",
}

Samples = Mapping[str, Any]


class Chain(NamedTuple):
    """A chain that can be continued."""

    start: Any
    advance: Callable[[jax.Array, Any], Any]  # (key, position) → the position one stretch later
    show: Callable[[Any], Samples]  # position → samples of the modalities not given


def trials(settings: Settings) -> list[Trial]:
    """The full method."""
    return [trial(settings, "full", seed, variant("full")) for seed in settings.seeds]


def measure(one: Trial, settings: Settings) -> list[Row]:
    """One row per chain and number of steps."""
    finished = trained(one, settings)
    subject = Subject(finished.run, finished.sampler, classifiers(finished.run, settings))
    facts: Row = {"num_steps": finished.step, "num_samples": subject.num_samples}
    facts |= floor(subject)
    kinds = [(POSTERIOR, posterior_chain)]
    if finished.sampler.settings.data_energy:
        kinds.insert(0, (DATA, data_chain))
    rows = joint_rows(subject) if finished.sampler.settings.data_energy else []
    for kind, begin in kinds:
        rows += [{"chain": kind, **row} for row in conditional_rows(subject, begin)]
    trained_steps = finished.sampler.settings.chains
    lengths = {POSTERIOR: trained_steps.posterior.num_steps}
    lengths |= dict.fromkeys((JOINT, DATA), trained_steps.data.num_steps)
    return [{**facts, "trained_steps": lengths[row["chain"]], **row} for row in rows]


def snapshots(key: jax.Array, chain: Chain) -> Iterator[tuple[int, dict[str, np.ndarray], float]]:
    """Samples after each number of steps, with the chain's seconds so far."""
    position, seconds, done = chain.start, 0.0, 0
    jax.block_until_ready(chain.advance(key, position))  # compile first
    for count in COUNTS:
        while done < count:
            begin = time.monotonic()
            position = chain.advance(jax.random.fold_in(key, done), position)
            jax.block_until_ready(position)
            seconds, done = seconds + time.monotonic() - begin, done + STRETCH
        yield count, jax.device_get(dict(chain.show(position))), seconds


def joint_rows(subject: Subject) -> list[Row]:
    """The data chain on samples from the prior."""
    sampler = subject.sampler
    start = sampler.generate(sampler.prior_latents(subject.keys["prior"], subject.num_samples))
    chain = Chain(
        start,
        lambda key, position: sampler.refine(key, position, num_steps=STRETCH).position,
        lambda position: position,
    )
    rows = []
    for count, samples, seconds in snapshots(subject.keys["chain"], chain):
        classes, features = subject.classifiers.predict(samples)
        row: Row = {"chain": JOINT, "steps": count, "seconds": round(seconds, 3)}
        row["coherence"] = coherence.joint_coherence(classes)
        rows.append(row | {"frechet": subject.distance(features)})
    return rows


def data_chain(sampler: Sampler, key: jax.Array, given: dict[str, Any]) -> Chain:
    """The data chain on the other modalities, generated from an expert's draw."""
    made = sampler.generate(sampler.infer(key, given, method="sample"))
    free = {name: values for name, values in made.items() if name not in given}

    def advance(key: jax.Array, position: Any) -> Any:
        return sampler.refine(key, position, given=given, num_steps=STRETCH).position

    return Chain(free, advance, lambda position: position)


def posterior_chain(sampler: Sampler, key: jax.Array, given: dict[str, Any]) -> Chain:
    """The posterior chain from an expert's draw, given one modality."""
    stretch = sampler.completing.with_posterior_steps(STRETCH)

    def show(latents: Any) -> Samples:
        made = sampler.generate(latents)
        return {name: values for name, values in made.items() if name not in given}

    return Chain(
        stretch.infer(key, given, method="sample"),
        lambda key, latents: stretch.posterior_chain(key, latents, given).position,
        show,
    )


def conditional_rows(
    subject: Subject, begin: Callable[[Sampler, jax.Array, dict[str, Any]], Chain]
) -> list[Row]:
    """Cross coherence, distance and diversity of several draws per source."""
    count = min(NUM_SOURCES, subject.num_samples)
    labels = np.repeat(subject.labels[:count], NUM_DRAWS)
    found: dict[int, dict[str, tuple[Any, Any]]] = {steps: {} for steps in COUNTS}
    seconds = dict.fromkeys(COUNTS, 0.0)
    for index, source in enumerate(subject.names):
        given = {source: np.repeat(subject.test[source][:count], NUM_DRAWS, 0)}
        start_key, chain_key = jax.random.split(jax.random.fold_in(subject.keys["drawn"], index))
        chain = begin(subject.sampler, start_key, given)
        for steps, samples, spent in snapshots(chain_key, chain):
            found[steps][source] = subject.classifiers.predict(samples)
            seconds[steps] += spent
    rows = []
    for steps, judged in found.items():
        classes = {source: predicted for source, (predicted, _) in judged.items()}
        features = {source: values for source, (_, values) in judged.items()}
        row: Row = {"steps": steps, "seconds": round(seconds[steps], 3)}
        row["coherence"] = coherence.cross_coherence(classes, labels)["mean"]
        row["diversity"] = _diversity(subject, features, count)
        if len(labels) > subject.classifiers.num_features:
            row["frechet"] = frechet.conditional_frechet(features, subject.reference)["mean"]
        rows.append(row)
    return rows


def _diversity(subject: Subject, features: Mapping[str, Samples], count: int) -> float | None:
    """The mean ratio over sources and targets; None if no class has two real examples."""
    real, real_labels = subject.all_test
    ratios = [
        diversity_ratio(
            values.reshape(count, NUM_DRAWS, -1), subject.labels[:count], real[target], real_labels
        )
        for of_source in features.values()
        for target, values in of_source.items()
    ]
    known = [ratio for ratio in ratios if ratio is not None]
    return float(np.mean(known)) if known else None


def draw(rows: Sequence[Row]) -> Picture:
    """One panel per measure, one line per chain and seed."""
    picture = Picture(figsize=(9, 6), dpi=110, layout="constrained")
    labels = {
        JOINT: "data chain, from the prior",
        DATA: "data chain, one modality given",
        POSTERIOR: "posterior chain, one modality given",
    }
    panels = picture.subplots(2, 2).ravel()
    for axes, (name, label) in zip(panels, COLUMNS.items(), strict=True):
        for index, (chain, shown) in enumerate(labels.items()):
            for seed in sorted({row["seed"] for row in rows}):
                line = [r for r in rows if (r["chain"], r["seed"]) == (chain, seed)]
                line = [row for row in line if row.get(name) is not None]
                steps, values = [row["steps"] for row in line], [row[name] for row in line]
                axes.plot(steps, values, f"C{index}o-", markersize=4, label=shown)
        axes.set(xlabel="steps", ylabel=label, xticks=COUNTS)
        axes.grid(alpha=0.3)
    lines, shown_labels = panels[0].get_legend_handles_labels()
    unique = dict(zip(shown_labels, lines, strict=True))
    picture.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=3, fontsize=8)
    return picture


def sentence(rows: Sequence[Row]) -> str:
    """Report the results after 0, 10, 30 and 60 steps of each chain."""

    def mean(chain: str, steps: int, name: str) -> float | None:
        values = [row.get(name) for row in rows if (row["chain"], row["steps"]) == (chain, steps)]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    def path(chain: str, name: str, digits: int) -> str:
        values = [mean(chain, steps, name) for steps in (0, 10, 30, 60)]
        return " / ".join("–" if v is None else f"{v:.{digits}f}" for v in values)

    parts = [f"{company(rows)}; at 0 / 10 / 30 / 60 steps:"]
    if mean(JOINT, 0, "coherence") is not None:
        least = f", floor {rows[0]['floor']:.0f}" if "floor" in rows[0] else ""
        parts.append(
            f"the data chain from the prior has a joint coherence of {path(JOINT, 'coherence', 2)} "
            f"at a distance of {path(JOINT, 'frechet', 0)}{least}, in "
            f"{path(JOINT, 'seconds', 1)} s;"
        )
    for chain, name in ((DATA, "data"), (POSTERIOR, "posterior")):
        if mean(chain, 0, "coherence") is not None:
            parts.append(
                f"the {name} chain with one modality given has a cross coherence of "
                f"{path(chain, 'coherence', 2)}, a distance of {path(chain, 'frechet', 0)} and a "
                f"diversity of {path(chain, 'diversity', 2)};"
            )
    first, later, last = (mean(JOINT, steps, "frechet") for steps in (10, 30, 60))
    if first is not None and later is not None and last is not None:
        verdict = (
            "holds here" if later < first and later - last < first - later else "does not hold here"
        )
        length = next(row["trained_steps"] for row in rows if row["chain"] == JOINT)
        parts.append(
            f"paper B's claim, a clear gain from 10 to 30 steps and less beyond, {verdict}: the "
            f"distance from the prior changes by {later - first:+.0f} from 10 to 30 and by "
            f"{last - later:+.0f} from 30 to 60, under a chain trained with {length}."
        )
    return " ".join(parts)


FIGURE = Figure(
    title="Steps of both chains at sampling time",
    trials=trials,
    measure=measure,
    draw=draw,
    sentence=sentence,
)
