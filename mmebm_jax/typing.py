"""Type names for the arrays that are passed around in the library."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax

Batch = Mapping[str, jax.Array]
"""Modality name → `[B, ...]`: images `[B, H, W, C]` in [-1, 1], text `[B, L, V]`."""

OBSERVED = "observed"
"""Key of a raw batch: which modalities each example has, `bool[B, M]`; absent if all are there."""

Alphabet = str | tuple[str, ...]
"""What the tokens of a text stand for: characters, or the words of a sentence."""

Mask = Mapping[str, jax.Array]
"""Modality name → `bool[B]`, true where that modality of that example is observed."""

Params = Any
"""A pytree of network parameters."""

EnergyFn = Callable[[Any], jax.Array]
"""A position (any pytree of `[B, ...]` arrays) → energy `[B]`, lower is more likely."""

LatentEnergyFn = Callable[..., jax.Array]
"""E_γ(z) for z `[B, Z]`, or E_γ(z, w) with private latents by name; returns `[B]`."""


class Diagonal(NamedTuple):
    """A location-scale distribution with independent dimensions."""

    location: jax.Array  # shape=[..., D]
    scale: jax.Array  # shape=[..., D], > 0


class Latents(NamedTuple):
    """u = (z, w): the latent that all modalities share, and a private one for each."""

    shared: jax.Array  # shape=[..., B, Z]
    private: dict[str, jax.Array]  # name → shape=[..., B, W]; empty without private latents

    def of(self, names: Collection[str]) -> "Latents":
        """The latents without the private latents of modalities other than `names`."""
        return Latents(self.shared, {n: w for n, w in self.private.items() if n in names})


Decode = Callable[[Latents], Mapping[str, jax.Array]]
"""Latents of `[B]` examples → name → decoder outputs `[B, *shape]`."""
