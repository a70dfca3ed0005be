"""Eight Gaussians on a ring: the latent and the data energy on a density that is known.

Paper: none; shows that the latent energy and the data energy each learn a known density, which
long chains under either reproduce. The coordinates are the modalities. Training chains run at
temperature 1, and the generator learns from them more strongly than from the data: a training chain
rarely crosses between modes, and the masses of the modes become right only because the generator
remembers where earlier chains went.
Hardware: 2 CPU cores, about a minute; experiments/toy.py adds the latent energy and the long
chains in two more.
Expected of chains of 10,000 steps: 98 % within 3 sigma of a mode (truth: 99 %), and in each mode 11
to 14 % of the mass under the latent energy, 6 to 16 % under the data energy.
Command: python -m experiments.main --config=configs/toy.py --workdir=runs/toy, then
  python -m experiments.toy --config=configs/toy.py --workdir=runs/toy (which also trains)

Variants: full; smoke, a few steps to see that everything runs.
"""

from ml_collections import ConfigDict

from configs import methods
from configs.methods import Differences

SIGMA = 0.08

FULL: Differences = {
    "data.num_train": 20_000,
    "data.num_test": 2_000,
    "data.radius": 0.64,
    "data.sigma": SIGMA,
    "likelihood.vector.scale": SIGMA,
    "num_steps": 1600,
    "warmup_steps": 500,
    "batch_size": 256,
    "revision_stride": 1,
    "log_every": 100,
    "picture_every": 800,
    "checkpoint_every": 800,
    "model.num_latents": 4,
    "model.aggregator": "product",
    "model.hidden": 64,
    "model.energy_hidden": 64,
    # A sharp density needs a steep energy: its layers are unbounded, and its penalty is tiny.
    "model.spectral_gain": 0.0,
    "energy.penalty": 1e-4,
    "energy.data_noise": 0.0,
    "energy.start_step": 500,
    "energy.synthesis_generator": 2.0,
    "energy.synthesis_inference": 0.5,
    "energy.chain.num_steps": 120,
    "energy.chain.step_size": 0.7 * SIGMA,
    "energy.chain.temperature": 1.0,
    "elbo.objective": "joint",
    "elbo.weight": 0.0,
    "posterior.generator_weight": 0.1,
    "posterior.chain.step_size": 0.05,
    "optimiser.generator.learning_rate": 2e-3,
    "optimiser.energy.learning_rate": 5e-3,
    "optimiser.energy.b1": 0.5,
    "schedule.final_fraction": 0.02,
    # The model's prior is N(0, I). The rest is for the latent energy of experiments/toy.py.
    "model.prior_hidden": 64,
    "model.prior_bound": 10.0,
    "prior.num_components": 1,
    "prior.num_candidates": 16,
    "prior.penalty": 1e-4,
    "prior.fit_steps": 3000,
    "prior.fit_learning_rate": 1e-2,
    "prior.chain.num_steps": 40,
    "prior.chain.step_size": 0.1,
    "prior.chain.temperature": 1.0,
}
SMOKE: Differences = {
    "data.num_train": 200,
    "data.num_test": 100,
    "num_steps": 8,
    "warmup_steps": 2,
    "batch_size": 8,
    "log_every": 2,
    "picture_every": 4,
    "checkpoint_every": 4,
    "prior.fit_steps": 5,
    "energy.start_step": 4,
}

VARIANTS = {"full": methods.PAPER_B | FULL, "smoke": methods.PAPER_B | FULL | SMOKE}


def get_config(variant: str = "full") -> ConfigDict:
    """The configuration of a variant."""
    return methods.build("configs/toy.py", VARIANTS, variant, data="ring")
