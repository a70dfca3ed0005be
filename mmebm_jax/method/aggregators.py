"""Aggregators: from one expert per modality to a posterior over the shared latent.

Whatever the aggregator, the posterior is a mixture of K diagonal components, so that sampling and
densities (`posterior`) are the same for all. Each aggregator forms K groups of experts and turns
every group into one component; a missing modality is in no group. A new aggregator is an entry of
`AGGREGATORS`; a hyperparameter of it is a field of `Aggregation`, which the builders fill from the
field of the same name in `config.model`.

| aggregator | components | reference |
|---|---|---|
| mixture | every expert | MMVAE, Shi et al. 2019, arXiv:1911.03393 |
| product | product of all experts | MVTCAE, Hwang et al. 2021 |
| product_with_prior | the same and N(0, I) | MVAE, Wu & Goodman 2018, arXiv:1802.05335 |
| mixture_of_products | products of all subsets, N(0, I) in the full one | MoPoE, arXiv:2105.02470 |
| geometric | weighted geometric mean with N(0, I) | mmJSD, Sutter et al. 2020, arXiv:2006.08242 |
| wasserstein | 2-Wasserstein barycenter | WB-VAE |
| hellinger | moments of the Hellinger barycenter | HELVAE |
| consensus | weighted mean of correlated experts | CoDE-VAE |
"""

import itertools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from mmebm_jax.typing import Diagonal, Mask


class Experts(NamedTuple):
    """One diagonal expert q_m(z | x_m) per modality."""

    location: jax.Array  # shape=[M, B, Z]
    scale: jax.Array  # shape=[M, B, Z], > 0
    observed: jax.Array  # shape=[M, B], dtype=bool


@struct.dataclass
class Posterior:
    """q(z | x) as a mixture of K diagonal components of one family."""

    location: jax.Array  # shape=[K, B, Z]
    scale: jax.Array  # shape=[K, B, Z], > 0
    log_weight: jax.Array  # shape=[K, B], −inf for a component that does not exist
    family: str = struct.field(pytree_node=False, default="gaussian")


class Aggregation(NamedTuple):
    """Which aggregator, and the hyperparameters of all of them."""

    aggregator: str = "mixture"  # a name of `AGGREGATORS`
    correlation: float = 0.0  # ρ in [0, 1) between experts, read by "consensus" alone


def stack(experts: Mapping[str, Diagonal], mask: Mask | None = None) -> Experts:
    """Experts by name (each `[B, Z]`) as arrays; without a mask everything is observed."""
    location = jnp.stack([expert.location for expert in experts.values()])
    scale = jnp.stack([expert.scale for expert in experts.values()])
    if mask is None:
        observed = jnp.ones(location.shape[:2], bool)
    else:
        observed = jnp.stack([mask[name] for name in experts])
    return Experts(location, scale, observed)


def aggregate(experts: Experts, aggregation: Aggregation, *, family: str = "gaussian") -> Posterior:
    """The posterior given the observed experts.

    Args:
      experts: M experts of B examples; each example must have at least one that is observed.
      aggregation: how they combine.
      family: of the experts; only "mixture" takes one that is not Gaussian.
    """
    posterior = AGGREGATORS[aggregation.aggregator](experts, aggregation)
    return posterior.replace(family=family)  # type: ignore[attr-defined]


def subsets(num_modalities: int) -> np.ndarray:
    """Every subset but the empty one, `bool[2^M − 1, M]`."""
    rows = itertools.product([False, True], repeat=num_modalities)
    return np.array(list(rows)[1:])


def subset_members(experts: Experts) -> tuple[jax.Array, jax.Array]:
    """Which experts each subset holds, `bool[S, M, B]`, and whether all are observed, `[S, B]`."""
    rows = jnp.asarray(subsets(len(experts.observed)))[:, :, None]
    exists = jnp.all(experts.observed[None] | ~rows, axis=1)
    return jnp.broadcast_to(rows, (len(rows), *experts.observed.shape)), exists


