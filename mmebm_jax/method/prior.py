"""Energies of the prior, and the revision of samples under the latent energy-based prior.

The energy-based prior (Pang et al. 2020, arXiv:2006.08205; paper A) is p(u) ∝ exp(−E_γ(u)) p_0(u)
with a base prior p_0. Until mixtures p_0(w_m | z) are fitted, the prior of private latents is the
base prior's family with location 0 and scale 1.
"""

import jax
import jax.numpy as jnp

from mmebm_jax.distributions import base_prior
from mmebm_jax.distributions.base_prior import BasePrior, base_log_prob, base_sample
from mmebm_jax.distributions.families import log_density
from mmebm_jax.method import langevin
from mmebm_jax.method.langevin import Chain, LangevinResult
from mmebm_jax.typing import EnergyFn, LatentEnergyFn, Latents


def tilted_energy(
    prior: BasePrior | None, energy_fn: LatentEnergyFn | None, family: str = "gaussian"
) -> EnergyFn:
    """Return U(z) = E_γ(z) − log p_0(z); without `energy_fn`, −log p_0(z) alone.

    Without `prior`, p_0 is the family's standard distribution, at a fraction of a mixture's cost.
    """

    def energy(latents: jax.Array) -> jax.Array:
        if prior is None:
            base = -log_density(family, latents).sum(axis=-1)
        else:
            base = -base_log_prob(prior, latents)
        return base if energy_fn is None else base + energy_fn(latents)

    return energy


def relative_energy(
    prior: BasePrior | None, energy_fn: LatentEnergyFn | None, family: str
) -> EnergyFn:
    """Return E_γ(z) − log p_0(z) + log p_s(z), with p_s the family's standard distribution.

    Added to a bound's analytic divergence from p_s, it replaces p_s by the learned prior.
    """

    def energy(latents: jax.Array) -> jax.Array:
        total = jnp.zeros(len(latents)) if energy_fn is None else energy_fn(latents)
        if prior is not None:
            total = total + log_density(family, latents).sum(axis=-1)
            total = total - base_log_prob(prior, latents)
        return total

    return energy


def latents_energy(
    prior: BasePrior | None, energy_fn: LatentEnergyFn | None, family: str
) -> EnergyFn:
    """Return U(u) = E_γ(u) − log p_0(z) − Σ_m log p_0(w_m | z); see `tilted_energy`.

    `energy_fn` takes z alone, or z and private latents by name.
    """
    of_shared = tilted_energy(prior, None, family)

    def energy(latents: Latents) -> jax.Array:
        shared, private = latents
        total = of_shared(shared)
        each = base_prior.private_log_prior(prior, family, latents).values()
        total = total - sum(each, start=jnp.zeros_like(total))
        return total if energy_fn is None else total + energy_fn(shared, private)

    return energy


def private_sample(
    key: jax.Array,
    prior: BasePrior,
    energy_fn: LatentEnergyFn | None,
    name: str,
    shared: jax.Array,
    num_candidates: int = 1,
) -> jax.Array:
    """Draw from p(w_m | z) ∝ exp(−E_m(z, w_m)) p_0(w_m | z) for z `[B, Z]`; returns `[B, W]`.

    With an energy, each draw is resampled from several candidates from p_0; see `sample`.
    """
    draw_key, choice_key = jax.random.split(key)
    responsibility = base_prior.log_responsibility(prior, shared)
    count = 1 if energy_fn is None else num_candidates
    repeated = jnp.repeat(responsibility, count, axis=0)
    values = base_prior.private_sample(draw_key, prior, name, repeated)
    if energy_fn is None:
        return values
    energies = energy_fn(jnp.repeat(shared, count, axis=0), {name: values})
    return base_prior.resampled(choice_key, values, energies, len(shared))


def sample(
    key: jax.Array,
    prior: BasePrior,
    energy_fn: LatentEnergyFn | None,
    num_samples: int,
    chain: Chain,
    num_candidates: int = 1,
) -> LangevinResult:
    """Equation (3), the prior revision: a chain under E_γ − log p_0 from draws of p_0.

    With several candidates per sample, each start is one of them, resampled with weights
    ∝ exp(−E_γ): with more candidates, starts approach the tilted prior itself, across gaps that no
    chain crosses (Aneja et al. 2021, arXiv:2010.02917, section 3.3). Without an energy, the samples
    are draws from p_0.

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
        start = base_prior.resampled(choice_key, start, energy_fn(start), num_samples)
    return langevin.run(chain_key, start, tilted_energy(prior, energy_fn), chain)
