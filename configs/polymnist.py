"""PolyMNIST: five modalities of 28×28×3.

Paper: `full` is the objective of paper B (arXiv:2605.00644) with the latent prior of paper A
(arXiv:2408.10467). `paper_a` and `paper_b` are these papers' objectives added to a bound with a
Gaussian likelihood of scale .5 and β 1, not the published settings. A variant whose name ends in
"published" has the published likelihoods, β, families, sizes, optimiser and schedule for PolyMNIST,
as far as our sources give them; the comment above each says what it still lacks.
Hardware: written for one GPU or TPU; a CPU trains `full` at about a step per second, enough to try
it out. `private_prior` and `private_full` are for a CPU: about 100 minutes on one busy core.
Expected: with `private_full`, seed 4, a joint coherence of .81, a cross coherence of .94, a
conditional diversity of .99 and a Fréchet distance of 6 (docs/results.md); no numbers for the other
variants. Published joint and cross coherence: MMVAE+ .344 and .869, paper A .574 and .943.
Data: the four MNIST IDX files in `config.data.source_dir`, from which the data set is built once
into `config.data.data_dir`; or the official release (`config.data.variant`).
Command: python -m experiments.main --config=configs/polymnist.py --workdir=runs/polymnist \\
  --config.data.source_dir=data/mnist

Variants, as in configs/polymnist.py:paper_a: those of configs/polydigits.py, and published ones.
"""

from ml_collections import ConfigDict

from configs import methods
from configs.methods import Differences
from mmebm_jax.runs.schema import UNCLIPPED

NUM_TRAIN = 60_000

DATA: Differences = {
    "data.source_dir": "data/mnist",
    "data.in_memory": True,
    # Five times the pixels of PolyDigits make the posterior five times as steep: 0.1 diverges.
    "posterior.chain.step_size": 0.03,
    "evaluation.num_samples": 10_000,
    "evaluation.num_sources": 1000,
    "evaluation.classifier_steps": 1000,
}
EVERY: Differences = {"log_every": 100, "picture_every": 5000, "checkpoint_every": 2000}
SIZES: Differences = {
    "batch_size": 128,
    "revision_stride": 1,
    "model.num_latents": 32,
    "model.width": 32,
    "model.hidden": 256,
    "model.energy_width": 32,
    "model.energy_hidden": 256,
    "prior.num_components": 100,
    "prior.num_fit_examples": 20_000,
}
SCHEDULE: Differences = {
    "num_steps": 60_000,
    "warmup_steps": 20_000,
    "prior.fit_step": 40_000,
    "prior.start_step": 40_000,
    "energy.start_step": 45_000,
}
METHODS = methods.family(
    private={"model.num_private": 32},  # as published for MMVAE+: 32 shared and 32 private
    apart={"model.num_latents": 0, "model.num_private": 32},
    tilted={},
    learned={"prior.fit_step": 20_000, "schedule.settle_step": 45_000},
    settled=methods.CLOSING_CHAINS | {"schedule.freeze_step": 16_000},
)

# For a CPU: small batches, since here many small updates help more than fewer large ones.
ON_CPU: Differences = {
    "batch_size": 64,
    "num_steps": 16_000,
    "model.width": 16,
    "model.num_latents": 16,
    "model.num_private": 64,
    "prior.num_fit_examples": 30_000,
}
METHODS["private_prior"] |= ON_CPU
METHODS["private_full"] |= ON_CPU | {"num_steps": 18_000}

# --- as published -------------------------------------------------------------------------------

