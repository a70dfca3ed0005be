"""The networks at the parameters of one step, and the chains that run under them."""

from collections.abc import Mapping
from typing import NamedTuple

import jax

from mmebm_jax.method import inference, langevin, prior, revision
from mmebm_jax.method.inference import Encoding
from mmebm_jax.method.model import Model
from mmebm_jax.method.plan import Plan, Terms, UpdateSettings
from mmebm_jax.method.prior import BasePrior
from mmebm_jax.modalities.modality import Modality
from mmebm_jax.typing import Batch, EnergyFn, Latents, Mask, Params


class Networks(NamedTuple):
    """The networks at the parameters of a step; see `bind`.

    What a chain or a target reads is `frozen`, what a loss moves is `params`.
    """

    plan: Plan
    params: Mapping[str, Params]  # of the data energy: spectrally normalised
    frozen: Mapping[str, Params]  # the same numbers, without gradient
    base_prior: BasePrior

    @property
    def model(self) -> Model:
        """Specs and definitions."""
        return self.plan.model

    @property
    def terms(self) -> Terms:
        """Which losses act."""
        return self.plan.terms

    @property
    def settings(self) -> UpdateSettings:
        """Chains and weights."""
        return self.plan.settings

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities' specs."""
        return self.model.modalities

    @property
    def latent_energy(self) -> EnergyFn | None:
        """E_γ without gradient for its parameters; None where the prior has no energy."""
        if not self.terms.learn_prior:
            return None
        return lambda latents: self.model.latent_energy(self.frozen["prior"], latents)

    @property
    def fitted_prior(self) -> BasePrior | None:
        """p_0, or None while it is the standard prior, which is cheaper."""
        return None if self.terms.standard_prior else self.base_prior

    def encode(self, batch: Batch, mask: Mask | None = None) -> Encoding:
        """Experts and posterior of a batch."""
        return self.model.encode(self.params["inference"], batch, mask)

    def infer(self, key: jax.Array, encoding: Encoding, mask: Mask | None) -> Latents:
        """z⁰: a draw from the inference model."""
        draw = inference.infer(key, encoding, self.model.prior_family, mask)
        return jax.lax.stop_gradient(draw)

    def decode_frozen(self, latents: Latents) -> dict[str, jax.Array]:
        """Outputs of the generator that carry no gradient for its parameters."""
        return self.model.decode(self.frozen["generator"], latents)

    def revise_posterior(
        self, key: jax.Array, start: Latents, batch: Batch, mask: Mask | None
    ) -> Latents:
        """ũ: latents of the data, refined under the generator's posterior."""
        energy_fn = revision.posterior_energy(
            batch,
            modalities=self.modalities,
            decode=self.decode_frozen,
            prior_energy=prior.joint_energy(
                self.fitted_prior, self.latent_energy, self.model.prior_family
            ),
            mask=mask,
        )
        return langevin.run(key, start, energy_fn, self.settings.posterior_chain).position

    def sample_prior(self, key: jax.Array, num_samples: int) -> Latents:
        """u_p: latents to generate from, refined under the latent energy where there is one."""
        shape = num_samples, self.model.num_private
        return prior.sample_latents(
            key,
            prior.LatentPrior(self.base_prior, self.latent_energy, self.model.prior_family),
            num_samples,
            self.settings.prior_chain,
            num_candidates=self.settings.prior_candidates,
            private=dict.fromkeys(self.model.private_names, shape),
        )

    def refine(
        self, key: jax.Array, start: Batch, mask: Mask | None = None
    ) -> dict[str, jax.Array]:
        """x̃: samples refined under the joint energy; what the mask names observed is held."""
        return revision.revise_data(
            key,
            start,
            lambda x: self.model.data_energy(self.frozen["energy"], x),
            self.settings.data_chain,
            modalities=self.modalities,
            mask=mask,
        ).position


def bind(plan: Plan, params: Mapping[str, Params], base_prior: BasePrior) -> Networks:
    """The networks at `params`, with the data energy's kernels normalised once, outside chains."""
    if plan.terms.learn_energy:
        params = {**params, "energy": plan.model.normalised(params["energy"])}
    return Networks(plan, params, jax.lax.stop_gradient(params), base_prior)
