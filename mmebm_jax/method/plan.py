"""What an update is compiled for: which losses act, and the settings of its chains."""

from collections.abc import Mapping
from typing import NamedTuple

import jax

from mmebm_jax.distributions.base_prior import BasePrior, with_clusters
from mmebm_jax.method.bounds import Bound
from mmebm_jax.method.model import NETWORKS, Model
from mmebm_jax.method.networks import Chains, Networks
from mmebm_jax.typing import Params


class Terms(NamedTuple):
    """Which losses act, and how strongly.

    A group is left out of the compiled update if its flag is False or its weights are all 0.
    """

    elbo: float = 0.0  # a bound of the VAE family: trains inference and generator
    elbo_learned_prior: bool = False  # the bound's prior is ∝ exp(−E_γ(z)) p_0(z), not standard
    posterior_generator: float = 0.0  # −log p(x | ũ)
    posterior_inference: float = 0.0  # −log q(ũ | x)
    learn_prior: bool = False  # train the latent energy on ũ against prior samples
    learn_energy: bool = False  # train the data energy on data against x̃
    synthesis_generator: float = 0.0  # λ_s: −log p(x̃ | u_p)
    synthesis_inference: float = 0.0  # λ_i: −log q(u_p | x̃)
    fitted_energy: bool = False  # a latent energy fitted beforehand tilts the prior
    standard_prior: bool = False  # p_0 is known to be standard, which is cheaper

    @property
    def revises_posterior(self) -> bool:
        """Whether any network learns from ũ."""
        return bool(self.posterior_generator or self.posterior_inference)

    @property
    def trained(self) -> tuple[str, ...]:
        """Networks that these terms train, in the order of `NETWORKS`."""
        energy = self.learn_energy
        inference = self.elbo or self.posterior_inference or (energy and self.synthesis_inference)
        generator = self.elbo or self.posterior_generator or (energy and self.synthesis_generator)
        moved = (inference, generator, self.learn_prior, energy)
        return tuple(name for name, moves in zip(NETWORKS, moved, strict=True) if moves)


class UpdateSettings(NamedTuple):
    """Plain values that the update takes from the configuration."""

    chains: Chains
    bound: Bound  # of the VAE family
    prior_penalty: float  # weight of squared latent energies
    energy_penalty: float  # weight of squared data energies
    data_noise: float  # standard deviation of the noise added to data for the energy
    noisy_samples: bool  # whether samples get that noise too
    independent_inference: bool  # whether each expert learns from ũ separately
    revision_stride: int  # every n-th example of a batch is revised
    averaging: float  # decay of the moving average, in [0, 1)


class Plan(NamedTuple):
    """Everything that an update is compiled for."""

    model: Model
    settings: UpdateSettings
    terms: Terms
    batch_sharding: jax.sharding.NamedSharding | None = None  # of examples over devices


def bind(plan: Plan, params: Mapping[str, Params], base_prior: BasePrior) -> Networks:
    """Bind the networks to `params`; normalise the data energy's kernels once, outside chains."""
    if plan.terms.learn_energy:
        params = {**params, "energy": plan.model.normalised(params["energy"])}
    return Networks(
        plan.model,
        plan.settings.chains,
        params,
        frozen=jax.lax.stop_gradient(params),
        base_prior=with_clusters(base_prior, params["generator"]),
        is_tilted=plan.terms.learn_prior or plan.terms.fitted_energy,
        is_standard=plan.terms.standard_prior,
    )
