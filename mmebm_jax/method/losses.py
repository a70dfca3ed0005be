"""The terms of the update's loss: bound, posterior, prior, energy and synthesis.

Each is a function of the networks and of samples drawn beforehand, and returns named scalars; those
whose names start with "loss/" are summed and differentiated. Equation numbers are those of
`docs/method.md`. Paper A is arXiv:2408.10467, paper B arXiv:2605.00644.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmebm_jax import batching
from mmebm_jax.method import bounds, inference, prior
from mmebm_jax.method.inference import Encoding
from mmebm_jax.method.networks import Networks
from mmebm_jax.method.plan import Plan
from mmebm_jax.modalities.modality import (
    joint_log_likelihood,
    means,
    uniform_noise,
    where_observed,
    with_noise,
)
from mmebm_jax.typing import Batch, Latents, Mask

Metrics = dict[str, jax.Array]


def bound_term(
    key: jax.Array,
    plan: Plan,
    networks: Networks,
    encoding: Encoding,
    batch: Batch,
    mask: Mask | None = None,
) -> Metrics:
    """Equation (5): the negative bound of the VAE family, for inference network and generator."""
    terms, model = plan.terms, plan.model
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
    each = bounds.negative_bound(key, encoding, batch, plan.settings.bound, setting, mask)
    return {"loss/elbo": terms.elbo * each.mean()}


def posterior_term(
    plan: Plan,
    networks: Networks,
    encoding: Encoding,
    batch: Batch,
    revised: Latents,
    mask: Mask | None = None,
) -> Metrics:
    """Equation (6): −log p_β(x | ũ) for the generator, −log q_φ(ũ | x) for the inference network.

    Paper A's maximum-likelihood gradient of the generator, and the first KL of paper B.
    """
    terms = plan.terms
    outputs = networks.model.decode(networks.params["generator"], revised)
    likelihood = joint_log_likelihood(networks.model.modalities, outputs, batch, mask)
    amortised = inference.inference_loss(
        encoding, revised, mask, independent=plan.settings.independent_inference
    )
    return {
        "loss/posterior_generator": -terms.posterior_generator * likelihood.mean(),
        "loss/posterior_inference": terms.posterior_inference * amortised.mean(),
    }


def prior_term(plan: Plan, networks: Networks, revised: Latents, prior_latents: Latents) -> Metrics:
    """Equation (7): E_γ(ũ) − E_γ(u_p), paper A's maximum-likelihood loss of the prior."""
    energy = networks.model.latent_energy
    of_data = energy(networks.params["prior"], *revised)
    of_samples = energy(networks.params["prior"], *prior_latents)
    contrast = contrast_loss(of_data, of_samples, plan.settings.prior_penalty)
    return {"loss/prior": contrast.mean(), "prior_gap": (of_data - of_samples).mean()}


class Synthesis(NamedTuple):
    """What the data energy learns from."""

    latents: Latents  # u_p
    outputs: dict[str, jax.Array]  # generator outputs for u_p, with gradient
    generated: Batch  # x⁰, where the data chain started
    refined: Batch  # x̃
    data: Batch  # the batch; missing modalities are drawn by the chain of fixed steps
    start_energy: jax.Array  # of x⁰, shape=[1, B]; [0, B] if the chain has no steps


