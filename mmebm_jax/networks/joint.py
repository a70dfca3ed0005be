"""The four networks: inference, generator, data-space energy, latent energy.

Each joins one sub-network a modality, chosen by the modality's kind. Modalities are looped over in
Python: stacking them under `vmap` makes grouped convolutions, which are several times slower.
"""

from collections.abc import Callable, Mapping
from math import e, log
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from mmebm_jax.modalities.latents import Diagonal
from mmebm_jax.modalities.modality import Modality
from mmebm_jax.networks.image import ImageDecoder, ImageExpert, ImageTrunk
from mmebm_jax.networks.perceptron import PerceptronDecoder
from mmebm_jax.networks.text import SequenceExpert, SequenceTrunk
from mmebm_jax.networks.vector import VectorExpert, VectorTrunk
from mmebm_jax.typing import Latents

EXPERTS = {"sequence": SequenceExpert, "vector": VectorExpert}
TRUNKS = {"sequence": SequenceTrunk, "vector": VectorTrunk}
JOINT_LAYER = "joint_0"  # from all features, by far the largest kernel of the energy
SMALLEST_SCALE = 1e-3
UNIT = log(e - 1)  # softplus of it is 1


def _saving(network: Any, rematerialise: bool) -> Any:
    return nn.remat(network) if rematerialise else network


class InferenceOutputs(NamedTuple):
    """What the inference network computes before its experts are aggregated."""

    shared: dict[str, Diagonal]  # name → q_m(z | x_m), [B, Z]
    private: dict[str, Diagonal]  # name → q_m(w | x_m), [B, W]; empty when W = 0
    auxiliary_scale: dict[str, jax.Array]  # name → scale of r_m(w), [W]; empty when W = 0
    subset_logit: jax.Array  # shape=[2^M − 1]


class Inference(nn.Module):
    """One diagonal expert a modality, for the shared and for the modality's private latent."""

    modalities: tuple[Modality, ...]
    num_latents: int
    num_private: int
    width: int
    hidden: int
    convolution: Callable[..., Any]
    rematerialise: bool = False  # compute a modality's activations again to save memory

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array]) -> InferenceOutputs:
        """Batch of modalities → experts and the two parameters that some bounds learn."""
        shared, private, auxiliary_scale = {}, {}, {}
        for modality in self.modalities:
            name = modality.name
            features = self._features(modality, name, batch[name])
            shared[name] = self._diagonal(features, self.num_latents, name)
            if self.num_private:
                # Features of its own, as in MMVAE+: what is private should not crowd the shared.
                own = self._features(modality, f"{name}_private", batch[name])
                private[name] = self._diagonal(own, self.num_private, f"{name}_private")
                raw = self.param(
                    f"{name}_auxiliary", nn.initializers.constant(UNIT), (self.num_private,)
                )
                auxiliary_scale[name] = nn.softplus(raw) + SMALLEST_SCALE
        num_subsets = 2 ** len(self.modalities) - 1
        subset_logit = self.param("subset_logit", nn.initializers.zeros, (num_subsets,))
        return InferenceOutputs(shared, private, auxiliary_scale, subset_logit)

    def _features(self, modality: Modality, name: str, values: jax.Array) -> jax.Array:
        if modality.kind == "image":
            expert = _saving(ImageExpert, self.rematerialise)
            return expert(self.width, self.hidden, self.convolution, name=name)(values)
        return _saving(EXPERTS[modality.kind], self.rematerialise)(self.hidden, name=name)(values)

    def _diagonal(self, features: jax.Array, size: int, name: str) -> Diagonal:
        if not size:
            nothing = jnp.zeros([len(features), 0])
            return Diagonal(nothing, nothing)
        location = nn.Dense(size, name=f"{name}_mean")(features)
        raw = nn.Dense(size, name=f"{name}_scale")(features)
        return Diagonal(location, nn.softplus(raw) + SMALLEST_SCALE)


class Generator(nn.Module):
    """One decoder a modality, from the shared latent and the modality's private one."""

    modalities: tuple[Modality, ...]
    width: int
    hidden: int
    convolution: Callable[..., Any]
    rematerialise: bool = False  # compute a modality's activations again to save memory
    dot_general: Callable[..., Any] = lax.dot_general  # of the decoders' wide layers

    @nn.compact
    def __call__(
        self, latents: Latents, names: tuple[str, ...] | None = None
    ) -> dict[str, jax.Array]:
        """Latents → name → outputs `[B, *shape]` (means, or logits of text)."""
        outputs = {}
        for modality in self.modalities:
            name = modality.name
            if names is not None and name not in names:
                continue
            image, other = (
                _saving(kind, self.rematerialise) for kind in (ImageDecoder, PerceptronDecoder)
            )
            sizes = self.width, self.hidden
            network = (
                image(modality.shape, *sizes, self.convolution, self.dot_general, name=name)
                if modality.kind == "image"
                else other(modality.shape, self.hidden, name=name)
            )
            inputs = latents.shared
            if latents.private:
                inputs = jnp.concatenate([inputs, latents.private[name]], axis=-1)
            outputs[name] = network(inputs)
        return outputs


class ScaledDense(nn.Module):
    """`flax.linen.Dense` whose parameters may hold a "scale": inputs · kernel · scale + bias.

    It is the layer whose kernel is multiplied by the scale, without that kernel written to memory.
    """

    features: int

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """`[B, I]` → `[B, features]`."""
        shape = (inputs.shape[-1], self.features)
        outputs = inputs @ self.param("kernel", nn.initializers.lecun_normal(), shape)
        if self.has_variable("params", "scale"):
            outputs = outputs * self.get_variable("params", "scale")
        return outputs + self.param("bias", nn.initializers.zeros, shape[1:])


class JointEnergy(nn.Module):
    """E_α(x): a trunk a modality, joined by a perceptron into one number."""

    modalities: tuple[Modality, ...]
    width: int
    hidden: int
    convolution: Callable[..., Any]
    rematerialise: bool = False  # compute a modality's activations again to save memory

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Batch of modalities → energies `[B]`."""
        features = [
            (
                _saving(ImageTrunk, self.rematerialise)(
                    self.width, self.convolution, name=modality.name
                )
                if modality.kind == "image"
                else _saving(TRUNKS[modality.kind], self.rematerialise)(
                    self.hidden, name=modality.name
                )
            )(batch[modality.name])
            for modality in self.modalities
        ]
        joint = jnp.concatenate(features, axis=-1)
        joint = nn.silu(ScaledDense(self.hidden, name=JOINT_LAYER)(joint))
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
        if not latents.shape[-1]:
            return jnp.zeros(len(latents))
        features = nn.silu(nn.Dense(self.hidden)(latents))
        features = nn.silu(nn.Dense(self.hidden)(features))
        energy = nn.Dense(1, kernel_init=nn.initializers.normal(1e-2))(features)[:, 0]
        return self.bound * jnp.tanh(energy / self.bound)
