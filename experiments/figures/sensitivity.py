"""(f) Sensitivity of the full method to the settings of its energies.

The step size of the data chain is varied together with one other setting at a time: its
temperature, its number of steps, the width of the latent energy or the spectral gain of the data
energy; a grid of 36 runs. Step size and temperature are arguments of the compiled programs, so a
run compiles only for a new number of steps, width or gain.
"""

import functools
import json
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure as Picture

from experiments.figures.figure import Figure, company
from experiments.figures.runs import (
    Row,
    Settings,
    Trial,
    classifiers,
    floor,
    refuse_changes,
    trained,
    trial,
    variant,
)
from experiments.measures import Subject
from mmebm_jax.method import sampling
from mmebm_jax.method.networks import Chains
from mmebm_jax.method.plan import Plan, Terms
from mmebm_jax.method.sampling import SamplerSettings, Trained
from mmebm_jax.metrics import coherence
from mmebm_jax.runs import builders
from mmebm_jax.training import Run
from mmebm_jax.training.compiled_update import Updates, compiled_update
from mmebm_jax.training.schedule import phases

STEP_SIZE = "energy.chain.step_size"
TIMES = ("energy.sampling_time", "energy.fit_sampling_time")  # these would override the step size
STEP_SIZES = (0.175, 0.7, 2.8, 11.2)
FACTORS: dict[str, tuple[float, ...]] = {
    "energy.chain.temperature": (5e-7, 5e-3),
    "energy.chain.num_steps": (5, 30),
    "model.prior_hidden": (64, 1024),
    "model.spectral_gain": (1.0, 0.0),
}
NAMES = {
    "energy.chain.temperature": "T",
    "energy.chain.num_steps": "steps",
    "model.prior_hidden": "width",
    "model.spectral_gain": "gain",
}
# Two phases: the bound alone, then everything.
SHORT = {
    "warmup_steps": 4200,
    "prior.fit_step": 4200,
    "prior.start_step": 4200,
    "energy.start_step": 4200,
    "schedule.settle_step": 4200,
    "guard.retries": 0,
}
ARGUMENTS = (STEP_SIZE, "energy.chain.temperature")  # arguments of compiled programs, not constants
# A chain has diverged if it increases its samples' distance from the data by this factor, or leaves
# less than this share of their joint coherence.
FARTHER, LESS_COHERENT = 2.0, 0.5


def columns() -> list[tuple[str, dict[str, float]]]:
    """The grid's columns: a label, and the changes to the defaults other than the step size."""
    found: list[tuple[str, dict[str, float]]] = [("defaults", {})]
    for field, values in FACTORS.items():
        for value in values:
            free = field == "model.spectral_gain" and not value
            label = "no bound" if free else f"{value:g}"
            found.append((f"{NAMES[field]}\n{label}", {field: value}))
    return found


def trials(settings: Settings) -> list[Trial]:
    """One run per cell and seed.

    Raises:
      ValueError: the call sets a field that the grid varies.
    """
    refuse_changes(settings, [*TIMES, STEP_SIZE, *FACTORS])
    found = []
    for seed in settings.seeds:
        # Grouped by column, so that all step sizes share compiled programs.
        for index, (label, changed) in enumerate(columns()):
            for step_size in STEP_SIZES:
                differences = variant("full") | SHORT | changed | {STEP_SIZE: step_size}
                name = f"sensitivity/{index}_{step_size:g}"
                one = trial(settings, name, seed, differences, method=label.replace("\n", " "))
                facts = {"column": label, "step_size": step_size}
                found.append(one._replace(facts=facts))
    return found


def varied(chains: Chains, values: Any) -> Chains:
    """Chains with this step size and temperature of the data chain, numbers or traced values."""
    step_size, temperature = values
    return chains._replace(data=chains.data._replace(step_size=step_size, temperature=temperature))


def _varied_plan(plan: Plan, values: Any) -> Plan:
    settings = plan.settings
    return plan._replace(settings=settings._replace(chains=varied(settings.chains, values)))


class SharedUpdates:
    """Compiled updates shared by all runs that differ only in `ARGUMENTS`."""

    def __init__(self) -> None:
        self._compiled: dict[tuple[str, Terms], jax.stages.Wrapped] = {}

    def __call__(self, run: Run) -> Updates:
        """The updates of a run, with its own values as arguments."""
        fields = json.loads(run.config.to_json_best_effort())
        chain = fields["energy"]["chain"]
        values = np.float32(chain.pop("step_size")), np.float32(chain.pop("temperature"))
        fields.pop("seed")
        static = json.dumps(fields, sort_keys=True)
        optimisers = builders.build_optimisers(run.config)
        found: dict[Terms, Any] = {}
        for phase in phases(run.config):
            key = static, phase.terms
            if key not in self._compiled:
                self._compiled[key] = compiled_update(run, optimisers, phase.terms, _varied_plan)
            found[phase.terms] = functools.partial(self._compiled[key], values=values)
        return found


