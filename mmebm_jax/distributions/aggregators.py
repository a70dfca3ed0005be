"""Aggregators: from one expert per modality to a posterior over the shared latent.

For every aggregator, the posterior is a mixture of K diagonal components, so that all share one
implementation of draws and density (`distributions.mixture_of_experts`). Each forms K groups of
experts and turns every group into one component; a missing modality is in no group. The formulas
are in `distributions.combinations`. To add one, add an entry to `AGGREGATORS`; its hyperparameters
are fields of `Aggregation`, filled from the fields of the same names in `config.model`.

| aggregator | components | reference |
|---|---|---|
| mixture | every expert | MMVAE, Shi et al. 2019, arXiv:1911.03393 |
| product | product of all experts | MVTCAE, Hwang et al. 2021 |
| product_with_prior | product of experts and N(0, I) | MVAE, Wu & Goodman 2018, arXiv:1802.05335 |
| mixture_of_products | products of all subsets, N(0, I) in the full one | MoPoE, arXiv:2105.02470 |
| geometric | weighted geometric mean with N(0, I) | mmJSD, Sutter et al. 2020, arXiv:2006.08242 |
| wasserstein | 2-Wasserstein barycenter | WB-VAE, Qiu et al. 2024, arXiv:2412.20487 |
| mixture_of_wasserstein | barycenters of all subsets | MWB-VAE, the same paper |
| hellinger | moments of the Hellinger barycenter | HELVAE, arXiv:2601.06572 |
| mixture_of_hellinger | the same moments for all subsets | MoHELVAE |
| holder | every pair of experts: the Hellinger barycenter itself | Hölder, arXiv:2606.13381 |
| joint_expert | a joint expert; product of experts for subsets | JMVAE, arXiv:1611.01891 |
| consensus | weighted mean of correlated experts | CoDE-VAE |
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmebm_jax.distributions.combinations import (
    Experts,
    consensus,
    geometric,
    hellinger,
    holder,
    joint_or_product,
    product,
    subset_members,
    subsets,
    wasserstein,
)
from mmebm_jax.distributions.mixture_of_experts import Posterior, uniform_log_weight
from mmebm_jax.typing import Diagonal, Mask


class Aggregation(NamedTuple):
    """The choice of aggregator, and the hyperparameters of all aggregators."""

    aggregator: str = "mixture"  # a name of `AGGREGATORS`
    correlation: float = 0.0  # ρ in [0, 1) between experts, read by "consensus" alone


def stack(experts: Mapping[str, Diagonal], mask: Mask | None = None) -> Experts:
    """Stack experts by name (each `[B, Z]`) as arrays; without a mask, all are observed."""
    location = jnp.stack([expert.location for expert in experts.values()])
    scale = jnp.stack([expert.scale for expert in experts.values()])
    if mask is None:
        observed = jnp.ones(location.shape[:2], bool)
    else:
        observed = jnp.stack([mask[name] for name in experts])
    return Experts(location, scale, observed)


def aggregate(experts: Experts, aggregation: Aggregation, *, family: str = "gaussian") -> Posterior:
    """Aggregate the observed experts into the posterior.

    Args:
      experts: M experts of B examples; each example must have at least one observed expert.
      aggregation: how they combine.
      family: family of the experts; only "mixture" supports one that is not Gaussian.
    """
    posterior = AGGREGATORS[aggregation.aggregator](experts, aggregation)
    return posterior.replace(family=family)  # type: ignore[attr-defined]


def _mixture(experts: Experts, _: Aggregation) -> Posterior:
    log_weight = uniform_log_weight(experts.observed)
    return Posterior(experts.location, experts.scale, log_weight)


def _mixture_of_products(experts: Experts, _: Aggregation) -> Posterior:
    members, exists = subset_members(experts)
    full = jnp.asarray(subsets(len(experts.observed)).all(axis=1))[:, None]
    component = product(experts, members, prior=jnp.broadcast_to(full, exists.shape))
    return Posterior(*component, uniform_log_weight(exists))


def _holder(experts: Experts, _: Aggregation) -> Posterior:
    component, log_weight = holder(experts, experts.observed[None])
    return Posterior(*component, log_weight)


Aggregator = Callable[[Experts, Aggregation], Posterior]


def _single(combine: Callable[[Experts, jax.Array, Aggregation], Diagonal]) -> Aggregator:
    """Return an aggregator with one component, which combines all observed experts."""

    def aggregator(experts: Experts, aggregation: Aggregation) -> Posterior:
        component = combine(experts, experts.observed[None], aggregation)
        return Posterior(*component, jnp.zeros([1, experts.observed.shape[1]]))

    return aggregator


def _of_subsets(combine: Callable[[Experts, jax.Array], Diagonal]) -> Aggregator:
    """Return an aggregator with a component for every observed subset, with equal weights."""

    def aggregator(experts: Experts, _: Aggregation) -> Posterior:
        members, exists = subset_members(experts)
        return Posterior(*combine(experts, members), uniform_log_weight(exists))

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
    "mixture_of_wasserstein": _of_subsets(wasserstein),
    "hellinger": _single(lambda experts, member, _: hellinger(experts, member)),
    "mixture_of_hellinger": _of_subsets(hellinger),
    "holder": _holder,
    "joint_expert": _single(lambda experts, member, _: joint_or_product(experts, member)),
    "consensus": _single(
        lambda experts, member, settings: consensus(experts, member, settings.correlation)
    ),
}
