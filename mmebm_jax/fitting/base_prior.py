"""Fit the base prior p_0 to given latents: mixtures by expectation maximisation.

`training.prior_fitting` decides to which latents, and when in a run.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from mmebm_jax.distributions.base_prior import BasePrior, Mixture, log_responsibility

# Added to covariances, in units of the latents: a standard private latent has variance 1.
REGULARISER, PRIVATE_REGULARISER = 1e-3, 1e-2
PRIVATE_ITERATIONS = 20
# Latents needed for each component over private latents, in multiples of their dimension.
LATENTS_PER_DIMENSION = 3
RESPONSIBILITY_BATCH = 5000

Array = np.ndarray | jax.Array


def fit_mixture(
    latents: Array,
    num_components: int,
    seed: int = 0,
    start: BasePrior | None = None,
    max_iterations: int = 15,
    smallest_scale: float = 0.0,
) -> BasePrior:
    """Fit a mixture of full-covariance Gaussians to latents `[N, Z]` by scikit-learn.

    Args:
      latents: latents to fit the mixture to.
      num_components: K.
      seed: seed of the initial guess.
      start: a mixture fitted to similar latents, from which fewer iterations are needed.
      max_iterations: maximum number of iterations of expectation maximisation.
      smallest_scale: smallest standard deviation of a component in any direction, in units of the
        latents: if they are few and have many dimensions, some directions have no variance.

    Raises:
      ValueError: there are fewer latents than twice the components.
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
    fitted = _fit(
        latents,
        num_components,
        seed,
        reg_covar=REGULARISER,
        tol=1e-2,
        max_iter=max_iterations,
        **guess,
    )
    return BasePrior(*_as_mixture(fitted, smallest_scale), jnp.asarray(False))


def fit_private(
    base_prior: BasePrior,
    shared: Array,
    private: Mapping[str, Array],
    num_components: int,
    seed: int = 0,
    smallest_scale: float = 0.0,
    observed: Mapping[str, Array] | None = None,
) -> BasePrior:
    """Return the base prior with mixtures p_0(w_m | z) fitted to pairs of latents.

    Each latent z is assigned to one of the base prior's components, drawn from p_0(k | z), and a
    separate mixture is fitted to the private latents assigned to each component.

    Args:
      base_prior: base prior fitted to z.
      shared: z of N examples, `[N, Z]`.
      private: private latents of the same examples, name → `[N, W]`.
      num_components: largest J; components of z with few latents get fewer.
      seed: seed of the assignment and of the initial guesses.
      smallest_scale: see `fit_mixture`.
      observed: name → `bool[N]`, which examples have the modality; the private latents of others
        are noise and are left out. None for all.

    Raises:
      ValueError: one of the modalities is in no example.
    """
    rng = np.random.default_rng(seed)
    responsibility = jax.jit(log_responsibility)
    parts = range(0, len(shared), RESPONSIBILITY_BATCH)
    log_share = np.concatenate(
        [responsibility(base_prior, shared[i : i + RESPONSIBILITY_BATCH]) for i in parts]
    )
    assigned = np.argmax(log_share + rng.gumbel(size=log_share.shape), axis=1)
    mixtures = {}
    for name, values in ((n, np.asarray(v)) for n, v in private.items()):
        known = np.ones(len(values), bool) if observed is None else np.asarray(observed[name])
        if not known.any():
            raise ValueError(f"no example has {name}: nothing to fit its private latents to.")
        values, component_of, size = values[known], assigned[known], values.shape[1]
        each = []
        for component in range(log_share.shape[1]):
            own = values[component_of == component]
            if len(own) < 2 * size:  # too few for a covariance: borrow from all
                own = np.concatenate([own, rng.permutation(values)[: 2 * size]])
            count = int(np.clip(len(own) // (LATENTS_PER_DIMENSION * size), 1, num_components))
            fitted = _fit(
                own, count, seed, reg_covar=PRIVATE_REGULARISER, max_iter=PRIVATE_ITERATIONS
            )
            each.append(_repeated(_as_mixture(fitted, smallest_scale), num_components))
        mixtures[name] = Mixture(*map(jnp.concatenate, zip(*each, strict=True)))
    return base_prior._replace(private=mixtures)


def _fit(latents: Array, num_components: int, seed: int, **options: Any) -> GaussianMixture:
    mixture = GaussianMixture(num_components, random_state=seed, **options)
    # Otherwise the threads of BLAS and XLA wait for each other, which takes ten times as long.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(np.asarray(latents, np.float32))


def _as_mixture(fitted: GaussianMixture, smallest_scale: float) -> Mixture:
    """Convert to a `Mixture`, with components widened to `smallest_scale` in every direction."""
    whitening = fitted.precisions_cholesky_.transpose(0, 2, 1)
    variances, directions = np.linalg.eigh(fitted.covariances_)  # ascending
    narrow = variances[:, 0] < smallest_scale**2
    if narrow.any():
        scales = np.sqrt(np.maximum(variances[narrow], smallest_scale**2))
        factors = directions[narrow] * scales[:, None]
        widened = np.linalg.cholesky(factors @ factors.transpose(0, 2, 1))
        whitening[narrow] = np.tril(np.linalg.inv(widened))
    return Mixture(
        jnp.asarray(np.log(fitted.weights_), jnp.float32),
        jnp.asarray(fitted.means_, jnp.float32),
        jnp.asarray(whitening, jnp.float32),
    )


def _repeated(mixture: Mixture, num_components: int) -> Mixture:
    """Return the same density in the shapes of more components, by repeating some of them."""
    index = np.arange(num_components) % len(mixture.log_weight)
    copies = np.bincount(index)[index]
    log_weight = mixture.log_weight[index] - jnp.log(copies)
    return Mixture(log_weight, mixture.mean[index], mixture.whitening[index])
