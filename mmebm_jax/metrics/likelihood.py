"""Log-likelihoods by importance sampling, for models whose joint density is known.

All log-densities are in nats. Latents may be any pytree, for example shared and private ones. With
a prior that is known only up to its normaliser, such as exp(−E(z)) p_0(z), every log p(x) here is
too high by log Z, which `annealing` estimates; in conditionals log Z cancels.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Target(NamedTuple):
    """A joint density of B fixed examples, and a proposal distribution for its latents.

    The functions hold the examples.
    """

    propose: Callable[[jax.Array, int], tuple[Any, jax.Array]]
    """(key, K) → latents, leaves `[K, B, ...]`, and log q(u | x) at them, `[K, B]`."""
    log_joint: Callable[[Any], jax.Array]
    """Latents, leaves `[K, B, ...]` → log p(x, u), `[K, B]`."""


class Estimate(NamedTuple):
    """The logarithm of the mean importance weight, for each of B examples."""

    value: jax.Array  # shape=[B], nats
    effective_sample_size: jax.Array  # shape=[B], in [1, K]: (Σ w)² / Σ w²


class ConditionalEstimate(NamedTuple):
    """log p(x_T | x_S), and the two estimates of which it is the difference."""

    value: jax.Array  # shape=[B], nats
    both: Estimate  # of log p(x_T, x_S)
    observed: Estimate  # of log p(x_S)


def importance_weighted_bound(
    key: jax.Array, target: Target, num_samples: int, *, chunk_size: int = 100
) -> Estimate:
    """The importance-weighted bound (Burda et al. 2016, arXiv:1509.00519, equation 8).

        log (1/K) Σ_k p(x, u_k) / q(u_k | x),    u_k ~ q(u | x)

    Its expectation is at most log p(x), grows with K and reaches log p(x) in the limit. An
    effective sample size of only a few means that K is too small for the proposal.

    Args:
        key: PRNG key.
        target: p and q.
        num_samples: K, at least 1.
        chunk_size: maximal number of samples in memory at a time; the largest divisor of K up to
            this number is used.

    Returns:
        The bound and its effective sample size, `[B]` each.

    Raises:
        ValueError: `num_samples` or `chunk_size` is below 1.
    """
    if min(num_samples, chunk_size) < 1:
        raise ValueError(
            f"{num_samples} samples in chunks of {chunk_size}; both must be at least 1"
        )
    size = next(d for d in range(min(chunk_size, num_samples), 0, -1) if num_samples % d == 0)

    def one_chunk(_: None, chunk_key: jax.Array) -> tuple[None, tuple[jax.Array, jax.Array]]:
        latents, log_proposal = target.propose(chunk_key, size)
        log_weight = target.log_joint(latents) - log_proposal
        return None, (_log_sum(log_weight), _log_sum(2 * log_weight))

    keys = jax.random.split(key, num_samples // size)
    _, (sums, squares) = jax.lax.scan(one_chunk, None, keys)
    total, total_square = _log_sum(sums), _log_sum(squares)
    return Estimate(total - math.log(num_samples), jnp.exp(2 * total - total_square))


def conditional_log_likelihood(
    key: jax.Array, both: Target, observed: Target, num_samples: int, *, chunk_size: int = 100
) -> ConditionalEstimate:
    """log p(x_T | x_S) = log p(x_T, x_S) − log p(x_S), each by an importance-weighted bound.

    A difference of two lower bounds is neither a lower nor an upper bound; it converges as K grows.
    Use it only if both effective sample sizes are well above 1.

    Args:
        key: PRNG key.
        both: joint density with x_T and x_S, proposals from q(u | x_T, x_S).
        observed: joint density with only x_S, proposals from q(u | x_S).
        num_samples: K, for each of them.
        chunk_size: as in `importance_weighted_bound`.

    Returns:
        The difference, and both bounds.

    Raises:
        ValueError: as `importance_weighted_bound`.
    """
    bound = partial(importance_weighted_bound, num_samples=num_samples, chunk_size=chunk_size)
    both_key, observed_key = jax.random.split(key)
    of_both, of_observed = bound(both_key, both), bound(observed_key, observed)
    return ConditionalEstimate(of_both.value - of_observed.value, of_both, of_observed)


_log_sum = partial(jax.nn.logsumexp, axis=0)
