"""The posterior and the data revision; the third MCMC chain, the prior's, is in `prior.sample`."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from mmebm_jax.method import langevin
from mmebm_jax.method.langevin import Chain, LangevinResult
from mmebm_jax.modalities.modality import Modality, joint_log_likelihood, where_observed
from mmebm_jax.typing import Batch, Decode, EnergyFn, Latents, Mask


def posterior_energy(
    batch: Batch,
    *,
    modalities: tuple[Modality, ...],
    decode: Decode,
    prior_energy: EnergyFn,
    mask: Mask | None = None,
) -> EnergyFn:
    """Equation (2): U(u) = −log p(x, u) of the observed modalities, the posterior chain's energy.

    Paper A's posterior sampling and paper B's latent revision; at T = 1 the chain aims at the
    generator's posterior itself.

    Args:
      batch: data; modalities outside `modalities` are not read.
      modalities: the observed ones.
      decode: latents → decoder outputs, with parameters that carry no gradient.
      prior_energy: u → −log p(u) up to a constant.
      mask: which examples have which modality.
    """

    def energy(latents: Latents) -> jax.Array:
        likelihood = joint_log_likelihood(modalities, decode(latents), batch, mask)
        return prior_energy(latents) - likelihood

    return energy


def revise_data(
    key: jax.Array,
    samples: Mapping[str, jax.Array],
    energy_fn: EnergyFn,
    chain: Chain,
    *,
    modalities: tuple[Modality, ...],
    mask: Mask | None = None,
    keep_trajectory: bool = False,
) -> LangevinResult:
    """Equation (4): refine samples in data space under E_α, within each modality's bounds.

    Args:
      key: PRNG key.
      samples: start, name → `[B, *shape]`.
      energy_fn: a batch like `samples` → `[B]`; see `given`.
      chain: settings; the papers' chain is cold (T near 0).
      modalities: all modalities.
      mask: entries that it marks as observed are held fixed.
      keep_trajectory: also return every step.
    """
    bounds = {m.name: m.bounds for m in modalities if m.name in samples}

    def project(position: dict[str, jax.Array]) -> dict[str, jax.Array]:
        clipped = {name: jnp.clip(position[name], *bounds[name]) for name in position}
        return clipped if mask is None else where_observed(mask, samples, clipped)

    return langevin.run(
        key, dict(samples), energy_fn, chain, project=project, keep_trajectory=keep_trajectory
    )


def given(energy_fn: EnergyFn, observed: Batch) -> EnergyFn:
    """Restrict an energy of all modalities to those not observed, with `observed` held fixed."""
    return lambda position: energy_fn({**observed, **position})
