"""The base prior p_0(z): a Gaussian mixture, or the standard Laplace.

The standard normal is the mixture whose components are all N(0, I). Fitting it to latents of the
data (`fitting.mixture`) keeps every array's shape, so nothing is recompiled and checkpoints stay
compatible; the standard Laplace is a flag beside it.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mmebm_jax.distributions.families import log_density, standard_noise

LOG_TWO_PI = float(np.log(2 * np.pi))


class BasePrior(NamedTuple):
    """A mixture of K Gaussians; W_k is the inverse of the covariance's Cholesky factor."""

    log_weight: jax.Array  # shape=[K]
    mean: jax.Array  # shape=[K, Z]
    whitening: jax.Array  # shape=[K, Z, Z], lower triangular: W (z − mean) is standard normal
    is_laplace: jax.Array  # shape=(), dtype=bool: the standard Laplace stands in for the mixture


def standard(num_components: int, num_latents: int, family: str = "gaussian") -> BasePrior:
    """N(0, I), or the standard Laplace, in the shapes of a mixture of `num_components`."""
    return BasePrior(
        jnp.full([num_components], -np.log(num_components), jnp.float32),
        jnp.zeros([num_components, num_latents]),
        jnp.tile(jnp.eye(num_latents), [num_components, 1, 1]),
        jnp.asarray(family == "laplace"),
    )


def base_log_prob(prior: BasePrior, latents: jax.Array) -> jax.Array:
    """log p_0(z) at latents `[B, Z]`; gives `[B]`, nats."""
    # Two large numbers are subtracted: TF32 or bfloat16 would lose their difference.
    precise = partial(jnp.einsum, precision="highest")
    shift = precise("kij,kj->ki", prior.whitening, prior.mean)
    whitened = precise("bj,kij->bki", latents, prior.whitening) - shift[None]
    log_volume = jnp.sum(jnp.log(jnp.diagonal(prior.whitening, axis1=1, axis2=2)), axis=-1)
    each = -0.5 * jnp.sum(jnp.square(whitened), axis=-1) + log_volume[None]
    mixture = jax.nn.logsumexp(each + prior.log_weight[None], axis=-1)
    mixture = mixture - 0.5 * latents.shape[-1] * LOG_TWO_PI
    return jnp.where(prior.is_laplace, log_density("laplace", latents).sum(axis=-1), mixture)


def base_sample(key: jax.Array, prior: BasePrior, num_samples: int) -> jax.Array:
    """Draws from p_0, `[num_samples, Z]`."""
    choice_key, noise_key = jax.random.split(key)
    chosen = jax.random.categorical(choice_key, prior.log_weight, shape=(num_samples,))
    shape = (num_samples, prior.mean.shape[-1])
    noise = standard_noise(noise_key, "gaussian", shape)
    offset = _unwhiten(prior.whitening, chosen, noise)
    laplace = standard_noise(noise_key, "laplace", shape)
    return jnp.where(prior.is_laplace, laplace, prior.mean[chosen] + offset)


def _unwhiten(whitening: jax.Array, chosen: jax.Array, noise: jax.Array) -> jax.Array:
    """The solutions `[B, Z]` of W_k z = noise `[B, Z]`, each with its chosen `[B]` component's W_k.

    By forward substitution, all examples a coordinate at a time. LAPACK's batched solver holds one
    of XLA's threads while it waits for the others, and so may take the length of a whole chain.
    """

    def substitute(solution: jax.Array, coordinate: jax.Array) -> tuple[jax.Array, None]:
        row = whitening[chosen, coordinate]
        rest = noise[:, coordinate] - jnp.sum(row * solution, axis=-1)
        return solution.at[:, coordinate].set(rest / row[:, coordinate]), None

    if not noise.size:  # no shared latent: nothing to index
        return noise
    return lax.scan(substitute, jnp.zeros_like(noise), jnp.arange(noise.shape[-1]))[0]
