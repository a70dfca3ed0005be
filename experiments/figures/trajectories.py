"""(c) Trajectories of the chains, from the initial sample to the last step, as rows of pictures.

Paper B (arXiv:2605.00644), figure 2: both revisions move their starts towards the data.
"""

import base64
import io
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure as Picture
from PIL import Image

from experiments.figures.figure import Figure, company
from experiments.figures.runs import Row, Settings, Trial, trained, trial, variant
from mmebm_jax import batching, data
from mmebm_jax.modalities.image import IMAGE
from mmebm_jax.runs.sampler import Sampler

NUM_CHAINS = 100  # averaged over
NUM_SHOWN = 4  # shown as pictures
NUM_COLUMNS = 6

Steps = list[dict[str, np.ndarray]]  # examples by modality, at every step from 0 on


def trials(settings: Settings) -> list[Trial]:
    """The full method with one seed, since pictures cannot be averaged."""
    return [trial(settings, "full", settings.seeds[0], variant("full"))]


def measure(one: Trial, settings: Settings) -> list[Row]:
    """Both chains of a run: pictures of a few, energies and displacements of many."""
    finished = trained(one, settings)
    raw = data.whole(data.complete(finished.run.splits.test), NUM_CHAINS)
    sampler = finished.sampler
    batch = sampler.as_batch({m.name: raw[m.name] for m in sampler.modalities}, check_values=False)
    rows = [posterior_chain(sampler, jax.random.key(1), batch)]
    if sampler.settings.data_energy:
        rows.insert(0, data_chain(sampler, jax.random.key(0)))
    return [{"num_steps": finished.step, "num_chains": NUM_CHAINS, **row} for row in rows]


def data_chain(sampler: Sampler, key: jax.Array) -> Row:
    """The data chain, from the generator's samples under the joint energy."""
    latent_key, chain_key = jax.random.split(key)
    start = sampler.generate(sampler.prior_latents(latent_key, NUM_CHAINS))
    chain = sampler.refine(chain_key, start, keep_trajectory=True)
    end = np.asarray(sampler.energy(chain.position, check_values=False))
    steps: Steps = [jax.device_get(start)]
    trajectory = jax.device_get(chain.trajectory)
    steps += [
        {name: values[t] for name, values in trajectory.items()}
        for t in range(sampler.settings.chains.data.num_steps)
    ]
    energies = [*np.asarray(chain.info.energy).mean(1).tolist(), float(end.mean())]
    return {"chain": "data", **_told(steps, energies)}


def posterior_chain(sampler: Sampler, key: jax.Array, batch: dict[str, jax.Array]) -> Row:
    """The posterior chain, decoded at every step, from a draw of the inference model."""
    num_steps, stepping = (
        sampler.settings.chains.posterior.num_steps,
        sampler.with_posterior_steps(1),
    )
    start_key, *keys = jax.random.split(key, num_steps + 2)
    latents = sampler.infer(start_key, batch, method="sample")
    steps, energies = [jax.device_get(sampler.generate(latents))], []
    # One step more than the chain has, to get the energy of the last position.
    for index, step_key in enumerate(keys):
        result = stepping.posterior_chain(step_key, latents, batch)
        energies.append(float(np.asarray(result.info.energy).mean()))
        if index < num_steps:
            latents = result.position
            steps.append(jax.device_get(sampler.generate(latents)))
    given = jax.device_get(batch)
    return {
        "chain": "posterior",
        **_told(steps, energies),
        "error": [_distance(step, given) for step in steps],
        "data": [_strip([given], example) for example in range(NUM_SHOWN)],
    }


def _told(steps: Steps, energies: Sequence[float]) -> Row:
    shown = np.unique(np.linspace(0, len(steps) - 1, min(NUM_COLUMNS, len(steps))).astype(int))
    return {
        "shown_steps": shown.tolist(),
        "energy": list(energies),
        "displacement": [_distance(step, steps[0]) for step in steps],
        "modalities": len(steps[0]),
        "pictures": [_strip([steps[t] for t in shown], example) for example in range(NUM_SHOWN)],
    }


def _distance(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """Root-mean-square difference per value."""
    return float(batching.root_mean_square(jax.tree.map(jnp.asarray, one), other))


def _strip(steps: Steps, example: int) -> str:
    """A base64-encoded PNG, with steps as columns and modalities as rows."""
    columns = [
        np.concatenate([IMAGE.draw(values[example][None], "")[0] for values in step.values()])
        for step in steps
    ]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(columns, axis=1)).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _picture(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def draw(rows: Sequence[Row]) -> Picture:
    """One block per chain: examples as rows, steps as columns, then the data if there are any."""
    picture = Picture(figsize=(9, 7), dpi=110, layout="constrained")
    blocks = picture.subfigures(1, len(rows), squeeze=False)[0]
    for block, row in zip(blocks, rows, strict=True):
        block.suptitle(f"{row['chain']} chain", fontsize=10)
        for axes, index in zip(
            block.subplots(len(row["pictures"]), 1, squeeze=False)[:, 0],
            range(len(row["pictures"])),
            strict=True,
        ):
            shown = _picture(row["pictures"][index])
            width = shown.shape[1] // len(row["shown_steps"])
            labels: list[Any] = list(row["shown_steps"])
            if "data" in row:
                gap = np.full([len(shown), width // 4, 3], 255, np.uint8)
                shown = np.concatenate([shown, gap, _picture(row["data"][index])], axis=1)
                labels.append("data")
            axes.imshow(shown, interpolation="nearest")
            places = [
                (n + 0.5) * width + (width // 4) * (label == "data")
                for n, label in enumerate(labels)
            ]
            axes.set_xticks(places, labels if not index else [""] * len(labels), fontsize=8)
            axes.xaxis.tick_top()
            axes.tick_params(length=0)
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)
    return picture


def sentence(rows: Sequence[Row]) -> str:
    """Say by how much each chain lowers the energy and moves its samples."""
    parts = []
    for row in rows:
        energy, last = row["energy"], len(row["energy"]) - 1
        told = (
            f"the {row['chain']} chain takes the mean energy from {energy[0]:.2f} to "
            f"{energy[-1]:.2f} in {last} steps and moves a value by {row['displacement'][-1]:.3f} "
            "(root mean square; values lie in −1 to 1)"
        )
        if "error" in row:
            told += (
                f", so that the distance of what is generated to the data goes from "
                f"{row['error'][0]:.3f} to {row['error'][-1]:.3f}"
            )
        parts.append(told)
    falls = all(row["energy"][-1] < row["energy"][0] for row in rows)
    return (
        f"{company(rows)}, {rows[0]['num_chains']} chains: {'; '.join(parts)}. That both revisions "
        f"lower their energies {'holds' if falls else 'does not hold'} here; whether pictures get "
        "better is judged by distances, in the figure of step counts."
    )


FIGURE = Figure(
    title="Trajectories of the data chain and of the posterior chain",
    trials=trials,
    measure=measure,
    draw=draw,
    sentence=sentence,
)
