"""From one expert a modality to a posterior over the shared latent: the mixture of experts.

Shi et al. 2019 (MMVAE, arXiv:1911.03393): q(z | x) = Σ_m π_m q_m(z | x_m), where the weights are
uniform over the modalities that are observed.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

from mmebm_jax.typing import Mask


class Experts(NamedTuple):
    """Diagonal Gaussian experts, one a modality, and how much each counts."""

    mean: jax.Array  # shape=[M, B, Z]
    scale: jax.Array  # shape=[M, B, Z], standard deviations > 0
    log_weight: jax.Array  # shape=[M, B], −inf where the modality is missing


def mixture_of_experts(
    experts: Mapping[str, tuple[jax.Array, jax.Array]], mask: Mask | None = None
) -> Experts:
    """Stack experts (name → mean and scale, each `[B, Z]`) into a mixture.

    A missing modality has weight zero; an example must have at least one that is observed, or its
    weights are NaN.
    """
    mean = jnp.stack([experts[name][0] for name in experts])
    scale = jnp.stack([experts[name][1] for name in experts])
    if mask is None:
        observed = jnp.ones(mean.shape[:2])
    else:
        observed = jnp.stack([mask[name] for name in experts]).astype(mean.dtype)
    return Experts(mean, scale, jnp.log(observed) - jnp.log(observed.sum(axis=0)))


def log_prob(experts: Experts, latents: jax.Array) -> jax.Array:
    """log q(z | x) of the mixture at latents `[..., B, Z]`; gives `[..., B]`."""
    each = norm.logpdf(latents[..., None, :, :], experts.mean, experts.scale).sum(axis=-1)
    return jax.nn.logsumexp(each + experts.log_weight, axis=-2)


def sample(key: jax.Array, experts: Experts) -> jax.Array:
    """One draw from the mixture for each example, `[B, Z]`."""
    choice_key, noise_key = jax.random.split(key)
    chosen = jax.random.categorical(choice_key, experts.log_weight, axis=0)
    mean, scale = (
        jnp.take_along_axis(values, chosen[None, :, None], axis=0)[0]
        for values in (experts.mean, experts.scale)
    )
    return mean + scale * jax.random.normal(noise_key, mean.shape)


def stratified_sample(key: jax.Array, experts: Experts) -> jax.Array:
    """One reparametrised draw from every expert, `[M, B, Z]`."""
    return experts.mean + experts.scale * jax.random.normal(key, experts.mean.shape)


def expert_mean(experts: Experts) -> jax.Array:
    """Mean of the observed experts' means, `[B, Z]`: the mixture's mean."""
    return jnp.sum(jnp.exp(experts.log_weight)[..., None] * experts.mean, axis=0)
