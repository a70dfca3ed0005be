"""Names for the arrays that travel through the library."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

Batch = Mapping[str, jax.Array]
"""Modality name → `[B, ...]`: images `[B, H, W, C]` in [-1, 1], sequences `[B, L, V]`."""

Mask = Mapping[str, jax.Array]
"""Modality name → `bool[B]`, true where that modality of that example is observed."""

Params = Any
"""A pytree of network parameters."""

EnergyFn = Callable[[Any], jax.Array]
"""A position (any pytree of `[B, ...]` arrays) → energy `[B]`, lower is more likely."""


class Latents(NamedTuple):
    """u = (z, w): what all modalities share, and what each keeps to itself."""

    shared: jax.Array  # shape=[..., B, Z]
    private: dict[str, jax.Array]  # name → shape=[..., B, W]; empty in a model without them


Decode = Callable[[Latents], Mapping[str, jax.Array]]
"""Latents of `[B]` examples → name → decoder outputs `[B, *shape]`."""
