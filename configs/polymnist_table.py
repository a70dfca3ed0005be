"""PolyMNIST: the methods side by side under equal passes over the data.

Paper: the baselines have the likelihood, β, families of latents, batch size and optimiser of their
published settings. All use one kind of network (`small`, twice as wide as the full method's) and
train for the 19.2 passes over the training split that configs/polymnist.py:private_full takes;
published runs take 250 to 300. Equal passes are not equal updates: 18,000 of 64 examples for
`full`, 9,000 of 128 for MMVAE+ and CMVAE, 4,500 of 256 for the others. HELVAE, MWB-VAE, MoHELVAE
and JMVAE have the settings of MoPoE and MVTCAE, since their own are not in our sources. Baselines
without private latents have 64 shared ones instead of the published 512, so that a Gaussian mixture
can be fitted to them afterwards.
Hardware: a GPU, some minutes per row; or a CPU core, an hour per row.
Expected: docs/results.md has mmvae_plus, mopoe, mvtcae and helvae for one seed; no others.
Data: as in configs/polymnist.py.
Command: python -m experiments.compare --workdir=runs/table --configs=\\
  configs/polymnist_table.py:mmvae_plus,configs/polymnist_table.py:full
"""

from ml_collections import ConfigDict

from configs import methods, polymnist
from configs.methods import Differences

FULL = polymnist.METHODS["private_full"]
EXAMPLES = FULL["num_steps"] * FULL["batch_size"]
SMALL: Differences = {"model.networks": "small", "model.width": 32}
EVALUATION: Differences = {
    "input.device_resident": True,
    "picture_every": 10_000,
    "evaluation.classifier_seeds": 1,
    "evaluation.measures": "joint_samples,cross_samples,drawn_samples,conditional_diversity,"
    "coherence_floors,reconstruction,distance_floor,conditional_distances",
}
RIVALS: dict[str, Differences] = {
    "mmvae_plus": polymnist.METHODS["mmvae_plus"] | polymnist.MMVAE_PLUS,
    "cmvae": polymnist.METHODS["cmvae"] | polymnist.CMVAE,
} | {
    name: polymnist.METHODS[name] | polymnist.MOPOE_FAMILY | {"model.num_latents": 64}
    for name in ("mopoe", "mvtcae", "helvae", "mwbvae", "mohelvae", "jmvae")
}


def _row(method: Differences) -> Differences:
    steps = {"num_steps": EXAMPLES // method["batch_size"]}
    return polymnist.OURS | method | steps | EVALUATION


VARIANTS = {name: _row(method | SMALL) for name, method in RIVALS.items()}
VARIANTS["full"] = _row(FULL)


def get_config(variant: str = "full") -> ConfigDict:
    """The configuration of a variant."""
    return methods.build("configs/polymnist_table.py", VARIANTS, variant, data="polymnist")
