"""PolyMNIST: five modalities of 28×28×3.

Reproduces: by default paper B (arXiv:2605.00644) with the latent prior of paper A
(arXiv:2408.10467); the published joint and cross coherence of paper A are .574 and .943.
Hardware: written for one GPU or TPU; a CPU trains it at about a step a second, which is for trying
out. No full run has been made yet, so no score is claimed.
Data: the four MNIST IDX files in `config.data.source_dir`, from which the data set is built once
into `config.data.data_dir`; or the official release (`config.data.variant`).
Command: python -m experiments.main --config=configs/polymnist.py --workdir=runs/polymnist \\
  --config.data.source_dir=data/mnist

Variants, as in configs/polymnist.py:paper_a, are those of configs/polydigits.py.
"""

from ml_collections import ConfigDict

from configs import polydigits


def get_config(variant: str = "full") -> ConfigDict:
    """The configuration of a variant."""
    config = polydigits.get_config(variant)
    config.data = ConfigDict(
        {
            "name": "polymnist",
            "data_dir": "data",
            "variant": "from_mnist",
            "source_dir": "data/mnist",
            "seed": 0,
            "download_url": "",
            "sha256": "",
            "in_memory": True,
            "check_source": True,  # the four files must be MNIST's own
        }
    )
    # Five times the pixels of PolyDigits make the posterior as much steeper: 0.1 diverges.
    config.posterior.chain.step_size = 0.03
    config.evaluation.update(num_samples=10000, classifier_steps=1000)
    if variant.startswith("smoke"):
        config.evaluation.update(num_samples=100, classifier_steps=20)
        return config
    config.update(num_steps=60000, batch_size=128, revision_stride=1)
    config.warmup_steps = 20000 if config.warmup_steps else 0
    config.update(log_every=100, picture_every=5000, checkpoint_every=2000)
    config.model.update(width=32, hidden=256, energy_width=32, energy_hidden=256)
    # As MMVAE+ was published on PolyMNIST: 32 shared and 32 private.
    if config.model.num_latents:
        config.model.num_latents = 32
    if config.model.num_private:
        config.model.num_private = 32
    config.prior.update(start_step=40000, num_components=100, num_fit_examples=20000)
    config.prior.fit_step = 20000 if config.elbo.learned_prior else 40000
    config.energy.start_step = 45000
    if config.schedule.settle_step:
        config.schedule.settle_step = 45000
    return config
