r"""Langevin dynamics: one kernel for latents and data alike (see `posterior_energy`, `prior`).

One step moves a position v under an energy U by

    v ← v − (s²/2) ∇U(v) + s √T ε,    ε ~ N(0, I)

with step size s and temperature T. Small steps at T = 1 sample exp(−U); T = 0 is gradient descent
with rate s²/2. Code that states the standard deviation n of the noise uses T = (n/s)².

The chains used for training are short and are never corrected by an acceptance test, so their
samples are biased towards their starting points; on a Gaussian of variance σ² at T = 1, even a long
chain has variance σ²/(1 − s²/(4σ²)). The networks learn *with* that bias (Nijkamp et al. 2019,
arXiv:1904.09770): sample for a different time only if that brings samples closer to the data.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mmebm_jax import cpu
from mmebm_jax.typing import EnergyFn


class Chain(NamedTuple):
    """Settings of a chain.

    `step_size` is s above, or a rule: a function that computes s from a step's `LangevinInfo`.
    `temperature` is T above; `gradient_clip` bounds the norm of one example's gradient (over all
    leaves of the position), and 0 disables clipping.
    """

    num_steps: int
    step_size: Any
    temperature: float = 1.0
    gradient_clip: float = 0.0


class LangevinInfo(NamedTuple):
    """Diagnostics of one step, or of a run, with a leading axis of steps."""

    energy: jax.Array  # shape=[B], before the step
    gradient_norm: jax.Array  # shape=[B], before clipping


class LangevinResult(NamedTuple):
    """Result of a chain."""

    position: Any  # leaves [B, ...], gradient-stopped
    info: LangevinInfo  # leaves [num_steps, B]
    trajectory: Any  # leaves [num_steps, B, ...] after each step, or None


def step(
    key: jax.Array,
    position: Any,
    energy_fn: EnergyFn,
    step_size: Any,
    temperature: float | jax.Array,
    gradient_clip: float = 0.0,
) -> tuple[Any, LangevinInfo]:
    """Take one Langevin step for every example of a batch.

    Args:
      key: PRNG key.
      position: pytree of `[B, ...]` floating arrays.
      energy_fn: position → energies `[B]`; examples must not influence each other.
      step_size: s ≥ 0, in units of the position, or a rule; see `Chain`.
      temperature: T ≥ 0.
      gradient_clip: largest allowed gradient norm of one example; 0 for no bound.

    Returns:
      The new position (same dtypes), and the energy and gradient norm at the old one.
    """

    def total(position: Any) -> tuple[jax.Array, jax.Array]:
        energies = energy_fn(position)
        return energies.sum(), energies

    gradient, energies = jax.grad(total, has_aux=True)(position)
    leaves, structure = jax.tree.flatten(gradient)
    squares = (jnp.sum(jnp.square(g), axis=tuple(range(1, g.ndim))) for g in leaves)
    norm = jnp.sqrt(sum(squares, start=jnp.zeros_like(energies)))
    if gradient_clip > 0:
        factor = jnp.minimum(1.0, gradient_clip / jnp.maximum(norm, 1e-12))
        leaves = [g * factor.reshape((-1,) + (1,) * (g.ndim - 1)) for g in leaves]
    info = LangevinInfo(energies, norm)
    size = step_size(info) if callable(step_size) else step_size
    drift, spread = -0.5 * size**2, size * jnp.sqrt(temperature)
    moved = [
        (v + drift * g + spread * cpu.normal(k, v.shape, v.dtype)).astype(v.dtype)
        for k, v, g in zip(
            jax.random.split(key, len(leaves)), jax.tree.leaves(position), leaves, strict=True
        )
    ]
    return jax.tree.unflatten(structure, moved), info


def run(
    key: jax.Array,
    position: Any,
    energy_fn: EnergyFn,
    chain: Chain,
    *,
    project: Callable[[Any], Any] | None = None,
    keep_trajectory: bool = False,
    unroll: int | bool = 1,
) -> LangevinResult:
    """Run a short Langevin chain as one `lax.scan`; not jitted, which is left to the caller.

    No gradient flows through the chain: `stop_gradient` is applied to its start and its result.

    Args:
      key: PRNG key, split once into one key per step.
      position: starting point, a pytree of `[B, ...]` floating arrays.
      energy_fn: position → energies `[B]`.
      chain: number of steps, step size, temperature, gradient bound.
      project: applied to the position after every step, e.g. to clip it or hold entries fixed.
      keep_trajectory: also return the position after each step.
      unroll: as in `lax.scan`.
    """
    start = jax.lax.stop_gradient(position)

    def body(position: Any, step_key: jax.Array) -> tuple[Any, tuple[LangevinInfo, Any]]:
        position, info = step(step_key, position, energy_fn, *chain[1:])
        if project is not None:
            position = project(position)
        return position, (info, position if keep_trajectory else None)

    keys = jax.random.split(key, chain.num_steps)
    final, (info, trajectory) = cpu.scan(body, start, keys, unroll=unroll)
    return jax.lax.stop_gradient(LangevinResult(final, info, trajectory))


def run_scaled(
    key: jax.Array, position: Any, energy_fn: EnergyFn, chain: Chain, scale: Any
) -> LangevinResult:
    """Like `run`, in units of each coordinate's scale σ > 0, a pytree like the position.

    The chain moves y in v = σ y, so v ← v − (s²/2) σ² ∇U(v) + s σ √T ε; the target is unchanged.
    """

    def times(units: Any) -> Any:
        return jax.tree.map(jnp.multiply, units, scale)

    start = jax.tree.map(jnp.divide, position, scale)
    result = run(key, start, lambda units: energy_fn(times(units)), chain)
    return result._replace(position=times(result.position))
