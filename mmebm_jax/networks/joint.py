"""The four networks: inference, generator, data-space energy, latent energy.

Each joins one sub-network a modality, chosen by the modality's kind. Modalities are looped over in
Python: stacking them under `vmap` makes grouped convolutions, which are several times slower.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmebm_jax.modality import Modality
from mmebm_jax.networks.image import ImageDecoder, ImageExpert, ImageTrunk
from mmebm_jax.networks.sequence import SequenceDecoder, SequenceExpert, SequenceTrunk

SMALLEST_SCALE = 1e-3


class Inference(nn.Module):
    """One diagonal Gaussian expert a modality."""

    modalities: tuple[Modality, ...]
    num_latents: int
    width: int
    hidden: int
    convolution: Callable[..., Any]

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array]) -> dict[str, tuple[jax.Array, jax.Array]]:
        """Batch of modalities → name → (mean `[B, Z]`, standard deviation `[B, Z]`)."""
        experts = {}
        for modality in self.modalities:
            network = (
                ImageExpert(self.width, self.hidden, self.convolution, name=modality.name)
                if modality.kind == "image"
                else SequenceExpert(self.hidden, name=modality.name)
            )
            features = network(batch[modality.name])
            mean = nn.Dense(self.num_latents, name=f"{modality.name}_mean")(features)
            raw = nn.Dense(self.num_latents, name=f"{modality.name}_scale")(features)
            experts[modality.name] = (mean, nn.softplus(raw) + SMALLEST_SCALE)
        return experts


class Generator(nn.Module):
    """One decoder a modality, all from the same latent."""

    modalities: tuple[Modality, ...]
    width: int
    hidden: int
    convolution: Callable[..., Any]

    @nn.compact
    def __call__(self, latents: jax.Array) -> dict[str, jax.Array]:
        """Latents `[B, Z]` → name → outputs `[B, *shape]` (means of images, logits of text)."""
        outputs = {}
        for modality in self.modalities:
            network = (
                ImageDecoder(
                    modality.shape, self.width, self.hidden, self.convolution, name=modality.name
                )
                if modality.kind == "image"
                else SequenceDecoder(modality.shape, self.hidden, name=modality.name)
            )
            outputs[modality.name] = network(latents)
        return outputs


class JointEnergy(nn.Module):
    """E_α(x): a trunk a modality, joined by a perceptron into one number."""

    modalities: tuple[Modality, ...]
    width: int
    hidden: int
    convolution: Callable[..., Any]

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Batch of modalities → energies `[B]`."""
        features = [
            (
                ImageTrunk(self.width, self.convolution, name=modality.name)
                if modality.kind == "image"
                else SequenceTrunk(self.hidden, name=modality.name)
            )(batch[modality.name])
            for modality in self.modalities
        ]
        joint = jnp.concatenate(features, axis=-1)
        joint = nn.silu(nn.Dense(self.hidden, name="joint_0")(joint))
        joint = nn.silu(nn.Dense(self.hidden, name="joint_1")(joint))
        return nn.Dense(1, name="energy")(joint)[:, 0]


class LatentEnergy(nn.Module):
    """E_γ(z): a perceptron whose output is bounded smoothly to ±`bound`.

    An unbounded latent energy runs away from its short chains; the bound is what keeps it honest.
    """

    hidden: int
    bound: float

    @nn.compact
    def __call__(self, latents: jax.Array) -> jax.Array:
        """Latents `[B, Z]` → energies `[B]`."""
        features = nn.silu(nn.Dense(self.hidden)(latents))
        features = nn.silu(nn.Dense(self.hidden)(features))
        energy = nn.Dense(1, kernel_init=nn.initializers.normal(1e-2))(features)[:, 0]
        return self.bound * jnp.tanh(energy / self.bound)
