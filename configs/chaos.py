"""A short run that uses every part of training, for experiments/reliability/chaos.py to disturb.

Paper: none; the union of both papers on eight Gaussians, with both energies, private latents, a
mixture fitted twice, and intervals of steps, rows and checkpoints that share no factor.
Hardware: 1 CPU core, seconds.
Expected: its samples are not evaluated.
Command: python -m experiments.reliability.chaos --workdir=runs/chaos
"""

from ml_collections import ConfigDict

from configs import methods
from configs.methods import Differences

FULL: Differences = {
    "data.num_train": 500,
    "data.num_test": 100,
    "num_steps": 60,
    "warmup_steps": 13,
    "batch_size": 16,
    "revision_stride": 2,
    "log_every": 4,
    "picture_every": 45,
    "checkpoint_every": 7,
    "model.num_latents": 4,
    "model.num_private": 2,
    "model.hidden": 16,
    "model.prior_hidden": 16,
    "model.energy_hidden": 16,
    # No bound on the energy's layers, so that training can explode.
    "model.spectral_gain": 0.0,
    "posterior.chain.num_steps": 4,
    "prior.num_components": 3,
    "prior.num_fit_examples": 200,
    "prior.num_candidates": 4,
    "prior.fit_steps": 20,
    "prior.fit_step": 13,
    "prior.start_step": 13,
    "prior.chain.num_steps": 4,
    "energy.start_step": 29,
    "energy.chain.num_steps": 4,
    "schedule.warmup_steps": 5,
    "schedule.settle_step": 29,
}

VARIANTS = {"full": methods.LEARNED_PRIOR | FULL}


def get_config(variant: str = "full") -> ConfigDict:
    """The configuration of a variant; there is only one."""
    return methods.build("configs/chaos.py", VARIANTS, variant, data="ring")
