"""Ex-post density estimation: priors fitted to latents at hand, without the networks.

The base prior is a Gaussian mixture by expectation maximisation. The latent energy is fitted by
maximum likelihood without a chain: beside a base prior that was fitted to the same latents,
importance sampling estimates log Z well. The prior is p(z) ∝ exp(−E_γ(z)) p_0(z) with
Z = E_{p_0}[exp(−E_γ)], and its loss

    E_γ(z̃) + log (1/N) Σ_n exp(−E_γ(z_n)),    z̃ ~ data, z_n ~ p_0

is its negative log-likelihood relative to p_0 (the Donsker–Varadhan form of KL(data ‖ p_0)). Aneja
et al. 2021 (arXiv:2010.02917) fit the same prior by telling data from p_0.
"""

import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmebm_jax.method.model import Model
from mmebm_jax.method.prior import BasePrior, base_sample
from mmebm_jax.typing import Params

BATCH_SIZE = 512
NUM_BASE_SAMPLES = 1024


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
    # Imported late: who uses the method alone does not wait for scikit-learn.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

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


def tilt_loss(data_energy: jax.Array, base_energy: jax.Array) -> jax.Array:
    """Mean negative log-likelihood relative to the base prior, nats.

    Args:
      data_energy: E_γ at latents of the data, `[B]`.
      base_energy: E_γ at draws from the base prior, `[N]`.
    """
    log_normaliser = jax.nn.logsumexp(-base_energy) - jnp.log(len(base_energy))
    return data_energy.mean() + log_normaliser


@partial(jax.jit, static_argnames=("model", "num_steps", "learning_rate"))
def fit_latent_energy(
    key: jax.Array,
    model: Model,
    params: Params,
    latents: jax.Array,
    base_prior: BasePrior,
    *,
    num_steps: int,
    learning_rate: float,
) -> tuple[Params, jax.Array]:
    """Adam on `tilt_loss` from `params`, its rate falling to zero by a cosine.

    Args:
      key: PRNG key.
      model: whose latent energy it is.
      params: of the latent energy, to start from.
      latents: of the data, `[N, Z]`.
      base_prior: p_0.
      num_steps: of Adam.
      learning_rate: at the start.

    Returns:
      The parameters, and the mean of the negative loss over the last tenth of the steps: an
      estimate of KL(data ‖ p_0), nats, as far as the energy sees it.
    """
    optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))

    def loss(params: Params, data: jax.Array, base: jax.Array) -> jax.Array:
        return tilt_loss(model.latent_energy(params, data), model.latent_energy(params, base))

    def step(
        carry: tuple[Params, optax.OptState], step_key: jax.Array
    ) -> tuple[tuple[Params, optax.OptState], jax.Array]:
        params, state = carry
        data_key, base_key = jax.random.split(step_key)
        chosen = jax.random.randint(data_key, (BATCH_SIZE,), 0, len(latents))
        base = base_sample(base_key, base_prior, NUM_BASE_SAMPLES)
        fit, gradient = jax.value_and_grad(loss)(params, latents[chosen], base)
        changes, state = optimiser.update(gradient, state)
        return (optax.apply_updates(params, changes), state), fit

    keys = jax.random.split(key, num_steps)
    (params, _), fits = jax.lax.scan(step, (params, optimiser.init(params)), keys)
    return params, -fits[-max(1, num_steps // 10) :].mean()
