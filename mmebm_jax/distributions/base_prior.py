"""The base prior p_0(u): standard, or Gaussian mixtures over z and over each w_m given z.

The standard normal is the mixture whose components are all N(0, I). Fitting it to latents of the
data (`fitting.base_prior`) keeps every array's shape, so nothing is recompiled and checkpoints stay
compatible; the standard Laplace is a separate flag.

Every component k of the mixture over z has its own mixtures over the private latents:

    p_0(w_m | z) = Σ_k p_0(k | z) Σ_j π_kj N(w_m; μ_kj, Σ_kj)

so private latents that are not inferred still depend on what z says about an example.
"""

from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mmebm_jax.distributions.families import log_density, standard_noise
from mmebm_jax.typing import Latents, Params

LOG_TWO_PI = float(np.log(2 * np.pi))
Candidates = TypeVar("Candidates")  # a pytree of arrays


class Mixture(NamedTuple):
    """A mixture of N Gaussians over latents of D dimensions, with fields as in `BasePrior`.

    For a private latent, N = K · J: J for each component of z, in the order of the components.
    """

    log_weight: jax.Array  # shape=[N]; for a private latent, normalised over each J
    mean: jax.Array  # shape=[N, D]
    whitening: jax.Array  # shape=[N, D, D]


class BasePrior(NamedTuple):
    """A mixture of K Gaussians; W_k is the inverse of the covariance's Cholesky factor."""

    log_weight: jax.Array  # shape=[K]
    mean: jax.Array  # shape=[K, Z]
    whitening: jax.Array  # shape=[K, Z, Z], lower triangular: W (z − mean) is standard normal
    is_laplace: jax.Array  # shape=(), dtype=bool: the standard Laplace replaces all mixtures
    private: dict[str, Mixture] = {}  # noqa: RUF012  name → p_0(w_m | z); empty if it is standard


class PrivateShapes(NamedTuple):
    """Sizes of the mixtures over private latents."""

    names: tuple[str, ...]  # of the modalities
    size: int  # W
    num_components: int  # J


NO_PRIVATE = PrivateShapes((), 0, 0)


def standard(
    num_components: int,
    num_latents: int,
    family: str = "gaussian",
    private: PrivateShapes = NO_PRIVATE,
) -> BasePrior:
    """Return N(0, I), or the standard Laplace, in the shapes of mixtures."""

    def equal(count: int, size: int, of_each: int) -> Mixture:
        return Mixture(
            jnp.full([count], -np.log(of_each), jnp.float32),
            jnp.zeros([count, size]),
            jnp.tile(jnp.eye(size), [count, 1, 1]),
        )

    each = private.num_components
    mixtures = {name: equal(num_components * each, private.size, each) for name in private.names}
    shared = equal(num_components, num_latents, num_components)
    return BasePrior(*shared, jnp.asarray(family == "laplace"), mixtures)


def with_clusters(prior: BasePrior, generator_params: Params) -> BasePrior:
    """Return the prior p_0(z) = Σ_c π_c N(z; μ_c, I) if the generator's parameters hold π and μ.

    This is CMVAE's prior (Palumbo et al. 2024, ICLR). Its bound writes log p(z) as
    Σ_c p(c | z) log [p(z | c) p(c) / p(c | z)], which is equal. Without such parameters, `prior` is
    returned.
    """
    if "cluster_logit" not in generator_params:
        return prior
    mean = generator_params["cluster_mean"]
    log_weight = jax.nn.log_softmax(generator_params["cluster_logit"])
    return prior._replace(log_weight=log_weight, mean=mean)


def base_log_prob(prior: BasePrior, latents: jax.Array) -> jax.Array:
    """log p_0(z) at latents `[B, Z]`; gives `[B]`, nats."""
    each = _log_components(prior.mean, prior.whitening, latents)
    mixture = jax.nn.logsumexp(each + prior.log_weight[None], axis=-1)
    return jnp.where(prior.is_laplace, log_density("laplace", latents).sum(axis=-1), mixture)


def log_responsibility(prior: BasePrior, latents: jax.Array) -> jax.Array:
    """log p_0(k | z) of each component at latents `[B, Z]`; gives `[B, K]`."""
    each = _log_components(prior.mean, prior.whitening, latents)
    return jax.nn.log_softmax(each + prior.log_weight[None], axis=-1)


def private_log_prob(
    prior: BasePrior, name: str, log_share: jax.Array, values: jax.Array
) -> jax.Array:
    """log p_0(w_m | z) of private latents `[B, W]` at `log_responsibility` of z; `[B]`, nats."""
    mixture = prior.private[name]
    each = _log_components(mixture.mean, mixture.whitening, values)
    each = each + _conditional_weight(mixture, log_share)
    standard = log_density("laplace", values).sum(axis=-1)
    return jnp.where(prior.is_laplace, standard, jax.nn.logsumexp(each, axis=-1))


def private_log_prior(
    prior: BasePrior | None, family: str, latents: Latents
) -> dict[str, jax.Array]:
    """log p_0(w_m | z) of each private latent, name → `[B]`; without `prior`, p_0 is standard."""
    shared, private = latents
    if prior is None or not prior.private:
        return {name: log_density(family, w).sum(axis=-1) for name, w in private.items()}
    log_share = log_responsibility(prior, shared)
    return {n: private_log_prob(prior, n, log_share, w) for n, w in private.items()}


