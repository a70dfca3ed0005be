"""Fit the latent energy to latents at hand: maximum likelihood without a chain.

Beside a base prior that was fitted to the same latents, importance sampling estimates log Z well.
The prior is p(z) ∝ exp(−E_γ(z)) p_0(z) with Z = E_{p_0}[exp(−E_γ)], and the loss

    E_γ(z̃) + log (1/N) Σ_n exp(−E_γ(z_n)),    z̃ ~ data, z_n ~ p_0

is its negative log-likelihood relative to p_0 (the Donsker–Varadhan form of KL(data ‖ p_0)). Aneja
et al. 2021 (arXiv:2010.02917) fit the same prior by telling data from p_0.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from mmebm_jax.distributions.base_prior import BasePrior, base_sample
from mmebm_jax.method.model import Model
from mmebm_jax.typing import Params

BATCH_SIZE = 512
NUM_BASE_SAMPLES = 1024


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
