"""CUB-200-2011: birds of 64×64 and sentences about them, by the methods of configs/folder.py.

Paper: paper B (arXiv:2605.00644) is judged on CUB and its captions; its networks and numbers are
not reproduced here.
Hardware: 2 CPU cores, 60 to 120 minutes (not measured); `private_full`, made for one core, takes
an hour there, beside other work.
Expected: of `private_full`, words of a sentence in .61 of the pictures drawn for it (shuffled .38),
pictures' distance 74 before refinement and 31 after (docs/results.md); of the others nothing.
Command: python -m experiments.main --config=configs/cub.py --config.data.path=DIR \
--workdir=runs/cub

DIR is a folder in the layout of docs/data.md. That of the 100 species with attribute sentences is
made by `python -m experiments.unpack cub SOURCE DIR` (with --mirrored for `private_full`); its
`attributes` (89 ticks) are a modality that `--config.data.columns=` adds. For CUB's own files with
Reed's captions add --config.data.layout=cub --config.data.smallest_count=3. Variants: those of
configs/folder.py.
"""

from ml_collections import ConfigDict

from configs import folder, methods
from configs.methods import Differences

DATA: Differences = {"data.columns": "image,text"}
# For one CPU core and an hour and a half, a few thousand pictures, each mirrored too. The energy
# learns from pictures drawn for data's own sentences: by sentences of samples it would tell them
# from data, and leave pictures alone.
ON_CPU: Differences = (
    methods.NO_PRIOR_ENERGY
    | methods.CLOSING_CHAINS
    | {
        # A sentence and its picture share some twenty words: z has to have room for them, and
        # sentences have to be decoded from it.
        "elbo.shared_factor": 1.0,
        "elbo.hide_tokens": True,
        # Words decoded from latents far from training's are wrong, and the posterior chain gets
        # fewer right than the inference model alone.
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
        # A sentence of which a picture says little is still a sentence.
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
