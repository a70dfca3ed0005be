"""The four networks: inference, generator, data energy, latent energy.

Each of the first three joins one sub-network per modality, whatever the kind of modality. The loop
over modalities is in Python: stacking them under `vmap` would make grouped convolutions, which are
several times slower.
"""

from collections.abc import Mapping
from math import e, log
from types import MappingProxyType
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmebm_jax.networks.parts import Part, placed
from mmebm_jax.typing import Diagonal, Latents

JOINT_LAYER = "joint_0"  # takes all features; by far the largest kernel of the energy
SMALLEST_SCALE = 1e-3
UNIT = log(e - 1)  # softplus(UNIT) = 1
EMPTY: Mapping[str, jax.Array] = MappingProxyType({})


class InferenceOutputs(NamedTuple):
    """What the inference network computes before its experts are aggregated."""

    shared: dict[str, Diagonal]  # name → q_m(z | x_m), [B, Z]
    private: dict[str, Diagonal]  # name → q_m(w | x_m), [B, W]; empty when W = 0
    auxiliary_scale: dict[str, jax.Array]  # name → scale of r_m(w), [W]; empty when W = 0
    subset_logit: jax.Array  # shape=[2^M − 1]
    joint: Diagonal | None = None  # q(z | x) of all modalities, [1, B, Z]


class Inference(nn.Module):
    """One diagonal expert per modality, for the shared latent and for the modality's private one.

    Attributes:
      experts: per modality, examples → features.
      num_latents: Z.
      num_private: W, 0 for none.
      rematerialise: recompute a modality's activations to save memory.
      has_joint: whether there is also a joint expert of all modalities, with separate features.
    """

    experts: tuple[Part, ...]
    num_latents: int
    num_private: int
    rematerialise: bool = False
    has_joint: bool = False

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array]) -> InferenceOutputs:
        """Batch of modalities → experts, and two parameters that some bounds learn."""
        shared, private, auxiliary_scale = {}, {}, {}
        for part in self.experts:
            name = part.name
            features = placed(part, rematerialise=self.rematerialise)(batch[name])
            shared[name] = self._diagonal(features, self.num_latents, name)
            if self.num_private:
                # Separate features, as in MMVAE+: private content should not crowd out the shared.
                own = f"{name}_private"
                layer = placed(part, name=own, rematerialise=self.rematerialise)
                private[name] = self._diagonal(layer(batch[name]), self.num_private, own)
                raw = self.param(
                    f"{name}_auxiliary", nn.initializers.constant(UNIT), (self.num_private,)
                )
                auxiliary_scale[name] = nn.softplus(raw) + SMALLEST_SCALE
        num_subsets = 2 ** len(self.experts) - 1
        subset_logit = self.param("subset_logit", nn.initializers.zeros, (num_subsets,))
        joint = self._joint(batch) if self.has_joint else None
        return InferenceOutputs(shared, private, auxiliary_scale, subset_logit, joint)

    def _joint(self, batch: Mapping[str, jax.Array]) -> Diagonal:
        features = [
            placed(part, name=f"{part.name}_joint", rematerialise=self.rematerialise)(
                batch[part.name]
            )
            for part in self.experts
        ]
        diagonal = self._diagonal(jnp.concatenate(features, axis=-1), self.num_latents, "joint")
        return Diagonal(*(values[None] for values in diagonal))

    def _diagonal(self, features: jax.Array, size: int, name: str) -> Diagonal:
        if not size:
            nothing = jnp.zeros([len(features), 0])
            return Diagonal(nothing, nothing)
        location = nn.Dense(size, name=f"{name}_mean")(features)
        raw = nn.Dense(size, name=f"{name}_scale")(features)
        return Diagonal(location, nn.softplus(raw) + SMALLEST_SCALE)


