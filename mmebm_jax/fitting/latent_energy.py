"""Fit the latent energy to given latents: maximum likelihood without a chain.

If the base prior was fitted to the same latents, importance sampling from it estimates log Z well.
The prior is p(z) ∝ exp(−E_γ(z)) p_0(z) with Z = E_{p_0}[exp(−E_γ)], and the loss

    E_γ(z̃) + log (1/N) Σ_n exp(−E_γ(z_n)),    z̃ ~ data, z_n ~ p_0

is its negative log-likelihood relative to p_0 (the Donsker–Varadhan form of KL(data ‖ p_0)). Aneja
et al. 2021 (arXiv:2010.02917) fit the same prior by classifying data against draws from p_0.

The energies of private latents are fitted in the same way, with w_m drawn from p_0(w_m | z) at the
data's z: at the optimum, exp(−E_m) is, up to a constant, the data's p(w_m | z) / p_0(w_m | z).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mmebm_jax.distributions.base_prior import (
    BasePrior,
    base_sample,
    log_responsibility,
    private_sample,
)
from mmebm_jax.method.model import Model
from mmebm_jax.typing import Latents, Params

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


class TiltFit(NamedTuple):
    """What the tilt gains: estimates of KL(data ‖ p_0) as far as the energy captures it, nats."""

    training: jax.Array  # mean over the last tenth of the steps
    held_out: jax.Array  # on latents not used for training


@partial(jax.jit, static_argnames=("model", "num_steps", "learning_rate", "weight_decay"))
def fit_latent_energy(
    key: jax.Array,
    model: Model,
    params: Params,
    latents: Latents,
    base_prior: BasePrior,
    *,
    num_steps: int,
    learning_rate: float,
    weight_decay: float = 0.0,
) -> tuple[Params, TiltFit]:
    """Minimise the sum of all terms' `tilt_loss` from `params`, by AdamW with cosine decay.

    Args:
      key: PRNG key.
      model: model whose latent energy is fitted.
      params: initial parameters of the latent energy.
      latents: latents of the data, leaves `[N, ...]`; the last tenth is held out. Several draws of
        one example's latents are adjacent.
      base_prior: p_0.
      num_steps: number of optimiser steps.
      learning_rate: initial learning rate.
      weight_decay: weight decay of AdamW, which multiplies it by the learning rate.

    Returns:
      The parameters, and what the tilt gains.
    """
    schedule = optax.cosine_decay_schedule(learning_rate, num_steps)
    optimiser = optax.adamw(schedule, weight_decay=weight_decay)
    num_held_out = max(1, len(latents.shared) // 10)
    learned = jax.tree.map(lambda leaf: leaf[:-num_held_out], latents)
    held_out = jax.tree.map(lambda leaf: leaf[-num_held_out:], latents)

    def loss(params: Params, data: Latents, base: Latents) -> jax.Array:
        energy = partial(model.latent_energy, params)
        total = tilt_loss(energy(data.shared), energy(base.shared))
        for name in base.private:
            # E_0 cancels in both differences, which leaves E_m.
            total = total + tilt_loss(
                energy(data.shared, {name: data.private[name]}) - energy(data.shared),
                energy(data.shared, {name: base.private[name]}) - energy(data.shared),
            )
        return total

    def base_draws(key: jax.Array, data: Latents) -> Latents:
        keys = jax.random.split(key, 1 + len(base_prior.private))
        responsibility = log_responsibility(base_prior, data.shared)
        private = {
            name: private_sample(k, base_prior, name, responsibility)
            for name, k in zip(base_prior.private, keys[1:], strict=True)
        }
        return Latents(base_sample(keys[0], base_prior, NUM_BASE_SAMPLES), private)

    def step(
        carry: tuple[Params, optax.OptState], step_key: jax.Array
    ) -> tuple[tuple[Params, optax.OptState], jax.Array]:
        params, state = carry
        data_key, base_key = jax.random.split(step_key)
        chosen = jax.random.randint(data_key, (BATCH_SIZE,), 0, len(learned.shared))
        data = jax.tree.map(lambda leaf: leaf[chosen], learned)
        fit, gradient = jax.value_and_grad(loss)(params, data, base_draws(base_key, data))
        changes, state = optimiser.update(gradient, state, params)
        return (optax.apply_updates(params, changes), state), fit

    keys = jax.random.split(key, num_steps)
    (params, _), fits = jax.lax.scan(step, (params, optimiser.init(params)), keys)
    last = loss(params, held_out, base_draws(jax.random.fold_in(key, 1), held_out))
    return params, TiltFit(-fits[-max(1, num_steps // 10) :].mean(), -last)
