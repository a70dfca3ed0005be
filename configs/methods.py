"""The definition of each method: its differences from the defaults, shared by several configs.

The defaults are the union of both papers on a mixture posterior. Each dictionary maps a field, such
as "prior.chain.num_steps", to its value; where two are merged by `|`, the right one wins.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mmebm_jax.runs import schema

Differences = dict[str, Any]

MISSING = "_missing"  # suffix of a variant's name
# Later than any run's last step: the prior is fitted once, to the final networks, and no energy
# learns before that.
FITTED_AT_THE_END = {
    "prior.fit_step": schema.NEVER,
    "prior.start_step": schema.NEVER,
    "energy.start_step": schema.NEVER,
}

NO_REVISION = {"posterior.generator_weight": 0.0, "posterior.inference_weight": 0.0}
NO_DATA_ENERGY = {"energy.learn": False}
STANDARD_PRIOR = {"prior.fit_mixture": False, "prior.fit_steps": 0, "prior.num_candidates": 1}
NO_PRIOR_ENERGY = {"prior.learn": False, "prior.fit_steps": 0}
# The bound alone: a multimodal VAE.
PLAIN = NO_REVISION | NO_DATA_ENERGY | NO_PRIOR_ENERGY | STANDARD_PRIOR | {"warmup_steps": 0}
# The latent energy tilts N(0, I), and its prior is sampled by long chains with large steps.
TILTED_NORMAL = STANDARD_PRIOR | {"prior.chain.num_steps": 40, "prior.chain.step_size": 0.4}
# The mixture is fitted early. From then on the bound and the posterior chain use it, so that the
# latents and the prior approach each other; the energies start once the other networks have
# settled. As in data space, the prior's chain is cold: it ends nearer the modes than exact draws.
LEARNED_PRIOR = {
    "elbo.learned_prior": True,
    "prior.chain.step_size": 0.16,
    "prior.chain.temperature": 0.1,
}
# Narrow posteriors on which the experts agree: a prior can be fitted to them, and information
# crosses over between modalities.
HELLINGER = {"model.aggregator": "hellinger", "elbo.objective": "joint"}
# Private latents that are trained on every example, and a shared latent that holds little more than
# what modalities share. After training, mixtures are fitted to z and to each w_m given z and tilted
# by latent energies; the private latents of missing modalities are drawn from them too.
PRIVATE_PRIOR: Differences = FITTED_AT_THE_END | {
    "elbo.estimator": "stratum",
    "elbo.hidden_share": 0.5,
    "elbo.shared_factor": 4.0,
    "likelihood.image.scale": 0.3,
    "prior.fit_mixture": True,
    "prior.num_components": 30,
    "prior.num_private_components": 3,
    "prior.shared_temperature": 0.5,
    "prior.private_temperature": 0.6,
    "prior.num_candidates": 64,
    "prior.learn": True,
    "prior.fit_steps": 1500,
    "prior.fit_learning_rate": 1e-3,
    "prior.fit_weight_decay": 0.1,
    "posterior.scaled": True,
    "posterior.conditional_steps": 10,
    "posterior.private_temperature": 0.8,
    "posterior.chain.step_size": 0.3,
    "optimiser.inference.gradient_clip": schema.UNCLIPPED,
    "optimiser.generator.gradient_clip": schema.UNCLIPPED,
}
# Adds a data energy that learns on that prior's samples while the other networks are frozen.
# Completions use a cold posterior chain, since the inference model is overconfident on unseen data,
# and a colder choice than samples, since candidates for one example compete only with each other.
SETTLED_ENERGY: Differences = {
    "posterior.chain.temperature": 0.3,
    "energy.learn": True,
    "energy.penalty": 0.05,
    "energy.data_noise": 0.05,
    "energy.noisy_samples": True,
    "energy.synthesis_generator": 0.0,
    "energy.synthesis_inference": 0.0,
    "model.energy_width": 16,
    "model.energy_hidden": 64,
    "model.spectral_gain": 1.5,
    "optimiser.energy.learning_rate": 2e-4,
    "energy.num_candidates": 4,
    "energy.completion_temperature": 0.5,
    "energy.fit_sampling_time": True,
}
# The share of the energy gap that training's data chains close, for pictures of 28×28 and larger.
CLOSING_CHAINS: Differences = {
    "energy.gap_share": 0.85,
    "energy.chain.step_size": 1.0,
    "energy.chain.temperature": 2.5e-5,
}
# CMVAE's bound and prior: log-mean-exp over ten samples per stratum, 40 clusters.
CLUSTERS = {
    "prior.learn_clusters": True,
    "prior.num_components": 40,
    "elbo.learned_prior": True,
    "elbo.estimator": "iwae",
    "elbo.num_samples": 10,
}
PAPER_B = NO_PRIOR_ENERGY | STANDARD_PRIOR
NOISE_START = {
    "energy.start": "noise",
    "energy.chain.num_steps": 60,
    "energy.synthesis_generator": 0.0,
    "energy.synthesis_inference": 0.0,
}

# A few steps, to see that everything runs.
SMOKE: Differences = {
    "num_steps": 8,
    "warmup_steps": 2,
    "batch_size": 8,
    "log_every": 2,
    "picture_every": 4,
    "checkpoint_every": 4,
    "prior.num_components": 4,
    "prior.num_fit_examples": 200,
    "prior.fit_step": 2,
    "prior.start_step": 4,
    "prior.fit_steps": 5,
    "energy.start_step": 4,
    "schedule.settle_step": 4,
    "evaluation.num_samples": 100,
    "evaluation.classifier_steps": 20,
}


def family(
    *,
    private: Differences,
    apart: Differences,
    tilted: Differences,
    learned: Differences,
    settled: Differences,
) -> dict[str, Differences]:
    """Every method by name, with the sizes and the schedule for a data set.

    Args:
      private: sizes of methods with private latents.
      apart: sizes of methods with a separate generator for each modality.
      tilted: schedule of a latent energy that tilts N(0, I).
      learned: schedule of a learned prior that the bound uses.
      settled: schedule and chain of a data energy that learns while the other networks are frozen.
    """
    paper_a = NO_DATA_ENERGY | TILTED_NORMAL | tilted | private
    full = LEARNED_PRIOR | learned | HELLINGER
    return {
        # The library's best: revision, EBM prior on a fitted mixture, data EBM with feedback.
        "full": full,
        # Multimodal VAEs.
        "mmvae": PLAIN,
        "mmvae_iwae": PLAIN | {"elbo.estimator": "iwae", "elbo.num_samples": 5},
        "mmvae_dreg": PLAIN | {"elbo.estimator": "dreg", "elbo.num_samples": 5},
        "mmvae_plus": PLAIN | private,
        # MMVAE+ with a learned prior for private latents too.
        "private_prior": PLAIN | private | PRIVATE_PRIOR,
        # The same, and a data energy that learns on its samples.
        "private_full": PLAIN | private | PRIVATE_PRIOR | SETTLED_ENERGY | settled,
        "mvae": PLAIN | {"model.aggregator": "product_with_prior", "elbo.objective": "mvae"},
        "mvtcae": PLAIN | {"model.aggregator": "product", "elbo.objective": "mvtcae"},
        "mopoe": PLAIN | {"model.aggregator": "mixture_of_products", "elbo.objective": "joint"},
        "wasserstein": PLAIN | {"model.aggregator": "wasserstein", "elbo.objective": "joint"},
        "helvae": PLAIN | HELLINGER,
        "code": PLAIN
        | {"model.aggregator": "consensus", "model.correlation": 0.4}
        | {"elbo.objective": "code", "elbo.entropy_weight": 1000.0},
        # Paper A's objective on the backbone of MMVAE+, added to a Gaussian bound of scale .5 and
        # β 1; its variational form; and its ablations.
        "paper_a": paper_a,
        "paper_a_variational": paper_a
        | NO_REVISION
        | {"elbo.learned_prior": True, "warmup_steps": 0},
        "paper_a_no_prior": paper_a | NO_PRIOR_ENERGY,
        "paper_a_no_revision": paper_a | NO_REVISION,
        "ebm_prior": paper_a | NO_REVISION | {"model.num_private": 0, "warmup_steps": 0},
        # Paper B's objective, added to the same bound, and its ablations.
        "paper_b": PAPER_B,
        "paper_b_no_revision": PAPER_B | NO_REVISION,
        "paper_b_no_energy": PAPER_B | NO_DATA_ENERGY,
        "noise_start": full | NOISE_START,
        "independent_generators": PAPER_B | apart,
        "independent_inference": full | {"posterior.independent_inference": True},
        "steps_0": full | {"energy.chain.num_steps": 0},
        "steps_10": full | {"energy.chain.num_steps": 10},
        "steps_30": full | {"energy.chain.num_steps": 30},
        "steps_60": full | {"energy.chain.num_steps": 60},
        # Both papers in one: paper A's private latents with paper B's energy.
        "union": LEARNED_PRIOR | learned | private,
        # Further baselines.
        "cmvae": PLAIN | private | CLUSTERS,
        "mwbvae": PLAIN | {"model.aggregator": "mixture_of_wasserstein", "elbo.objective": "joint"},
        "mohelvae": PLAIN | {"model.aggregator": "mixture_of_hellinger", "elbo.objective": "joint"},
        "holder": PLAIN | {"model.aggregator": "holder"},
        "jmvae": PLAIN | {"model.aggregator": "joint_expert", "elbo.objective": "jmvae"},
    }


def build(
    path: str, variants: Mapping[str, Differences], variant: str, data: str = schema.DEFAULT_DATA
) -> ConfigDict:
    """The defaults with a variant's differences; the suffix "_missing" hides half of all data.

    Args:
      path: path of the config, named in the error for an unknown variant.
      variants: name → differences.
      variant: one of these names, with or without the suffix.
      data: name of the data set.

    Raises:
      ValueError: there is no such variant.
    """
    method = variant.removesuffix(MISSING)
    if method not in variants:
        raise ValueError(
            f"{path}:{variant}: choose one of {', '.join(variants)}, each also with {MISSING} at "
            "its end."
        )
    config = schema.defaults(data)
    config.update_from_flattened_dict(variants[method])
    if variant != method:
        config.missing_ratio = 0.5
    return config
