"""Diff-CMVAE's refiner: diffusion conditioned on what a VAE generates (Palumbo et al., ICLR 2024).

Each image modality has its own U-Net, trained on pairs of data and the VAE's reconstructions of
them, from the modality itself and from others. The latents of the VAE, and modalities other than
images, are left unchanged.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mmebm_jax.diffusion import process as diffusion
from mmebm_jax.diffusion.process import Process
from mmebm_jax.networks.unet import UNet
from mmebm_jax.typing import Batch, Params


class Refiner(NamedTuple):
    """Trained U-Nets, one for each image modality."""

    network: UNet
    params: dict[str, Params]  # by modality, averaged over training


class LearningState(NamedTuple):
    """The training state of one modality's U-Net."""

    params: Params
    average: Params
    moments: optax.OptState
    step: jax.Array  # shape=(), dtype=int32


def refine(
    key: jax.Array, refiner: Refiner, samples: Batch, *, num_steps: int, variance: float = 1.0
) -> dict[str, jax.Array]:
    """Draw new samples, conditioned on those that a model generated.

    Args:
      key: PRNG key.
      refiner: see `training.refiner`.
      samples: generated samples, name → `[B, *shape]` in model range.
      num_steps: number of sampling steps, 1 to 1,000.
      variance: 1 for ancestral sampling, 0 for DDIM's deterministic sampling.

    Returns:
      Samples under the same names; modalities without a U-Net are unchanged.
    """
    process = diffusion.linear()
    keys = jax.random.split(key, len(samples))
    return {
        name: _refined(
            one, refiner.network, refiner.params[name], process, values, num_steps, variance
        )
        if name in refiner.params
        else jnp.asarray(values)
        for one, (name, values) in zip(keys, samples.items(), strict=True)
    }


@partial(jax.jit, static_argnames=("network", "num_steps", "variance"))
def _refined(
    key: jax.Array,
    network: UNet,
    params: Params,
    process: Process,
    condition: jax.Array,
    num_steps: int,
    variance: float,
) -> jax.Array:
    def predict(noisy: jax.Array, at: jax.Array) -> jax.Array:
        return jnp.asarray(network.apply({"params": params}, noisy, condition, at))

    return diffusion.sample(
        key, process, predict, condition.shape, num_steps=num_steps, variance=variance
    )


def init(
    key: jax.Array, network: UNet, optimiser: optax.GradientTransformation, shape: tuple[int, ...]
) -> LearningState:
    """Initialise a U-Net for images of shape `(H, W, C)`."""
    images, at = jnp.zeros([1, *shape]), jnp.zeros([1], jnp.int32)
    params = jax.jit(network.init)(key, images, images, at)["params"]
    average = jax.tree.map(jnp.copy, params)  # an update donates the buffers of both
    return LearningState(params, average, optimiser.init(params), jnp.zeros([], jnp.int32))


@partial(jax.jit, static_argnames=("network", "optimiser", "decay"), donate_argnames="state")
def update(
    key: jax.Array,
    state: LearningState,
    clean: jax.Array,
    condition: jax.Array,
    *,
    network: UNet,
    optimiser: optax.GradientTransformation,
    decay: float,
) -> tuple[LearningState, jax.Array]:
    """Take one training step on data `[B, H, W, C]`; return the new state and the loss.

    Args:
      key: PRNG key.
      state: state before the step.
      clean: data in model range.
      condition: the VAE's reconstructions of the data.
      network: the U-Net.
      optimiser: optimiser of its parameters.
      decay: decay of the parameters' moving average, limited to (1 + t) / (10 + t) at step t.
    """
    loss_key, dropout_key = jax.random.split(key)

    def loss(params: Params) -> jax.Array:
        def predict(noisy: jax.Array, at: jax.Array) -> jax.Array:
            variables, dropout = {"params": params}, {"dropout": dropout_key}
            predicted = network.apply(variables, noisy, condition, at, training=True, rngs=dropout)
            return jnp.asarray(predicted)

        return diffusion.loss(loss_key, diffusion.linear(), predict, clean)

    value, gradient = jax.value_and_grad(loss)(state.params)
    changes, moments = optimiser.update(gradient, state.moments, state.params)
    params = optax.apply_updates(state.params, changes)
    share = jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
    average = jax.tree.map(lambda a, p: share * a + (1 - share) * p, state.average, params)
    return LearningState(params, average, moments, state.step + 1), value
