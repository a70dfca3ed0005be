"""PolyDigits: the whole method on embedded data, in minutes on a CPU.

Reproduces: paper B (arXiv:2605.00644) with the latent prior of paper A (arXiv:2408.10467) on a
small cousin of PolyMNIST, scikit-learn's digits drawn over photographs.
Hardware: 2 CPU cores. Time and scores: see the README, whose tables this config makes.
Command: python -m experiments.main --config=configs/polydigits.py --workdir=runs/demo

Variants, as in configs/polydigits.py:elbo
  full      posterior revision, EBM prior on a fitted mixture, data EBM with feedback; the default
  elbo      the MMVAE bound alone
  ebm_prior the MMVAE bound and a latent EBM prior, no revision
  paper_b   revision and data EBM, base prior N(0, I) without a latent energy
  smoke     the full method for a few steps, to see that everything runs
Where the papers train on the revision losses alone, full and paper_b keep the MMVAE bound beside
them to the end: from scratch, revision is slow.
"""

from ml_collections import ConfigDict

VARIANTS = ("full", "elbo", "ebm_prior", "paper_b", "smoke")


def get_config(variant: str = "full") -> ConfigDict:
    """The configuration of a variant."""
    if variant not in VARIANTS:
        raise ValueError(f"configs/polydigits.py:{variant}: choose one of {', '.join(VARIANTS)}.")
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 64
    # The schedule's length. With budget_seconds > 0 the position on it is the elapsed share of that
    # time instead of the step, so that a run takes equally long on any machine.
    config.num_steps = 6000
    config.budget_seconds = 0.0
    config.warmup_steps = 1500  # ELBO alone

    config.data = ConfigDict(
        {"name": "polydigits", "seed": 0, "num_modalities": 3, "num_train": 15000, "num_test": 3000}
    )
    config.likelihood = ConfigDict(
        {
            "image": {"name": "gaussian", "scale": 0.5, "weight": 1.0},
            "sequence": {"name": "categorical", "scale": 1.0, "weight": 1.0},
        }
    )
    config.model = ConfigDict(
        {
            "num_latents": 24,
            "width": 16,
            "hidden": 128,
            "prior_hidden": 200,
            "prior_bound": 10.0,
            "energy_width": 16,
            "energy_hidden": 128,
            "spectral_gain": 2.5,
        }
    )
    config.elbo = ConfigDict({"warmup_weight": 1.0, "weight": 1.0, "beta": 1.0})
    config.posterior = ConfigDict(
        {
            "generator_weight": 2.0,
            "inference_weight": 0.03,
            "chain": chain(num_steps=10, step_size=0.1, temperature=1.0),
        }
    )
    config.prior = ConfigDict(
        {
            "fit_mixture": True,  # p_0: a Gaussian mixture fitted to the revised latents
            "num_components": 100,
            "num_fit_examples": 10000,
            "learn": True,  # the latent energy
            "start_step": 4000,
            "penalty": 0.005,
            "chain": chain(num_steps=20, step_size=0.07, temperature=1.0),
        }
    )
    config.energy = ConfigDict(
        {
            "learn": True,  # the data-space energy
            "start_step": 4200,
            "penalty": 0.05,
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
    config.schedule = ConfigDict({"warmup_steps": 50, "final_fraction": 0.1})
    config.averaging = 0.995

    config.log_every = 50
    config.picture_every = 1000
    config.checkpoint_every = 1000
    config.keep_checkpoints = 2
    config.evaluation = ConfigDict({"num_samples": 2000, "classifier_steps": 600})
    if variant in ("elbo", "ebm_prior"):
        config.warmup_steps = 0
        config.posterior.update(generator_weight=0.0, inference_weight=0.0)
        config.energy.learn = False
        config.prior.update(fit_mixture=False, learn=variant == "ebm_prior", start_step=1000)
        config.prior.chain.update(num_steps=40, step_size=0.4)
    if variant == "paper_b":
        config.prior.update(fit_mixture=False, learn=False)
    if variant == "smoke":
        config.update(num_steps=8, warmup_steps=2, batch_size=8, log_every=2)
        config.update(picture_every=4, checkpoint_every=4)
        config.data.update(num_train=200, num_test=100)
        config.prior.update(start_step=4, num_components=4, num_fit_examples=200)
        config.energy.start_step = 4
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
