"""CUB-200-2011: birds of 64×64 and sentences about them, by the methods of configs/folder.py.

Paper: paper B (arXiv:2605.00644) is judged on CUB and its captions; its networks and numbers are
not reproduced here.
Hardware: 2 CPU cores, 60 to 120 minutes (not measured).
Expected: nothing is claimed yet.
Command: python -m experiments.main --config=configs/cub.py --config.data.path=DIR \
--workdir=runs/cub

DIR is a folder in the layout of docs/data.md. That of the 100 species with attribute sentences is
made by `python -m experiments.unpack cub SOURCE DIR`; its `attributes` (89 ticks) are a modality
that `--config.data.columns=` adds. For CUB's own files with Reed's captions add
--config.data.layout=cub --config.data.smallest_count=3. Variants: those of configs/folder.py.
"""

from ml_collections import ConfigDict

from configs import folder, methods
from configs.methods import Differences

DATA: Differences = {"data.columns": "image,text"}
VARIANTS: dict[str, Differences] = {n: DATA | method for n, method in folder.VARIANTS.items()}


def get_config(variant: str = "full") -> ConfigDict:
    """The configuration of a variant."""
    return methods.build("configs/cub.py", VARIANTS, variant, "folder")