def synthesise(
    key: jax.Array,
    networks: Networks,
    prior_latents: Latents,
    revised: Latents,
    batch: Batch,
    mask: Mask | None = None,
) -> Synthesis:
    """Generate x⁰ from u_p, and refine it to x̃ by the data revision (4).

    If `Chains.tokens` is "given", the batch's text and categories are kept, u_p is inferred from
    them, and only the other modalities are generated; a batch with missing modalities is treated as
    if it were "held".
    """
    chain_key, start_key, complete_key = jax.random.split(key, 3)
    modalities = networks.model.modalities
    given = {m.name: jnp.full([len(batch[m.name])], m.is_of_tokens) for m in modalities}
    has_both = len({m.is_of_tokens for m in modalities}) == 2
    completes = networks.chains.tokens == "given" and has_both and mask is None
    if completes:
        encoding = networks.encode(batch, given)
        prior_latents = networks.infer(jax.random.fold_in(key, 3), encoding, given)
    outputs = networks.model.decode(networks.params["generator"], prior_latents)
    generated = means(modalities, outputs)
    if networks.chains.data_start == "noise":
        generated = uniform_noise(start_key, modalities, generated)
    if completes:
        generated = where_observed(given, batch, generated)
    data = dict(batch)
    if mask is not None:
        # The data term of the likelihood's gradient is an expectation over missing modalities
        # given the observed ones: run the same chain with the observed ones held fixed.
        imputed = means(modalities, networks.decode_frozen(revised))
        completed = where_observed(mask, batch, imputed)
        data = networks.refine(complete_key, completed, mask=mask).position
    chain = networks.in_training(data).refine(chain_key, generated)
    return Synthesis(prior_latents, outputs, generated, chain.position, data, chain.info.energy[:1])


def energy_term(key: jax.Array, plan: Plan, networks: Networks, synthesis: Synthesis) -> Metrics:
    """Equation (8): E_α(x) − E_α(x̃), paper B's energy loss."""
    settings, modalities = plan.settings, plan.model.modalities
    both = {}
    for m, k in zip(modalities, jax.random.split(key, len(modalities)), strict=True):
        data, refined = synthesis.data[m.name], synthesis.refined[m.name]
        data = with_noise(k, m, data, settings.data_noise)
        if settings.noisy_samples:
            refined = with_noise(jax.random.fold_in(k, 1), m, refined, settings.data_noise)
        both[m.name] = batching.interleave(data, refined)
    energies = networks.model.data_energy(networks.params["energy"], both)
    of_data, of_samples = batching.deinterleave(energies)
    contrast = contrast_loss(of_data, of_samples, settings.energy_penalty)
    metrics = {
        "loss/energy": contrast.mean(),
        "energy_gap": (of_data - of_samples).mean(),
        "energy_of_data": of_data.mean(),
        "data_displacement": batching.root_mean_square(synthesis.refined, synthesis.generated),
    }
    if synthesis.start_energy.size:
        # The start carries no noise, even if data and samples were given noise.
        start = synthesis.start_energy.mean()
        gap = jnp.maximum(start - of_data.mean(), 1e-6)
        metrics["gap_closed"] = jnp.clip((start - of_samples.mean()) / gap, -1.0, 2.0)
    return metrics


def synthesis_term(plan: Plan, networks: Networks, synthesis: Synthesis) -> Metrics:
    """Equation (9): −λ_s log p_β(x̃ | u_p) − λ_i log q_φ(u_p | x̃).

    Paper B's second KL, by which generator and inference network learn from x̃; λ_s and λ_i are
    `Terms.synthesis_generator` and `synthesis_inference`.
    """
    terms = plan.terms
    metrics: Metrics = {}
    if terms.synthesis_generator:
        likelihood = joint_log_likelihood(
            plan.model.modalities, synthesis.outputs, synthesis.refined
        )
        metrics["loss/synthesis_generator"] = -terms.synthesis_generator * likelihood.mean()
    if terms.synthesis_inference:
        each = inference.inference_loss(networks.encode(synthesis.refined), synthesis.latents)
        metrics["loss/synthesis_inference"] = terms.synthesis_inference * each.mean()
    return metrics


def contrast_loss(
    data_energy: jax.Array, sample_energy: jax.Array, penalty: float = 0.0
) -> jax.Array:
    """E(data) − E(sample) + penalty · (E(data)² + E(sample)²), `[B]`.

    The difference has the gradient of maximum likelihood, where log Z cancels, for the data energy
    and the latent energy alike. The penalty keeps energies near zero; without it they diverge (Du &
    Mordatch 2019, arXiv:1903.08689, section 3.3).
    """
    contrast = data_energy - sample_energy
    return contrast + penalty * (jnp.square(data_energy) + jnp.square(sample_energy))
