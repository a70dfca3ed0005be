"""Base priors p_0(z), and the latent energy-based prior that tilts them.

The base prior is a Gaussian mixture throughout: the standard normal is the mixture whose components
are all N(0, I), and fitting it to latents of the data keeps every array's shape, so nothing is
recompiled and checkpoints stay compatible; the standard Laplace is a flag beside it. The
energy-based prior (Pang et al. 2020, arXiv:2006.08205) is p(z) ∝ exp(−E_γ(z)) p_0(z).

Private latents have the prior p(w) of the base prior's family, standard and never fitted.
"""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mmebm_jax.method import langevin
from mmebm_jax.method.langevin import Chain, LangevinResult
from mmebm_jax.modalities.families import log_density, standard_noise
from mmebm_jax.typing import EnergyFn, Latents

LOG_TWO_PI = float(np.log(2 * np.pi))


class BasePrior(NamedTuple):
    """A mixture of K Gaussians; W_k is the inverse of the covariance's Cholesky factor."""

    log_weight: jax.Array  # shape=[K]
    mean: jax.Array  # shape=[K, Z]
    whitening: jax.Array  # shape=[K, Z, Z], lower triangular: W (z − mean) is standard normal
    is_laplace: jax.Array  # shape=(), dtype=bool: the standard Laplace stands in for the mixture


def standard(num_components: int, num_latents: int, family: str = "gaussian") -> BasePrior:
    """N(0, I), or the standard Laplace, in the shapes of a mixture of `num_components`."""
    return BasePrior(
        jnp.full([num_components], -np.log(num_components), jnp.float32),
        jnp.zeros([num_components, num_latents]),
        jnp.tile(jnp.eye(num_latents), [num_components, 1, 1]),
        jnp.asarray(family == "laplace"),
    )


def base_log_prob(prior: BasePrior, latents: jax.Array) -> jax.Array:
    """log p_0(z) at latents `[B, Z]`; gives `[B]`, nats."""
    # Two large numbers are subtracted: TF32 or bfloat16 would lose their difference.
    precise = partial(jnp.einsum, precision="highest")
    shift = precise("kij,kj->ki", prior.whitening, prior.mean)
    whitened = precise("bj,kij->bki", latents, prior.whitening) - shift
    log_volume = jnp.sum(jnp.log(jnp.diagonal(prior.whitening, axis1=1, axis2=2)), axis=-1)
    each = -0.5 * jnp.sum(jnp.square(whitened), axis=-1) + log_volume
    mixture = jax.nn.logsumexp(each + prior.log_weight, axis=-1)
    mixture = mixture - 0.5 * latents.shape[-1] * LOG_TWO_PI
    return jnp.where(prior.is_laplace, log_density("laplace", latents).sum(axis=-1), mixture)


def base_sample(key: jax.Array, prior: BasePrior, num_samples: int) -> jax.Array:
    """Draws from p_0, `[num_samples, Z]`."""
    choice_key, noise_key = jax.random.split(key)
    chosen = jax.random.categorical(choice_key, prior.log_weight, shape=(num_samples,))
    shape = (num_samples, prior.mean.shape[-1])
    noise = standard_noise(noise_key, "gaussian", shape)
    offset = _unwhiten(prior.whitening, chosen, noise)
    laplace = standard_noise(noise_key, "laplace", shape)
    return jnp.where(prior.is_laplace, laplace, prior.mean[chosen] + offset)


def _unwhiten(whitening: jax.Array, chosen: jax.Array, noise: jax.Array) -> jax.Array:
    """The solutions `[B, Z]` of W_k z = noise `[B, Z]`, each with its chosen `[B]` component's W_k.

    By forward substitution, all examples a coordinate at a time. LAPACK's batched solver holds one
    of XLA's threads while it waits for the others, and so may take the length of a whole chain.
    """

    def substitute(solution: jax.Array, coordinate: jax.Array) -> tuple[jax.Array, None]:
        row = whitening[chosen, coordinate]
        rest = noise[:, coordinate] - jnp.sum(row * solution, axis=-1)
        return solution.at[:, coordinate].set(rest / row[:, coordinate]), None

    if not noise.size:  # no shared latent: nothing to index
        return noise
    return lax.scan(substitute, jnp.zeros_like(noise), jnp.arange(noise.shape[-1]))[0]


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


def joint_energy(prior: BasePrior | None, energy_fn: EnergyFn | None, family: str) -> EnergyFn:
    """U(u) = E_γ(z) − log p_0(z) − Σ_m log p(w_m) over `Latents`; see `tilted_energy`."""
    of_shared = tilted_energy(prior, energy_fn, family)

    def energy(latents: Latents) -> jax.Array:
        total = of_shared(latents.shared)
        for values in latents.private.values():
            total = total - log_density(family, values).sum(axis=-1)
        return total

    return energy


class LatentPrior(NamedTuple):
    """p(u) = exp(−E_γ(z)) p_0(z) Π_m p(w_m) up to a constant."""

    base: BasePrior
    energy_fn: EnergyFn | None  # E_γ, None for the base prior alone
    family: str  # of p(w)


def sample_latents(
    key: jax.Array,
    prior: LatentPrior,
    num_samples: int,
    chain: Chain,
    *,
    num_candidates: int = 1,
    private: Mapping[str, tuple[int, ...]] | None = None,
) -> Latents:
    """Latents to generate from: shared ones by `sample`, private ones (name → shape) from p(w)."""
    shared_key, private_key = jax.random.split(key)
    shapes = private or {}
    keys = jax.random.split(private_key, len(shapes))
    return Latents(
        sample(
            shared_key, prior.base, prior.energy_fn, num_samples, chain, num_candidates
        ).position,
        {
            name: standard_noise(k, prior.family, shape)
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        },
    )


def sample(
    key: jax.Array,
    prior: BasePrior,
    energy_fn: EnergyFn | None,
    num_samples: int,
    chain: Chain,
    num_candidates: int = 1,
) -> LangevinResult:
    """The prior revision: a chain under E_γ − log p_0 that starts at draws from p_0.

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

    Returns:
      The result over `[N, Z]`.
    """
    start_key, chain_key, choice_key = jax.random.split(key, 3)
    if energy_fn is None:
        start = base_sample(start_key, prior, num_samples)
        return langevin.run(
            chain_key, start, tilted_energy(prior, None), chain._replace(num_steps=0)
        )
    start = base_sample(start_key, prior, num_samples * num_candidates)
    if num_candidates > 1:
        candidates = start.reshape(num_samples, num_candidates, -1)
        energies = energy_fn(start).reshape(num_samples, num_candidates)
        chosen = jax.random.categorical(choice_key, -energies)
        start = jnp.take_along_axis(candidates, chosen[:, None, None], axis=1)[:, 0]
    return langevin.run(chain_key, start, tilted_energy(prior, energy_fn), chain)
