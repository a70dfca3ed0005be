"""Approximate posterior q_φ(u | x) = q_φ(z | x) Π_m q_m(w_m | x_m): its draws, scales and loss.

`distributions.aggregators` builds q_φ(z | x) from the experts, always as a mixture of K diagonal
components.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmebm_jax import batching
from mmebm_jax.distributions import families
from mmebm_jax.distributions.combinations import Experts
from mmebm_jax.distributions.families import log_density
from mmebm_jax.distributions.mixture_of_experts import Posterior, log_prob, mean, sample
from mmebm_jax.typing import Diagonal, Latents, Mask

DrawPrivate = Callable[[jax.Array, str, jax.Array], jax.Array]
"""(key, modality, z `[B, Z]`) → draws of its private latent given z, `[B, W]`."""


class Encoding(NamedTuple):
    """Everything that the inference network infers about a batch."""

    experts: Experts
    posterior: Posterior  # the experts, aggregated
    private: dict[str, Diagonal]  # name → q_m(w | x_m), [B, W]; empty without private latents
    auxiliary_scale: dict[str, jax.Array]  # name → scale of r_m(w), [W]; see `bounds`
    subset_logit: jax.Array  # shape=[2^M − 1], logits of CoDE-VAE's subset weights


def every_nth(encoding: Encoding, stride: int) -> Encoding:
    """Return the encoding of every `stride`-th example."""
    return encoding._replace(
        experts=batching.every_nth(encoding.experts, stride, axis=1),
        posterior=batching.every_nth(encoding.posterior, stride, axis=1),
        private=batching.every_nth(encoding.private, stride),
    )


def infer(
    key: jax.Array,
    encoding: Encoding,
    draw_private: DrawPrivate,
    mask: Mask | None = None,
    *,
    central: bool = False,
) -> Latents:
    """Draw all latents; with `central`, return means except for what `redraw_missing` draws."""
    shared_key, own_key, prior_key = jax.random.split(key, 3)
    posterior = encoding.posterior
    shared = mean(posterior) if central else sample(shared_key, posterior)
    private = {}
    for index, (name, own) in enumerate(encoding.private.items()):
        own_draw = families.sample(jax.random.fold_in(own_key, index), own, posterior.family)
        private[name] = own.location if central else own_draw
    latents = Latents(shared, private)
    return latents if mask is None else redraw_missing(prior_key, latents, draw_private, mask)


def redraw_missing(
    key: jax.Array, latents: Latents, draw_private: DrawPrivate, mask: Mask
) -> Latents:
    """Redraw the private latents of missing modalities from their prior given z.

    This is a Gibbs step of the posterior: given z, the observed data say nothing about them.
    """
    private = {}
    for index, (name, values) in enumerate(latents.private.items()):
        unseen = draw_private(jax.random.fold_in(key, index), name, latents.shared)
        private[name] = jnp.where(mask[name][:, None], values, unseen)
    return latents._replace(private=private)


def scales(encoding: Encoding, mask: Mask | None = None) -> Latents:
    """Return the posterior scale of every latent coordinate, to precondition a chain.

    For a mixture, it is the smallest component's; for private latents of missing modalities, 1.
    """
    posterior = encoding.posterior
    exists = jnp.isfinite(posterior.log_weight)[..., None]
    shared = jnp.where(exists, posterior.scale, jnp.inf).min(axis=0)
    private = {name: own.scale for name, own in encoding.private.items()}
    if mask is not None:
        seen = {name: mask[name][:, None] for name in private}
        private = {name: jnp.where(seen[name], private[name], 1.0) for name in private}
    return jax.lax.stop_gradient(Latents(shared, private))


def inference_loss(
    encoding: Encoding, latents: Latents, mask: Mask | None = None, *, independent: bool = False
) -> jax.Array:
    """Compute −log q_φ(u | x) of fixed latents, `[B]` nats; w_m counts where x_m is observed.

    With `independent`, each observed expert is scored separately instead of through the aggregate:
    the mean of −log q_m(z | x_m), the papers' ablation with independent inference networks.
    """
    posterior = encoding.posterior
    if independent:
        experts = encoding.experts
        each = log_density(posterior.family, latents.shared[None], experts.location, experts.scale)
        observed = experts.observed
        total = jnp.where(observed, each.sum(axis=-1), 0.0).sum(axis=0) / observed.sum(axis=0)
    else:
        total = log_prob(posterior, latents.shared)
    for name, distribution in encoding.private.items():
        own = log_density(posterior.family, latents.private[name], *distribution).sum(axis=-1)
        total = total + (own if mask is None else jnp.where(mask[name], own, 0.0))
    return -total
