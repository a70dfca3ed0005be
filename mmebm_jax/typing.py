"""Names for the arrays that travel through the library."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax

Batch = Mapping[str, jax.Array]
"""Modality name → `[B, ...]`: images `[B, H, W, C]` in [-1, 1], text `[B, L, V]`."""

OBSERVED = "observed"
"""Of a raw batch: which modalities each example has, `bool[B, M]`; absent from complete data."""

Alphabet = str | tuple[str, ...]
"""What the tokens of a text stand for: characters, or words of which a sentence is made."""

Mask = Mapping[str, jax.Array]
"""Modality name → `bool[B]`, true where that modality of that example is observed."""

Params = Any
"""A pytree of network parameters."""

EnergyFn = Callable[[Any], jax.Array]
"""A position (any pytree of `[B, ...]` arrays) → energy `[B]`, lower is more likely."""

LatentEnergyFn = Callable[..., jax.Array]
"""E_γ of z `[B, Z]` alone, or of z and private latents by name; gives `[B]`."""


class Diagonal(NamedTuple):
    """A location-scale distribution with independent dimensions."""

    location: jax.Array  # shape=[..., D]
    scale: jax.Array  # shape=[..., D], > 0


class Latents(NamedTuple):
    """u = (z, w): what all modalities share, and what each keeps to itself."""

    shared: jax.Array  # shape=[..., B, Z]
    private: dict[str, jax.Array]  # name → shape=[..., B, W]; empty in a model without them

    def of(self, names: Collection[str]) -> "Latents":
        """Without the private latents of other modalities."""
        return Latents(self.shared, {n: w for n, w in self.private.items() if n in names})


Decode = Callable[[Latents], Mapping[str, jax.Array]]
"""Latents of `[B]` examples → name → decoder outputs `[B, *shape]`."""
