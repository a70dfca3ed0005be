"""PolyDigits and the English digit word: images and text with the same methods.

Paper: none; the methods of configs/methods.py on two image modalities of PolyDigits and "word", 8
characters with the word at a random offset. The joint energy sees text as a relaxed one-hot:
probabilities that Langevin dynamics may move.
Hardware: 2 CPU cores, about a minute for the 200 steps.
Expected: no numbers; 200 steps only show that text takes part in training, not how well it can do.
Command: python -m experiments.main --config=configs/digits_text.py --workdir=runs/digits_text

Variants: those of configs/polydigits.py.
"""

from ml_collections import ConfigDict

from configs import methods
from configs.methods import Differences

DATA: Differences = {
    "data.num_modalities": 2,
    "data.word": True,
    # An image has 768 values and a word 8 characters, which would hardly count without a weight.
    "likelihood.text.weight": 10.0,
}
PRIOR: Differences = {
    "prior.num_components": 20,
    "prior.num_fit_examples": 4000,
    "prior.fit_steps": 200,
}
METHODS = methods.family(
    private={"model.num_private": 8},
    apart={"model.num_latents": 0, "model.num_private": 24},
    tilted={},
    learned={"schedule.settle_step": 150},
    settled={"schedule.freeze_step": 150},
)
# The same for every method, including those that train on a bound alone.
SCHEDULE: Differences = {
    "num_steps": 200,
    "warmup_steps": 100,
    "prior.fit_step": 100,
    "prior.start_step": 150,
    "energy.start_step": 150,
    "log_every": 20,
    "picture_every": 100,
    "checkpoint_every": 100,
}
SMOKE = methods.SMOKE | {"data.num_train": 200, "data.num_test": 100}

VARIANTS = {name: DATA | PRIOR | method | SCHEDULE for name, method in METHODS.items()}
for _name in ("private_prior", "private_full"):
    VARIANTS[_name] |= methods.FITTED_AT_THE_END
VARIANTS["smoke"] = DATA | METHODS["full"] | SMOKE


def get_config(variant: str = "full") -> ConfigDict:
    """The configuration of a variant."""
    return methods.build("configs/digits_text.py", VARIANTS, variant)
