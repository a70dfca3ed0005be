"""A posterior q(z | x) as a mixture of K diagonal components: its density, its draws, its mean."""

import jax
import jax.numpy as jnp
from flax import struct

from mmebm_jax import batching
from mmebm_jax.distributions.families import log_density, standard_noise


@struct.dataclass
class Posterior:
    """q(z | x) as a mixture of K diagonal components of one family."""

    location: jax.Array  # shape=[K, B, Z]
    scale: jax.Array  # shape=[K, B, Z], > 0
    log_weight: jax.Array  # shape=[K, B], −inf for a component that does not exist
    family: str = struct.field(pytree_node=False, default="gaussian")


def uniform_log_weight(exists: jax.Array) -> jax.Array:
    """Equal weights of the components that exist, `bool[K, B]` → log weights `[K, B]`."""
    count = exists.sum(axis=0, keepdims=True).astype(jnp.float32)
    return jnp.where(exists, -jnp.log(count), -jnp.inf)


def log_prob(posterior: Posterior, latents: jax.Array) -> jax.Array:
    """log q(z | x) at latents `[..., B, Z]`; gives `[..., B]` nats.

    For the aggregator "mixture" this is the density of the mixture of experts, (1/M) Σ_m q_m.
    """
    rank = latents.ndim + 1
    location, scale = (batching.to_rank(x, rank) for x in (posterior.location, posterior.scale))
    each = log_density(posterior.family, latents[..., None, :, :], location, scale).sum(axis=-1)
    return jax.nn.logsumexp(each + batching.to_rank(posterior.log_weight, each.ndim), axis=-2)


def sample(key: jax.Array, posterior: Posterior) -> jax.Array:
    """Draw once for each example, `[B, Z]`, reparametrised within its component."""
    choice_key, noise_key = jax.random.split(key)
    chosen = jax.random.categorical(choice_key, posterior.log_weight, axis=0)
    location, scale = (
        jnp.take_along_axis(values, chosen[None, :, None], axis=0)[0]
        for values in (posterior.location, posterior.scale)
    )
    return location + scale * standard_noise(noise_key, posterior.family, location.shape)


def stratified_sample(key: jax.Array, posterior: Posterior, num_samples: int = 1) -> jax.Array:
    """Draw from every component, reparametrised, `[num_samples, K, B, Z]`."""
    noise = standard_noise(key, posterior.family, (num_samples, *posterior.location.shape))
    return posterior.location[None] + posterior.scale[None] * noise


def mean(posterior: Posterior) -> jax.Array:
    """The mixture's mean, `[B, Z]`."""
    return jnp.sum(jnp.exp(posterior.log_weight)[..., None] * posterior.location, axis=0)
