"""Diagnostics of the energies and their chains, measured whenever pictures are drawn."""

import jax
import numpy as np

from mmebm_jax import data
from mmebm_jax.data.source import Source
from mmebm_jax.method.langevin import Chain, LangevinResult
from mmebm_jax.metrics.chains import chain_health
from mmebm_jax.runs.sampler import Sampler

NUM_EXAMPLES = 32
NUM_REPEATS = 4  # chains per example


def measure(
    key: jax.Array, sampler: Sampler, source: Source
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Scalar diagnostics by name, and arrays for histograms by name.

    A trained data energy is compared between data, samples and refined samples; every chain that
    the sampler runs is examined by `chain_health`.
    """
    prior_key, infer_key, posterior_key, data_key = jax.random.split(key, 4)
    settings = sampler.settings
    num_chains = NUM_EXAMPLES * NUM_REPEATS
    raw = data.whole(data.complete(source), NUM_EXAMPLES)
    batch = sampler.as_batch(
        {m.name: np.repeat(raw[m.name], NUM_REPEATS, axis=0) for m in sampler.modalities}
    )
    numbers: dict[str, float] = {}
    histograms: dict[str, np.ndarray] = {}

    def examine(name: str, result: LangevinResult, chain: Chain, num_repeats: int) -> None:
        leaves = jax.tree.leaves(result.position)
        if chain.num_steps and leaves[0].size:
            size = sum(leaf[0].size for leaf in leaves)
            for what, value in chain_health(result.info, chain, size, num_repeats).items():
                numbers[f"chain/{name}_{what}"] = value

    start = sampler.infer(infer_key, batch, method="sample")
    examine(
        "posterior",
        sampler.posterior_chain(posterior_key, start, batch),
        settings.chains.posterior,
        NUM_REPEATS,
    )
    if settings.prior_energy:
        result = sampler.prior_chain(prior_key, num_chains)
        examine("prior", result, settings.chains.prior, num_chains)
    if settings.data_energy:
        generated = sampler.generate(sampler.prior_latents(prior_key, num_chains))
        result = sampler.refine(data_key, generated)
        examine("data", result, settings.chains.data, num_chains)
        refined = generated | result.position
        for name, examples in (("data", batch), ("generated", generated), ("refined", refined)):
            energies = np.asarray(sampler.energy(examples, check_values=False))
            histograms[f"energy/{name}"] = energies
            numbers[f"energy/{name}"] = float(energies.mean())
        numbers["energy/gap"] = numbers["energy/data"] - numbers["energy/refined"]
    return numbers, histograms
