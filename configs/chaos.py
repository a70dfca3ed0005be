"""A short run in which everything happens, for experiments/chaos.py to disturb.

Not of a paper: the full method on eight Gaussians, with both energies, private latents, a mixture
fitted twice, and steps, rows and checkpoints whose numbers share no factor.
Hardware: 1 CPU core, seconds.
Expected: nothing of its samples.
Command: python -m experiments.reliability.chaos --workdir=runs/chaos
"""

from ml_collections import ConfigDict

from configs import polydigits


def get_config(variant: str = "full") -> ConfigDict:
    """The configuration; it has one variant."""
    if variant != "full":
        raise ValueError(f"configs/chaos.py:{variant}: there is no variant but full.")
    config = polydigits.get_config("union")
    config.data = ConfigDict(
        {
            "name": "ring",
            "seed": 0,
            "num_train": 500,
            "num_test": 100,
            "radius": 0.64,
            "sigma": 0.08,
        }
    )
    config.update(num_steps=60, warmup_steps=13, batch_size=16, revision_stride=2)
    config.update(log_every=4, picture_every=45, checkpoint_every=7)
    config.model.update(num_latents=4, num_private=2, hidden=16, prior_hidden=16, energy_hidden=16)
    config.prior.update(num_components=3, num_fit_examples=200, num_candidates=4, fit_steps=20)
    config.prior.update(fit_step=13, start_step=13)
    config.energy.start_step = config.schedule.settle_step = 29
    # What could explode should be able to.
    config.model.spectral_gain = 0.0
    config.schedule.warmup_steps = 5
    for section in (config.posterior, config.prior, config.energy):
        section.chain.num_steps = 4
    return config
