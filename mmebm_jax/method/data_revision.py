"""The data revision: samples refined in data space under the joint energy."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from mmebm_jax.method import langevin
from mmebm_jax.method.langevin import Chain, LangevinResult
from mmebm_jax.modalities.modality import Modality, where_observed
from mmebm_jax.typing import EnergyFn, Mask


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
      energy_fn: a batch like `samples` → `[B]`.
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
