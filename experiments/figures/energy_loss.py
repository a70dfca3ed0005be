"""(a) The data energy's loss: shared generator, independent generators, and chains from noise.

Paper B (arXiv:2605.00644), figure 1, says that learning the energy is unstable with independent
generators, and with chains that start from noise.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure as Picture

from configs.methods import NOISE_START, PAPER_B
from experiments.figures.figure import Figure, by_method, company, spread
from experiments.figures.runs import (
    ENERGY_EARLY,
    Row,
    Settings,
    Trial,
    curve,
    last_quarter,
    refuse_changes,
    trained,
    trial,
    variant,
)
from mmebm_jax.training.log import read_events

NOISE_STEPS = (10, 30, 60)
SHARED, APART = "shared generator", "independent generators"
LOGGED = ("loss/energy", "energy_gap", "data_displacement")


def trials(settings: Settings) -> list[Trial]:
    """Paper B; a variant with a generator per modality; and longer chains from noise.

    Raises:
      ValueError: the call sets the chain's number of steps.
    """
    refuse_changes(settings, ["energy.chain.num_steps"])
    found = []
    for seed in settings.seeds:
        shared = PAPER_B | ENERGY_EARLY
        apart = variant("independent_generators") | ENERGY_EARLY
        found.append(trial(settings, "paper_b_early", seed, shared, method=SHARED))
        found.append(trial(settings, "generators_apart", seed, apart, method=APART))
        for count in NOISE_STEPS:
            noise = shared | NOISE_START | {"energy.chain.num_steps": count}
            method = f"from noise, {count} steps"
            found.append(trial(settings, f"noise_{count}", seed, noise, method=method))
    return found


def measure(one: Trial, settings: Settings) -> list[Row]:
    """The energy's curves over training, and its loss at the end."""
    finished = trained(one, settings)
    curves = curve(one.folder, LOGGED)
    end = last_quarter(curves["loss/energy"])
    return [
        {
            "num_steps": finished.step,
            "train_seconds": round(finished.seconds, 1),
            "chain_steps": one.config.energy.chain.num_steps,
            "lowest_loss": -1 / (2 * one.config.energy.penalty),
            "loss": float(np.mean(end)),
            "deviation": float(np.std(end)),
            "explosions": len(read_events(one.folder, "explosion")),
            "curve": curves,
        }
    ]


def draw(rows: Sequence[Row]) -> Picture:
    """Plot the loss and the chain's displacement over steps, one colour per method."""
    picture = Picture(figsize=(9, 3.8), dpi=110, layout="constrained")
    loss, moved = picture.subplots(1, 2)
    for index, (method, runs) in enumerate(by_method(rows).items()):
        for row in runs:
            label = method if row is runs[0] else None
            style = {"color": f"C{index}", "linewidth": 1.3, "label": label}
            loss.plot(row["curve"]["step"], row["curve"]["loss/energy"], **style)
            moved.plot(row["curve"]["step"], row["curve"]["data_displacement"], **style)
    lowest = rows[0]["lowest_loss"]
    loss.axhline(lowest, color="grey", linestyle=":", linewidth=1)
    style = {"fontsize": 7, "color": "grey", "ha": "left", "va": "bottom"}
    across = loss.get_yaxis_transform()  # x as a fraction of the width, y in data coordinates
    loss.text(0.02, lowest, "data and samples told apart", transform=across, **style)
    loss.set(xlabel="step", ylabel="energy loss, with its penalty")
    moved.set(xlabel="step", ylabel="displacement by the chain (RMS)", yscale="log")
    for axes in (loss, moved):
        axes.grid(alpha=0.3)
    picture.legend(
        *loss.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8
    )
    return picture


def sentence(rows: Sequence[Row]) -> str:
    """Say whether independent generators and chains from noise are less stable here."""
    methods = by_method(rows)

    def mean(method: str, name: str) -> float:
        return float(np.mean([row[name] for row in methods[method]]))

    def deviation(method: str) -> float:
        return mean(method, "deviation")

    def told(method: str) -> str:
        return spread([row["loss"] for row in methods[method]], 2)

    parts = [f"{told(SHARED)} under the shared generator (deviation {deviation(SHARED):.2f})"]
    verdicts = []
    if APART in methods:
        parts.append(f"{told(APART)} under independent generators ({deviation(APART):.2f})")
        apart = "is" if deviation(APART) > deviation(SHARED) else "is not"
        verdicts.append(f"that it is less steady under independent generators {apart} seen here")
        nearer = "nearer" if mean(APART, "loss") < mean(SHARED, "loss") else "farther from"
        verdicts[-1] += f", where it ends {nearer} that least value"
    noise = [method for method in methods if method.startswith("from noise")]
    if noise:
        parts += [f"{told(method)} {method}" for method in noise]
        lower = all(mean(method, "loss") < mean(SHARED, "loss") for method in noise)
        verdicts.append(
            f"that from noise the chains lag further behind is {'' if lower else 'not '}seen here"
        )
    exploded = sum(row["explosions"] for row in rows)
    verdicts.append(f"{exploded or 'no'} run{'' if exploded == 1 else 's'} exploded")
    return (
        f"{company(rows)}, mean energy loss over the last quarter: {', '.join(parts)}. It can be "
        f"{rows[0]['lowest_loss']:.2f} at least, where data and samples are told apart entirely. "
        f"Of paper B's claims, {'; '.join(verdicts)}."
    )


FIGURE = Figure(
    title="Energy loss: shared and independent generators, and chains from noise",
    trials=trials,
    measure=measure,
    draw=draw,
    sentence=sentence,
    equal_steps=True,
)
