"""The pictures of a run, drawn from its averaged weights."""

from typing import Any

import jax
import numpy as np
from etils import epath

from mmebm_jax import data
from mmebm_jax.data.source import DataSplits
from mmebm_jax.runs.sampler import Sampler
from mmebm_jax.training import plotting

NUM_EXAMPLES = 10
NUM_TRAJECTORIES = 6
NUM_SHOWN_STEPS = 8


def write(
    workdir: epath.Path, splits: DataSplits, sampler: Sampler, key: jax.Array, step: int
) -> None:
    """Draw `images/samples_<step>.png` and, with a data energy, `images/chains_<step>.png`."""
    folder, alphabet = workdir / "images", splits.alphabet
    latent_key, chain_key, infer_key = jax.random.split(key, 3)
    raw = data.whole(data.complete(splits.test), NUM_EXAMPLES)
    batch = sampler.as_batch({m.name: raw[m.name] for m in sampler.modalities})
    source = sampler.modalities[0].name

    generated = sampler.generate(sampler.prior_latents(latent_key, NUM_EXAMPLES))
    given = {source: batch[source]}
    inferred = sampler.infer(infer_key, given, method="mean")
    blocks: dict[str, Any] = {"data": batch, "generator": generated}
    if sampler.settings.data_energy:
        chain = sampler.refine(chain_key, generated, keep_trajectory=True)
        blocks["energy-refined"] = chain.position
    blocks[f"given {source}"] = sampler.generate(inferred) | given
    plotting.save_grid(
        folder / f"samples_{step:07d}.png", jax.device_get(blocks), sampler.modalities, alphabet
    )
    if sampler.settings.data_energy:
        total = sampler.settings.chains.data.num_steps
        shown = np.unique(np.linspace(0, total, min(NUM_SHOWN_STEPS, total + 1)).astype(int))
        trajectory = {
            name: np.concatenate([np.asarray(generated[name])[None], np.asarray(steps)])[
                shown, :NUM_TRAJECTORIES
            ]
            for name, steps in chain.trajectory.items()
        }
        plotting.save_trajectories(
            folder / f"chains_{step:07d}.png",
            trajectory,
            shown.tolist(),
            sampler.modalities,
            alphabet,
        )
