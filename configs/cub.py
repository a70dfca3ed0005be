"""CUB-200-2011: 64×64 birds and sentences about them, with the methods of configs/folder.py.

Paper: paper B (arXiv:2605.00644) is evaluated on CUB and its captions; its networks and numbers
are not reproduced here.
Hardware: 2 CPU cores, 60 to 120 minutes (not measured); `private_full`, sized for one core, takes
60 minutes on one quiet core, 92 on one that tests shared.
Expected: with `private_full`, pictures generated for a sentence show .62 of its words (shuffled
.37), and their Fréchet distance is 78 before refinement and 32 after (docs/results.md). No numbers
for the other variants.
Command: python -m experiments.main --config=configs/cub.py --config.data.path=DIR \
--workdir=runs/cub

DIR is a folder in the layout of docs/data.md. `python -m experiments.unpack cub SOURCE DIR` (with
--mirrored for `private_full`) makes the one of 100 species with attribute sentences; its
`attributes` (89 binary ones) are a modality that `--config.data.columns=` adds. For CUB's own files
with Reed's captions, add --config.data.layout=cub --config.data.smallest_count=3. Variants: those
of configs/folder.py.
"""

from ml_collections import ConfigDict

from configs import folder, methods
from configs.methods import Differences

DATA: Differences = {"data.columns": "image,text"}
# An hour and a half on one CPU core, for a few thousand pictures and their mirror images. The
# energy learns from pictures generated for sentences of the data: otherwise it would tell samples
# from data by their sentences, and would not improve the pictures.
ON_CPU: Differences = (
    methods.NO_PRIOR_ENERGY
    | methods.CLOSING_CHAINS
    | {
        # A sentence and its picture share some twenty words. z needs room for them, and sentences
        # must be decoded from z.
        "elbo.shared_factor": 1.0,
        "elbo.hide_tokens": True,
        # Latents far from those seen in training decode to wrong words, and with a posterior chain
        # fewer words are right than with the inference model alone.
        "prior.token_temperature": 0.1,
        "posterior.conditional_steps": 0,
        "batch_size": 32,
        "revision_stride": 2,
        "num_steps": 4400,
        "schedule.freeze_step": 3000,
        "model.networks": "resnet",
        "model.num_latents": 32,
        "model.num_private": 64,
        "likelihood.image.scale": 0.6,
        # Keeps a sentence grammatical where the picture determines few of its words.
        "likelihood.text.name": "autoregressive",
        "prior.num_components": 20,
        "prior.num_private_components": 2,
        "energy.tokens": "given",
        "evaluation.classifier_seeds": 1,
    }
)
VARIANTS: dict[str, Differences] = {n: DATA | method for n, method in folder.VARIANTS.items()}
VARIANTS["private_full"] |= ON_CPU


def get_config(variant: str = "full") -> ConfigDict:
    """The configuration of a variant."""
    return methods.build("configs/cub.py", VARIANTS, variant, "folder")
