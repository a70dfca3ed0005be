"""Fit the base prior to latents at hand: a Gaussian mixture by expectation maximisation."""

import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from mmebm_jax.distributions.base_prior import BasePrior


def fit_mixture(
    latents: np.ndarray,
    num_components: int,
    seed: int = 0,
    start: BasePrior | None = None,
    max_iterations: int = 15,
    smallest_scale: float = 0.0,
) -> BasePrior:
    """Fit a mixture of full-covariance Gaussians to latents `[N, Z]` by scikit-learn.

    Args:
      latents: to fit to.
      num_components: K.
      seed: of the first guess.
      start: a mixture that was fitted to similar latents: it needs fewer iterations.
      max_iterations: of expectation maximisation.
      smallest_scale: standard deviation that every component gets at least, in every direction, in
        units of the latents: few latents in many dimensions leave directions without any.

    Raises:
      ValueError: fewer latents than twice the components.
    """
    if len(latents) < 2 * num_components:
        raise ValueError(
            f"{len(latents)} latents cannot hold a mixture of {num_components}: fit to more "
            "examples or lower prior.num_components."
        )
    guess: dict[str, Any] = {"init_params": "k-means++"}
    if start is not None:
        weight, mean, whitening = (np.asarray(x, np.float32) for x in start[:3])
        precision = np.einsum("kji,kjl->kil", whitening, whitening)
        guess = {
            "weights_init": np.exp(weight) / np.exp(weight).sum(),
            "means_init": mean,
            "precisions_init": 0.5 * (precision + precision.transpose(0, 2, 1)),
        }
    mixture = GaussianMixture(
        num_components,
        reg_covar=1e-3,
        tol=1e-2,
        max_iter=max_iterations,
        random_state=seed,
        **guess,
    )
    # The threads of BLAS and of XLA would otherwise wait for each other, ten times as long.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = mixture.fit(np.asarray(latents, np.float32))
    whitening = fitted.precisions_cholesky_.transpose(0, 2, 1)
    variances, directions = np.linalg.eigh(fitted.covariances_)  # ascending
    narrow = variances[:, 0] < smallest_scale**2
    if narrow.any():
        scales = np.sqrt(np.maximum(variances[narrow], smallest_scale**2))
        factors = directions[narrow] * scales[:, None]
        widened = np.linalg.cholesky(factors @ factors.transpose(0, 2, 1))
        whitening[narrow] = np.tril(np.linalg.inv(widened))
    return BasePrior(
        jnp.asarray(np.log(fitted.weights_), jnp.float32),
        jnp.asarray(fitted.means_, jnp.float32),
        jnp.asarray(whitening, jnp.float32),
        jnp.asarray(False),
    )
