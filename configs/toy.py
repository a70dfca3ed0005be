"""Eight Gaussians on a ring: both energies of the family where the truth can be drawn.

Not of a paper: a proof that the latent energy and the data-space energy learn a known density, so
that long chains under either give it back. The coordinates are the modalities. Training chains run
at the temperature 1, and teach the generator more strongly than the data do: a chain of training
crosses between modes rarely, and only through the generator, which remembers where earlier chains
went, do the modes' masses become right.
Hardware: 2 CPU cores, about a minute; experiments/toy.py adds the latent energy and the long
chains in two more.
Expected of chains of 10,000 steps: 98 % within 3 sigma of a mode (99 % of the truth are), and in
each mode 11 to 15 % of the mass under the latent energy, 6 to 16 % under the data's.
Command: python -m experiments.main --config=configs/toy.py --workdir=runs/toy, then
  python -m experiments.toy --config=configs/toy.py --workdir=runs/toy (which also trains)

Variants: full, and smoke, a few steps to see that everything runs.
"""

from ml_collections import ConfigDict

from configs import polydigits

VARIANTS = ("full", "smoke")


def get_config(variant: str = "full") -> ConfigDict:
    """The configuration of a variant."""
    if variant not in VARIANTS:
        raise ValueError(f"configs/toy.py:{variant}: choose one of {', '.join(VARIANTS)}.")
    config = polydigits.get_config("paper_b")
    radius, sigma = 0.64, 0.08
    config.data = ConfigDict(
        {
            "name": "ring",
            "seed": 0,
            "num_train": 20000,
            "num_test": 2000,
            "radius": radius,
            "sigma": sigma,
        }
    )
    config.likelihood.vector.scale = sigma
    config.update(num_steps=1600, warmup_steps=500, batch_size=256, log_every=100)
    config.revision_stride = 1
    config.update(picture_every=800, checkpoint_every=800)
    config.model.update(num_latents=4, aggregator="product", hidden=64, energy_hidden=64)
    # A sharp density needs a steep energy: its layers are free, and its penalty is a trace.
    config.model.spectral_gain = 0.0
    config.elbo.update(objective="joint", weight=0.0)
    config.posterior.generator_weight = 0.1
    config.posterior.chain.step_size = 0.05
    # The model's prior is N(0, I). What follows is for the latent energy of experiments/toy.py.
    config.prior.update(num_components=1, num_candidates=16, penalty=1e-4)
    config.prior.update(fit_steps=3000, fit_learning_rate=1e-2)
    config.prior.chain.update(num_steps=40, step_size=0.1, temperature=1.0)
    config.model.update(prior_hidden=64, prior_bound=10.0)
    config.energy.update(start_step=500, penalty=1e-4, data_noise=0.0)
    config.energy.update(synthesis_generator=2.0, synthesis_inference=0.5)
    config.energy.chain.update(num_steps=120, step_size=0.7 * sigma, temperature=1.0)
    config.optimiser.generator.learning_rate = 2e-3
    config.optimiser.energy.update(learning_rate=5e-3, b1=0.5)
    config.schedule.final_fraction = 0.02
    if variant == "smoke":
        config.update(num_steps=8, warmup_steps=2, batch_size=8, log_every=2)
        config.update(picture_every=4, checkpoint_every=4)
        config.data.update(num_train=200, num_test=100)
        config.prior.fit_steps = 5
        config.energy.start_step = 4
    return config
