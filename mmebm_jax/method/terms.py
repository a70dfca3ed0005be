"""The four terms of the update's loss: bound, posterior, prior, energy.

Each is a function of networks and of samples that were drawn before, and returns named scalars;
those that begin with "loss/" are summed and differentiated. Paper B is arXiv:2605.00644, paper A
arXiv:2408.10467.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmebm_jax import batching, cpu
from mmebm_jax.method import bounds, losses, prior, revision
from mmebm_jax.method.inference import Encoding
from mmebm_jax.method.networks import Networks
from mmebm_jax.modalities.modality import means, where_observed
from mmebm_jax.typing import Batch, Latents, Mask

Metrics = dict[str, jax.Array]


def bound_term(
    key: jax.Array, networks: Networks, encoding: Encoding, batch: Batch, mask: Mask | None
) -> Metrics:
    """The negative bound of the VAE family: inference and generator. Equations: see `bounds`."""
    terms, model = networks.terms, networks.model
    setting = bounds.Setting(
        modalities=model.modalities,
        decode=lambda u, names=None: model.decode(networks.params["generator"], u, names),
        prior_family=model.prior_family,
        prior_energy=prior.relative_energy(
            networks.fitted_prior, networks.latent_energy, model.prior_family
        )
        if terms.elbo_learned_prior
        else None,
        aggregation=model.aggregation,
    )
    each = bounds.negative_bound(key, encoding, batch, networks.settings.bound, setting, mask)
    return {"loss/elbo": terms.elbo * each.mean()}


def posterior_term(
    networks: Networks, encoding: Encoding, batch: Batch, revised: Latents, mask: Mask | None
) -> Metrics:
    """−log p_β(x | ũ) and −log q_φ(ũ | x): generator and inference learn from revised latents.

    Paper A's maximum-likelihood gradient of the generator, and the first KL of paper B.
    """
    terms = networks.terms
    outputs = networks.model.decode(networks.params["generator"], revised)
    generator = losses.generator_loss(outputs, batch, modalities=networks.modalities, mask=mask)
    amortised = losses.inference_loss(
        encoding, revised, mask, independent=networks.settings.independent_inference
    )
    return {
        "loss/posterior_generator": terms.posterior_generator * generator.mean(),
        "loss/posterior_inference": terms.posterior_inference * amortised.mean(),
    }


def prior_term(networks: Networks, revised: Latents, prior_latents: Latents) -> Metrics:
    """E_γ(ũ) − E_γ(u_p): the latent energy, by paper A's maximum likelihood of the prior."""
    energy = networks.model.latent_energy
    of_data = energy(networks.params["prior"], revised.shared)
    of_samples = energy(networks.params["prior"], prior_latents.shared)
    contrast = losses.contrast_loss(of_data, of_samples, networks.settings.prior_penalty)
    return {"loss/prior": contrast.mean(), "prior_gap": (of_data - of_samples).mean()}


class Synthesis(NamedTuple):
    """What the energy learns from."""

    latents: Latents  # u_p
    outputs: dict[str, jax.Array]  # of the generator for u_p, with its gradient
    generated: Batch  # x⁰, where the data chain started
    refined: Batch  # x̃
    data: Batch  # the batch; what is missing of it drawn by the same chain


def synthesise(
    key: jax.Array,
    networks: Networks,
    prior_latents: Latents,
    revised: Latents,
    batch: Batch,
    mask: Mask | None,
) -> Synthesis:
    """x⁰ and x̃: what the generator makes of u_p, and the same after the data revision."""
    chain_key, start_key, complete_key = jax.random.split(key, 3)
    outputs = networks.model.decode(networks.params["generator"], prior_latents)
    generated = means(networks.modalities, outputs)
    if networks.settings.data_start == "noise":
        generated = revision.noise_start(start_key, networks.modalities, generated)
    refined = networks.refine(chain_key, generated)
    if mask is not None:
        # The data's side of the likelihood's gradient is an expectation over what is missing,
        # given what is observed: the same chain, with the observed held fixed.
        imputed = means(networks.modalities, networks.decode_frozen(revised))
        batch = networks.refine(complete_key, where_observed(mask, batch, imputed), mask)
    return Synthesis(prior_latents, outputs, generated, refined, batch)


def energy_term(key: jax.Array, networks: Networks, synthesis: Synthesis) -> Metrics:
    """E_α(x) − E_α(x̃), and what x̃ teaches the others: −λ_s log p_β(x̃ | u_p), −λ_i log q_φ(u_p | x̃).

    Paper B's energy loss, and its second KL as generator and inference see it.
    """
    terms, settings, modalities = networks.terms, networks.settings, networks.modalities
    both = {}
    for m, k in zip(modalities, jax.random.split(key, len(modalities)), strict=True):
        values = synthesis.data[m.name]
        noisy = values + settings.data_noise * cpu.normal(k, values.shape, values.dtype)
        # Clipped as the chain is: what leaves the range would tell data from samples.
        noisy = jnp.clip(noisy, *m.bounds)
        both[m.name] = batching.interleave(noisy, synthesis.refined[m.name])
    energies = networks.model.data_energy(networks.params["energy"], both)
    of_data, of_samples = batching.deinterleave(energies)
    contrast = losses.contrast_loss(of_data, of_samples, settings.energy_penalty)
    metrics = {
        "loss/energy": contrast.mean(),
        "energy_gap": (of_data - of_samples).mean(),
        "energy_of_data": of_data.mean(),
        "data_displacement": batching.root_mean_square(synthesis.refined, synthesis.generated),
    }
    if terms.synthesis_generator:
        each = losses.generator_loss(synthesis.outputs, synthesis.refined, modalities=modalities)
        metrics["loss/synthesis_generator"] = terms.synthesis_generator * each.mean()
    if terms.synthesis_inference:
        each = losses.inference_loss(networks.encode(synthesis.refined), synthesis.latents)
        metrics["loss/synthesis_inference"] = terms.synthesis_inference * each.mean()
    return metrics
