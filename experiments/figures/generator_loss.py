"""(b) The generator's losses with joint inference, and with each expert learning on its own.

Paper B (arXiv:2605.00644) says that learning is less stable with independent inference networks.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure as Picture

from configs.methods import PAPER_B
from experiments.figures.figure import Figure, by_method, company, spread
from experiments.figures.runs import (
    ENERGY_EARLY,
    Row,
    Settings,
    Trial,
    curve,
    last_quarter,
    trained,
    trial,
)

JOINT, INDEPENDENT = "joint inference", "independent inference"
LOSSES = {
    "loss/posterior_generator": ("posterior.generator_weight", "−log p(x | ũ), revised latents"),
    "loss/synthesis_generator": ("energy.synthesis_generator", "−log p(x̃ | u_p), revised samples"),
}


def trials(settings: Settings) -> list[Trial]:
    """Paper B, and a variant where each expert learns on its own from the revised latents."""
    joint = PAPER_B | ENERGY_EARLY
    apart = joint | {"posterior.independent_inference": True}
    found = []
    for seed in settings.seeds:
        found.append(trial(settings, "paper_b_early", seed, joint, method=JOINT))
        found.append(trial(settings, "inference_apart", seed, apart, method=INDEPENDENT))
    return found


def measure(one: Trial, settings: Settings) -> list[Row]:
    """The generator's loss curves of a run, per example and without loss weights."""
    finished = trained(one, settings)
    curves = curve(one.folder, tuple(LOSSES))
    row: Row = {"num_steps": finished.step, "train_seconds": round(finished.seconds, 1)}
    for name, (field, _) in LOSSES.items():
        section, _, leaf = field.partition(".")
        weight = one.config[section][leaf]
        curves[name] = [value / weight for value in curves[name]]
        end = last_quarter(curves[name])
        row[name] = {"mean": float(np.mean(end)), "deviation": float(np.std(end))}
    return [row | {"curve": curves}]


def draw(rows: Sequence[Row]) -> Picture:
    """Plot both losses over steps, one line per run."""
    picture = Picture(figsize=(9, 3.6), dpi=110, layout="constrained")
    for axes, (name, (_, label)) in zip(picture.subplots(1, 2), LOSSES.items(), strict=True):
        for index, (method, runs) in enumerate(by_method(rows).items()):
            for row in runs:
                shown = method if row is runs[0] else None
                values = row["curve"]["step"], row["curve"][name]
                axes.plot(*values, color=f"C{index}", linewidth=1.3, label=shown)
        axes.set(xlabel="step", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return picture


def sentence(rows: Sequence[Row]) -> str:
    """Say whether joint inference makes the generator's loss lower or steadier here."""
    methods = by_method(rows)

    def values(method: str, name: str, part: str) -> list[float]:
        return [row[name][part] for row in methods[method]]

    parts = []
    for name, what in (
        ("loss/posterior_generator", "revised latents"),
        ("loss/synthesis_generator", "revised samples"),
    ):
        both = [
            f"{spread(values(m, name, 'mean'), 1)} (within a run ± "
            f"{np.mean(values(m, name, 'deviation')):.1f})"
            for m in (JOINT, INDEPENDENT)
        ]
        parts.append(f"from {what} {both[0]} with joint inference and {both[1]} without")
    gain = np.mean(values(INDEPENDENT, "loss/posterior_generator", "mean")) - np.mean(
        values(JOINT, "loss/posterior_generator", "mean")
    )
    noise = np.mean(values(JOINT, "loss/posterior_generator", "deviation"))
    holds = "holds" if gain > noise else "does not show" if gain > -noise else "is reversed"
    return (
        f"{company(rows)}, last quarter: the generator's loss is {'; '.join(parts)}. That joint "
        f"inference helps the generator {holds} here ({gain:+.1f} nats an example without it, by "
        "the loss from revised latents; more than a run's own deviation counts)."
    )


FIGURE = Figure(
    title="Generator loss with and without joint inference",
    trials=trials,
    measure=measure,
    draw=draw,
    sentence=sentence,
    equal_steps=True,
)
