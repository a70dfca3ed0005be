"""The two papers' claims on PolyDigits: each method with one part removed at a time.

Paper: paper A (arXiv:2408.10467) on an MMVAE+ backbone with the published likelihoods (Laplace
prior, posterior and likelihood, scale 1.5 in [-1, 1], β 2.5), with and without its energy-based
prior and its MCMC revision; paper B (arXiv:2605.00644), with and without revision, energy and
shared generator, with an added Gaussian bound of scale .5 and β 1, since learning from scratch by
revision alone is slow. Networks are small, as in configs/polydigits.py.
Hardware: one CPU core, 4 to 9 minutes per variant.
Expected: docs/results.md has the table, and says which claims hold here.
Command: python -m experiments.compare --seeds=0 --workdir=runs/papers \\
  --configs=configs/papers.py:paper_a,configs/papers.py:paper_a_no_prior

Variants: mmvae_plus, paper_a, paper_a_no_prior, paper_a_no_revision, paper_b, paper_b_no_revision,
paper_b_no_energy, independent_generators; smoke, a few steps to see that everything runs.
"""

from ml_collections import ConfigDict

from configs import methods, polydigits
from configs.methods import Differences

LONG: Differences = {
    "num_steps": 12_000,
    "warmup_steps": 3000,
    "prior.fit_step": 8000,
    "prior.start_step": 8000,
    "energy.start_step": 6000,
    # One random stratum per example: the same expected gradient in half the time.
    "elbo.estimator": "stratum",
}
PUBLISHED: Differences = LONG | {
    "likelihood.image.name": "laplace",
    "likelihood.image.scale": 1.5,
    "elbo.beta": 2.5,
    "model.posterior": "laplace",
    "prior.family": "laplace",
    "prior.start_step": 2000,
}
OF_PAPER_A = ("mmvae_plus", "paper_a", "paper_a_no_prior", "paper_a_no_revision")
OF_PAPER_B = ("paper_b", "paper_b_no_revision", "paper_b_no_energy", "independent_generators")

VARIANTS: dict[str, Differences] = {
    **{name: polydigits.METHODS[name] | PUBLISHED for name in OF_PAPER_A},
    **{name: polydigits.METHODS[name] | LONG for name in OF_PAPER_B},
}
VARIANTS["mmvae_plus"] |= {"warmup_steps": 0}
VARIANTS["smoke"] = VARIANTS["paper_b"] | polydigits.SMOKE


def get_config(variant: str = "paper_a") -> ConfigDict:
    """The configuration of a variant."""
    return methods.build("configs/papers.py", VARIANTS, variant)
