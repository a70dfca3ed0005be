"""CIFAR-10 with machine-made captions: 32×32 pictures and nine words, as in configs/folder.py.

Paper: none. The captions fill a template with brightness, a shot word, a colour and the class: 204
different captions, so this is a large and easy data set without natural language.
Hardware: 2 CPU cores, 60 to 120 minutes (not measured); `private_full` took 17 minutes on one core
shared with other work.
Expected: with `private_full`, seed 0, pictures for a caption show its brightness and colour, and
its class .42 of the time (chance .10; docs/results.md). No numbers for the other variants.
Command: python -m experiments.main --config=configs/cifar_captions.py --config.data.path=DIR \
--workdir=runs/cifar_captions

`python -m experiments.unpack cifar_captions SOURCE DIR` makes DIR: 45,000 captioned training
pictures and 5,000 test pictures, with CIFAR-10's ten classes. Variants: those of configs/folder.py.
"""

from ml_collections import ConfigDict

from configs import folder, methods
from configs.methods import Differences

# A caption has nine words and a full stop.
DATA: Differences = {"data.image_size": 32, "data.length": 12}
# An hour on one CPU core.
ON_CPU: Differences = methods.CLOSING_CHAINS | {
    "batch_size": 64,
    "revision_stride": 2,
    "num_steps": 17_000,
    "schedule.freeze_step": 16_000,
    "model.num_latents": 32,
    "model.num_private": 64,
    # A caption shares more than the class with its picture, and z needs room for it.
    "elbo.shared_factor": 1.0,
    "energy.tokens": "given",
    "prior.num_fit_examples": 30_000,
    "evaluation.classifier_steps": 1000,
    "evaluation.classifier_seeds": 1,
}
VARIANTS: dict[str, Differences] = {n: m | DATA for n, m in folder.VARIANTS.items()}
VARIANTS["private_full"] |= ON_CPU
VARIANTS["smoke"] |= {"data.image_size": 16}


def get_config(variant: str = "full") -> ConfigDict:
    """The configuration of a variant."""
    return methods.build("configs/cifar_captions.py", VARIANTS, variant, "folder")
