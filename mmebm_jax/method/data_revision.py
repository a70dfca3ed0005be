"""The data revision: samples refined in data space under the joint energy."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from mmebm_jax.method import langevin
from mmebm_jax.method.langevin import Chain, LangevinInfo, LangevinResult
from mmebm_jax.modalities.modality import Modality, where_observed
from mmebm_jax.typing import EnergyFn, Mask

LARGEST = 4.0  # largest step of `gap_closing`, in units of the chain's


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
      samples: starting points, name → `[B, *shape]`.
      energy_fn: a batch like `samples` → energies `[B]`.
      chain: settings; the papers' chain is cold (T near 0).
      modalities: all modalities.
      mask: entries marked as observed are held fixed.
      keep_trajectory: also return every step.
    """
    bounds = {m.name: m.bounds for m in modalities if m.name in samples}

    def project(position: dict[str, jax.Array]) -> dict[str, jax.Array]:
        clipped = {name: jnp.clip(position[name], *bounds[name]) for name in position}
        return clipped if mask is None else where_observed(mask, samples, clipped)

    return langevin.run(
        key, dict(samples), energy_fn, chain, project=project, keep_trajectory=keep_trajectory
    )


def gap_closing(
    chain: Chain, share: float, data_energy: jax.Array
) -> Callable[[LangevinInfo], jax.Array]:
    """Return a step-size rule that closes a share of the energy gap between samples and data.

    To first order, a step of size s lowers the mean of E_α by (s²/2) times the mean of ‖∇E_α‖².
    Every step closes the same share of the remaining gap; where there is no gap, its size is 0.

    Args:
      chain: the samples' chain; no step is larger than `LARGEST` times its step size.
      share: share of the gap that all steps together close, in (0, 1).
      data_energy: mean of E_α over data, a scalar.

    Returns:
      A rule for `Chain.step_size`: diagnostics of a step, leaves `[B]` → one size for the batch.
      This rule is the library's own; neither paper has one.
    """
    each = 1.0 - (1.0 - share) ** (1.0 / chain.num_steps)

    def step_size(info: LangevinInfo) -> jax.Array:
        gap = jnp.maximum(info.energy.mean() - data_energy, 0.0)
        slope = jnp.maximum(jnp.square(info.gradient_norm).mean(), 1e-12)
        return jnp.minimum(jnp.sqrt(2.0 * each * gap / slope), LARGEST * chain.step_size)

    return step_size
