"""Cost of each method by chain length: training, and sampling in a single step or in many."""

from functools import partial
from typing import Any

import jax
from etils import epath
from matplotlib.figure import Figure

from experiments.benchmarks import flops, workload
from experiments.benchmarks.measure import Options, Part, table, typical
from experiments.benchmarks.workload import Workload
from mmebm_jax.method import sampling
from mmebm_jax.runs import builders
from mmebm_jax.training import plotting

METHODS = {
    "mmvae": "MMVAE",
    "helvae": "HELVAE",
    "paper_a": "paper A",
    "paper_b": "paper B",
    "full": "union (full)",
}
STEPS = (5, 10, 20, 40)
QUICK_METHODS = ("helvae", "paper_b")
QUICK_STEPS = (2, 4)


def measure(options: Options, workdir: epath.Path) -> Part:
    """Measure, and also draw `complexity.png` into `workdir`."""
    shape = workload.SMALL if options.quick else workload.PAPER
    steps = QUICK_STEPS if options.quick else STEPS
    training: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    for variant in QUICK_METHODS if options.quick else METHODS:
        for count in steps:
            sized = shape._replace(num_steps=count)
            work = workload.build(variant, sized, quick=options.quick)
            chained = bool(workload.revisions(work))
            training.append(_training(variant, count if chained else 0, work, options))
            samples += _sampling(variant, count, work, options, alone=count == steps[0])
            if not chained:
                break
    plotting.write_figure(workdir / "complexity.png", _picture(training, samples))
    return Part(
        {"training": training, "sampling": samples},
        "\n\n".join(
            [
                "Training: an update of a batch; the prior's chain has the config's length.",
                _table(training, shape.batch_size, "training step"),
                "Sampling a batch: the generator alone, and with the chains of the prior and of "
                "the data.",
                _table(samples, shape.batch_size, "batch"),
                "![Seconds by chain length](complexity.png)",
            ]
        ),
    )


def _training(variant: str, count: int, work: Workload, options: Options) -> dict[str, Any]:
    time = typical(workload.stepper(work), options.repeats)
    return _row(variant, count, time, flops.of_update(work))


def _sampling(
    variant: str, count: int, work: Workload, options: Options, *, alone: bool
) -> list[dict[str, Any]]:
    """Rows for sampling: the generator `alone` once per method, and its chains if it has any."""
    model, weights, size = work.model, work.state.weights, work.shape.batch_size
    settings = builders.build_sampler_settings(work.config)
    trained = sampling.Trained(model, settings, weights)

    def generated(key: jax.Array, use_energy: bool = True) -> dict[str, jax.Array]:
        latents = sampling.sample_latents(key, trained, size, use_energy=use_energy)
        return sampling.generate(trained, latents)

    def refined(key: jax.Array) -> dict[str, jax.Array]:
        images = generated(key)
        if not settings.data_energy:
            return images
        return sampling.refine(key, trained, images).position

    key, rows = jax.random.key(3), []
    if alone:
        direct = partial(generated, use_energy=False)
        time = typical(partial(jax.jit(direct), key), options.repeats)
        rows.append(_row(variant, 0, time, flops.counted(direct, key)))
    chains = workload.revisions(work)
    chains.pop("posterior", None)
    # The prior's chain has a fixed length, so without a data energy one row is enough.
    if "data" in chains or (chains and alone):
        time = typical(partial(jax.jit(refined), key), options.repeats)
        total = flops.counted(refined, key) + flops.of_repetitions(chains.values())
        steps = count if "data" in chains else settings.chains.prior.num_steps
        rows.append(_row(variant, steps, time, total))
    return rows


def _row(variant: str, count: int, time: float, total: float) -> dict[str, Any]:
    return {"method": METHODS[variant], "steps": count, "seconds": time, "gflops": total / 1e9}


def _table(rows: list[dict[str, Any]], size: int, unit: str) -> str:
    shown = [
        [
            *(r["method"], r["steps"], r["seconds"], r["gflops"]),
            *(1000 * r["seconds"] / size, r["gflops"] / size),
        ]
        for r in rows
    ]
    headers = ["method", "chain steps", f"seconds per {unit}", f"GFLOP per {unit}"]
    return table(shown, [*headers, "ms per example", "GFLOP per example"])


def _picture(training: list[dict[str, Any]], samples: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(8, 3), layout="constrained")
    for axis, (title, rows) in zip(
        figure.subplots(1, 2), {"training step": training, "sampling": samples}.items(), strict=True
    ):
        for method in dict.fromkeys(row["method"] for row in rows):
            own = [row for row in rows if row["method"] == method]
            axis.plot(
                [row["steps"] for row in own],
                [row["seconds"] for row in own],
                marker=".",
                label=method,
            )
        axis.set(title=title, xlabel="chain steps", ylabel="seconds per batch", ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    return figure
