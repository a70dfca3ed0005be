"""Likelihoods p(x_m | decoder outputs). To add one, add an entry to `LIKELIHOODS`.

Densities of images and vectors are with respect to the model's range [-1, 1].
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmebm_jax.modalities import autoregressive
from mmebm_jax.networks.word_order import WordOrder


def _itself(decoder: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    del shape
    return decoder


class Likelihood(NamedTuple):
    """A likelihood, given the outputs of a decoder.

    Dimensions are independent and outputs have the shape of an example, `[..., *shape]`, except
    for "autoregressive", whose `decoder` also outputs how words depend on earlier ones.
    """

    log_density: Callable[[jax.Array, jax.Array, float], jax.Array]
    """(outputs, observed `[..., *shape]`, scale) → elementwise nats."""

    mean: Callable[[jax.Array], jax.Array]
    """Outputs → the mean in data range, `[..., *shape]`."""

    values: str
    """What it is a distribution of, "numbers" or "tokens"; it applies to kinds that hold these."""

    sample: Callable[[jax.Array, jax.Array, float], jax.Array]
    """(key, outputs, scale) → sampled data, `[..., *shape]`, in model range or close to it."""

    decoder: Callable[[nn.Module, tuple[int, ...]], nn.Module] = _itself
    """(decoder with outputs `[B, *shape]`, shape) → decoder with the outputs that this takes."""


def _gaussian(outputs: jax.Array, observed: jax.Array, scale: float) -> jax.Array:
    squares = -0.5 * jnp.square((observed - outputs) / scale)
    return squares - math.log(scale) - 0.5 * math.log(2 * math.pi)


def _gaussian_sample(key: jax.Array, outputs: jax.Array, scale: float) -> jax.Array:
    return outputs + scale * jax.random.normal(key, outputs.shape, outputs.dtype)


def _laplace(outputs: jax.Array, observed: jax.Array, scale: float) -> jax.Array:
    return -jnp.abs(observed - outputs) / scale - math.log(2 * scale)


def _laplace_sample(key: jax.Array, outputs: jax.Array, scale: float) -> jax.Array:
    return outputs + scale * jax.random.laplace(key, outputs.shape, outputs.dtype)


def _bernoulli(outputs: jax.Array, observed: jax.Array, scale: float) -> jax.Array:
    """Log-density of (x + 1) / 2 under logits; values between 0 and 1 weight both outcomes."""
    del scale
    share = 0.5 * (observed + 1.0)
    return share * jax.nn.log_sigmoid(outputs) + (1.0 - share) * jax.nn.log_sigmoid(-outputs)


def _bernoulli_sample(key: jax.Array, outputs: jax.Array, scale: float) -> jax.Array:
    del scale
    drawn = jax.random.bernoulli(key, jax.nn.sigmoid(outputs))
    return 2.0 * drawn.astype(outputs.dtype) - 1.0


def _categorical(outputs: jax.Array, observed: jax.Array, scale: float) -> jax.Array:
    """Log-density of tokens under logits over the last axis; `observed`: one-hot or relaxed."""
    del scale
    return observed * jax.nn.log_softmax(outputs, axis=-1)


def _categorical_sample(key: jax.Array, outputs: jax.Array, scale: float) -> jax.Array:
    del scale
    chosen = jax.random.categorical(key, outputs)
    return jax.nn.one_hot(chosen, outputs.shape[-1], dtype=outputs.dtype)


def _clipped(outputs: jax.Array) -> jax.Array:
    return jnp.clip(outputs, -1.0, 1.0)


def _shade(outputs: jax.Array) -> jax.Array:
    return jnp.tanh(0.5 * outputs)  # 2 sigmoid(outputs) − 1


LIKELIHOODS: dict[str, Likelihood] = {
    "gaussian": Likelihood(_gaussian, _clipped, "numbers", _gaussian_sample),
    "laplace": Likelihood(_laplace, _clipped, "numbers", _laplace_sample),
    "bernoulli": Likelihood(_bernoulli, _shade, "numbers", _bernoulli_sample),
    "categorical": Likelihood(_categorical, jax.nn.softmax, "tokens", _categorical_sample),
    "autoregressive": Likelihood(
        autoregressive.log_density,
        autoregressive.mean,
        "tokens",
        autoregressive.sample,
        decoder=lambda decoder, shape: WordOrder(decoder, num_words=shape[-1]),
    ),
}
