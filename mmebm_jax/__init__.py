"""Multimodal energy-based models learned with a multimodal VAE by MCMC revision.

The main packages, each importing only those above it:

    cpu          CPU versions of standard operations
    networks     Flax modules
    modalities   the modalities of an example
    method       the papers' methods
    data, metrics
    runs         builds objects from a configuration; checkpoints, the sampler
    training     the training loop
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
    # Imported on demand, so that `import mmebm_jax.method` does not wait for Orbax.
    if name in ("data", "training"):
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
