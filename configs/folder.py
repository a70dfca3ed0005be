"""Your own folder of pictures, sentences, vectors and categories: every method, without code.

Paper: none; the methods of configs/methods.py on a folder that follows the convention of Hugging
Face's image folders, described in docs/data.md.
Hardware: 2 CPU cores take an hour or two for 64×64 pictures, a GPU minutes (neither measured).
Expected: depends on your data. Look at images/samples_*.png after the first thousand steps, and
raise `likelihood.text.weight` if sentences are ignored.
Command: python -m experiments.main --config=configs/folder.py --config.data.path=DIR \
--workdir=runs/folder

Variants: those of configs/polydigits.py, with different sizes and a different schedule.
"""

from ml_collections import ConfigDict

from configs import methods
from configs.methods import Differences

PATH = "configs/folder.py"
# A picture of 64×64 has 12,288 values and a sentence 32 words.
SIZES: Differences = {
    "model.num_latents": 64,
    "model.hidden": 256,
    "likelihood.text.weight": 20.0,
    "likelihood.vector.weight": 20.0,
    "likelihood.category.weight": 50.0,
    "num_steps": 12_000,
}
METHODS = methods.family(
    private={"model.num_private": 16},
    apart={"model.num_latents": 0, "model.num_private": 64},
    tilted={"prior.start_step": 3000},
    learned={
        "warmup_steps": 7000,
        "prior.fit_step": 7000,
        "prior.start_step": 9000,
        "energy.start_step": 9000,
        "schedule.settle_step": 9000,
    },
    settled={"schedule.freeze_step": 9000, "revision_stride": 2},
)
SMOKE = methods.SMOKE | {"model.num_latents": 8, "model.hidden": 32, "data.image_size": 16}

VARIANTS: dict[str, Differences] = {name: SIZES | m for name, m in METHODS.items()}
VARIANTS["smoke"] = SIZES | METHODS["full"] | SMOKE


def get_config(variant: str = "full") -> ConfigDict:
    """The configuration of a variant."""
    return methods.build(PATH, VARIANTS, variant, "folder")
