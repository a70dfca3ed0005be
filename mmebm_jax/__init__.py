"""Multimodal energy-based models learned with a multimodal VAE by MCMC revision.

The packages, each importing only those above it:

    cpu          what exists for XLA:CPU's sake
    networks     Flax modules
    modalities   what an example is made of
    method       the papers
    data, metrics
    runs         from a configuration to objects, checkpoints, the sampler
    training     the loop
"""

import importlib
from typing import TYPE_CHECKING, Any

from mmebm_jax.version import VERSION

if TYPE_CHECKING:
    from mmebm_jax import data, training
    from mmebm_jax.runs.exports import export
    from mmebm_jax.runs.sampler import Sampler, load

__all__ = ["Sampler", "data", "export", "load", "training"]
_HOMES = {"Sampler": "runs.sampler", "export": "runs.exports", "load": "runs.sampler"}
__version__ = VERSION


def __getattr__(name: str) -> Any:
    # On demand: `import mmebm_jax.method` should not wait for Orbax.
    if name in ("data", "training"):
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
