"""Functions that combine each group of diagonal experts into one diagonal distribution.

In every function, `member`, bool[K, M, B], says which of the M experts are in each of K groups.
Scales may differ by many orders of magnitude, so products and overlaps are computed from their
logarithms. The names are those of `distributions.aggregators`, which gives the references.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmebm_jax.typing import Diagonal


class Experts(NamedTuple):
    """One diagonal expert q_m(z | x_m) per modality, and optionally one of all modalities."""

    location: jax.Array  # shape=[M, B, Z]
    scale: jax.Array  # shape=[M, B, Z], > 0
    observed: jax.Array  # shape=[M, B], dtype=bool
    joint: Diagonal | None = None  # q(z | x) of complete examples, [1, B, Z]


def subsets(num_modalities: int) -> np.ndarray:
    """Return every non-empty subset, `bool[2^M − 1, M]`."""
    rows = itertools.product([False, True], repeat=num_modalities)
    return np.array(list(rows)[1:])


def subset_members(experts: Experts) -> tuple[jax.Array, jax.Array]:
    """Return each subset's experts, `bool[S, M, B]`, and whether all are observed, `[S, B]`."""
    rows = jnp.asarray(subsets(len(experts.observed)))[:, :, None]
    exists = jnp.all(experts.observed[None] | ~rows, axis=1)
    return jnp.broadcast_to(rows, (len(rows), *experts.observed.shape)), exists


def product(experts: Experts, member: jax.Array, prior: jax.Array | None = None) -> Diagonal:
    """Products of experts, `[K, B, Z]`; where `prior`, `bool[K, B]`, N(0, I) is one more expert.

    A component without members is N(0, I).
    """
    alone = ~member.any(axis=1)
    prior = alone if prior is None else prior | alone
    log_precision = -2.0 * jnp.log(experts.scale)[None]
    log_precision = jnp.where(member[..., None], log_precision, -jnp.inf)
    of_prior = jnp.where(prior[..., None], 0.0, -jnp.inf) * jnp.ones_like(experts.scale[:1])
    everyone = jnp.concatenate([log_precision, of_prior[:, None]], axis=1)
    weight = jax.nn.softmax(everyone, axis=1)[:, :-1]
    location = jnp.sum(weight * experts.location[None], axis=1)
    return Diagonal(location, jnp.exp(-0.5 * jax.nn.logsumexp(everyone, axis=1)))


def geometric(experts: Experts, member: jax.Array) -> Diagonal:
    """Geometric means of the n experts and N(0, I), each to the power 1 / (n + 1)."""
    count = member.sum(axis=1)[..., None].astype(experts.scale.dtype)
    location, scale = product(experts, member, prior=jnp.ones_like(member[:, 0]))
    return Diagonal(location, scale * jnp.sqrt(count + 1.0))


def wasserstein(experts: Experts, member: jax.Array) -> Diagonal:
    """2-Wasserstein barycenters: for diagonal Gaussians, the means of means and of deviations."""
    weight = member / jnp.maximum(member.sum(axis=1, keepdims=True), 1)
    average = jnp.einsum("kmb,amb...->akb...", weight, jnp.stack([experts.location, experts.scale]))
    return Diagonal(*average)


def joint_or_product(experts: Experts, member: jax.Array) -> Diagonal:
    """The joint expert if all modalities are members, otherwise the product of the members.

    Raises:
      ValueError: there is no joint expert.
    """
    if experts.joint is None:
        raise ValueError("the aggregator joint_expert needs an inference network with has_joint.")
    complete = member.all(axis=1)[..., None]
    both = zip(experts.joint, product(experts, member), strict=True)
    return Diagonal(*(jnp.where(complete, joint, alone) for joint, alone in both))


class Pairs(NamedTuple):
    """The density proportional to (Σ_m √q_m)²: a Gaussian for every ordered pair of experts.

    The pair of an expert with itself is that expert; other pairs have their overlap S_ij as weight.
    """

    mean: jax.Array  # shape=[M, M, B, Z]
    variance: jax.Array  # shape=[M, M, B, Z]
    log_overlap: jax.Array  # shape=[K, M, M, B], −inf outside of each group