def _between_minus_one_and_one(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.uniform(key, shape, minval=-1.0)


class Generator(nn.Module):
    """One decoder per modality, from the shared latent and the modality's private one.

    Attributes:
      decoders: per modality, latents → the likelihood's parameters.
      rematerialise: recompute a modality's activations to save memory.
      num_clusters: C of a learned prior of z; its parameters are "cluster_logit", `[C]`, and
        "cluster_mean", `[C, Z]`, which `distributions.base_prior.with_clusters` reads. 0 for none.
    """

    decoders: tuple[Part, ...]
    rematerialise: bool = False
    num_clusters: int = 0

    @nn.compact
    def __call__(
        self, latents: Latents, names: tuple[str, ...] | None = None
    ) -> dict[str, jax.Array]:
        """Decode latents, name → outputs `[B, *shape]`, only for `names` if given."""
        if self.num_clusters:
            shape = (self.num_clusters, latents.shared.shape[-1])
            self.param("cluster_logit", nn.initializers.zeros, shape[:1])
            self.param("cluster_mean", _between_minus_one_and_one, shape)
        outputs = {}
        for part in self.decoders:
            if names is not None and part.name not in names:
                continue
            inputs = latents.shared
            if latents.private:
                inputs = jnp.concatenate([inputs, latents.private[part.name]], axis=-1)
            outputs[part.name] = placed(part, rematerialise=self.rematerialise)(inputs)
        return outputs


class ScaledDense(nn.Module):
    """`flax.linen.Dense` whose parameters may hold a "scale": inputs · kernel · scale + bias.

    This equals multiplying the kernel by the scale, without writing the product to memory.
    """

    features: int

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """`[B, I]` → `[B, features]`."""
        shape = (inputs.shape[-1], self.features)
        outputs = inputs @ self.param("kernel", nn.initializers.lecun_normal(), shape)
        if self.has_variable("params", "scale"):
            outputs = outputs * self.get_variable("params", "scale")
        return outputs + self.param("bias", nn.initializers.zeros, shape[1:])[None, :]


class JointEnergy(nn.Module):
    """E_α(x): one trunk per modality, joined into one number.

    A trunk takes examples in model range. Text is one-hot `[L, V]` in data and probabilities in
    samples (`modalities.text`); its trunk is `networks.text.TextTrunk`, a dense layer over all
    positions, or, with other `model.networks`, the one in `text_residual` or `text_transformer`.

    Attributes:
      trunks: per modality, examples → features `[B, F]`, which are concatenated.
      hidden: units of the joint layers.
      rematerialise: recompute a modality's activations to save memory.
    """

    trunks: tuple[Part, ...]
    hidden: int
    rematerialise: bool = False

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Batch of modalities → energies `[B]`."""
        features = [
            placed(part, rematerialise=self.rematerialise)(batch[part.name]) for part in self.trunks
        ]
        joint = jnp.concatenate(features, axis=-1)
        joint = nn.silu(ScaledDense(self.hidden, name=JOINT_LAYER)(joint))
        joint = nn.silu(nn.Dense(self.hidden, name="joint_1")(joint))
        return nn.Dense(1, name="energy")(joint)[:, 0]


class LatentEnergy(nn.Module):
    """E_γ(u) = E_0(z) + Σ_m E_m(z, w_m): perceptrons whose outputs are bounded to ±`bound`.

    With short chains, an unbounded latent energy diverges; the smooth bound prevents that.

    Attributes:
      hidden: units of the layers.
      bound: bound on each term, nats.
      private_names: modalities that have a term E_m.
    """

    hidden: int
    bound: float
    private_names: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, shared: jax.Array, private: Mapping[str, jax.Array] = EMPTY) -> jax.Array:
        """Return energies `[B]` of latents `[B, Z]` and private latents, name → `[B, W]`.

        Terms of modalities whose private latents are not given are left out.
        """
        total = jnp.zeros(len(shared))
        if shared.shape[-1]:
            total = self._term(shared, "")
        for name in self.private_names:
            if name in private:
                both = jnp.concatenate([shared, private[name]], axis=-1)
                total = total + self._term(both, f"{name}_")
        return total

    def _term(self, latents: jax.Array, prefix: str) -> jax.Array:
        for index in range(2):
            latents = nn.silu(nn.Dense(self.hidden, name=f"{prefix}Dense_{index}")(latents))
        last = nn.Dense(1, kernel_init=nn.initializers.normal(1e-2), name=f"{prefix}Dense_2")
        return self.bound * jnp.tanh(last(latents)[:, 0] / self.bound)