def uniform_log_weight(exists: jax.Array) -> jax.Array:
    """Equal weights of the components that exist, `bool[K, B]` → log weights `[K, B]`."""
    count = exists.sum(axis=0, keepdims=True).astype(jnp.float32)
    return jnp.where(exists, -jnp.log(count), -jnp.inf)


# Below, `member` is bool[K, M, B]: which experts make up each component. Scales may differ by many
# orders of magnitude, so products and overlaps are formed from their logarithms.


def product(experts: Experts, member: jax.Array, prior: jax.Array | None = None) -> Diagonal:
    """Products of experts, `[K, B, Z]`; N(0, I) is one more expert where `prior`, `bool[K, B]`.

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
    """2-Wasserstein barycenters: of diagonal Gaussians, the means of means and deviations."""
    weight = member / jnp.maximum(member.sum(axis=1, keepdims=True), 1)
    average = jnp.einsum("kmb,amb...->akb...", weight, jnp.stack([experts.location, experts.scale]))
    return Diagonal(*average)


def hellinger(experts: Experts, member: jax.Array) -> Diagonal:
    """Moments of the density proportional to (Σ_m √q_m)², one diagonal Gaussian.

    Its terms are the experts and, for every pair, a Gaussian as heavy as their overlap S_ij.
    """
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
    weight = jax.nn.softmax(jnp.where(both, log_overlap[None], -jnp.inf), axis=(1, 2))[..., None]
    location = jnp.sum(weight * pair_mean[None], axis=(1, 2))
    spread = pair_variance[None] + jnp.square(pair_mean[None] - location[:, None, None])
    return Diagonal(location, jnp.sqrt(jnp.sum(weight * spread, axis=(1, 2))))


def consensus(experts: Experts, member: jax.Array, correlation: float) -> Diagonal:
    """The best linear estimate from experts whose errors correlate by ρ, 0 ≤ ρ < 1.

    With Σ = D((1 − ρ)I + ρ11ᵀ)D for D = diag(σ), its inverse is known in closed form.
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


def _mixture(experts: Experts, _: Aggregation) -> Posterior:  # its density: `posterior.log_prob`
    log_weight = uniform_log_weight(experts.observed)
    return Posterior(experts.location, experts.scale, log_weight)


def _mixture_of_products(experts: Experts, _: Aggregation) -> Posterior:
    members, exists = subset_members(experts)
    full = jnp.asarray(subsets(len(experts.observed)).all(axis=1))[:, None]
    component = product(experts, members, prior=jnp.broadcast_to(full, exists.shape))
    return Posterior(*component, uniform_log_weight(exists))


Aggregator = Callable[[Experts, Aggregation], Posterior]


def _single(combine: Callable[[Experts, jax.Array, Aggregation], Diagonal]) -> Aggregator:
    """The aggregator of one component, which all observed experts make up."""

    def aggregator(experts: Experts, aggregation: Aggregation) -> Posterior:
        component = combine(experts, experts.observed[None], aggregation)
        return Posterior(*component, jnp.zeros([1, experts.observed.shape[1]]))

    return aggregator


def _with_prior(experts: Experts, member: jax.Array, _: Aggregation) -> Diagonal:
    return product(experts, member, prior=jnp.ones_like(member[:, 0]))


AGGREGATORS: dict[str, Aggregator] = {
    "mixture": _mixture,
    "product": _single(lambda experts, member, _: product(experts, member)),
    "product_with_prior": _single(_with_prior),
    "mixture_of_products": _mixture_of_products,
    "geometric": _single(lambda experts, member, _: geometric(experts, member)),
    "wasserstein": _single(lambda experts, member, _: wasserstein(experts, member)),
    "hellinger": _single(lambda experts, member, _: hellinger(experts, member)),
    "consensus": _single(
        lambda experts, member, settings: consensus(experts, member, settings.correlation)
    ),
}