def pairs(experts: Experts, member: jax.Array) -> Pairs:
    """Exact Hölder pooling of each group's experts, with α = ½."""
    mean, log_scale = experts.location, jnp.log(experts.scale)
    of_i, of_j = log_scale[:, None], log_scale[None]
    log_sum = jnp.logaddexp(2 * of_i, 2 * of_j)  # log(σ_i² + σ_j²), shape=[M, M, B, Z]
    log_overlap = jnp.sum(
        0.5 * (jnp.log(2.0) + of_i + of_j - log_sum)
        - 0.25 * jnp.square((mean[:, None] - mean[None]) * jnp.exp(-0.5 * log_sum)),
        axis=-1,
    )
    share = jax.nn.sigmoid(2 * (of_j - of_i))
    pair_mean = share * mean[:, None] + (1 - share) * mean[None]
    pair_variance = jnp.exp(jnp.log(2.0) + 2 * of_i + 2 * of_j - log_sum)
    both = member[:, :, None] & member[:, None]
    return Pairs(pair_mean, pair_variance, jnp.where(both, log_overlap[None], -jnp.inf))


def hellinger(experts: Experts, member: jax.Array) -> Diagonal:
    """Moments of the density proportional to (Σ_m √q_m)², as one diagonal Gaussian."""
    pair_mean, pair_variance, log_overlap = pairs(experts, member)
    weight = jax.nn.softmax(log_overlap, axis=(1, 2))[..., None]
    location = jnp.sum(weight * pair_mean[None], axis=(1, 2))
    spread = pair_variance[None] + jnp.square(pair_mean[None] - location[:, None, None])
    return Diagonal(location, jnp.sqrt(jnp.sum(weight * spread, axis=(1, 2))))


def holder(experts: Experts, member: jax.Array) -> tuple[Diagonal, jax.Array]:
    """The density of `hellinger` itself, for one group `bool[1, M, B]`, as a mixture.

    Returns:
      Components, the unordered pairs `[M (M + 1) / 2, B, Z]`, and log weights `[M (M + 1) / 2, B]`.
    """
    pair_mean, pair_variance, log_overlap = pairs(experts, member)
    first, second = np.triu_indices(len(pair_mean))
    # A pair of two different experts stands for both of its orders.
    orders = jnp.asarray(np.log(np.where(first < second, 2.0, 1.0))[:, None], pair_mean.dtype)
    log_weight = jax.nn.log_softmax(log_overlap[0, first, second] + orders, axis=0)
    return Diagonal(pair_mean[first, second], jnp.sqrt(pair_variance[first, second])), log_weight


def consensus(experts: Experts, member: jax.Array, correlation: float) -> Diagonal:
    """The best linear estimate from experts whose errors have correlation ρ, 0 ≤ ρ < 1.

    Their covariance is Σ = D((1 − ρ)I + ρ11ᵀ)D with D = diag(σ), whose inverse has a closed form.
    """
    # Relative to the most certain expert: squares of 1/σ could overflow.
    log_scale = jnp.where(member[..., None], jnp.log(experts.scale)[None], jnp.inf)
    smallest = jnp.min(log_scale, axis=1, keepdims=True)
    smallest = jax.lax.stop_gradient(jnp.where(jnp.isfinite(smallest), smallest, 0.0))
    certainty = jnp.where(member[..., None], jnp.exp(smallest - jnp.log(experts.scale)[None]), 0.0)
    count = member.sum(axis=1, keepdims=True)[..., None]
    shrink = correlation / (1.0 + (count - 1.0) * correlation)
    total = certainty.sum(axis=1, keepdims=True)
    weight = certainty * (certainty - shrink * total) / (1.0 - correlation)
    precision = weight.sum(axis=1)
    location = jnp.sum(weight * experts.location[None], axis=1) / precision
    return Diagonal(location, jnp.exp(smallest[:, 0]) / jnp.sqrt(precision))