@functools.partial(jax.jit, static_argnames=("model", "settings", "num_samples"))
def _sample(
    key: jax.Array,
    weights: Any,
    values: Any,
    *,
    model: Any,
    settings: SamplerSettings,
    num_samples: int,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Samples from the prior, before and after refinement."""
    latent_key, chain_key = jax.random.split(key)
    acting = settings._replace(chains=varied(settings.chains, values))
    trained = Trained(model, acting, weights)
    latents = sampling.sample_latents(latent_key, trained, num_samples)
    generated = sampling.generate(trained, latents)
    return generated, generated | sampling.refine(chain_key, trained, generated).position


def measure(one: Trial, settings: Settings, updates_for: SharedUpdates) -> list[Row]:
    """Distance and coherence before and after refinement, or the step at which the run exploded."""
    try:
        finished = trained(one, settings, updates_for)
    except FloatingPointError as error:
        return [{"num_steps": one.config.num_steps, "exploded": str(error)}]
    sampler, chain = finished.sampler, one.config.energy.chain
    subject = Subject(finished.run, sampler, classifiers(finished.run, settings))
    samples = _sample(
        subject.keys["prior"],
        sampler.weights,
        (np.float32(chain.step_size), np.float32(chain.temperature)),
        model=sampler.model,
        # Constants, so that every cell shares the program.
        settings=sampler.settings._replace(chains=varied(sampler.settings.chains, (0.0, 0.0))),
        num_samples=subject.num_samples,
    )
    row: Row = {"num_steps": finished.step, "num_samples": subject.num_samples}
    row["train_seconds"] = round(finished.seconds, 1)
    for stage, values in zip(("generator", "energy"), jax.device_get(samples), strict=True):
        if not all(np.isfinite(v).all() for v in values.values()):
            return [row | {"exploded": "samples are not finite"}]
        classes, features = subject.classifiers.predict(values)
        row[stage] = {
            "joint_coherence": coherence.joint_coherence(classes),
            "frechet": subject.distance(features),
        }
    return [row | floor(subject)]


def has_diverged(row: Row) -> bool:
    """Whether the run exploded, or its chain leads far away from the data."""
    if "exploded" in row:
        return True
    before, after = row["generator"], row["energy"]
    farther = after["frechet"] > FARTHER * before["frechet"]
    return farther or after["joint_coherence"] < LESS_COHERENT * before["joint_coherence"]


def draw(rows: Sequence[Row]) -> Picture:
    """Distance after refinement as colour, joint coherence as text, crosses where runs diverged."""
    labels = list(dict.fromkeys(row["column"] for row in rows))
    sizes = sorted({row["step_size"] for row in rows})
    values = np.full([len(sizes), len(labels)], np.nan)
    picture = Picture(figsize=(9, 4), dpi=110, layout="constrained")
    axes = picture.add_subplot()
    for place in np.ndindex(*values.shape):
        cell = [
            r for r in rows if (r["step_size"], r["column"]) == (sizes[place[0]], labels[place[1]])
        ]
        told = [row for row in cell if "exploded" not in row]
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8}
        if told:
            values[place] = np.mean([row["energy"]["frechet"] for row in told])
            shown = np.mean([row["energy"]["joint_coherence"] for row in told])
            text = f"{values[place]:.0f}\n{shown:.2f}"
            box = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1}
            axes.text(place[1], place[0], text, bbox=box, **style)
        if any(map(has_diverged, cell)):
            corners = np.array([-0.45, 0.45])
            axes.plot(place[1] + corners, place[0] + corners, color="red", linewidth=1.5)
            axes.plot(place[1] + corners, place[0] - corners, color="red", linewidth=1.5)
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if len(finite) else (1.0, 10.0)
    scale = LogNorm(low, max(high, 1.01 * low))
    drawn = axes.imshow(values, norm=scale, cmap="viridis_r", aspect="auto")
    axes.set_xticks(range(len(labels)), labels, fontsize=8)
    axes.set_yticks(range(len(sizes)), [f"{size:g}" for size in sizes], fontsize=8)
    axes.set_ylabel("step size of the data chain")
    for edge in np.arange(0.5, len(labels) - 1, 2):
        axes.axvline(edge, color="white", linewidth=3)
    bar = picture.colorbar(drawn, ax=axes)
    bar.set_label("Fréchet distance after refinement")
    axes.set_title(
        "distance above, joint coherence below; a red cross: diverged", fontsize=9, loc="left"
    )
    return picture


def sentence(rows: Sequence[Row]) -> str:
    """Say how many runs diverged, where, and how far refinement helps the others."""
    diverged = [row for row in rows if has_diverged(row)]
    exploded = sum("exploded" in row for row in rows)
    fine = [row for row in rows if not has_diverged(row)]
    text = f"{len(rows)} runs, {company(rows)}: {len(diverged)} diverged"
    if diverged:
        by_size = {
            size: sum(row["step_size"] == size for row in diverged)
            for size in sorted({row["step_size"] for row in diverged})
        }
        where = ", ".join(f"{count} at step size {size:g}" for size, count in by_size.items())
        text += f" ({where}; {exploded} of them stopped by the guard)"
    if not fine:
        return f"{text}."
    before = [row["generator"]["frechet"] for row in fine]
    others = "the others" if diverged else "they"
    best = min(fine, key=lambda row: row["energy"]["frechet"] / row["generator"]["frechet"])
    gains = [
        row["energy"]["frechet"] / row["generator"]["frechet"]
        for row in fine
        if row["column"] == "defaults" and math.isclose(row["step_size"], 0.7)
    ]
    text += (
        f". Before refinement {others} have a distance of {min(before):.0f} to {max(before):.0f}"
    )
    if "floor" in best:
        text += f" (floor {best['floor']:.0f})"
    if gains:
        text += f"; the chain takes it to {np.mean(gains):.2f} of that at the defaults"
    return (
        f"{text} and to {best['energy']['frechet'] / best['generator']['frechet']:.2f} at best "
        f"({best['method']}, step size {best['step_size']:g}), at a joint coherence of "
        f"{best['energy']['joint_coherence']:.2f} after {best['generator']['joint_coherence']:.2f}."
    )


FIGURE = Figure(
    title="Sensitivity to step size, temperature, steps, width and spectral gain",
    trials=trials,
    measure=functools.partial(measure, updates_for=SharedUpdates()),
    draw=draw,
    sentence=sentence,
    equal_steps=True,
)