# Adam at a constant rate, without warm-up, decay, gradient clipping or averaged weights.
CONSTANT_RATE: Differences = {
    "schedule.warmup_steps": 0,
    "schedule.final_fraction": 1.0,
    "averaging": 0.0,
} | {f"optimiser.{name}.gradient_clip": UNCLIPPED for name in ("inference", "generator")}
# A scale of .75 for images in [0, 1] is 1.5 for ours in [-1, 1].
LAPLACE: Differences = {"likelihood.image.name": "laplace", "likelihood.image.scale": 1.5}
# Palumbo et al. 2023, PolyMNIST: 250 epochs. Lacks: AMSGrad; average pools of 3×3 in the residual
# encoders (here 2×2). The number of samples is not in our sources and stays 1.
MMVAE_PLUS: Differences = (
    LAPLACE
    | CONSTANT_RATE
    | {
        "model.networks": "resnet",
        "model.posterior": "laplace",
        "prior.family": "laplace",
        "model.num_latents": 32,
        "model.num_private": 32,
        "model.width": 64,
        "elbo.beta": 2.5,
        "batch_size": 128,
        "num_steps": 250 * NUM_TRAIN // 128,
        "optimiser.inference.learning_rate": 1e-3,
        "optimiser.generator.learning_rate": 1e-3,
    }
)
# Sutter et al. 2021 and Hwang et al. 2021, PolyMNIST: 300 epochs, no private latents. Lacks: their
# convolutions of 32, 64 and 128 channels (here two of 32 and 64); α of MVTCAE is not in our
# sources and stays .5.
MOPOE_FAMILY: Differences = (
    LAPLACE
    | CONSTANT_RATE
    | {
        "model.num_latents": 512,
        "model.width": 32,
        "elbo.beta": 2.5,
        "batch_size": 256,
        "num_steps": 300 * NUM_TRAIN // 256,
        "optimiser.inference.learning_rate": 5e-4,
        "optimiser.generator.learning_rate": 5e-4,
    }
)
# Palumbo et al. 2024 (CMVAE), PolyMNIST: MMVAE+ with 40 learned clusters, ten samples per stratum.
# Lacks, in addition to what MMVAE+ lacks: Laplace latents, since our clusters are Gaussian.
CMVAE: Differences = MMVAE_PLUS | {"model.posterior": "gaussian", "prior.family": "gaussian"}
# Paper A on the backbone of MMVAE+ (above, and lacking the same): a latent energy from the first
# step. Its settings on PolyMNIST are not public, so the chains are those of the same group's public
# code for latent energy-based priors: an unpenalised energy of 200 units (SVHN; two layers), 60
# prior steps of .4, 20 posterior steps of .1, Adam (.5, .999) at 2e-5. The weights of the revision
# losses are not in our sources and are 1. Lacks: decay by .998 per epoch; an energy without any
# bound (the bound here is so large that it has no effect).
PAPER_A: Differences = {
    "warmup_steps": 0,
    "posterior.generator_weight": 1.0,
    "posterior.inference_weight": 1.0,
    "posterior.chain.num_steps": 20,
    "posterior.chain.step_size": 0.1,
    "model.prior_hidden": 200,
    "model.prior_bound": 1e6,
    "prior.start_step": 0,
    "prior.penalty": 0.0,
    "prior.chain.num_steps": 60,
    "prior.chain.step_size": 0.4,
    "optimiser.prior.learning_rate": 2e-5,
    "optimiser.prior.b1": 0.5,
    "optimiser.prior.b2": 0.999,
    "optimiser.prior.gradient_clip": UNCLIPPED,
}
# Paper B with the settings of dual-MCMC, its single-modality predecessor (CIFAR-10), since its own
# on PolyMNIST are not published: the revision losses alone, Gaussian likelihoods of scale .3, data
# chains of 30 steps of .5 with noise .001, so T = (.001 / .5)², ‖G(z̃) − x‖² + 50 ‖G(z) − x̃‖²,
# −log q(z̃ | x) − .1 log q(z | x̃), 301 epochs of batches of 100, a stop at an energy gap of 1e4.
# There the energy's loss is divided by T, to which Adam is invariant. Sizes are ours. Lacks: decay
# by .998 per epoch; fresh samples from the updated generator for the energy's loss; posterior steps
# of .1, with which the chains of five modalities diverge at the first update (here .03).
PAPER_B: Differences = (
    CONSTANT_RATE
    | {
        "likelihood.image.name": "gaussian",
        "likelihood.image.scale": 0.3,
        "batch_size": 100,
        "num_steps": 301 * NUM_TRAIN // 100,
        "warmup_steps": 0,
        "elbo.warmup_weight": 0.0,
        "elbo.weight": 0.0,
        "model.networks": "resnet",
        "model.spectral_gain": 1.0,
        "posterior.generator_weight": 1.0,
        "posterior.inference_weight": 1.0,
        "posterior.chain.num_steps": 10,
        "posterior.chain.step_size": 0.03,
        "energy.start_step": 0,
        "energy.penalty": 0.0,
        "energy.data_noise": 0.0,
        "energy.synthesis_generator": 50.0,
        "energy.synthesis_inference": 0.1,
        "energy.chain.num_steps": 30,
        "energy.chain.step_size": 0.5,
        "energy.chain.temperature": 4e-6,
        "optimiser.inference.learning_rate": 1e-4,
        "optimiser.generator.learning_rate": 3e-4,
        "optimiser.energy.learning_rate": 1e-4,
        "optimiser.energy.gradient_clip": UNCLIPPED,
        "guard.retries": 0,
        "guard.energy_gap": 1e4,
    }
    | {f"optimiser.{n}.b1": 0.0 for n in ("inference", "generator", "energy")}
)
PAPER_B |= {f"optimiser.{n}.b2": 0.9 for n in ("inference", "generator", "energy")}

PUBLISHED: dict[str, Differences] = {
    "mmvae_plus_published": METHODS["mmvae_plus"] | MMVAE_PLUS,
    "cmvae_published": METHODS["cmvae"] | CMVAE,
    "mopoe_published": METHODS["mopoe"] | MOPOE_FAMILY,
    "mvtcae_published": METHODS["mvtcae"] | MOPOE_FAMILY,
    "paper_a_published": METHODS["paper_a"] | MMVAE_PLUS | PAPER_A,
    "paper_b_published": METHODS["paper_b"] | PAPER_B,
}

# These would take weeks on a CPU, so the guard refuses to train them there.
for published in PUBLISHED.values():
    published["guard.device"] = "accelerator"

OURS = DATA | EVERY | SIZES | SCHEDULE
VARIANTS = {name: OURS | method for name, method in (METHODS | PUBLISHED).items()}
VARIANTS["smoke"] = DATA | METHODS["full"] | methods.SMOKE


def get_config(variant: str = "full") -> ConfigDict:
    """The configuration of a variant."""
    return methods.build("configs/polymnist.py", VARIANTS, variant, data="polymnist")
