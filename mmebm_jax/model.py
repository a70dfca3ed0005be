"""The four networks of the family as pure functions of their parameters."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmebm_jax import inference
from mmebm_jax.inference import Experts
from mmebm_jax.modality import Modality
from mmebm_jax.networks.joint import Generator, Inference, JointEnergy, LatentEnergy
from mmebm_jax.networks.spectral import normalise_kernels
from mmebm_jax.typing import Batch, Mask, Params

NETWORKS = ("inference", "generator", "prior", "energy")


class Model(NamedTuple):
    """Modality specs and network definitions: static, hashable, without parameters."""

    modalities: tuple[Modality, ...]
    num_latents: int
    inference: Inference
    generator: Generator
    prior: LatentEnergy
    energy: JointEnergy
    spectral_gain: float  # spectral norm of every layer of the energy; 0 leaves them free

    def init(self, key: jax.Array) -> dict[str, Params]:
        """Parameters of the four networks, by the names of `NETWORKS`."""
        keys = dict(zip(NETWORKS, jax.random.split(key, len(NETWORKS)), strict=True))
        batch = {m.name: jnp.zeros([1, *m.shape]) for m in self.modalities}
        latents = jnp.zeros([1, self.num_latents])
        return {
            "inference": self.inference.init(keys["inference"], batch)["params"],
            "generator": self.generator.init(keys["generator"], latents)["params"],
            "prior": self.prior.init(keys["prior"], latents)["params"],
            "energy": self.energy.init(keys["energy"], batch)["params"],
        }

    def encode(self, params: Params, batch: Batch, mask: Mask | None = None) -> Experts:
        """The experts of the inference network; the mask names what is observed."""
        experts: dict[str, tuple[jax.Array, jax.Array]]
        experts = self.inference.apply({"params": params}, batch)  # type: ignore[assignment]
        return inference.mixture_of_experts(experts, mask)

    def decode(self, params: Params, latents: jax.Array) -> dict[str, jax.Array]:
        """Outputs of the generator for latents `[B, Z]`: name → `[B, *shape]`."""
        return self.generator.apply({"params": params}, latents)  # type: ignore[return-value]

    def latent_energy(self, params: Params, latents: jax.Array) -> jax.Array:
        """E_γ(z), `[B]`."""
        return self.prior.apply({"params": params}, latents)  # type: ignore[return-value]

    def normalised(self, energy_params: Params) -> Params:
        """The energy's parameters as `data_energy` takes them, spectrally normalised.

        Call it once an update, outside every chain.
        """
        if not self.spectral_gain:
            return energy_params
        return normalise_kernels(energy_params, self.spectral_gain)

    def data_energy(self, normalised_params: Params, batch: Mapping[str, jax.Array]) -> jax.Array:
        """E_α(x), `[B]`, over all modalities jointly."""
        return self.energy.apply({"params": normalised_params}, batch)  # type: ignore[return-value]
