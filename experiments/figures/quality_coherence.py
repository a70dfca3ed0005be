"""(d) Quality against coherence, over methods and seeds.

Paper A (arXiv:2408.10467) claims that its prior and inference improve coherence and quality over
MMVAE+; paper B (arXiv:2605.00644) that the joint energy improves quality over a multimodal VAE.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure as Picture

from configs import polydigits
from experiments import evaluate
from experiments.control import CONTROL, with_fitted_prior
from experiments.figures.figure import Figure, by_method, company, spread
from experiments.figures.runs import Row, Settings, Trial, classifiers, trained, trial, variant
from experiments.results import lookup

METHODS = ("mvae", "mmvae", "mopoe", "mmvae_plus", "helvae", "paper_a", "paper_b", "union", "full")
DISTANCE = ("frechet", "energy", "generator")
COHERENCE = ("joint_coherence", "energy", "generator")
CLAIMS = (("paper A", "paper_a", "mmvae_plus"), ("paper B", "paper_b", "mmvae"))


def trials(settings: Settings) -> list[Trial]:
    """Every method and seed, or only the methods named by the call.

    Raises:
      ValueError: the family has no such method.
    """
    names = settings.methods or METHODS
    if unknown := [name for name in names if name not in polydigits.METHODS]:
        known = ", ".join(polydigits.METHODS)
        raise ValueError(f"--methods={','.join(unknown)}: choose from {known}.")
    # Grouped by method, so that all seeds share compiled programs.
    return [trial(settings, name, seed, variant(name)) for name in names for seed in settings.seeds]


def measure(one: Trial, settings: Settings) -> list[Row]:
    """The full evaluation of a run and, without a learned prior, of its control."""
    finished = trained(one, settings)
    judges = classifiers(finished.run, settings)
    samplers = {one.method: finished.sampler}
    config = one.config
    if not (config.prior.learn or config.energy.learn or config.prior.fit_mixture):
        samplers[one.method + CONTROL] = with_fitted_prior(finished.run, finished.sampler)
    rows = []
    for name, sampler in samplers.items():
        found = evaluate.evaluate(finished.run, sampler, finished.step, judges)
        numbers = {key: value for key, value in found.items() if key != "protocol"}
        seconds = round(finished.seconds, 1)
        row = {"num_steps": finished.step, "train_seconds": seconds, **numbers}
        rows.append(row | {"method": name})
    return rows


def draw(rows: Sequence[Row]) -> Picture:
    """One point per seed; a control is a square in its model's colour, the floor a line."""
    picture = Picture(figsize=(8.5, 4.6), dpi=110, layout="constrained")
    axes = picture.add_subplot()
    colours: dict[str, object] = {}
    for method, runs in by_method(rows).items():
        model = method.removesuffix(CONTROL)
        colour = colours.setdefault(model, colormaps["tab10"](len(colours) % 10))
        axes.scatter(
            np.array([lookup(row, DISTANCE) for row in runs], float),
            np.array([lookup(row, COHERENCE) for row in runs], float),
            color=[colour],
            marker="s" if method.endswith(CONTROL) else "o",
            label=method,
        )
    floors = [row["frechet"]["floor"] for row in rows if "floor" in row["frechet"]]
    if floors:
        axes.axvline(np.mean(floors), color="grey", linestyle=":", label="training data")
    axes.set(xlabel="Fréchet distance on classifier features (lower is better)", xscale="log")
    axes.set(ylabel="joint coherence", ylim=(0, 1))
    axes.grid(alpha=0.3, which="both")
    picture.legend(fontsize=8, loc="outside right upper")
    return picture


def sentence(rows: Sequence[Row]) -> str:
    """Compare both papers' methods with the VAEs that they build on, and name the best."""
    methods = by_method(rows)

    def values(method: str, path: Sequence[str]) -> list[float]:
        return [value for row in methods[method] if (value := lookup(row, path)) is not None]

    def told(method: str) -> str:
        agreement = spread(values(method, COHERENCE), 2)
        of_distance = spread(values(method, DISTANCE), 0)
        diversity = values(method, ("diversity", "conditional"))
        beside = f", conditional diversity {spread(diversity, 2)}" if diversity else ""
        return f"{method} {agreement} at a distance of {of_distance}{beside}"

    parts = [f"{company(rows)}, joint coherence and Fréchet distance:"]
    for paper, method, base in CLAIMS:
        if method not in methods or base not in methods:
            continue
        nearer = np.mean(values(method, DISTANCE)) < np.mean(values(base, DISTANCE))
        agrees = np.mean(values(method, COHERENCE)) > np.mean(values(base, COHERENCE))
        verdict = (
            "holds here"
            if nearer and agrees
            else f"holds here in {'distance' if nearer else 'coherence'} alone"
            if nearer or agrees
            else "does not hold here"
        )
        parts.append(f"{told(method)}, against {told(base)}: {paper}'s claim {verdict};")
    best = max(methods, key=lambda method: np.mean(values(method, COHERENCE)))
    floors = [row["frechet"]["floor"] for row in rows if "floor" in row["frechet"]]
    floor = f" The floor of the distance is {np.mean(floors):.0f}." if floors else ""
    return f"{' '.join(parts)} the most coherent is {told(best)}.{floor}"


FIGURE = Figure(
    title="Quality and coherence over methods and seeds",
    trials=trials,
    measure=measure,
    draw=draw,
    sentence=sentence,
)
