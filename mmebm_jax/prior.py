"""Base priors p_0(z), and the latent energy-based prior that tilts them.

The base prior is a Gaussian mixture throughout: the standard normal is the mixture whose components
are all N(0, I), and fitting it to latents of the data keeps every array's shape, so nothing is
recompiled and checkpoints stay compatible. The energy-based prior (Pang et al. 2020,
arXiv:2006.08205) is p(z) ∝ exp(−E_γ(z)) p_0(z).
"""

import warnings
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from mmebm_jax import langevin
from mmebm_jax.langevin import Chain, LangevinResult
from mmebm_jax.typing import EnergyFn

LOG_TWO_PI = float(np.log(2 * np.pi))


class BasePrior(NamedTuple):
    """A mixture of K Gaussians; W_k is the inverse of the covariance's Cholesky factor."""

    log_weight: jax.Array  # shape=[K]
    mean: jax.Array  # shape=[K, Z]
    whitening: jax.Array  # shape=[K, Z, Z], lower triangular: W (z − mean) is standard normal


def standard_normal(num_components: int, num_latents: int) -> BasePrior:
    """N(0, I) in the shapes of a mixture of `num_components`."""
    return BasePrior(
        jnp.full([num_components], -np.log(num_components), jnp.float32),
        jnp.zeros([num_components, num_latents]),
        jnp.tile(jnp.eye(num_latents), [num_components, 1, 1]),
    )


def fit_mixture(latents: np.ndarray, num_components: int, seed: int = 0) -> BasePrior:
    """Fit a mixture of full-covariance Gaussians to latents `[N, Z]` by scikit-learn.

    Raises:
      ValueError: fewer latents than twice the components.
    """
    if len(latents) < 2 * num_components:
        raise ValueError(
            f"{len(latents)} latents cannot hold a mixture of {num_components}: fit to more "
            "examples or lower prior.num_components."
        )
    mixture = GaussianMixture(
        num_components,
        reg_covar=1e-3,
        max_iter=15,
        tol=1e-2,
        init_params="k-means++",
        random_state=seed,
    )
    # The threads of BLAS and of XLA would otherwise wait for each other, ten times as long.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = mixture.fit(np.asarray(latents, np.float64))
    return BasePrior(
        jnp.asarray(np.log(fitted.weights_), jnp.float32),
        jnp.asarray(fitted.means_, jnp.float32),
        jnp.asarray(fitted.precisions_cholesky_.transpose(0, 2, 1), jnp.float32),
    )


def base_log_prob(prior: BasePrior, latents: jax.Array) -> jax.Array:
    """log p_0(z) at latents `[B, Z]`; gives `[B]`, nats."""
    # Two large numbers are subtracted: the short floats of accelerators would not do.
    precise = partial(jnp.einsum, precision="highest")
    shift = precise("kij,kj->ki", prior.whitening, prior.mean)
    whitened = precise("bj,kij->bki", latents, prior.whitening) - shift
    log_volume = jnp.sum(jnp.log(jnp.diagonal(prior.whitening, axis1=1, axis2=2)), axis=-1)
    each = -0.5 * jnp.sum(jnp.square(whitened), axis=-1) + log_volume
    return jax.nn.logsumexp(each + prior.log_weight, axis=-1) - 0.5 * latents.shape[-1] * LOG_TWO_PI


def base_sample(key: jax.Array, prior: BasePrior, num_samples: int) -> jax.Array:
    """Draws from p_0, `[num_samples, Z]`."""
    choice_key, noise_key = jax.random.split(key)
    chosen = jax.random.categorical(choice_key, prior.log_weight, shape=(num_samples,))
    noise = jax.random.normal(noise_key, (num_samples, prior.mean.shape[-1]))
    offset = jax.vmap(
        lambda whitening, vector: jax.scipy.linalg.solve_triangular(whitening, vector, lower=True)
    )(prior.whitening[chosen], noise)
    return prior.mean[chosen] + offset


def tilted_energy(prior: BasePrior, energy_fn: EnergyFn | None) -> EnergyFn:
    """U(z) = E_γ(z) − log p_0(z); without `energy_fn` the base prior alone."""

    def energy(latents: jax.Array) -> jax.Array:
        base = -base_log_prob(prior, latents)
        return base if energy_fn is None else base + energy_fn(latents)

    return energy


def sample(
    key: jax.Array,
    prior: BasePrior,
    energy_fn: EnergyFn | None,
    num_samples: int,
    chain: Chain,
) -> LangevinResult:
    """The prior revision: a chain under E_γ − log p_0 that starts at draws from p_0.

    Without an energy, or with a chain of no steps, these are the draws themselves.
    """
    start_key, chain_key = jax.random.split(key)
    start = base_sample(start_key, prior, num_samples)
    if energy_fn is None:
        chain = chain._replace(num_steps=0)
    return langevin.run(chain_key, start, tilted_energy(prior, energy_fn), chain)
