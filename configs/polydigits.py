"""PolyDigits: every method on embedded data, in minutes on a CPU.

Paper: the objectives of paper A (arXiv:2408.10467), paper B (arXiv:2605.00644), their union, their
ablations and the multimodal VAEs they are compared with, on a small version of PolyMNIST:
scikit-learn's digits drawn over photographs. No published results use these data. The papers train
on the revision losses alone; the energy-based variants here also keep their bound (Gaussian of
scale .5, β 1) to the end, since learning from scratch by revision alone is slow.
Hardware: one CPU core, 11 to 13 minutes for `private_full`; 2 CPU cores, 2 to 3 for `full`.
Expected: with `private_full`, a joint coherence of .95, a cross coherence of .94 at a conditional
diversity of .9, a Fréchet distance of 17 (floor 7); other scores are in docs/results.md.
Command: python -m experiments.main --config=configs/polydigits.py:private_full --workdir=runs/demo

A variant is named after a colon, as in configs/polydigits.py:mmvae; mmvae_missing is the same with
half of the training data's modalities missing. configs/methods.py defines the variants. The
schema's defaults were chosen for these data, so few fields are set here.
"""

from ml_collections import ConfigDict

from configs import methods
from configs.methods import Differences

METHODS = methods.family(
    private={"model.num_private": 8},
    apart={"model.num_latents": 0, "model.num_private": 24},
    tilted={"prior.start_step": 1000},
    learned={
        "warmup_steps": 3600,
        "prior.fit_step": 3600,
        "prior.start_step": 5000,
        "energy.start_step": 5000,
        "schedule.settle_step": 5000,
    },
    settled={
        "num_steps": 19000,
        "schedule.freeze_step": 14000,
        "energy.gap_share": 0.85,
        "revision_stride": 2,
    },
)
PRIVATE: Differences = {"model.num_latents": 16, "model.num_private": 16}
METHODS["private_prior"] |= PRIVATE | {"num_steps": 5000}
# Latent energies gain nothing here (docs/results.md), and fitting them takes a minute.
METHODS["private_full"] |= PRIVATE | methods.NO_PRIOR_ENERGY
SMOKE = methods.SMOKE | {"data.num_train": 200, "data.num_test": 100}

VARIANTS: dict[str, Differences] = METHODS | {"smoke": METHODS["full"] | SMOKE}


def get_config(variant: str = "full") -> ConfigDict:
    """The configuration of a variant."""
    return methods.build("configs/polydigits.py", VARIANTS, variant)
