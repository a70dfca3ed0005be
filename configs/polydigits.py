"""PolyDigits: the whole family on embedded data, in minutes on a CPU.

Reproduces: paper A (arXiv:2408.10467), paper B (arXiv:2605.00644), their union, their ablations and
the multimodal VAEs they are compared with, on a small cousin of PolyMNIST: scikit-learn's digits
drawn over photographs.
Hardware: 2 CPU cores. Time and scores: see the README, whose tables this config makes.
Command: python -m experiments.main --config=configs/polydigits.py --workdir=runs/demo

A variant is named after a colon, as in configs/polydigits.py:mmvae, and mmvae_missing is the same
with half of the training data's modalities missing. Where the papers train on the
revision losses alone, the energy-based variants keep their bound beside them to the end: from
scratch, revision is slow. What each variant changes stands in `VARIANTS`.
"""

from typing import Any

from ml_collections import ConfigDict

MISSING = "_missing"
NO_REVISION = {"posterior.generator_weight": 0.0, "posterior.inference_weight": 0.0}
NO_DATA_ENERGY = {"energy.learn": False}
STANDARD_PRIOR = {"prior.fit_mixture": False, "prior.fit_steps": 0, "prior.num_candidates": 1}
NO_PRIOR_ENERGY = {"prior.learn": False, "prior.fit_steps": 0}
# As published: the latent energy tilts N(0, I), and long chains of large steps sample it.
PAPER_A_PRIOR = STANDARD_PRIOR | {
    "prior.start_step": 1000,
    "prior.chain.num_steps": 40,
    "prior.chain.step_size": 0.4,
}
PLAIN = NO_REVISION | NO_DATA_ENERGY | NO_PRIOR_ENERGY | STANDARD_PRIOR | {"warmup_steps": 0}
PRIVATE = {"model.num_private": 8}
PAPER_A = NO_DATA_ENERGY | PAPER_A_PRIOR | PRIVATE
PAPER_B = NO_PRIOR_ENERGY | STANDARD_PRIOR
# The mixture is fitted early, and bound and posterior chain hold it from then on, so that latents
# and prior meet; the energies come once the other networks have settled. As in data space the
# prior's chain is cold: its samples lie nearer the prior's modes than its draws do.
LEARNED_PRIOR = {
    "elbo.learned_prior": True,
    "prior.chain.step_size": 0.16,
    "prior.chain.temperature": 0.1,
    "warmup_steps": 3600,
    "prior.fit_step": 3600,
    "prior.start_step": 5000,
    "energy.start_step": 5000,
    "schedule.settle_step": 5000,
}
# Narrow posteriors that agree: what a prior can be fitted to, and what crosses over.
FULL = LEARNED_PRIOR | {"model.aggregator": "hellinger", "elbo.objective": "joint"}