def private_sample(key: jax.Array, prior: BasePrior, name: str, log_share: jax.Array) -> jax.Array:
    """Draw from p_0(w_m | z) for each row of `log_responsibility` `[B, K]`; gives `[B, W]`."""
    choice_key, noise_key = jax.random.split(key)
    mixture = prior.private[name]
    weight = _conditional_weight(mixture, log_share)
    chosen = jax.random.categorical(choice_key, weight)
    return _draw(noise_key, mixture, chosen, prior.is_laplace)


def tempered(prior: BasePrior, *, shared: float = 1.0, private: float = 1.0) -> BasePrior:
    """Multiply the covariances of p_0(z) and of all p_0(w_m | z) by temperatures > 0.

    Below 1, latents stay nearer to the means of their components, where the generator has seen more
    data: samples are less diverse and more coherent, as with the truncation trick of Brock et al.
    2019 (arXiv:1809.11096, section 3.1).
    """
    own = {
        name: mixture._replace(whitening=mixture.whitening / private**0.5)
        for name, mixture in prior.private.items()
    }
    return prior._replace(whitening=prior.whitening / shared**0.5, private=own)


def _conditional_weight(mixture: Mixture, log_share: jax.Array) -> jax.Array:
    """log p(k, j | z) in the order of the mixture's components, `[B, K · J]`."""
    weight = mixture.log_weight.reshape(1, log_share.shape[-1], -1) + log_share[:, :, None]
    return weight.reshape(len(log_share), -1)


def _log_components(mean: jax.Array, whitening: jax.Array, values: jax.Array) -> jax.Array:
    """log N(v; μ_k, Σ_k) of each component at values `[B, D]`; gives `[B, K]`."""
    # This subtracts two large numbers: TF32 or bfloat16 would lose their difference.
    precise = partial(jnp.einsum, precision="highest")
    shift = precise("kij,kj->ki", whitening, mean)
    whitened = precise("bj,kij->bki", values, whitening) - shift[None]
    log_volume = jnp.sum(jnp.log(jnp.diagonal(whitening, axis1=1, axis2=2)), axis=-1)
    each = -0.5 * jnp.sum(jnp.square(whitened), axis=-1) + log_volume[None]
    return each - 0.5 * values.shape[-1] * LOG_TWO_PI


def base_sample(key: jax.Array, prior: BasePrior, num_samples: int) -> jax.Array:
    """Draws from p_0, `[num_samples, Z]`."""
    choice_key, noise_key = jax.random.split(key)
    chosen = jax.random.categorical(choice_key, prior.log_weight, shape=(num_samples,))
    return _draw(noise_key, Mixture(*prior[:3]), chosen, prior.is_laplace)


def _draw(key: jax.Array, mixture: Mixture, chosen: jax.Array, is_laplace: jax.Array) -> jax.Array:
    """Draw from each `chosen` component, or from the standard Laplace."""
    shape = (len(chosen), mixture.mean.shape[-1])
    offset = _unwhiten(mixture.whitening, chosen, standard_noise(key, "gaussian", shape))
    laplace = standard_noise(key, "laplace", shape)
    return jnp.where(is_laplace, laplace, mixture.mean[chosen] + offset)


def _unwhiten(whitening: jax.Array, chosen: jax.Array, noise: jax.Array) -> jax.Array:
    """Solve W_k z = noise `[B, Z]` for z `[B, Z]`, with k the `chosen` component `[B]` of each.

    It uses forward substitution, one coordinate of all examples at a time. LAPACK's batched solver
    blocks one of XLA's threads while it waits for the others, and may take as long as a chain.
    """

    def substitute(solution: jax.Array, coordinate: jax.Array) -> tuple[jax.Array, None]:
        row = whitening[chosen, coordinate]
        rest = noise[:, coordinate] - jnp.sum(row * solution, axis=-1)
        return solution.at[:, coordinate].set(rest / row[:, coordinate]), None

    if not noise.size:  # no shared latent: nothing to index
        return noise
    return lax.scan(substitute, jnp.zeros_like(noise), jnp.arange(noise.shape[-1]))[0]


def resampled(
    key: jax.Array, candidates: Candidates, energies: jax.Array, num_samples: int
) -> Candidates:
    """Draw one candidate per sample by weights exp(−E): sampling-importance-resampling.

    Args:
      key: PRNG key.
      candidates: arrays `[N · C, ...]`, in which those of one sample are adjacent.
      energies: `[N · C]`.
      num_samples: N.

    Returns:
      Arrays `[N, ...]`.
    """
    chosen = jax.random.categorical(key, -energies.reshape(num_samples, -1))

    def take(values: jax.Array) -> jax.Array:
        # Along a separate axis: indexing the rows of all samples would gather from every device.
        each = values.reshape(num_samples, -1, *values.shape[1:])
        index = chosen.reshape(-1, *(1 for _ in each.shape[1:]))
        return jnp.take_along_axis(each, index, axis=1)[:, 0]

    return jax.tree.map(take, candidates)
