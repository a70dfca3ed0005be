"""The diffusion process (Ho et al. 2020, arXiv:2006.11239), its loss and its samplers.

Noise is added in T steps, x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε, and a network ε_θ(x_t, t) predicts it.
Sampling reverses any subset of the steps by equation (12) of Song et al. 2021 (DDIM,
arXiv:2010.02502): `variance` 1 is the ancestral sampler of Ho et al., 0 is deterministic.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

NUM_STEPS, FIRST_BETA, LAST_BETA = 1000, 1e-4, 0.02

PredictNoise = Callable[[jax.Array, jax.Array], jax.Array]
"""(x_t `[B, ...]`, t `int32[B]`) → the noise in x_t."""


class Process(NamedTuple):
    """The remaining signal and the noise after each of T steps."""

    signal: jax.Array  # shape=[T], √ᾱ_t
    noise: jax.Array  # shape=[T], √(1 − ᾱ_t)


def linear(
    num_steps: int = NUM_STEPS, first_beta: float = FIRST_BETA, last_beta: float = LAST_BETA
) -> Process:
    """Return the published schedule: β_t from the first to the last in equal steps."""
    kept = np.cumprod(1 - np.linspace(first_beta, last_beta, num_steps))  # ᾱ, in float64
    return Process(
        jnp.asarray(np.sqrt(kept), jnp.float32), jnp.asarray(np.sqrt(1 - kept), jnp.float32)
    )


def diffuse(process: Process, clean: jax.Array, noise: jax.Array, at: jax.Array) -> jax.Array:
    """Return x_t after steps t `int32[B]`, from x_0 `[B, ...]` and noise of the same shape."""
    return _each(process.signal[at], clean) * clean + _each(process.noise[at], clean) * noise


def loss(
    key: jax.Array, process: Process, predict_noise: PredictNoise, clean: jax.Array
) -> jax.Array:
    """Mean squared error of the predicted noise at uniform steps: L_simple, equation (14) of Ho."""
    step_key, noise_key = jax.random.split(key)
    at = jax.random.randint(step_key, (len(clean),), 0, len(process.signal))
    noise = jax.random.normal(noise_key, clean.shape)
    return jnp.square(predict_noise(diffuse(process, clean, noise, at), at) - noise).mean()


def sample(
    key: jax.Array,
    process: Process,
    predict_noise: PredictNoise,
    shape: tuple[int, ...],
    *,
    num_steps: int,
    variance: float = 1.0,
    bound: float = 1.0,
) -> jax.Array:
    """Sample from the learned distribution, `shape` = `[B, ...]`.

    Args:
      key: PRNG key.
      process: process that the network was trained with.
      predict_noise: ε_θ.
      shape: shape of the samples.
      num_steps: number of sampling steps, 1 to T, equally spaced.
      variance: η of DDIM, 0 to 1.
      bound: predictions of x_0 are clipped to ±bound at every step; infinity disables this.
    """
    times = np.linspace(len(process.signal) - 1, 0, num_steps).round().astype(np.int32)
    signal = jnp.append(process.signal[times], 1.0)
    spread = jnp.append(process.noise[times], 0.0)
    start_key, chain_key = jax.random.split(key)

    def body(position: jax.Array, now: Any) -> tuple[jax.Array, None]:
        step_key, at, (a, s), (a_next, s_next) = now
        noise = predict_noise(position, jnp.full([len(position)], at))
        clean = jnp.clip((position - s * noise) / a, -bound, bound)
        noise = (position - a * clean) / s
        fresh = variance * (s_next / s) * jnp.sqrt(jnp.maximum(1 - jnp.square(a / a_next), 0.0))
        direction = jnp.sqrt(jnp.maximum(jnp.square(s_next) - jnp.square(fresh), 0.0))
        drawn = jax.random.normal(step_key, position.shape)
        return a_next * clean + direction * noise + fresh * drawn, None

    steps = (
        jax.random.split(chain_key, num_steps),
        jnp.asarray(times),
        (signal[:-1], spread[:-1]),
        (signal[1:], spread[1:]),
    )
    return lax.scan(body, jax.random.normal(start_key, shape), steps)[0]


def _each(values: jax.Array, like: jax.Array) -> jax.Array:
    return values.reshape((-1,) + (1,) * (like.ndim - 1))
