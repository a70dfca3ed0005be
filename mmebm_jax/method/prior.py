"""Energies of the prior, and the latent energy-based prior's revision.

The energy-based prior (Pang et al. 2020, arXiv:2006.08205; paper A) is p(z) ∝ exp(−E_γ(z)) p_0(z)
with a base prior p_0. Private latents have the prior p(w) of the base prior's family, standard and
never fitted.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mmebm_jax.distributions.base_prior import BasePrior, base_log_prob, base_sample
from mmebm_jax.distributions.families import log_density, standard_noise
from mmebm_jax.method import langevin
from mmebm_jax.method.langevin import Chain, LangevinResult
from mmebm_jax.typing import EnergyFn, Latents


def tilted_energy(
    prior: BasePrior | None, energy_fn: EnergyFn | None, family: str = "gaussian"
) -> EnergyFn:
    """U(z) = E_γ(z) − log p_0(z); without `energy_fn` the base prior alone.

    Without `prior`, p_0 is the family's standard distribution, at a fraction of a mixture's cost.
    """

    def energy(latents: jax.Array) -> jax.Array:
        if prior is None:
            base = -log_density(family, latents).sum(axis=-1)
        else:
            base = -base_log_prob(prior, latents)
        return base if energy_fn is None else base + energy_fn(latents)

    return energy


def relative_energy(prior: BasePrior | None, energy_fn: EnergyFn | None, family: str) -> EnergyFn:
    """E_γ(z) − log p_0(z) + log p_s(z), with p_s the family's standard distribution.

    What a bound adds to its analytic divergence from p_s to hold the learned prior.
    """

    def energy(latents: jax.Array) -> jax.Array:
        total = jnp.zeros(len(latents)) if energy_fn is None else energy_fn(latents)
        if prior is not None:
            total = total + log_density(family, latents).sum(axis=-1)
            total = total - base_log_prob(prior, latents)
        return total

    return energy


def latents_energy(prior: BasePrior | None, energy_fn: EnergyFn | None, family: str) -> EnergyFn:
    """U(u) = E_γ(z) − log p_0(z) − Σ_m log p(w_m) over `Latents`; see `tilted_energy`."""
    of_shared = tilted_energy(prior, energy_fn, family)

    def energy(latents: Latents) -> jax.Array:
        total = of_shared(latents.shared)
        for values in latents.private.values():
            total = total - log_density(family, values).sum(axis=-1)
        return total

    return energy


def private_sample(
    key: jax.Array, names: Sequence[str], shape: tuple[int, ...], family: str
) -> dict[str, jax.Array]:
    """Draws from p(w) for each modality, name → `shape`."""
    keys = jax.random.split(key, len(names))
    return {name: standard_noise(k, family, shape) for k, name in zip(keys, names, strict=True)}


def sample(
    key: jax.Array,
    prior: BasePrior,
    energy_fn: EnergyFn | None,
    num_samples: int,
    chain: Chain,
    num_candidates: int = 1,
) -> LangevinResult:
    """Equation (3), the prior revision: a chain under E_γ − log p_0 from draws of p_0.

    With more than one candidate a sample, each start is one of them, drawn with probability
    proportional to exp(−E_γ): sampling-importance-resampling, whose starts approach the tilted
    prior itself as candidates grow, and which crosses the gaps between modes that a chain does not
    (Aneja et al. 2021, arXiv:2010.02917, section 3.3). Without an energy these are draws from p_0.

    Args:
      key: PRNG key.
      prior: p_0.
      energy_fn: E_γ, or None.
      num_samples: N.
      chain: settings of the revision.
      num_candidates: draws from p_0 for each start, ≥ 1.
    """
    start_key, chain_key, choice_key = jax.random.split(key, 3)
    if energy_fn is None:
        chain, num_candidates = chain._replace(num_steps=0), 1
    start = base_sample(start_key, prior, num_samples * num_candidates)
    if energy_fn is not None and num_candidates > 1:
        candidates = start.reshape(num_samples, num_candidates, -1)
        energies = energy_fn(start).reshape(num_samples, num_candidates)
        chosen = jax.random.categorical(choice_key, -energies)
        start = jnp.take_along_axis(candidates, chosen[:, None, None], axis=1)[:, 0]
    return langevin.run(chain_key, start, tilted_energy(prior, energy_fn), chain)
