"""The networks bound to given parameters, and the three chains that run under them.

Training binds them to the parameters of a step, sampling to a run's averaged weights.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmebm_jax.distributions.base_prior import BasePrior, tempered
from mmebm_jax.distributions.families import standard_noise
from mmebm_jax.method import data_revision, inference, langevin, prior
from mmebm_jax.method.inference import Encoding
from mmebm_jax.method.langevin import Chain, LangevinResult
from mmebm_jax.method.model import Model
from mmebm_jax.method.posterior_energy import posterior_energy
from mmebm_jax.modalities.modality import likeliest_tokens
from mmebm_jax.typing import Batch, LatentEnergyFn, Latents, Mask, Params


class Chains(NamedTuple):
    """Settings of the three chains."""

    posterior: Chain
    prior: Chain
    data: Chain
    prior_candidates: int = 1  # draws from p_0 for each start of the prior chain
    shared_temperature: float = 1.0  # of draws of z from p_0; see `base_prior.tempered`
    token_temperature: float = 1.0  # of draws from p_0(w_m | z) for text and categories
    data_start: str = "generator"  # start of the data chain; "noise" in an ablation
    gap_share: float = 0.0  # share of the energy gap closed in training; 0: fixed step size
    tokens: str = "relaxed"  # "held", "given": the data chain keeps the likeliest words fixed
    scaled_posterior: bool = False  # whether the posterior chain steps in units of q's scales


class Networks(NamedTuple):
    """The four networks: losses differentiate `params`, chains and targets read `frozen`."""

    model: Model
    chains: Chains
    params: Mapping[str, Params]  # those of the data energy spectrally normalised
    frozen: Mapping[str, Params]  # the same values, without gradient
    base_prior: BasePrior  # p_0
    is_tilted: bool  # whether the prior is ∝ exp(−E_γ(z)) p_0(z)
    is_standard: bool = False  # whether p_0 is known to be standard, which is cheaper

    @property
    def latent_energy(self) -> LatentEnergyFn | None:
        """E_γ without gradient for its parameters; None if the prior has no energy."""
        return partial(self.model.latent_energy, self.frozen["prior"]) if self.is_tilted else None

    def data_energy(self, batch: Batch) -> jax.Array:
        """Return E_α without gradient for its parameters, `[B]`."""
        return self.model.data_energy(self.frozen["energy"], batch)

    @property
    def fitted_prior(self) -> BasePrior | None:
        """p_0, or None while it is the standard prior."""
        return None if self.is_standard else self.base_prior

    def in_training(self, data: Batch) -> "Networks":
        """Return the networks with the data chain used in training; see `Chains.gap_share`."""
        chain, share = self.chains.data, self.chains.gap_share
        if not share:
            return self
        rule = data_revision.gap_closing(chain, share, self.data_energy(data).mean())
        return self._replace(chains=self.chains._replace(data=chain._replace(step_size=rule)))

    def encode(self, batch: Batch, mask: Mask | None = None) -> Encoding:
        """Compute the experts and the posterior of a batch."""
        return self.model.encode(self.params["inference"], batch, mask)

    def infer(self, key: jax.Array, encoding: Encoding, mask: Mask | None = None) -> Latents:
        """Draw u⁰ from the inference model."""
        draw = inference.infer(key, encoding, self.draw_private, mask)
        return jax.lax.stop_gradient(draw)

    def draw_private(self, key: jax.Array, name: str, shared: jax.Array) -> jax.Array:
        """Draw w_m ~ p(w_m | z), `[B, W]`."""
        base = self.fitted_prior
        if base is None or not base.private:
            shape = (len(shared), self.model.num_private)
            return standard_noise(key, self.model.prior_family, shape)
        temperature = self.chains.token_temperature
        if temperature != 1.0 and name in self.model.token_names:
            base = tempered(base, private=temperature)
        return prior.private_sample(
            key, base, self.latent_energy, name, shared, self.chains.prior_candidates
        )

    def decode_frozen(
        self, latents: Latents, names: Sequence[str] | None = None
    ) -> dict[str, jax.Array]:
        """Return the generator's outputs, without gradient for its parameters."""
        return self.model.decode(self.frozen["generator"], latents, names)

    def revise_posterior(
        self,
        key: jax.Array,
        start: Latents,
        batch: Batch,
        mask: Mask | None = None,
        encoding: Encoding | None = None,
    ) -> LangevinResult:
        """Refine latents to ũ under the generator's posterior given the modalities in `batch`.

        Private latents of other modalities do not move: given z, x says nothing about them. `mask`
        covers all modalities. With `encoding` and `Chains.scaled_posterior`, the chain's steps are
        in units of the inferred scales, so that one step size suits posteriors of any width.
        """
        energy_fn = posterior_energy(
            batch,
            modalities=tuple(m for m in self.model.modalities if m.name in batch),
            decode=partial(self.decode_frozen, names=tuple(batch)),
            prior_energy=prior.latents_energy(
                self.fitted_prior, self.latent_energy, self.model.prior_family
            ),
            mask=mask,
        )
        chain, free = self.chains.posterior, start.of(batch)
        if encoding is None or not self.chains.scaled_posterior:
            result = langevin.run(key, free, energy_fn, chain)
        else:
            scales = inference.scales(encoding, mask).of(batch)
            result = langevin.run_scaled(key, free, energy_fn, chain, scales)
        shared, private = result.position
        return result._replace(position=Latents(shared, {**start.private, **private}))

    def sample_prior(self, key: jax.Array, num_samples: int) -> Latents:
        """Draw u_p, latents to generate from."""
        shared_key, private_key = jax.random.split(key)
        shared = self.revise_prior(shared_key, num_samples).position
        names = self.model.private_names
        keys = jax.random.split(private_key, len(names))
        private = {n: self.draw_private(k, n, shared) for k, n in zip(keys, names, strict=True)}
        return Latents(shared, private)

    def revise_prior(self, key: jax.Array, num_samples: int) -> LangevinResult:
        """Run the chain over shared latents under the latent energy, from draws of p_0."""
        chain, candidates = self.chains.prior, self.chains.prior_candidates
        base = tempered(self.base_prior, shared=self.chains.shared_temperature)
        return prior.sample(key, base, self.latent_energy, num_samples, chain, candidates)

    def refine(
        self,
        key: jax.Array,
        samples: Batch,
        *,
        observed: Batch | None = None,
        mask: Mask | None = None,
        keep_trajectory: bool = False,
    ) -> LangevinResult:
        """Refine samples to x̃ under the joint energy.

        Args:
          key: PRNG key.
          samples: starting points of the modalities that may move.
          observed: the other modalities, held fixed.
          mask: which of `samples` are observed, and so held fixed too.
          keep_trajectory: also return every step.
        """
        relaxed = self.chains.tokens == "relaxed"
        held = {} if relaxed else likeliest_tokens(self.model.modalities, samples)
        beside = {**(observed or {}), **held}
        result = data_revision.revise_data(
            key,
            {name: values for name, values in samples.items() if name not in held},
            lambda position: self.data_energy({**beside, **position}),
            self.chains.data,
            modalities=self.model.modalities,
            mask=mask,
            keep_trajectory=keep_trajectory,
        )
        trajectory = result.trajectory
        if keep_trajectory:
            steps = self.chains.data.num_steps
            still = {name: jnp.tile(x, (steps, *[1] * x.ndim)) for name, x in held.items()}
            trajectory = trajectory | still
        return result._replace(position=result.position | held, trajectory=trajectory)
