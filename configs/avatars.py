"""Avatars: drawn faces, their attributes and a sentence, by the methods of configs/folder.py.

Paper: none; it stands in for CelebA's attributes with an answer that is known exactly.
Hardware: 2 CPU cores, an hour or two (not measured), and a minute to draw the 20,000 faces;
`private_full` is made for one core: 37 minutes on one that other work shared.
Expected: of `private_full`, seed 1, .99 of the attributes asked of a picture are in it (majority
.68) and .998 of those drawn for a picture are right (docs/results.md); of the others nothing.
Command: python -m experiments.main --config=configs/avatars.py --workdir=runs/avatars

It needs pip install -e '.[folder,avatars]'. Variants: those of configs/folder.py.
"""

from ml_collections import ConfigDict

from configs import folder, methods
from configs.methods import Differences

SMOKE: Differences = {"data.image_size": 16, "data.num_train": 200, "data.num_test": 100}
# For one CPU core and half an hour, at 32×32.
ON_CPU: Differences = {
    "data.image_size": 32,
    "batch_size": 32,
    "revision_stride": 1,
    "num_steps": 11_500,
    "schedule.freeze_step": 11_000,
    "model.num_latents": 32,
    "model.num_private": 32,
    "evaluation.classifier_steps": 1000,
}
VARIANTS: dict[str, Differences] = dict(folder.VARIANTS)
VARIANTS["private_full"] |= ON_CPU
VARIANTS["smoke"] = VARIANTS["smoke"] | SMOKE


def get_config(variant: str = "full") -> ConfigDict:
    """The configuration of a variant."""
    return methods.build("configs/avatars.py", VARIANTS, variant, "avatars")
