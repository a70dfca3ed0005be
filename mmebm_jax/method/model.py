"""The four networks of the family as pure functions of their parameters."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmebm_jax.distributions import aggregators
from mmebm_jax.distributions.aggregators import Aggregation
from mmebm_jax.distributions.base_prior import BasePrior, PrivateShapes, standard
from mmebm_jax.method.inference import Encoding
from mmebm_jax.modalities.modality import Modality
from mmebm_jax.networks.joint import (
    EMPTY,
    JOINT_LAYER,
    Generator,
    Inference,
    JointEnergy,
    LatentEnergy,
)
from mmebm_jax.networks.spectral import normalise_kernels
from mmebm_jax.typing import Batch, Latents, Mask, Params

NETWORKS = ("inference", "generator", "prior", "energy")
ARITHMETIC = ("float32", "bfloat16")


class Model(NamedTuple):
    """Modality specs and network definitions: static, hashable, without parameters."""

    modalities: tuple[Modality, ...]
    num_latents: int  # Z; with 0, every modality has a separate generator
    num_private: int  # W, per modality; 0 for none
    posterior_family: str  # of the experts
    prior_family: str  # of p_0(z) until it is fitted, and of p(w)
    aggregation: Aggregation  # of the experts
    inference: Inference
    generator: Generator
    prior: LatentEnergy
    energy: JointEnergy
    spectral_gain: float  # spectral norm of every layer of the energy; 0: unconstrained
    num_private_components: int = 0  # J of the mixtures p_0(w_m | z); 0 leaves p(w_m) standard
    arithmetic: str = "float32"  # or "bfloat16", inside the networks; float32 elsewhere

    @property
    def private_names(self) -> tuple[str, ...]:
        """Modalities that have a private latent."""
        return tuple(m.name for m in self.modalities) if self.num_private else ()

    @property
    def token_names(self) -> tuple[str, ...]:
        """Modalities of text and categories."""
        return tuple(m.name for m in self.modalities if m.is_of_tokens)

    def standard_prior(self, num_components: int) -> BasePrior:
        """Return p_0 before it is fitted, in the shapes of a mixture of `num_components`."""
        names = self.private_names if self.num_private_components else ()
        private = PrivateShapes(names, self.num_private, self.num_private_components)
        return standard(num_components, self.num_latents, self.prior_family, private)

    def init(self, key: jax.Array) -> dict[str, Params]:
        """Initialise the parameters of the four networks, keyed by the names in `NETWORKS`."""
        keys = dict(zip(NETWORKS, jax.random.split(key, len(NETWORKS)), strict=True))
        batch = {m.name: jnp.zeros([1, *m.shape]) for m in self.modalities}
        private = {name: jnp.zeros([1, self.num_private]) for name in self.private_names}
        latents = Latents(jnp.zeros([1, self.num_latents]), private)
        return {
            "inference": self.inference.init(keys["inference"], batch)["params"],
            "generator": self.generator.init(keys["generator"], latents)["params"],
            "prior": self.prior.init(keys["prior"], *latents).get("params", {}),
            "energy": self.energy.init(keys["energy"], batch)["params"],
        }

    def encode(self, params: Params, batch: Batch, mask: Mask | None = None) -> Encoding:
        """Compute the experts and their aggregate; the mask says which modalities are observed."""
        outputs = self._apply(self.inference, params, batch)
        experts = aggregators.stack(outputs.shared, mask)._replace(joint=outputs.joint)
        posterior = aggregators.aggregate(experts, self.aggregation, family=self.posterior_family)
        private, scale, logit = outputs.private, outputs.auxiliary_scale, outputs.subset_logit
        return Encoding(experts, posterior, private, scale, logit)

    def decode(
        self, params: Params, latents: Latents, names: Sequence[str] | None = None
    ) -> dict[str, jax.Array]:
        """Return the generator's outputs, name → `[B, *shape]`, only for `names` if given."""
        names = None if names is None else tuple(names)
        return self._apply(self.generator, params, latents, names=names)

    def latent_energy(
        self, params: Params, shared: jax.Array, private: Mapping[str, jax.Array] = EMPTY
    ) -> jax.Array:
        """Return E_γ of shared latents `[B, Z]` and of the private latents given, `[B]`."""
        return self.prior.apply({"params": params}, shared, private)  # type: ignore[return-value]

    def normalised(self, energy_params: Params) -> Params:
        """Spectrally normalise the energy's parameters, as `data_energy` expects them.

        Call this once per update, outside every chain.
        """
        if not self.spectral_gain:
            return energy_params
        return normalise_kernels(energy_params, self.spectral_gain, apart=(JOINT_LAYER,))

    def data_energy(self, normalised_params: Params, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Return E_α(x), `[B]`, over all modalities jointly."""
        return self._apply(self.energy, normalised_params, batch)

    def _apply(self, network: nn.Module, params: Params, inputs: Any, **options: Any) -> Any:
        if self.arithmetic == "float32":
            return network.apply({"params": params}, inputs, **options)
        params, inputs = _cast((params, inputs), self.arithmetic)
        return _cast(network.apply({"params": params}, inputs, **options), "float32")


def _cast(tree: Any, dtype: str) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)