VARIANTS: dict[str, dict[str, Any]] = {
    # The library's best: revision, EBM prior on a fitted mixture, data EBM with feedback.
    "full": FULL,
    # Multimodal VAEs.
    "mmvae": PLAIN,
    "mmvae_iwae": PLAIN | {"elbo.estimator": "iwae", "elbo.num_samples": 5},
    "mmvae_dreg": PLAIN | {"elbo.estimator": "dreg", "elbo.num_samples": 5},
    "mmvae_plus": PLAIN | PRIVATE,
    "mvae": PLAIN | {"model.aggregator": "product_with_prior", "elbo.objective": "mvae"},
    "mvtcae": PLAIN | {"model.aggregator": "product", "elbo.objective": "mvtcae"},
    "mopoe": PLAIN | {"model.aggregator": "mixture_of_products", "elbo.objective": "joint"},
    "wasserstein": PLAIN | {"model.aggregator": "wasserstein", "elbo.objective": "joint"},
    "helvae": PLAIN | {"model.aggregator": "hellinger", "elbo.objective": "joint"},
    "code": PLAIN
    | {
        "model.aggregator": "consensus",
        "model.correlation": 0.4,
        "elbo.objective": "code",
        "elbo.entropy_weight": 1000.0,
    },
    # Paper A on the backbone of MMVAE+, its variational form, and what its parts are worth.
    "paper_a": PAPER_A,
    "paper_a_variational": PAPER_A | NO_REVISION | {"elbo.learned_prior": True, "warmup_steps": 0},
    "paper_a_no_prior": PAPER_A | NO_PRIOR_ENERGY,
    "paper_a_no_revision": PAPER_A | NO_REVISION,
    "ebm_prior": PAPER_A | NO_REVISION | {"model.num_private": 0, "warmup_steps": 0},
    # Paper B, and what its parts are worth.
    "paper_b": PAPER_B,
    "paper_b_no_revision": PAPER_B | NO_REVISION,
    "paper_b_no_energy": PAPER_B | NO_DATA_ENERGY,
    "noise_start": FULL
    | {
        "energy.start": "noise",
        "energy.chain.num_steps": 60,
        "energy.synthesis_generator": 0.0,
        "energy.synthesis_inference": 0.0,
    },
    "independent_generators": PAPER_B | {"model.num_latents": 0, "model.num_private": 24},
    "independent_inference": FULL | {"posterior.independent_inference": True},
    "steps_0": FULL | {"energy.chain.num_steps": 0},
    "steps_10": FULL | {"energy.chain.num_steps": 10},
    "steps_30": FULL | {"energy.chain.num_steps": 30},
    "steps_60": FULL | {"energy.chain.num_steps": 60},
    # Both papers in one: paper A's private latents with paper B's energy.
    "union": PRIVATE | LEARNED_PRIOR,
    # A few steps of the full method, to see that everything runs.
    "smoke": FULL,
}


