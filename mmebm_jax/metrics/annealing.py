"""Bounds on log Z of a latent energy by annealed importance sampling, from below and from above.

    Z = E_{p_0}[exp(−E(z))],    p_β(z) ∝ exp(−β E(z)) p_0(z),    β from 0 to 1

Neal 2001 (arXiv:physics/9803008). Between two temperatures, a Metropolis-adjusted Langevin step is
taken, which leaves p_β invariant for every step size: the estimate of Z is unbiased however badly
the chains mix, and only its variance suffers. (An unadjusted chain would bias it.)

Forward chains start at p_0 and give a lower bound. Reverse chains start at p_1, the tilted prior,
and give an upper bound (Grosse et al. 2015, arXiv:1511.02543, bidirectional Monte Carlo), but only
if their starting points are exact draws from p_1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmebm_jax.typing import EnergyFn

LogDensity = Callable[[jax.Array], jax.Array]
"""Positions `[N, Z]` → log density `[N]`."""


class Annealing(NamedTuple):
    """Settings of the chains."""

    num_temperatures: int = 200  # steps from β = 0 to β = 1, evenly spaced
    step_size: float = 0.3  # s of the Langevin proposal, in units of z
    moves: int = 1  # at each temperature


class AnnealedEstimate(NamedTuple):
    """The estimate of log Z from chains in one direction."""

    value: jax.Array  # shape=(), nats: log of the mean weight, or minus it for reverse chains
    effective_sample_size: jax.Array  # shape=(), in [1, N]: (Σ w)² / Σ w²
    acceptance: jax.Array  # shape=(), mean share of accepted moves
    position: jax.Array  # shape=[N, Z], where the chains end
    log_weight: jax.Array  # shape=[N]


def forward_log_normaliser(
    key: jax.Array,
    base_sample: Callable[[jax.Array, int], jax.Array],
    base_log_prob: LogDensity,
    energy_fn: EnergyFn,
    num_chains: int,
    annealing: Annealing,
) -> AnnealedEstimate:
    """log Z from below: the logarithm of an unbiased estimate of Z.

    Its expectation is at most log Z (Jensen), and with probability 1 − e^−b it exceeds log Z by no
    more than b (Markov). The weighted final positions are draws from the tilted prior.

    Args:
        key: PRNG key.
        base_sample: (key, N) → exact draws of p_0, `[N, Z]`.
        base_log_prob: log p_0, normalised.
        energy_fn: E, of `[N, Z]` → `[N]`.
        num_chains: N.
        annealing: settings.
    """
    start_key, chain_key = jax.random.split(key)
    start = base_sample(start_key, num_chains)
    betas = jnp.linspace(0.0, 1.0, annealing.num_temperatures + 1)
    return _anneal(chain_key, start, base_log_prob, energy_fn, betas, annealing)


def reverse_log_normaliser(
    key: jax.Array,
    start: jax.Array,
    base_log_prob: LogDensity,
    energy_fn: EnergyFn,
    annealing: Annealing,
) -> AnnealedEstimate:
    """log Z from above: minus the logarithm of an unbiased estimate of 1/Z.

    Its expectation is at least log Z if `start` holds exact, independent draws from the tilted
    prior. The end points of a chain are not exact draws, and with them this is not a bound.

    Args:
        key: PRNG key.
        start: draws from exp(−E) p_0 / Z, `[N, Z]`.
        base_log_prob: log p_0, normalised.
        energy_fn: E, of `[N, Z]` → `[N]`.
        annealing: settings.
    """
    betas = jnp.linspace(1.0, 0.0, annealing.num_temperatures + 1)
    estimate = _anneal(key, start, base_log_prob, energy_fn, betas, annealing)
    return estimate._replace(value=-estimate.value)


def log_normaliser_report(
    forward: AnnealedEstimate, reverse: AnnealedEstimate, *, exact_start: bool
) -> dict[str, float]:
    """The estimates of both directions for a table.

    Args:
        forward: from `forward_log_normaliser`.
        reverse: from `reverse_log_normaliser`.
        exact_start: whether the reverse chains started at exact draws from the tilted prior.

    Returns:
        "lower"; "upper", or "from_chain" instead if the starting points came from a chain; and
        "effective_sample_size" and "acceptance" of the forward chains.
    """
    return {
        "lower": float(forward.value),
        "upper" if exact_start else "from_chain": float(reverse.value),
        "effective_sample_size": float(forward.effective_sample_size),
        "acceptance": float(forward.acceptance),
    }


def _anneal(
    key: jax.Array,
    start: jax.Array,
    base_log_prob: LogDensity,
    energy_fn: EnergyFn,
    betas: jax.Array,
    annealing: Annealing,
) -> AnnealedEstimate:
    def body(carried: tuple[jax.Array, jax.Array], inputs: Any) -> tuple[Any, jax.Array]:
        position, log_weight = carried
        step_key, before, beta = inputs
        log_weight = log_weight - (beta - before) * energy_fn(position)

        def log_density(values: jax.Array) -> jax.Array:
            return base_log_prob(values) - beta * energy_fn(values)

        accepted = jnp.zeros(())
        for move_key in jax.random.split(step_key, annealing.moves):
            position, share = _adjusted_step(move_key, position, log_density, annealing.step_size)
            accepted = accepted + share / annealing.moves
        return (position, log_weight), accepted

    keys = jax.random.split(key, len(betas) - 1)
    first = (start, jnp.zeros(len(start)))
    (position, log_weight), accepted = jax.lax.scan(body, first, (keys, betas[:-1], betas[1:]))
    total = jax.nn.logsumexp(log_weight)
    size = jnp.exp(2 * total - jax.nn.logsumexp(2 * log_weight))
    value = total - jnp.log(len(start))
    return AnnealedEstimate(value, size, accepted.mean(), position, log_weight)


def _adjusted_step(
    key: jax.Array, position: jax.Array, log_density: LogDensity, step_size: float
) -> tuple[jax.Array, jax.Array]:
    """A Langevin proposal and its acceptance test (MALA, Roberts and Tweedie 1996).

    The proposal is that of `method.langevin` at T = 1: z + (s²/2) ∇ log p(z) + s ε.
    """

    def total(values: jax.Array) -> tuple[jax.Array, jax.Array]:
        density = log_density(values)
        return density.sum(), density

    with_gradient = jax.grad(total, has_aux=True)

    def log_proposal(to: jax.Array, start: jax.Array, gradient: jax.Array) -> jax.Array:
        offset = to - start - 0.5 * step_size**2 * gradient
        return -jnp.sum(jnp.square(offset), axis=-1) / (2 * step_size**2)

    noise_key, test_key = jax.random.split(key)
    gradient, density = with_gradient(position)
    noise = jax.random.normal(noise_key, position.shape, position.dtype)
    proposal = position + 0.5 * step_size**2 * gradient + step_size * noise
    proposal_gradient, proposal_density = with_gradient(proposal)
    log_ratio = proposal_density - density
    log_ratio += log_proposal(position, proposal, proposal_gradient)
    log_ratio -= log_proposal(proposal, position, gradient)
    # If the energy of a proposal is not finite, the comparison is false and it is rejected.
    accept = jnp.log(jax.random.uniform(test_key, density.shape)) < log_ratio
    return jnp.where(accept[:, None], proposal, position), jnp.mean(accept)


def tilted_draws(
    key: jax.Array,
    base_sample: Callable[[jax.Array, int], jax.Array],
    energy_fn: EnergyFn,
    lowest_energy: float,
    num_draws: int,
    *,
    most_tries: int = 1_000_000,
    batch_size: int = 50_000,
) -> np.ndarray:
    """Exact, independent draws from exp(−E) p_0 / Z, by rejection sampling from p_0.

    A draw from p_0 is kept with probability exp(E_low − E), so a share Z exp(E_low) is kept.

    Args:
        key: PRNG key.
        base_sample: (key, N) → exact draws of p_0, `[N, Z]`.
        energy_fn: E, of `[N, Z]` → `[N]`.
        lowest_energy: E_low, a lower bound on E.
        num_draws: number of draws to return.
        most_tries: maximal number of draws from p_0.
        batch_size: draws from p_0 at a time.

    Returns:
        At most `num_draws` draws, `[N, Z]`; fewer, or even none, if the tries run out.

    Raises:
        ValueError: an energy is below the bound.
    """

    @jax.jit
    def one_batch(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        start_key, test_key = jax.random.split(key)
        start = base_sample(start_key, batch_size)
        energy = energy_fn(start)
        uniform = jax.random.uniform(test_key, energy.shape, minval=jnp.finfo(jnp.float32).tiny)
        return start, jnp.log(uniform) < lowest_energy - energy, energy.min()

    kept: list[np.ndarray] = []
    for batch_key in jax.random.split(key, max(most_tries // batch_size, 1)):
        start, accepted, lowest = one_batch(batch_key)
        if lowest < lowest_energy:
            raise ValueError(f"an energy of {float(lowest):.4g} lies below {lowest_energy:.4g}")
        kept.append(np.asarray(start)[np.asarray(accepted)])
        if sum(map(len, kept)) >= num_draws:
            break
    return np.concatenate(kept)[:num_draws]
