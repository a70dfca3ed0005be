"""Avatars: drawn faces, their attributes and a sentence, with the methods of configs/folder.py.

Paper: none; a substitute for CelebA's attributes whose correct answers are known exactly.
Hardware: 2 CPU cores, an hour or two (not measured), and a minute to draw the 20,000 faces;
`private_full` is sized for one core: 37 minutes on a core shared with other work.
Expected: with `private_full`, seed 1, pictures show .99 of the attributes they are generated for
(majority .68), and .998 of the attributes generated for a picture are right (docs/results.md). No
numbers are given for the other variants.
Command: python -m experiments.main --config=configs/avatars.py --workdir=runs/avatars

Requires pip install -e '.[folder,avatars]'. Variants: those of configs/folder.py.
"""

from ml_collections import ConfigDict

from configs import folder, methods
from configs.methods import Differences

SMOKE: Differences = {"data.image_size": 16, "data.num_train": 200, "data.num_test": 100}
# Half an hour on one CPU core, at 32×32.
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