def get_config(variant: str = "full") -> ConfigDict:
    """The configuration of a variant; the ending "_missing" hides half of all modalities."""
    method = variant.removesuffix(MISSING)
    if method not in VARIANTS:
        raise ValueError(
            f"configs/polydigits.py:{variant}: choose one of {', '.join(VARIANTS)}, "
            f"each also with {MISSING} at its end."
        )
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 64
    # The schedule's length. With budget_seconds > 0 the position on it is the elapsed share of that
    # time instead of the step, so that a run takes equally long on any machine.
    config.num_steps = 6000
    config.budget_seconds = 0.0
    config.warmup_steps = 1500  # the bound alone
    config.revision_stride = 4  # a bound sees every example of a batch, the chains one in four
    # Parts of a batch that are worked on one after the other, where memory is short.
    config.accumulation_steps = 1
    # Whether the training set lies on the devices; else the host reads ahead.
    config.input = ConfigDict({"device_resident": False})
    # The share of the training data's modalities that is hidden, at random.
    config.missing_ratio = 0.5 if variant.endswith(MISSING) else 0.0

    config.data = ConfigDict(
        {"name": "polydigits", "seed": 0, "num_modalities": 3, "num_train": 15000, "num_test": 3000}
    )
    config.likelihood = ConfigDict(
        {
            "image": {"name": "gaussian", "scale": 0.5, "weight": 1.0},
            "text": {"name": "categorical", "scale": 1.0, "weight": 1.0},
            "vector": {"name": "gaussian", "scale": 0.5, "weight": 1.0},
        }
    )
    config.model = ConfigDict(
        {
            "num_latents": 24,
            "num_private": 0,  # of each modality
            "posterior": "gaussian",  # or laplace
            "aggregator": "mixture",
            "correlation": 0.0,  # of experts, for the aggregator consensus
            "width": 16,
            "hidden": 128,
            "prior_hidden": 256,
            "prior_bound": 10.0,
            "energy_width": 16,
            "energy_hidden": 128,
            "spectral_gain": 2.5,
            "arithmetic": "float32",  # of the networks, or bfloat16
            "rematerialise": False,  # networks compute activations again to save memory
        }
    )
    config.elbo = ConfigDict(
        {
            "objective": "mmvae",
            "warmup_weight": 1.0,
            "weight": 1.0,
            "beta": 1.0,
            "num_samples": 1,  # of each stratum of mmvae
            "estimator": "elbo",  # or iwae, dreg
            "total_correlation": 0.5,  # α of mvtcae
            "entropy_weight": 0.0,  # of code
            "learned_prior": False,  # whether the bound's prior is the learned one
        }
    )
    config.posterior = ConfigDict(
        {
            "generator_weight": 2.0,
            "inference_weight": 0.03,
            "independent_inference": False,
            "chain": chain(num_steps=10, step_size=0.1, temperature=1.0),
        }
    )
    config.prior = ConfigDict(
        {
            "family": "gaussian",  # or laplace
            "fit_mixture": True,  # p_0: a Gaussian mixture fitted to the revised latents
            "num_components": 60,
            "num_fit_examples": 15000,
            "fit_step": 4000,  # of the mixture for the first time; it is fitted again at the end
            "learn": True,  # the latent energy
            "start_step": 4000,
            "fit_steps": 300,  # of the latent energy, after the last fit of a mixture
            "fit_learning_rate": 2e-3,
            "num_candidates": 64,
            "penalty": 0.005,
            "chain": chain(num_steps=20, step_size=0.07, temperature=1.0),
        }
    )
    config.energy = ConfigDict(
        {
            "learn": True,  # the data-space energy
            "start_step": 4200,
            "start": "generator",  # of the chain, or noise
            "penalty": 0.15,  # holds the gap near its inverse
            "data_noise": 0.01,
            "synthesis_generator": 0.1,
            "synthesis_inference": 0.03,
            "chain": chain(num_steps=10, step_size=0.7, temperature=5e-5),
        }
    )
    config.optimiser = ConfigDict(
        {
            "inference": optimiser(1e-3, b1=0.9, b2=0.999),
            "generator": optimiser(1e-3, b1=0.9, b2=0.999),
            "prior": optimiser(3e-4, b1=0.5, b2=0.999),
            "energy": optimiser(1e-3, b1=0.0, b2=0.9),
        }
    )
    config.schedule = ConfigDict(
        {
            "warmup_steps": 50,
            "settle_step": 0,  # until when generator and inference network decay; 0: the run's end
            "final_fraction": 0.1,
        }
    )
    config.averaging = 0.995

    # When numbers explode: go on from the newest checkpoint with other keys, at most so many times.
    config.guard = ConfigDict(
        {
            "retries": 3,
            "halve_energy_rate": True,
            "energy_gap": 1e4,  # bound on its absolute value; 0 is none
            "gradient_norm": 0.0,  # of any network
        }
    )
    config.log_every = 50
    config.picture_every = 1000
    config.checkpoint_every = 1000
    config.keep_checkpoints = 2
    config.evaluation = ConfigDict({"num_samples": 2000, "classifier_steps": 600})
    config.update_from_flattened_dict(VARIANTS[method])
    if method == "smoke":
        config.update(num_steps=8, warmup_steps=2, batch_size=8, log_every=2)
        config.update(picture_every=4, checkpoint_every=4)
        config.data.update(num_train=200, num_test=100)
        config.prior.update(num_components=4, num_fit_examples=200, fit_steps=5)
        config.prior.update(fit_step=2, start_step=4)
        config.energy.start_step = config.schedule.settle_step = 4
        config.evaluation.update(num_samples=100, classifier_steps=20)
    return config


def chain(*, num_steps: int, step_size: float, temperature: float) -> ConfigDict:
    """Settings of a Langevin chain without a gradient bound."""
    return ConfigDict(
        {
            "num_steps": num_steps,
            "step_size": step_size,
            "temperature": temperature,
            "gradient_clip": 0.0,
        }
    )


def optimiser(learning_rate: float, *, b1: float, b2: float) -> ConfigDict:
    """Settings of Adam with a bound on the gradient's norm."""
    return ConfigDict({"learning_rate": learning_rate, "b1": b1, "b2": b2, "gradient_clip": 1000.0})
