"""The posterior and the data revision: which energy each chain descends, and what it may move.

The third revision, that of the prior, is `prior.sample`.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from mmebm_jax.method import langevin
from mmebm_jax.method.langevin import Chain, LangevinResult
from mmebm_jax.modalities.modality import Modality, log_likelihood, noise_like
from mmebm_jax.typing import Batch, Decode, EnergyFn, Latents, Mask


def joint_log_likelihood(
    modalities: tuple[Modality, ...],
    outputs: Mapping[str, jax.Array],
    batch: Batch,
    mask: Mask | None = None,
) -> jax.Array:
    """Σ_m log p(x_m | z) over the observed modalities.

    Args:
      modalities: those to sum over; each must be in `outputs` and `batch`.
      outputs: decoder outputs, `[..., B, *shape]`.
      batch: data, `[B, *shape]`.
      mask: name → `bool[B]`; None when everything is observed.

    Returns:
      `[..., B]`, nats.
    """
    total = jnp.zeros(())
    for modality in modalities:
        values = log_likelihood(modality, outputs[modality.name], batch[modality.name])
        if mask is not None:
            values = jnp.where(mask[modality.name], values, 0.0)
        total = total + values
    return total


def revise_posterior(
    key: jax.Array,
    latents: Latents,
    batch: Batch,
    *,
    modalities: tuple[Modality, ...],
    decode: Decode,
    prior_energy: EnergyFn,
    chain: Chain,
    mask: Mask | None = None,
) -> LangevinResult:
    """Refine latents under −log p(x, u), the generator's posterior; u = (z, w).

    Args:
      key: PRNG key.
      latents: start, usually a draw from the inference model.
      batch: the observed data; modalities outside `modalities` are not read.
      modalities: the observed ones.
      decode: latents → decoder outputs, with parameters that carry no gradient.
      prior_energy: u → −log p(u) up to a constant.
      chain: settings; T = 1 aims at the posterior itself.
      mask: which examples have which modality.
    """

    def energy(latents: Latents) -> jax.Array:
        likelihood = joint_log_likelihood(modalities, decode(latents), batch, mask)
        return prior_energy(latents) - likelihood

    return langevin.run(key, latents, energy, chain)


def revise_data(
    key: jax.Array,
    samples: Mapping[str, jax.Array],
    *,
    modalities: tuple[Modality, ...],
    energy_fn: EnergyFn,
    chain: Chain,
    observed: Mapping[str, jax.Array] | None = None,
    mask: Mask | None = None,
    keep_trajectory: bool = False,
) -> LangevinResult:
    """Refine samples in data space under E_α.

    Args:
      key: PRNG key.
      samples: start, name → `[B, *shape]`, for every modality that is free to move.
      modalities: all modalities; those in `samples` are kept within their bounds.
      energy_fn: a batch of all modalities → `[B]`.
      chain: settings; the papers' chain is cold (T near 0).
      observed: modalities held at their data.
      mask: with it, `samples` holds every modality, and those of an example that the mask names
        observed stay where they start.
      keep_trajectory: also return every step.

    Returns:
      The result over the free modalities alone.
    """
    bounds = {m.name: m.bounds for m in modalities if m.name in samples}

    def project(position: dict[str, jax.Array]) -> dict[str, jax.Array]:
        clipped = {name: jnp.clip(position[name], *bounds[name]) for name in position}
        return clipped if mask is None else where_observed(mask, samples, clipped)

    return langevin.run(
        key,
        dict(samples),
        lambda position: energy_fn({**(observed or {}), **position}),
        chain,
        project=project,
        keep_trajectory=keep_trajectory,
    )


def where_observed(mask: Mask, data: Batch, otherwise: Batch) -> dict[str, jax.Array]:
    """Data where the mask says it is observed, the other batch's values elsewhere."""
    return {
        name: jnp.where(mask[name].reshape(-1, *[1] * (values.ndim - 1)), data[name], values)
        for name, values in otherwise.items()
    }


def noise_start(
    key: jax.Array, modalities: tuple[Modality, ...], samples: Batch
) -> dict[str, jax.Array]:
    """Uniform noise in place of `samples`, which may hold some of the modalities."""
    keys = jax.random.split(key, len(modalities))
    return {
        m.name: noise_like(k, m, samples[m.name])
        for m, k in zip(modalities, keys, strict=True)
        if m.name in samples
    }
